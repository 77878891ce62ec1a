"""Checks of guidance: right ones pass, and mistakes get their hints."""

from functools import partial

import pytest
import students
import torch

from minidit import check
from minidit.sampling import guided

# --- right, written in other ways than the package's ----------------------------------------------


def in_one_batch(model, x, t, y, s):
    nothing = torch.full_like(y, model.null_label)
    both = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([nothing, y]))
    return torch.lerp(*both.chunk(2), s)


def by_the_package(model, x, t, y, s):
    return guided(model, s)(x, t, y)


def image_by_the_other(model, x, t, y, w, low, high):
    """With the null labels first, and rows picked by their places."""
    places = [k for k, at in enumerate(t.tolist()) if low <= at <= high]
    labels = torch.cat([y[places] * 0 + model.null_label, y])
    answers = model(torch.cat([x[places], x]), torch.cat([t[places], t]), labels)
    guided = answers[len(places) :].clone()
    for row, k in enumerate(places):
        guided[k] = (1 + w) * guided[k] - w * answers[row]
    return guided


def image_by_image(c, u, t, top):
    rows = [a + (1 + (top - 1) * k / 999) * (b - a) for a, b, k in zip(u, c, t.tolist())]
    return torch.stack(rows)


def weighed(u, c, other, s, r):
    return (1 - s + r) * u + s * c - r * other


RIGHT = [
    ("guidance", in_one_batch),
    ("guidance", by_the_package),
    ("limited_guidance", image_by_the_other),
    ("ramped_guidance", image_by_image),
    ("negative_guidance", weighed),
]

test_right_ones_pass = students.right(RIGHT)


# --- what the stand-in for a network says ---------------------------------------------------------


def with_a_number(model, x, t, y, s):
    return torch.lerp(model(x, t, model.null_label), model(x, t, y), s)


def with_a_single_label(model, x, t, y, s):
    return model(x, t, torch.tensor(model.null_label))


def with_floats(model, x, t, y, s):
    return model(x, t, torch.full(y.shape, 3.0))


def in_two_calls(model, x, t, y, s):
    return torch.lerp(model(x, t, torch.full_like(y, model.null_label)), model(x, t, y), s)


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (with_a_number, "gives the network 3 for y: wanted is (3,); torch.full_like"),
        (with_a_single_label, "gives the network () for y"),
        (with_floats, "labels that are floats"),
        (in_two_calls, "calls the network 2 times"),
        (lambda model, x, t, y, s: model(x, t[:1], y), "gives the network (1,) for t"),
    ],
)
def test_a_network_says_what_it_wants(fn, words):
    assert words in repr(check.guidance(fn))


def test_passes_that_are_not_needed_are_told():
    def wasteful(model, x, t, y, w, low, high, several=slice(None)):
        c, u = in_one_batch(model, x, t, y, 1.0), model(x, t, torch.full_like(y, model.null_label))
        inside = ((t >= low) & (t <= high))[several].reshape(-1, 1, 1, 1)
        return torch.where(inside, c + w * (c - u), c)

    first = repr(check.limited_guidance(partial(wasteful, several=slice(1))))
    assert "t[0] decides for all" in first
    assert "sends 9 images through the network, and 5 are enough" in repr(
        check.limited_guidance(wasteful)
    )


def test_two_mistakes_are_told_together():
    def from_c_with_a_class(model, x, t, y, s):
        both = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, 0 * y]))
        c, u = both.chunk(2)
        return c + s * (c - u)

    told = repr(check.guidance(from_c_with_a_class))
    assert "two mistakes: it starts at c" in told and "and the null label is not 0" in told
