"""Guidance: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check.verdict import Fault, against, alike, waves


class _Network:
    """A stand-in for a network of three classes: each label has an answer of its own."""

    null_label, calls, passed = 3, 0, 0

    def __init__(self, most_calls: int = 9) -> None:
        self.most_calls = most_calls

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
        if self.calls > self.most_calls:
            raise Fault(f"calls the network {self.calls} times; make one batch of both")
        t, y = (z.reshape(-1, 1, 1, 1) for z in (t, y))
        return (x * (1 + y)).sin() + y**2 - t / 1000


_X, _T, _Y = waves(3, 4, 2, 2), torch.tensor([900, 500, 20]), torch.tensor([1, 0, 2])
_SWAPPED = "c and u are exchanged, so the pull is away from the label"
_PULL = "u is missing: s·(c - u) is the pull alone"
_NULL = (
    "the null label is one past the last class, model.null_label; yours is a class",
    {"model.null_label": "2"},
    "the null label is not 0, which is the first class; it is model.null_label",
    {"model.null_label": "0"},
)


@against(
    ("three images, 2.5", _Network(most_calls=1), _X, _T, _Y, 2.5),
    ("two images, 1", _Network(most_calls=1), _X[:2], _T[:2], _Y[:2], 1.0),
    ("one image, 0", _Network(most_calls=1), _X[2:], _T[2:], _Y[2:], 0.0),
    _SWAPPED,
    {"c, u =": "u, c ="},
    "it starts at c; here s = 1 is no guidance, so start at u",
    {"u + s": "c + s"},
    _PULL,
    {"u + s": "s"},
    *_NULL,
    "there is no pull: u is predicted with the labels, or c is returned",
    {"u + s * (c - u)": "c"},
    "repeat_interleave puts copies side by side; the labels come first all, then all null",
    {"x.repeat(2, 1, 1, 1), t.repeat": "x.repeat_interleave(2, dim=0), t.repeat_interleave"},
)
def guidance(model: Callable, x: Tensor, t: Tensor, y: Tensor, s: float) -> Tensor:
    """u + s·(c - u) with one call; (b, c, h, w), (b,), (b,) → (b, c, h, w).

    `model(x, t, y)` is a network, and `model.null_label` its null label.
    """
    labels = torch.cat([y, torch.full_like(y, model.null_label)])
    c, u = model(x.repeat(2, 1, 1, 1), t.repeat(2), labels).chunk(2)
    return u + s * (c - u)


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
    ("two of three inside", _Network(), _X, _T, _Y, 1.5, 300, 900),
    ("all inside", _Network(), _X, _T, _Y, 0.5, 0, 999),
    ("none inside", _Network(), _X, _T, _Y, 4.0, 30, 400),
    ("at the lower end", _Network(), _X[1:], _T[1:], _Y[1:], 2.0, 500, 800),
    "it starts at u; in U-ViT's convention w = 0 is no guidance, so start at c",
    {"c[inside] + w": "u + w"},
    "the pull has the wrong sign; it goes from u to c, and beyond",
    {"(c[inside] - u)": "(u - c[inside])"},
    "c counts once too little: (1 + w)·c - w·u",
    {"c[inside] + w": "w"},
    *_NULL,
    "the interval makes no difference: all are guided",
    {"(low <= t) & (t <= high)": "t >= 0"},
    "the ends belong to the interval: low ≤ t ≤ high",
    {"(low <= t) & (t <= high)": "(low < t) & (t < high)"},
    "t[0] decides for all; each image has a t of its own",
    {"(low <= t) & (t <= high)": "((low <= t) & (t <= high))[:1].expand(len(t))"},
    seen=_no_more_passes,
)
def limited_guidance(
    model: Callable, x: Tensor, t: Tensor, y: Tensor, w: float, low: float, high: float
) -> Tensor:
    """c + w·(c - u) where low ≤ t ≤ high, else c; (b, c, h, w), (b,), (b,) → (b, c, h, w).

    `model(x, t, y)` is a network, and `model.null_label` its null label.
    """
    inside = (low <= t) & (t <= high)
    nothing = torch.full_like(y[inside], model.null_label)
    both = (torch.cat([z, more]) for z, more in [(x, x[inside]), (t, t[inside]), (y, nothing)])
    c, u = model(*both).tensor_split([len(x)])
    return c.index_put((inside,), c[inside] + w * (c[inside] - u))


_C, _U, _OTHER = (waves(3, 2, 2, 3, start=k) for k in (0, 40, 80))
_FEW, _RISING = torch.tensor([800, 20, 400]), torch.tensor([0, 250, 999])


@against(
    ("three images, to 4", _C[..., :2], _U[..., :2], _RISING, 4.0),
    ("as many images as columns", _C, _U, _FEW, 2.5),
    ("to 1, so none", _C, _U, _RISING, 1.0),
    "at t = 0 the pull is 0; it rises from 1, where there is no guidance, to top",
    {"1 + (top - 1)": "top"},
    "it rises to 1 + top; the way from 1 to top is top - 1",
    {"(top - 1)": "top"},
    "it falls from top to 1; it is strongest at t = 999",
    {"* t": "* (999 - t)"},
    "top is reached at t = 1000; the last step is 999",
    {"999": "1000"},
    "it starts at c, so that at t = 0 there is a pull already; s = 1 is u + (c - u)",
    {"return u": "return c"},
    _SWAPPED,
    {"return u": "c, u = u, c; return u"},
    _PULL,
    {"return u +": "return"},
)
def ramped_guidance(c: Tensor, u: Tensor, t: Tensor, top: float) -> Tensor:
    """u + s·(c - u), s a straight line from 1 at t = 0 to top at 999; twice (b, c, h, w), (b,)."""
    s = 1 + (top - 1) * t / 999
    return u + s[:, None, None, None] * (c - u)


@against(
    ("s = 3, r = 1", _U, _C, _OTHER, 3.0, 1.0),
    ("no push", _U, _C, _OTHER, 2.0, 0.0),
    ("both the same", _U, _C, _C, 2.0, 2.0),
    "other pulls, too; take it away",
    {"- r": "+ r"},
    "the push starts at c; both differences are taken from u",
    {"(other - u)": "(other - c)"},
    "other is taken away as a whole; push by its difference from u",
    {"(other - u)": "other"},
    "the push starts at the image that has been pulled; both differences are taken from u",
    {"(other - u)": "(other - u - s * (c - u))"},
    "other takes the place of u; then with r = 0 nothing would pull from u",
    {"u + s * (c - u) - r * (other - u)": "other + s * (c - other)"},
    "it starts at c; s = 1 is no guidance, so start at u",
    {"u + s": "c + s"},
    "u is missing: it is where both the pull and the push start",
    {"u + s": "s"},
)
def negative_guidance(u: Tensor, c: Tensor, other: Tensor, s: float, r: float) -> Tensor:
    """From u towards c by s, away from other by r; (b, c, h, w)."""
    return u + s * (c - u) - r * (other - u)
