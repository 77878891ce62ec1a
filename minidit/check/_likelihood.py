"""Checks of a student's own terms of the bound, offered by `check` with all the others."""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check import _mistakes_likelihood as mistakes
from minidit.check._verdict import Verdict, judge
from minidit.diffusion import discretized_log_likelihood


def grey_probability(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(x, mean, log_scale)`: log P in nats of 8-bit pixels x in [-1, 1]; all (b, d).

    The normal's distribution function may be exact, or the papers' tanh approximation.
    """
    greys = torch.tensor([[0, 100, 128], [130, 200, 255]]) / 127.5 - 1
    off = torch.tensor([[0.01, -0.02, 0.03], [0.0, 0.02, -0.01]])
    cases = {
        "greys, a narrow normal": (greys, greys + off, torch.full((2, 3), -4.0)),
        "greys, a wide normal": (greys, greys + 5 * off, torch.full((2, 3), -1.5)),
        "black and white": (greys.sign(), 0.9 * greys.sign(), torch.full((2, 3), -2.0)),
    }
    right, wrong = discretized_log_likelihood, mistakes.GREY_PROBABILITY
    return judge("grey_probability", fn, right, cases, wrong, tolerance=0.02)


def variational_term(fn: Callable[..., Tensor]) -> Verdict:
    """Check `fn(true_mean, true_log_var, mean, log_var, x0, t)`, five times (b, d), (b,) → (b,).

    The bound's term in bits per dimension: for t > 0 the divergence of the true posterior from the
    network's normal, at t = 0 minus log P of the 8-bit values x0 under the network's.
    """
    greys = torch.tensor([[0, 100], [130, 200], [90, 255]]) / 127.5 - 1
    mean = greys + torch.tensor([[0.02, -0.01], [0.0, 0.03], [-0.02, 0.01]])
    true, logs = greys + 0.05, torch.tensor([[-5.0, -4.0], [-6.0, -5.5], [-4.5, -5.0]])
    cases = {
        "three points, one at t = 0": (true, logs, mean, logs + 1, greys, torch.tensor([5, 0, 1])),
        "none at t = 0": (true, logs, mean, logs - 0.5, greys, torch.tensor([1, 80, 3])),
        "all at t = 0": (true, logs, mean, logs, greys, torch.zeros(3, dtype=torch.int64)),
    }
    right, wrong = mistakes.variational_term, mistakes.VARIATIONAL_TERM
    return judge("variational_term", fn, right, cases, wrong, tolerance=0.02)
