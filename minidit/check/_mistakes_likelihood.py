"""Common mistakes about the terms of the variational bound, as functions; see `_mistakes`."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check._mistakes import Mistakes
from minidit.diffusion import discretized_log_likelihood, normal_cdf, normal_kl

# --- the probability of a grey value --------------------------------------------------------------


def _grey(half: float = 1 / 255, tails: bool = True, of: Callable = lambda log_scale: log_scale):
    """log P with intervals of ± `half`; `of`: what is done to the logarithm of the scale."""

    def log_probability(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        scale = of(log_scale).exp()
        upper, lower = (normal_cdf((x - mean + side) / scale) for side in (half, -half))
        if tails:
            upper = torch.where(x > 0.999, torch.ones_like(upper), upper)
            lower = torch.where(x < -0.999, torch.zeros_like(lower), lower)
        return (upper - lower).clamp(min=1e-12).log()

    return log_probability


def _density(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    z = (x - mean) / log_scale.exp()
    return -0.5 * z.square() - log_scale - 0.5 * math.log(2 * math.pi)


GREY_PROBABILITY: Mistakes = {
    "that is the logarithm of a density, which may exceed 0; a grey value owns an interval": (
        _density
    ),
    "the interval is twice as wide: 256 values from -1 to 1 lie 2/255 apart, so it is x ± 1/255": (
        _grey(half=2 / 255)
    ),
    "the interval is half as wide: 256 values from -1 to 1 lie 2/255 apart, so it is x ± 1/255": (
        _grey(half=1 / 510)
    ),
    "the values -1 and 1 own the tails: nothing is darker than black, and that counts as black": (
        _grey(tails=False)
    ),
    "log_scale is that of the standard deviation; it is halved as if it were of a variance": (
        _grey(of=lambda log_scale: 0.5 * log_scale)
    ),
    "that is the probability; take its logarithm": (
        lambda x, mean, log_scale: discretized_log_likelihood(x, mean, log_scale).exp()
    ),
}

# --- a term of the bound --------------------------------------------------------------------------


def _term(
    divergence: Callable = normal_kl,
    bits: bool = True,
    mean: bool = True,
    half: float = 0.5,
    sign: float = -1.0,
    where: Callable[[Tensor], Tensor] = lambda t: t == 0,
) -> Callable:
    """The term; `half`: of the log-variance, at t = 0; `where` the likelihood is taken."""

    def term(
        true_mean: Tensor,
        true_log_var: Tensor,
        my_mean: Tensor,
        log_var: Tensor,
        x0: Tensor,
        t: Tensor,
    ) -> Tensor:
        far = divergence(true_mean, true_log_var, my_mean, log_var)
        nll = sign * discretized_log_likelihood(x0, my_mean, half * log_var)
        each = torch.where(where(t)[:, None], nll, far)  # (b, d)
        return (each.mean(dim=1) if mean else each.sum(dim=1)) / (math.log(2) if bits else 1)

    return term


variational_term = _term()

VARIATIONAL_TERM: Mistakes = {
    "these are nats; divide by ln 2 for bits": _term(bits=False),
    "the numbers of a point are summed; bits per dimension are their mean": _term(mean=False),
    "it is the divergence the other way round: of the true posterior from the network's": (
        _term(divergence=lambda m1, l1, m2, l2: normal_kl(m2, l2, m1, l1))
    ),
    "at t = 0 there is a divergence, too; there it is the likelihood of x0 that counts": (
        _term(where=lambda t: t < 0)
    ),
    "the likelihood is taken at every t; for t > 0 it is the divergence": (
        _term(where=lambda t: t >= 0)
    ),
    "at t = 0 the sign is missing: minus the logarithm of the probability": _term(sign=1.0),
    "at t = 0 the log-variance is taken for that of the standard deviation; halve it": (
        _term(half=1.0)
    ),
}
