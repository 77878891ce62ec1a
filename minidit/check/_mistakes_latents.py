"""Common mistakes about latents, as functions; see `_mistakes`."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from minidit.check._mistakes import Mistakes

# --- the divergence from N(0, 1) ------------------------------------------------------------------


def _divergence(
    half: float = 0.5, variance: Callable[[Tensor], Tensor] = torch.exp, sign: float = 1.0
) -> Callable[[Tensor, Tensor], Tensor]:
    def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
        each = half * (mean.square() + variance(logvar) - 1 - sign * logvar)
        return each.flatten(1).sum(dim=1)

    return divergence


kl_from_standard = _divergence()

KL_FROM_STANDARD: Mistakes = {
    "the half in front is missing": _divergence(half=1.0),
    "log σ² is added; it is taken away, so that σ = 1 is the minimum": _divergence(sign=-1.0),
    "the log-variance is taken for the log of σ; σ² is e^logvar, not e^(2·logvar)": (
        _divergence(variance=lambda logvar: (2 * logvar).exp())
    ),
    "σ stands where σ² belongs": _divergence(variance=lambda logvar: (0.5 * logvar).exp()),
    "the mean over an image's numbers is taken; sum them": (
        lambda mean, logvar: kl_from_standard(mean, logvar) / mean[0].numel()
    ),
    "the images are added up, too; one number for each": (
        lambda mean, logvar: kl_from_standard(mean, logvar).sum()
    ),
}

# --- the nearest code -----------------------------------------------------------------------------


def _nearest(
    far: Callable[[Tensor, Tensor], Tensor] = torch.cdist,
    points: Callable[[Tensor], Tensor] = lambda z: rearrange(z, "b c h w -> (b h w) c"),
    out: str = "(b h w) c -> b c h w",
) -> Callable[[Tensor, Tensor], Tensor]:
    """Every vector replaced by the code at the least `far` (points, codes); `out`: the shape."""

    def quantised(z: Tensor, table: Tensor) -> Tensor:
        b, c, h, w = z.shape
        codes = table[far(points(z), table).argmin(dim=1)]  # (b·h·w, c)
        return rearrange(codes, out, b=b, h=h, w=w)

    return quantised


quantise = _nearest()


def _indices(z: Tensor, table: Tensor) -> Tensor:
    return torch.cdist(rearrange(z, "b c h w -> b h w c"), table).argmin(dim=-1)


QUANTISE: Mistakes = {
    "the code with the largest product is taken; a long code wins without being near": (
        _nearest(far=lambda points, table: -points @ table.T)
    ),
    "the farthest code is taken": _nearest(far=lambda points, table: -torch.cdist(points, table)),
    "a reshape alone makes vectors of neighbouring pixels; a vector is the c channels of a place": (
        _nearest(points=lambda z: z.reshape(-1, z.shape[1]))
    ),
    "these are the numbers of the codes; give the codes themselves, table[…]": _indices,
    "the channels are left at the end; move them back, (b, c, h, w)": (
        _nearest(out="(b h w) c -> b h w c")
    ),
}

# --- straight through -----------------------------------------------------------------------------


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """The codes' values with the gradient of z; both (b, c, h, w)."""
    return z + (codes - z).detach()


STRAIGHT_THROUGH: Mistakes = {
    "z gets no gradient, but the codes do: they are returned as they are, or z cancels itself out "
    "because nothing is detached": lambda z, codes: z + (codes - z),
    "nothing gets a gradient: too much is detached, or z - z cancels itself out": (
        lambda z, codes: z + codes.detach() - z
    ),
    "z is returned; that passes the gradient, but nothing is quantised": lambda z, codes: z + 0,
    "the codes get the gradient as well; they learn from the codebook term alone": (
        lambda z, codes: z - z.detach() + codes
    ),
}

# --- the scale ------------------------------------------------------------------------------------


def latent_scale(latents: Tensor) -> Tensor:
    """1/std of all numbers of the latents (n, c, h, w): one number."""
    return 1 / latents.std(unbiased=False)


LATENT_SCALE: Mistakes = {
    "that is the standard deviation; latents are multiplied by its inverse": (
        lambda latents: latents.std(unbiased=False)
    ),
    "that is one over the variance; take the root": (
        lambda latents: 1 / latents.var(unbiased=False)
    ),
    "the mean isn't taken away; std is about the mean": (
        lambda latents: 1 / latents.square().mean().sqrt()
    ),
    "each channel has its own; one number for all": (
        lambda latents: 1 / latents.std(dim=(0, 2, 3), unbiased=False)
    ),
    "each image has its own std; the scale is one for the whole data set": (
        lambda latents: (1 / latents.flatten(1).std(dim=1, unbiased=False)).mean()
    ),
}
