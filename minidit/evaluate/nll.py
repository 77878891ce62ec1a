"""Bits per dimension: the variational bound over all steps (DDPM, arXiv 2006.11239, section 3)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minidit._validate import check_images
from minidit.diffusion import Diffusion, normal_kl
from minidit.sampling import Denoiser, draw_noise, walk


class Bits(NamedTuple):
    """What it costs to send each image; the T columns run from noisy to clean."""

    total: Tensor  # (b,) prior + the sum of terms, in bits per dimension
    prior: Tensor  # (b,)
    terms: Tensor  # (b, T)
    x0_error: Tensor  # (b, T) mean squared error of the image predicted
    eps_error: Tensor  # (b, T) of the noise that goes with it


def prior_bits(diffusion: Diffusion, x0: Tensor) -> Tensor:
    """KL of q(x_T | x_0) from pure noise, (b,): what the noisiest step still tells of the image."""
    t = torch.full((x0.shape[0],), len(diffusion) - 1, device=x0.device)
    mean = diffusion.q_sample(x0, t, torch.zeros_like(x0))
    log_variance = torch.full_like(x0, 2 * diffusion.schedule.sigma[-1].log().item())
    zero = torch.zeros_like(x0)
    return normal_kl(mean, log_variance, zero, zero).flatten(1).mean(dim=1) / math.log(2)


@torch.no_grad()
def bits_per_dim(
    model: Denoiser,
    diffusion: Diffusion,
    x0: Tensor,
    y: Tensor | None = None,
    *,
    clip: bool | float = True,
    generator: torch.Generator | None = None,
    noise: Sequence[Tensor] | None = None,
) -> Bits:
    """The bound for images x0 (b, c, h, w) in [-1, 1], one evaluation of the network a step.

    It bounds the code length of 8-bit pixels, and means nothing for latents. It is far from tight
    where the first step is finer than a pixel, σ_0 < 1/255, for it then pays for digits that no
    pixel has: 0.9 bits on the straight line of 1000 steps; `diffusion.respace(range(4, 1000))`
    begins at a pixel's width. Noise comes from `generator`, or from recorded `noise`, a tensor a
    step, the noisiest first.
    """
    check_images(x0, floats=True)
    x0 = x0.to(torch.promote_types(x0.dtype, torch.float32))  # only the network may be half
    rows = []
    for k, (_, t, number) in enumerate(walk(diffusion.schedule, x0)):
        eps = draw_noise(x0, generator) if noise is None else noise[k]
        x_t = diffusion.q_sample(x0, t, eps)
        output = model(x_t, number, y)
        pred_x0 = diffusion.pred_x0(output, x_t, t, clip)
        errors = pred_x0 - x0, diffusion.to_eps(x_t, t, pred_x0) - eps
        squares = [error.square().flatten(1).mean(dim=1) for error in errors]
        rows.append(torch.stack([diffusion.bound(output, x0, x_t, t, clip), *squares]))
    terms, x0_error, eps_error = torch.stack(rows, dim=-1)  # (b, T) each
    prior = prior_bits(diffusion, x0)
    return Bits(prior + terms.sum(dim=1), prior, terms, x0_error, eps_error)
