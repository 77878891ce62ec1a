"""Checks of a student's own samplers, offered by `check` with all the others."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidit.check import _mistakes_sampling as mistakes
from minidit.check._verdict import Verdict, judge
from minidit.schedule import linear

_X = torch.tensor([[1.5, -0.5], [0.25, 2.0], [-1.0, 0.75]])
_EPS = torch.tensor([[0.5, -1.25], [2.0, 0.75], [-0.5, 1.0]])


def ancestral_step(fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(mean, log_variance, noise, t)`, a step of DDPM: three times (b, d), (b,) → (b, d).

    The last step, t = 0, adds no noise.
    """
    logs = torch.tensor([[-1.0, -2.5], [-0.5, -3.0], [-4.0, -1.5]])
    cases = {
        "three points in the middle": (_X, logs, _EPS, torch.tensor([40, 7, 1])),
        "one of three at the end": (_X, logs, _EPS, torch.tensor([9, 0, 2])),
        "the last step": (_X[:1], logs[:1], _EPS[:1], torch.tensor([0])),
    }
    right, wrong = mistakes.ancestral_step, mistakes.ANCESTRAL_STEP
    return judge("ancestral_step", fn, right, cases, wrong, tolerance=1e-5)


def ddim_step(fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(x_t, eps, now, after)`, ᾱ where x is and where it goes: (b, d), (b,) → (b, d)."""
    cases = {
        "three points": (_X, _EPS, torch.tensor([0.1, 0.4, 0.8]), torch.tensor([0.3, 0.5, 0.9])),
        "two points": (_X[:2], _EPS[:2], torch.tensor([0.2, 0.6]), torch.tensor([0.7, 0.64])),
        "the last step, to the image": (_X[2:], _EPS[2:], torch.tensor([0.9]), torch.ones(1)),
    }
    return judge("ddim_step", fn, mistakes.ddim_step, cases, mistakes.DDIM_STEP, tolerance=1e-5)


def respaced_betas(fn: Callable[[Tensor, Sequence[int]], Tensor]) -> Verdict:
    """Check `fn(alphas_cumprod, steps)`: ᾱ (T,) and k rising steps → β of the strides, (k,)."""
    table = linear(100).alphas_cumprod.float()
    cases = {
        "five steps of 100": (table, [0, 25, 50, 75, 99]),
        "three that don't start at 0": (table, [10, 40, 60]),
        "two neighbours": (table, [30, 31]),
    }
    right, wrong = mistakes.respaced_betas, mistakes.RESPACED_BETAS
    return judge("respaced_betas", fn, right, cases, wrong, tolerance=1e-4)


def derivatives(fn: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]) -> Verdict:
    """Check `fn(d0, d1, d2, r0, r1)`: values (b, d) at 0, -r0, -(r0 + r1) → d', d'' at 0 (2, b, d).

    The derivatives are those of the parabola through the three values.
    """
    cases = {
        "equal strides": (_X, _EPS, _X.flip(0), 1.0, 1.0),
        "unequal strides": (_X[:2], _EPS[:2], _X[1:], 0.5, 2.0),
    }
    wrong = mistakes.DERIVATIVES
    return judge("derivatives", fn, mistakes.derivatives, cases, wrong, tolerance=1e-4)
