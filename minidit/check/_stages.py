"""Checks of a student's own ways between pixels and latents, offered by `check` with the others."""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check import _mistakes_stages as mistakes
from minidit.check._verdict import Verdict, judge


def token_count(fn: Callable[[int, int, int, int], int]) -> Verdict:
    """Check `fn(height, width, factor, patch)`: how many tokens a network sees of an image."""

    def as_tensor(fn: Callable[..., int]) -> Callable[..., Tensor]:
        return lambda *sizes: torch.tensor([fn(*sizes)])

    cases = {
        "CIFAR-10, f = 2, patches of 2": (32, 32, 2, 2),
        "ImageNet, f = 8, patches of 2": (256, 256, 8, 2),
        "pixels of a tall image": (64, 32, 1, 4),
    }
    wrong = {hint: as_tensor(mistake) for hint, mistake in mistakes.TOKEN_COUNT.items()}
    return judge("token_count", as_tensor(fn), as_tensor(mistakes.token_count), cases, wrong)


def with_mirrors(fn: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> Verdict:
    """Check `fn(encode, images)`: latents of all images, then of all mirrored ones."""

    def encode(images: Tensor) -> Tensor:
        """Not the same for a mirrored image: the left of two columns counts for more."""
        left, right = images[..., ::2], images[..., 1::2]  # (n, c, h, w/2)
        return torch.cat([left + 0.5 * right, left * right], dim=1)

    cases = {
        "three small images": (encode, torch.arange(3 * 4 * 4.0).reshape(3, 1, 4, 4).sin()),
        "one image in colours": (encode, torch.arange(3 * 2 * 4.0).reshape(1, 3, 2, 4).cos()),
    }
    return judge("with_mirrors", fn, mistakes.with_mirrors, cases, mistakes.WITH_MIRRORS, 1e-5)


def to_pixels(fn: Callable[[Callable[[Tensor], Tensor], Tensor, float], Tensor]) -> Verdict:
    """Check `fn(decode, latents, scale)`: what diffusion drew becomes images in [-1, 1]."""

    def decode(latents: Tensor) -> Tensor:
        return 0.6 * latents + 0.2 * latents.square()

    latents = torch.linspace(-3, 3, 12).reshape(1, 3, 2, 2)
    cases = {"large latents": (decode, latents, 0.4), "small latents": (decode, latents, 5.0)}
    return judge("to_pixels", fn, mistakes.to_pixels, cases, mistakes.TO_PIXELS, 1e-5)
