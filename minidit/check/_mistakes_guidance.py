"""Common mistakes about guidance, as functions; see `_mistakes`."""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check._mistakes import Mistakes

# --- from a network -------------------------------------------------------------------------------


def _guided(
    mixed: Callable[[Tensor, Tensor, float], Tensor], null: Callable[[int], int] = lambda n: n
) -> Callable:
    """Guidance; `mixed(c, u, s)`, and `null` from the network's null label."""

    def guided(model: Callable, x: Tensor, t: Tensor, y: Tensor, s: float) -> Tensor:
        c, u = model(x, t, y), model(x, t, torch.full_like(y, null(model.null_label)))
        return mixed(c, u, s)

    return guided


def _from_u(c: Tensor, u: Tensor, s: float) -> Tensor:
    return u + s * (c - u)


def _from_c(c: Tensor, u: Tensor, w: float) -> Tensor:
    return c + w * (c - u)


guidance, guidance_w = _guided(_from_u), _guided(_from_c)

_OFF_BY_ONE = "the null label is one past the last class, model.null_label; yours is a class"

GUIDANCE: Mistakes = {
    "c and u are exchanged, so the pull is away from the label": (
        _guided(lambda c, u, s: c + s * (u - c))
    ),
    "it starts at c; here s = 1 is no guidance, so start at u": guidance_w,
    "u is missing: s·(c - u) is the pull alone": _guided(lambda c, u, s: s * (c - u)),
    _OFF_BY_ONE: _guided(_from_u, lambda n: n - 1),
    "the null label is not 0, which is the first class; it is model.null_label": (
        _guided(_from_u, lambda n: 0)
    ),
    "there is no pull: u is predicted with the labels, or c is returned": (
        _guided(lambda c, u, s: c)
    ),
}

GUIDANCE_W: Mistakes = {
    "it starts at u; in U-ViT's convention w = 0 is no guidance, so start at c": guidance,
    "the pull has the wrong sign; it goes from u to c, and beyond": (
        _guided(lambda c, u, w: c + w * (u - c))
    ),
    "c counts once too little: (1 + w)·c - w·u": _guided(lambda c, u, w: w * (c - u)),
    _OFF_BY_ONE: _guided(_from_c, lambda n: n - 1),
}

# --- from predictions -----------------------------------------------------------------------------


def _ramp(scale: Callable[[Tensor, float], Tensor], own: bool = True) -> Callable:
    def ramped(c: Tensor, u: Tensor, t: Tensor, top: float) -> Tensor:
        s = scale(t if own else t[:1].expand_as(t), top)
        return u + s.reshape(-1, 1, 1, 1) * (c - u)

    return ramped


def _rise(t: Tensor, top: float) -> Tensor:
    return 1 + (top - 1) * t / 999


ramped_guidance = _ramp(_rise)

RAMPED_GUIDANCE: Mistakes = {
    "at t = 0 the pull is 0; it rises from 1, where there is no guidance, to top": (
        _ramp(lambda t, top: top * t / 999)
    ),
    "it rises to 1 + top; the way from 1 to top is top - 1": (
        _ramp(lambda t, top: 1 + top * t / 999)
    ),
    "it falls from top to 1; it is strongest at t = 999": _ramp(lambda t, top: _rise(999 - t, top)),
    "top is reached at t = 1000; the last step is 999": (
        _ramp(lambda t, top: 1 + (top - 1) * t / 1000)
    ),
    "every image gets the pull of the first; each has a t of its own": _ramp(_rise, own=False),
    "s of shape (b,) meets the last axis, the width; make it (b, 1, 1, 1)": (
        lambda c, u, t, top: u + _rise(t, top) * (c - u)
    ),
}


def negative_guidance(u: Tensor, c: Tensor, other: Tensor, s: float, r: float) -> Tensor:
    """u + s·(c - u) - r·(other - u): towards c, away from other."""
    return u + s * (c - u) - r * (other - u)


NEGATIVE_GUIDANCE: Mistakes = {
    "other pulls, too; take it away": (lambda u, c, other, s, r: u + s * (c - u) + r * (other - u)),
    "the push starts at c; both differences are taken from u": (
        lambda u, c, other, s, r: u + s * (c - u) - r * (other - c)
    ),
    "other is taken away as a whole; push by its difference from u": (
        lambda u, c, other, s, r: u + s * (c - u) - r * other
    ),
    "s and r are exchanged": lambda u, c, other, s, r: negative_guidance(u, c, other, r, s),
    "other takes the place of u; then with r = 0 nothing would pull from u": (
        lambda u, c, other, s, r: other + s * (c - other)
    ),
}
