"""Checks of guidance: right ones pass, and every hint is given for its mistake."""

import students
import torch

from minidit.check import _mistakes_guidance as hints
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


# --- wrong, each with the words that its hint must hold -------------------------------------------


def mixed(weights, null=None):
    """`weights(s)`: the factors of c and of u; `null`: from the network to a label."""

    def fn(model, x, t, y, s):
        label = model.null_label if null is None else null(model)
        of_c, of_u = weights(s)
        return of_c * model(x, t, y) + of_u * model(x, t, torch.full_like(y, label))

    return fn


def dit(s):
    return s, 1 - s


def uvit(w):
    return 1 + w, -w


GUIDANCE = {
    "away from the label": mixed(lambda s: (1 - s, s)),
    "it starts at c": mixed(uvit),
    "u is missing": mixed(lambda s: (s, -s)),
    "one past the last class": mixed(dit, lambda model: model.null_label - 1),
    "is not 0": mixed(dit, lambda model: 0),
    "there is no pull": lambda model, x, t, y, s: (
        model(x, t, y) + s * (model(x, t, y) - model(x, t, y))
    ),
}

GUIDANCE_W = {
    "it starts at u": mixed(dit),
    "the wrong sign": mixed(lambda w: (1 - w, w)),
    "once too little": mixed(lambda w: (w, -w)),
    "one past the last class": mixed(uvit, lambda model: model.null_label - 1),
}


def pulled(scale):
    def fn(c, u, t, top):
        return u + scale(t, top).view(-1, 1, 1, 1) * (c - u)

    return fn


RAMPED_GUIDANCE = {
    "the pull is 0": pulled(lambda t, top: top * (t / 999)),
    "it rises to 1 + top": pulled(lambda t, top: 1 + top * (t / 999)),
    "it falls from top": pulled(lambda t, top: top + (1 - top) * (t / 999)),
    "at t = 1000": pulled(lambda t, top: 1 + (top - 1) * (t / 1000)),
    "the pull of the first": pulled(lambda t, top: 1 + (top - 1) * (t[0] / 999)),
    "the last axis": lambda c, u, t, top: u + (1 + (top - 1) * (t / 999)) * (c - u),
}

NEGATIVE_GUIDANCE = {
    "other pulls, too": lambda u, c, other, s, r: (1 - s - r) * u + s * c + r * other,
    "the push starts at c": lambda u, c, other, s, r: (1 - s) * u + (s + r) * c - r * other,
    "as a whole": lambda u, c, other, s, r: (1 - s) * u + s * c - r * other,
    "s and r are exchanged": lambda u, c, other, s, r: (1 - r + s) * u + r * c - s * other,
    "takes the place of u": lambda u, c, other, s, r: (1 - s) * other + s * c,
}

STUDENTS = {
    "guidance": (GUIDANCE, hints.GUIDANCE),
    "guidance_w": (GUIDANCE_W, hints.GUIDANCE_W),
    "ramped_guidance": (RAMPED_GUIDANCE, hints.RAMPED_GUIDANCE),
    "negative_guidance": (NEGATIVE_GUIDANCE, hints.NEGATIVE_GUIDANCE),
}

test_each_mistake_gets_its_hint = students.wrong(STUDENTS)
test_every_hint_has_its_student = students.complete(STUDENTS)
test_a_stub_is_still_to_be_written = students.stubs(STUDENTS)
