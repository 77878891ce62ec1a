"""The two terms that the variational bound is made of (DDPM, arXiv 2006.11239, section 3)."""

import math

import torch
from torch import Tensor


def normal_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N(mean1, e^log_var1) ‖ N(mean2, e^log_var2)) in nats, element by element."""
    ratio = (log_var1 - log_var2).exp()
    distance = (mean1 - mean2).square() * (-log_var2).exp()
    return 0.5 * (-1 + log_var2 - log_var1 + ratio + distance)


def normal_cdf(z: Tensor) -> Tensor:
    """The standard normal's distribution function of any shape, by the papers' tanh formula."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P of 8-bit pixels x in [-1, 1] under a normal, in nats (DDPM, equation 13).

    A pixel owns the interval of ± 1/255 around it; the darkest and the brightest own the tails.
    """
    upper = normal_cdf((x - mean + 1 / 255) * (-log_scale).exp())
    lower = normal_cdf((x - mean - 1 / 255) * (-log_scale).exp())
    tiny = 1e-12
    inside = (upper - lower).clamp(min=tiny).log()
    bright = (1 - lower).clamp(min=tiny).log()
    dark = upper.clamp(min=tiny).log()
    return torch.where(x < -0.999, dark, torch.where(x > 0.999, bright, inside))
