"""Common mistakes between pixels and latents, as functions; see `_mistakes`."""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check._mistakes import Mistakes

# --- how many tokens ------------------------------------------------------------------------------


def token_count(height: int, width: int, factor: int, patch: int) -> int:
    """Tokens of an image whose sides are divided by `factor`, then cut into patches."""
    return (height // (factor * patch)) * (width // (factor * patch))


TOKEN_COUNT: Mistakes = {
    "the autoencoder's factor is left out; it divides both sides": (
        lambda height, width, factor, patch: token_count(height, width, 1, patch)
    ),
    "the patches are left out; a token is patch × patch latents": (
        lambda height, width, factor, patch: token_count(height, width, factor, 1)
    ),
    "the area is divided by factor · patch once; each of both sides is": (
        lambda height, width, factor, patch: height * width // (factor * patch)
    ),
    "the height is taken for both sides": (
        lambda height, width, factor, patch: token_count(height, height, factor, patch)
    ),
}

# --- latents of mirrored images -------------------------------------------------------------------


def with_mirrors(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Latents of images (n, c, h, w), and after them of the mirrored ones: (2n, k, h', w')."""
    return torch.cat([encode(images), encode(images.flip(3))])


WITH_MIRRORS: Mistakes = {
    "latents are mirrored; mirror the images, and encode them": (
        lambda encode, images: torch.cat([encode(images), encode(images).flip(3)])
    ),
    "the images are turned upside down; left and right are the last dimension": (
        lambda encode, images: torch.cat([encode(images), encode(images.flip(2))])
    ),
    "image and mirrored image alternate; all mirrored ones come after all others": (
        lambda encode, images: torch.stack([encode(images), encode(images.flip(3))], dim=1).flatten(
            0, 1
        )
    ),
    "only the mirrored ones are left; keep both": lambda encode, images: encode(images.flip(3)),
}

# --- the way out ----------------------------------------------------------------------------------


def to_pixels(decode: Callable[[Tensor], Tensor], latents: Tensor, scale: float) -> Tensor:
    """What diffusion drew → images in [-1, 1]."""
    return decode(latents / scale).clamp(-1, 1)


TO_PIXELS: Mistakes = {
    "the latents are multiplied by the scale; that was on the way in": (
        lambda decode, latents, scale: to_pixels(decode, latents, 1 / scale)
    ),
    "the scale is forgotten": lambda decode, latents, scale: to_pixels(decode, latents, 1.0),
    "images may leave [-1, 1]; clamp them": (
        lambda decode, latents, scale: decode(latents / scale)
    ),
    "the latents are clamped; they have no limits, only images have": (
        lambda decode, latents, scale: decode(latents.clamp(-1, 1) / scale).clamp(-1, 1)
    ),
    "the scale is applied to the image; undo it before decoding": (
        lambda decode, latents, scale: (decode(latents) / scale).clamp(-1, 1)
    ),
}
