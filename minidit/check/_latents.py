"""Checks of a student's own autoencoder parts, offered by `check` with all the others."""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check import _mistakes_latents as mistakes
from minidit.check._verdict import Verdict, judge
from minidit.latents.gaussian import DiagonalGaussian


def _waves(b: int, c: int, h: int, w: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + b * c * h * w).reshape(b, c, h, w).float().sin()


_SHAPES = {"two images": (2, 3, 2, 2), "one number": (1, 1, 1, 1), "a wide image": (3, 1, 1, 5)}


def kl_from_standard(fn: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(mean, logvar)`, both (b, c, h, w): nats from N(0, 1), summed for each image."""

    def package(mean: Tensor, logvar: Tensor) -> Tensor:
        return DiagonalGaussian(torch.cat([mean, logvar], dim=1)).kl()

    cases = {name: (_waves(*shape, 1), _waves(*shape, 50)) for name, shape in _SHAPES.items()}
    wrong = mistakes.KL_FROM_STANDARD
    return judge("kl_from_standard", fn, package, cases, wrong, tolerance=1e-4)


def quantise(fn: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(z, table)`: (b, c, h, w), codes (K, c) → the nearest codes, (b, c, h, w)."""
    table = torch.tensor([[0.2, 0.1, -0.3], [0.9, -0.8, 0.5], [-0.6, 0.4, 0.9], [3.0, -2.0, 4.0]])
    cases = {
        "two images": (_waves(2, 3, 2, 2, 1), table),
        "a wide image": (_waves(1, 3, 2, 4, 30), table),
        "one place": (_waves(1, 2, 1, 1, 5), table[:, :2]),
    }
    return judge("quantise", fn, mistakes.quantise, cases, mistakes.QUANTISE, tolerance=1e-5)


def straight_through(fn: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(z, codes)`, (b, c, h, w): values of the codes, the gradient to z, none to codes."""

    def with_gradients(fn: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        def run(z: Tensor, codes: Tensor) -> Tensor:
            with torch.enable_grad():
                z, codes = z.clone().requires_grad_(), codes.clone().requires_grad_()
                out = fn(z, codes)
                if not isinstance(out, Tensor) or out.shape != z.shape:
                    return out
                weighed = (out * _waves(*z.shape, 9)).sum()
                # a function that detaches everything has no gradient to ask for
                weighed = weighed + 0 * (z.sum() + codes.sum())
                gradients = torch.autograd.grad(weighed, [z, codes])
            return torch.cat([out.detach(), *gradients])  # values, to z, to the codes

        return run

    cases = {name: (_waves(*shape, 1), _waves(*shape, 50)) for name, shape in _SHAPES.items()}
    wrong = {hint: with_gradients(fn) for hint, fn in mistakes.STRAIGHT_THROUGH.items()}
    right = with_gradients(mistakes.straight_through)
    return judge("straight_through", with_gradients(fn), right, cases, wrong, tolerance=1e-5)


def latent_scale(fn: Callable[[Tensor], Tensor | float]) -> Verdict:
    """Check `fn(latents)`: (n, c, h, w) → the factor that gives them a standard deviation of 1."""

    def as_tensor(fn: Callable[[Tensor], Tensor | float]) -> Callable[[Tensor], Tensor]:
        def run(latents: Tensor) -> Tensor:
            found = fn(latents)
            return torch.as_tensor(found) if isinstance(found, int | float) else found

        return run

    shift = torch.tensor([0.0, 2.0, -1.0, 4.0]).reshape(1, 4, 1, 1)
    grow = torch.tensor([0.5, 4.0, 1.0]).reshape(3, 1, 1, 1)
    cases = {
        "wide latents, channels of several means": (3 * grow * _waves(3, 4, 16, 16) + shift,),
        "narrow latents": (0.2 * grow * _waves(3, 2, 16, 16) + 0.1,),
    }
    wrong = {hint: as_tensor(fn) for hint, fn in mistakes.LATENT_SCALE.items()}
    # a divisor of n - 1 instead of n is as good: it changes the third decimal
    right = as_tensor(mistakes.latent_scale)
    return judge("latent_scale", as_tensor(fn), right, cases, wrong, tolerance=5e-3)
