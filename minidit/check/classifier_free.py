"""Guidance: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check.verdict import Fault, against, alike, waves


class _Network:
    """A stand-in for a network of three classes: each label has an answer of its own."""

    null_label, calls, passed = 3, 0, 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """(b, c, h, w), (b,), (b,) → (b, c, h, w)."""
        for name, value in {"t": t, "y": y}.items():
            shape = tuple(value.shape) if isinstance(value, Tensor) else value
            if shape != (len(x),):
                hint = "; torch.full_like(y, model.null_label) makes null labels" * (name == "y")
                raise Fault(f"gives the network {shape} for {name}: wanted is ({len(x)},){hint}")
        if y.is_floating_point():
            raise Fault("gives the network labels that are floats; a table has whole rows only")
        if y.numel() and (y.min() < 0 or y.max() > self.null_label):
            raise Fault(f"gives the network a label outside 0 … {self.null_label}, the null label")
        self.calls, self.passed = self.calls + 1, self.passed + len(x)
        t, y = (z.reshape(-1, 1, 1, 1) for z in (t, y))
        return (x * (1 + y)).sin() + y**2 - t / 1000


def _one_call(fn: Callable) -> Callable:
    """What is seen of a function that may call its network once."""

    def answer(model: _Network, *rest: object) -> object:
        got = fn(model, *rest)
        if model.calls > 1:
            raise Fault(f"calls the network {model.calls} times; make one batch of both")
        return got

    return answer


_X, _T, _Y = waves(3, 4, 2, 2), torch.tensor([900, 500, 20]), torch.tensor([1, 0, 2])
_U, _C, _OTHER = (waves(2, 3, 2, 2, start=k) for k in (0, 40, 80))
_RISING = torch.tensor([0, 250, 999])
_CASES = {
    "three images, 2.5": (_Network(), _X, _T, _Y, 2.5),
    "two images, 1": (_Network(), _X[:2], _T[:2], _Y[:2], 1.0),
    "one image, 0": (_Network(), _X[2:], _T[2:], _Y[2:], 0.0),
}


Mixed = Callable[[Tensor, Tensor, float], Tensor]


def _guided(mixed: Mixed, null: int = 3, twice: Callable = lambda x: torch.cat([x, x])) -> Callable:
    """Guidance from mixed(c, u, s), where u is predicted with the label `null`."""

    def guided(model: _Network, x: Tensor, t: Tensor, y: Tensor, s: float) -> Tensor:
        labels = torch.cat([y, torch.full_like(y, null)])
        return mixed(*model(twice(x), twice(t), labels).chunk(2), s)

    return guided


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
    "u is returned: the label has no say",
    _guided(lambda c, u, s: u),
    "both answers are returned; mix the two halves of the batch",
    _guided(lambda c, u, s: torch.cat([c, u])),
    "repeat_interleave puts copies side by side; the labels come first all, then all null",
    _guided(lambda c, u, s: u + s * (c - u), twice=lambda x: x.repeat_interleave(2, dim=0)),
    seen=_one_call,
)
def guidance(model: Callable, x: Tensor, t: Tensor, y: Tensor, s: float) -> Tensor:
    """u + s·(c - u) with one call; (b, c, h, w), (b,), (b,) → (b, c, h, w).

    `model(x, t, y)` is a network, and `model.null_label` its null label.
    """
    return _guided(lambda c, u, s: u + s * (c - u), model.null_label)(model, x, t, y, s)


def _no_more_passes(fn: Callable) -> Callable:
    """What is seen of limited guidance: its values, and if they are right, what they cost."""

    def answer(model: _Network, x: Tensor, t: Tensor, y: Tensor, *rest: float) -> object:
        got, wanted = fn(model, x, t, y, *rest), _Network()
        right = limited_guidance.right(wanted, x, t, y, *rest)
        some = len(x) < wanted.passed < 2 * len(x)  # else a mistake with waste isn't recognised
        if some and alike(got, right, 1e-4) and model.passed > wanted.passed:
            raise Fault(
                f"sends {model.passed} images through the network, and {wanted.passed} are enough: "
                "u is needed only where guidance is on"
            )
        return got

    return answer


@against(
    {
        "two of three inside": (_Network(), _X, _T, _Y, 1.5, 300, 900),
        "all inside": (_Network(), _X, _T, _Y, 0.5, 0, 999),
        "none inside": (_Network(), _X, _T, _Y, 4.0, 30, 400),
        "at the lower end": (_Network(), _X[1:], _T[1:], _Y[1:], 2.0, 500, 800),
    },
    "it starts at u; in U-ViT's convention w = 0 is no guidance, so start at c",
    {"mixed": lambda c, u, w: u + w * (c - u)},
    "the pull has the wrong sign; it goes from u to c, and beyond",
    {"mixed": lambda c, u, w: c + w * (u - c)},
    "c counts once too little: (1 + w)·c - w·u",
    {"mixed": lambda c, u, w: w * (c - u)},
    "the null label is one past the last class, model.null_label; yours is a class",
    {"null": 2},
    "the null label is not 0, which is the first class; it is model.null_label",
    {"null": 0},
    "the interval makes no difference: all are guided",
    {"within": lambda t, low, high: t >= 0},
    "none is guided: c is returned",
    {"within": lambda t, low, high: t < 0},
    "it is guided where it shouldn't be, and nowhere else",
    {"within": lambda t, low, high: (t < low) | (t > high)},
    "the ends belong to the interval: low ≤ t ≤ high",
    {"within": lambda t, low, high: (t > low) & (t < high)},
    "t[0] decides for all; each image has a t of its own",
    {"within": lambda t, low, high: ((t >= low) & (t <= high))[:1].expand(len(t))},
    seen=_no_more_passes,
)
def limited_guidance(
    model: Callable,
    x: Tensor,
    t: Tensor,
    y: Tensor,
    w: float,
    low: float,
    high: float,
    *,
    mixed: Mixed = lambda c, u, w: c + w * (c - u),
    null: int | None = None,
    within: Callable = lambda t, low, high: (t >= low) & (t <= high),
) -> Tensor:
    """c + w·(c - u) where low ≤ t ≤ high, else c; (b, c, h, w), (b,), (b,) → (b, c, h, w).

    `model(x, t, y)` is a network, and `model.null_label` its null label.
    """
    inside = within(t, low, high)
    nothing = torch.full_like(y[inside], model.null_label if null is None else null)
    both = (torch.cat([z, more]) for z, more in [(x, x[inside]), (t, t[inside]), (y, nothing)])
    c, u = model(*both).tensor_split([len(x)])
    return c.index_put((inside,), mixed(c[inside], u, w))


def _pull(c: Tensor, u: Tensor, s: Tensor) -> Tensor:
    return u + s[:, None, None, None] * (c - u)


@against(
    {
        "three images, to 4": (waves(3, 1, 2, 2), waves(3, 1, 2, 2, start=30), _RISING, 4.0),
        "as many images as columns": (
            waves(3, 1, 2, 3),
            waves(3, 1, 2, 3, start=30),
            torch.tensor([800, 20, 400]),
            2.5,
        ),
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
    "it starts at c, so that at t = 0 there is a pull already; s = 1 is u + (c - u)",
    lambda c, u, t, top: c - u + ramped_guidance.right(c, u, t, top),
    "c and u are exchanged, so the pull is away from the label",
    lambda c, u, t, top: ramped_guidance.right(u, c, t, top),
    "the largest t of the batch gets top; it belongs to 999",
    lambda c, u, t, top: _pull(c, u, 1 + (top - 1) * t / t.max()),
    "u is missing: s·(c - u) is the pull alone",
    lambda c, u, t, top: ramped_guidance.right(c, u, t, top) - u,
    "s alone is returned; it pulls: u + s·(c - u)",
    lambda c, u, t, top: 1 + (top - 1) * t / 999,
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
    "the push starts at the image that has been pulled; both differences are taken from u",
    lambda u, c, other, s, r: (1 + r) * (u + s * (c - u)) - r * other,
    "s and r are exchanged",
    lambda u, c, other, s, r: u + r * (c - u) - s * (other - u),
    "other takes the place of u; then with r = 0 nothing would pull from u",
    lambda u, c, other, s, r: other + s * (c - other),
    "it starts at c; s = 1 is no guidance, so start at u",
    lambda u, c, other, s, r: c + s * (c - u) - r * (other - u),
    "u is missing: it is where both the pull and the push start",
    lambda u, c, other, s, r: s * (c - u) - r * (other - u),
    "there is no push",
    lambda u, c, other, s, r: u + s * (c - u),
)
def negative_guidance(u: Tensor, c: Tensor, other: Tensor, s: float, r: float) -> Tensor:
    """From u towards c by s, away from other by r; (b, c, h, w)."""
    return u + s * (c - u) - r * (other - u)
