"""Guidance: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check.verdict import against, waves


class _Network:
    """A stand-in for a network of three classes: each label has an answer of its own."""

    null_label = 3

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """(b, c, h, w), (b,), (b,) → (b, c, h, w)."""
        t, y = (z.reshape(-1, 1, 1, 1) for z in (t, y))
        return (x * (1 + y)).sin() + y**2 - t / 1000


_X, _T, _Y = waves(3, 4, 2, 2), torch.tensor([900, 500, 20]), torch.tensor([1, 0, 2])
_U, _C, _OTHER = (waves(2, 3, 2, 2, start=k) for k in (0, 40, 80))
_RISING = torch.tensor([0, 250, 999])
_CASES = {
    "three images, 2.5": (_Network(), _X, _T, _Y, 2.5),
    "two images, 1": (_Network(), _X[:2], _T[:2], _Y[:2], 1.0),
    "one image, 0": (_Network(), _X[2:], _T[2:], _Y[2:], 0.0),
}


def _guided(mixed: Callable[[Tensor, Tensor, float], Tensor], null: int = 3) -> Callable:
    """Guidance from mixed(c, u, s), where u is predicted with the label `null`."""
    return lambda model, x, t, y, s: mixed(model(x, t, y), model(x, t, torch.full_like(y, null)), s)


@against(
    _CASES,
    "c and u are exchanged, so the pull is away from the label",
    _guided(lambda c, u, s: c + s * (u - c)),
    "it starts at c; here s = 1 is no guidance, so start at u",
    _guided(lambda c, u, s: c + s * (c - u)),
    "u is missing: s·(c - u) is the pull alone",
    _guided(lambda c, u, s: s * (c - u)),
    "the null label is one past the last class, model.null_label; yours is a class",
    _guided(lambda c, u, s: u + s * (c - u), null=2),
    "the null label is not 0, which is the first class; it is model.null_label",
    _guided(lambda c, u, s: u + s * (c - u), null=0),
    "there is no pull: u is predicted with the labels, or c is returned",
    _guided(lambda c, u, s: c),
)
def guidance(model: Callable, x: Tensor, t: Tensor, y: Tensor, s: float) -> Tensor:
    """u + s·(c - u); (b, c, h, w), (b,), (b,) → (b, c, h, w).

    `model(x, t, y)` is a network, and `model.null_label` its null label.
    """
    c, u = model(x, t, y), model(x, t, torch.full_like(y, model.null_label))
    return u + s * (c - u)


@against(
    _CASES,
    "it starts at u; in U-ViT's convention w = 0 is no guidance, so start at c",
    _guided(lambda c, u, w: u + w * (c - u)),
    "the pull has the wrong sign; it goes from u to c, and beyond",
    _guided(lambda c, u, w: c + w * (u - c)),
    "c counts once too little: (1 + w)·c - w·u",
    _guided(lambda c, u, w: w * (c - u)),
    "the null label is one past the last class, model.null_label; yours is a class",
    _guided(lambda c, u, w: c + w * (c - u), null=2),
)
def guidance_w(model: Callable, x: Tensor, t: Tensor, y: Tensor, w: float) -> Tensor:
    """U-ViT's c + w·(c - u); else as `guidance`. (b, c, h, w), (b,), (b,) → (b, c, h, w)."""
    return guidance.right(model, x, t, y, 1 + w)


def _pull(c: Tensor, u: Tensor, s: Tensor) -> Tensor:
    return u + s[:, None, None, None] * (c - u)


@against(
    {
        "three images, to 4": (waves(3, 1, 2, 2), waves(3, 1, 2, 2, start=30), _RISING, 4.0),
        "as many images as columns": (waves(3, 1, 2, 3), waves(3, 1, 2, 3, start=30), _RISING, 2.5),
        "to 1, so none": (waves(3, 2, 2, 2), waves(3, 2, 2, 2, start=30), _RISING, 1.0),
    },
    "at t = 0 the pull is 0; it rises from 1, where there is no guidance, to top",
    lambda c, u, t, top: _pull(c, u, top * t / 999),
    "it rises to 1 + top; the way from 1 to top is top - 1",
    lambda c, u, t, top: _pull(c, u, 1 + top * t / 999),
    "it falls from top to 1; it is strongest at t = 999",
    lambda c, u, t, top: ramped_guidance.right(c, u, 999 - t, top),
    "top is reached at t = 1000; the last step is 999",
    lambda c, u, t, top: _pull(c, u, 1 + (top - 1) * t / 1000),
    "every image gets the pull of the first; each has a t of its own",
    lambda c, u, t, top: ramped_guidance.right(c, u, t[:1], top),
    "s of shape (b,) meets the last axis, the width; make it (b, 1, 1, 1)",
    lambda c, u, t, top: u + (1 + (top - 1) * t / 999) * (c - u),
)
def ramped_guidance(c: Tensor, u: Tensor, t: Tensor, top: float) -> Tensor:
    """u + s·(c - u), s a straight line from 1 at t = 0 to top at 999; twice (b, c, h, w), (b,)."""
    return _pull(c, u, 1 + (top - 1) * t / 999)


@against(
    {
        "s = 3, r = 1": (_U, _C, _OTHER, 3.0, 1.0),
        "no push": (_U, _C, _OTHER, 2.0, 0.0),
        "both the same": (_U, _C, _C, 2.0, 2.0),
    },
    "other pulls, too; take it away",
    lambda u, c, other, s, r: u + s * (c - u) + r * (other - u),
    "the push starts at c; both differences are taken from u",
    lambda u, c, other, s, r: u + s * (c - u) - r * (other - c),
    "other is taken away as a whole; push by its difference from u",
    lambda u, c, other, s, r: u + s * (c - u) - r * other,
    "s and r are exchanged",
    lambda u, c, other, s, r: u + r * (c - u) - s * (other - u),
    "other takes the place of u; then with r = 0 nothing would pull from u",
    lambda u, c, other, s, r: other + s * (c - other),
)
def negative_guidance(u: Tensor, c: Tensor, other: Tensor, s: float, r: float) -> Tensor:
    """From u towards c by s, away from other by r; (b, c, h, w)."""
    return u + s * (c - u) - r * (other - u)
