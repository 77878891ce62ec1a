"""Checks of a student's own guidance, offered by `check` with all the others."""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check import _mistakes_guidance as mistakes
from minidit.check._verdict import Verdict, judge


class _Network:
    """A stand-in for a network of three classes: each label has an answer of its own."""

    null_label = 3

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """(b, c, h, w), (b,), (b,) → (b, c, h, w)."""
        t, y = (z.reshape(-1, 1, 1, 1) for z in (t, y))
        return (x * (1 + y)).sin() + y**2 - t / 1000


def _waves(*shape: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + torch.Size(shape).numel()).reshape(shape).float().sin()


def _asked() -> dict[str, tuple]:
    x, t, y = _waves(3, 4, 2, 2), torch.tensor([900, 500, 20]), torch.tensor([1, 0, 2])
    return {
        "three images, 2.5": (_Network(), x, t, y, 2.5),
        "two images, 1": (_Network(), x[:2], t[:2], y[:2], 1.0),
        "one image, 0": (_Network(), x[2:], t[2:], y[2:], 0.0),
    }


def guidance(fn: Callable[..., Tensor]) -> Verdict:
    """Check `fn(model, x, t, y, s)`, u + s·(c - u): (b, c, h, w), (b,), (b,) → (b, c, h, w).

    `model(x, t, y)` is a network, and `model.null_label` its null label.
    """
    right, wrong = mistakes.guidance, mistakes.GUIDANCE
    return judge("guidance", fn, right, _asked(), wrong, tolerance=1e-4)


def guidance_w(fn: Callable[..., Tensor]) -> Verdict:
    """Check `fn(model, x, t, y, w)`, U-ViT's c + w·(c - u); else as `guidance`."""
    right, wrong = mistakes.guidance_w, mistakes.GUIDANCE_W
    return judge("guidance_w", fn, right, _asked(), wrong, tolerance=1e-4)


def ramped_guidance(fn: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Verdict:
    """Check `fn(c, u, t, top)`: twice (b, c, h, w), (b,) → u + s·(c - u).

    s rises in a straight line from 1 at t = 0 to top at t = 999.
    """
    t = torch.tensor([0, 250, 999])
    cases = {
        "three images, to 4": (_waves(3, 1, 2, 2), _waves(3, 1, 2, 2, start=30), t, 4.0),
        "as many images as columns": (_waves(3, 1, 2, 3), _waves(3, 1, 2, 3, start=30), t, 2.5),
        "to 1, so none": (_waves(3, 2, 2, 2), _waves(3, 2, 2, 2, start=30), t, 1.0),
    }
    right, wrong = mistakes.ramped_guidance, mistakes.RAMPED_GUIDANCE
    return judge("ramped_guidance", fn, right, cases, wrong, tolerance=1e-4)


def negative_guidance(fn: Callable[..., Tensor]) -> Verdict:
    """Check `fn(u, c, other, s, r)`: from u towards c by s, away from other by r; (b, c, h, w)."""
    u, c, other = (_waves(2, 3, 2, 2, start=k) for k in (0, 40, 80))
    cases = {
        "s = 3, r = 1": (u, c, other, 3.0, 1.0),
        "no push": (u, c, other, 2.0, 0.0),
        "both the same": (u, c, c, 2.0, 2.0),
    }
    right, wrong = mistakes.negative_guidance, mistakes.NEGATIVE_GUIDANCE
    return judge("negative_guidance", fn, right, cases, wrong, tolerance=1e-4)
