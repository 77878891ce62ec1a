"""Checks of guidance: right ones pass, and every hint is given for its mistake."""

import students
import torch

from minidit.sampling import guided

# --- right, written in other ways than the package's ----------------------------------------------


def in_one_batch(model, x, t, y, s):
    nothing = torch.full_like(y, model.null_label)
    both = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([nothing, y]))
    return torch.lerp(*both.chunk(2), s)


def by_the_package(model, x, t, y, s):
    return guided(model, s)(x, t, y)


def as_uvit_writes_it(model, x, t, y, w):
    return (1 + w) * model(x, t, y) - w * model(x, t, y * 0 + model.null_label)


def image_by_image(c, u, t, top):
    rows = [a + (1 + (top - 1) * k / 999) * (b - a) for a, b, k in zip(u, c, t.tolist())]
    return torch.stack(rows)


def weighed(u, c, other, s, r):
    return (1 - s + r) * u + s * c - r * other


RIGHT = [
    ("guidance", in_one_batch),
    ("guidance", by_the_package),
    ("guidance_w", as_uvit_writes_it),
    ("ramped_guidance", image_by_image),
    ("negative_guidance", weighed),
]

test_right_ones_pass = students.right(RIGHT)
