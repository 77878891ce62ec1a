"""Autoencoders and latents: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from minidit.check.verdict import against, waves
from minidit.latents.gaussian import DiagonalGaussian

_SHAPES = {"two images": (2, 3, 2, 2), "one number": (1, 1, 1, 1), "a wide image": (3, 1, 1, 5)}
_PAIRS = {n: (waves(*shape, start=1), waves(*shape, start=50)) for n, shape in _SHAPES.items()}


def _kl(mean: Tensor, variance: Tensor, logvar: Tensor) -> Tensor:
    return (mean**2 + variance - 1 - logvar).flatten(1).sum(dim=1) / 2


@against(
    _PAIRS,
    "the half in front is missing",
    lambda mean, logvar: 2 * kl_from_standard.right(mean, logvar),
    "log σ² is added; it is taken away, so that σ = 1 is the minimum",
    lambda mean, logvar: _kl(mean, logvar.exp(), -logvar),
    "the log-variance is taken for the log of σ; σ² is e^logvar, not e^(2·logvar)",
    lambda mean, logvar: _kl(mean, (2 * logvar).exp(), logvar),
    "σ stands where σ² belongs",
    lambda mean, logvar: _kl(mean, (logvar / 2).exp(), logvar),
    "the mean over an image's numbers is taken; sum them",
    lambda mean, logvar: kl_from_standard.right(mean, logvar) / mean[0].numel(),
    "the images are added up, too; one number for each",
    lambda mean, logvar: kl_from_standard.right(mean, logvar).sum(),
)
def kl_from_standard(mean: Tensor, logvar: Tensor) -> Tensor:
    """Nats from N(0, 1), summed for each image; both (b, c, h, w) → (b,)."""
    return DiagonalGaussian(torch.cat([mean, logvar], dim=1)).kl()


_TABLE = torch.tensor([[0.2, 0.1, -0.3], [0.9, -0.8, 0.5], [-0.6, 0.4, 0.9], [3.0, -2.0, 4.0]])


@against(
    {
        "two images": (waves(2, 3, 2, 2, start=1), _TABLE),
        "a wide image": (waves(1, 3, 2, 4, start=30), _TABLE),
        "one place": (waves(1, 2, 1, 1, start=5), _TABLE[:, :2]),
    },
    "the code with the largest product is taken; a long code wins without being near",
    lambda z, table: table[(z.movedim(1, -1) @ table.T).argmax(dim=-1)].movedim(-1, 1),
    "the farthest code is taken",
    lambda z, table: table[torch.cdist(z.movedim(1, -1), table).argmax(dim=-1)].movedim(-1, 1),
    "a reshape alone makes vectors of neighbouring pixels; a vector is the c channels of a place",
    lambda z, table: quantise.right(z.reshape(len(z), *z.shape[2:], -1).movedim(-1, 1), table),
    "these are the numbers of the codes; give the codes themselves, table[…]",
    lambda z, table: torch.cdist(z.movedim(1, -1), table).argmin(dim=-1),
    "the channels are left at the end; move them back, (b, c, h, w)",
    lambda z, table: quantise.right(z, table).movedim(1, -1),
)
def quantise(z: Tensor, table: Tensor) -> Tensor:
    """The nearest codes; (b, c, h, w), codes (K, c) → (b, c, h, w)."""
    return table[torch.cdist(z.movedim(1, -1), table).argmin(dim=-1)].movedim(-1, 1)


def _with_gradients(fn: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Values, the gradient to z, and that to the codes, one after the other."""

    def run(z: Tensor, codes: Tensor) -> Tensor:
        with torch.enable_grad():
            z, codes = z.clone().requires_grad_(), codes.clone().requires_grad_()
            out = fn(z, codes)
            if not isinstance(out, Tensor) or out.shape != z.shape:
                return out
            # a function that detaches everything has no gradient to ask for
            weighed = (out * waves(*z.shape, start=9)).sum() + 0 * (z.sum() + codes.sum())
            return torch.cat([out.detach(), *torch.autograd.grad(weighed, [z, codes])])

    return run


@against(
    _PAIRS,
    "z gets no gradient, but the codes do: they are returned as they are, or z cancels itself out "
    "because nothing is detached",
    lambda z, codes: z + (codes - z),
    "nothing gets a gradient: too much is detached, or z - z cancels itself out",
    lambda z, codes: z + codes.detach() - z,
    "z is returned; that passes the gradient, but nothing is quantised",
    lambda z, codes: z + 0,
    "the codes get the gradient as well; they learn from the codebook term alone",
    lambda z, codes: z - z.detach() + codes,
    seen=_with_gradients,
)
def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """Values of the codes, the gradient to z, none to codes; (b, c, h, w)."""
    return z + (codes - z).detach()


_SHIFT = torch.tensor([0.0, 2.0, -1.0, 4.0]).reshape(1, 4, 1, 1)
_GROW = torch.tensor([0.5, 4.0, 1.0]).reshape(3, 1, 1, 1)


@against(
    {
        "wide latents, channels of several means": (3 * _GROW * waves(3, 4, 16, 16) + _SHIFT,),
        "narrow latents": (0.2 * _GROW * waves(3, 2, 16, 16) + 0.1,),
    },
    "that is the standard deviation; latents are multiplied by its inverse",
    lambda latents: latents.std(unbiased=False),
    "that is one over the variance; take the root",
    lambda latents: 1 / latents.var(unbiased=False),
    "the mean isn't taken away; std is about the mean",
    lambda latents: 1 / latents.square().mean().sqrt(),
    "each channel has its own; one number for all",
    lambda latents: 1 / latents.std(dim=(0, 2, 3), unbiased=False),
    "each image has its own std; the scale is one for the whole data set",
    lambda latents: (1 / latents.flatten(1).std(dim=1, unbiased=False)).mean(),
    tolerance=5e-3,
)
def latent_scale(latents: Tensor) -> Tensor:
    """(n, c, h, w) → the factor that gives them a standard deviation of 1."""
    return 1 / latents.std(unbiased=False)


@against(
    {
        "CIFAR-10, f = 2, patches of 2": (32, 32, 2, 2),
        "ImageNet, f = 8, patches of 2": (256, 256, 8, 2),
        "pixels of a tall image": (64, 32, 1, 4),
    },
    "the autoencoder's factor is left out; it divides both sides",
    lambda height, width, factor, patch: (height // patch) * (width // patch),
    "the patches are left out; a token is patch × patch latents",
    lambda height, width, factor, patch: (height // factor) * (width // factor),
    "the area is divided by factor · patch once; each of both sides is",
    lambda height, width, factor, patch: height * width // (factor * patch),
    "the height is taken for both sides",
    lambda height, width, factor, patch: (height // (factor * patch)) ** 2,
)
def token_count(height: int, width: int, factor: int, patch: int) -> int:
    """How many tokens a network sees of an image."""
    return (height // factor // patch) * (width // factor // patch)


_encode = partial(torch.cumsum, dim=3)  # from the left: mirrored images give other latents


@against(
    {
        "three small images": (_encode, waves(3, 1, 4, 4)),
        "one image in colours": (_encode, waves(1, 3, 2, 4, start=60)),
    },
    "latents are mirrored; mirror the images, and encode them",
    lambda encode, images: torch.cat([encode(images), encode(images).flip(3)]),
    "the images are turned upside down; left and right are the last dimension",
    lambda encode, images: torch.cat([encode(images), encode(images.flip(2))]),
    "image and mirrored image alternate; all mirrored ones come after all others",
    lambda encode, images: encode(torch.stack([images, images.flip(3)], dim=1).flatten(0, 1)),
    "only the mirrored ones are left; keep both",
    lambda encode, images: encode(images.flip(3)),
)
def with_mirrors(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Latents of all images (n, c, h, w), then of all mirrored ones."""
    return torch.cat([encode(images), encode(images.flip(3))])


_LATENTS = torch.linspace(-3, 3, 12).reshape(1, 3, 2, 2)


@against(
    {"large latents": (torch.sinh, _LATENTS, 0.4), "small latents": (torch.sinh, _LATENTS, 5.0)},
    "the latents are multiplied by the scale; that was on the way in",
    lambda decode, latents, scale: decode(latents * scale).clamp(-1, 1),
    "the scale is forgotten",
    lambda decode, latents, scale: decode(latents).clamp(-1, 1),
    "images may leave [-1, 1]; clamp them",
    lambda decode, latents, scale: decode(latents / scale),
    "the latents are clamped; they have no limits, only images have",
    lambda decode, latents, scale: decode(latents.clamp(-1, 1) / scale).clamp(-1, 1),
    "the scale is applied to the image; undo it before decoding",
    lambda decode, latents, scale: (decode(latents) / scale).clamp(-1, 1),
)
def to_pixels(decode: Callable[[Tensor], Tensor], latents: Tensor, scale: float) -> Tensor:
    """What diffusion drew becomes images in [-1, 1]; (n, c, h, w)."""
    return decode(latents / scale).clamp(-1, 1)
