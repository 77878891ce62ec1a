"""Checks of a student's function: right ones pass, and mistakes get their hints.

The students' versions below are written out as a student would, not made of the package's right
functions as its own mistakes are. Those are tried, too, each in every check.
"""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import students
import torch
from einops import rearrange
from torch.nn import functional as F

from minidit import LabelEmbedder, check, patchify, sincos_2d, timestep_embedding
from minidit import unpatchify as package_unpatchify

# --- right, written in other ways than the package's ----------------------------------------------


def loops(images, patch):
    b, c, height, width = images.shape
    tokens = [
        [
            [
                images[i, k, top + y, left + x]
                for y in range(patch)
                for x in range(patch)
                for k in range(c)
            ]
            for top in range(0, height, patch)
            for left in range(0, width, patch)
        ]
        for i in range(b)
    ]
    return torch.tensor(tokens)


def unfolded(images, patch):
    tokens = F.unfold(images, patch, stride=patch)
    return rearrange(tokens, "b (c p1 p2) n -> b n (p1 p2 c)", p1=patch, p2=patch)


def folded(tokens, patch, grid):
    tokens = rearrange(tokens, "b n (p1 p2 c) -> b (c p1 p2) n", p1=patch, p2=patch)
    return F.fold(tokens, (grid[0] * patch, grid[1] * patch), patch, stride=patch)


def complex_times(t, dim):
    omega = 10_000.0 ** -(torch.arange(dim // 2) / (dim // 2))
    turned = torch.polar(torch.ones(len(t), dim // 2), t[:, None] * omega)
    rest = torch.zeros(len(t), dim % 2)
    return torch.cat([turned.real, turned.imag, rest], 1)


def positions_by_loops(dim, grid):
    rows = []
    for i in range(grid[0]):
        for j in range(grid[1]):
            row = []
            for position in (j, i):
                angles = [position / 10_000 ** (k / (dim / 4)) for k in range(dim // 4)]
                row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            rows.append(row)
    return torch.tensor(rows)


def by_the_sine(vectors):
    """The slowest of an even dim turns by less than a right angle."""
    half = vectors.shape[1] // 2
    return vectors[:, -1].asin() * math.exp(math.log(10_000) * (half - 1) / half)


def by_slices(tokens, patch, grid):
    b, n, d = tokens.shape
    images = torch.zeros(b, d // patch**2, grid[0] * patch, grid[1] * patch)
    for k in range(n):
        top, left = k // grid[1] * patch, k % grid[1] * patch
        square = tokens[:, k].reshape(b, patch, patch, -1).movedim(3, 1)
        images[:, :, top : top + patch, left : left + patch] = square
    return images


def drop(y, null_label, probability):
    return torch.where(torch.rand(len(y)) < probability, null_label, y)


def package_drop(y, null_label, probability):
    if probability == 1:  # the package refuses it: nothing would be learned of the labels
        return torch.full_like(y, null_label)
    embedder = LabelEmbedder(null_label, 4, probability)
    return embedder.drop(y)


RIGHT = [
    ("patchify", patchify),
    ("patchify", loops),
    ("patchify", unfolded),
    ("unpatchify", package_unpatchify),
    ("unpatchify", folded),
    ("positions", sincos_2d),
    ("positions", positions_by_loops),
    ("timestep_embedding", timestep_embedding),
    ("timestep_embedding", complex_times),
    ("clock", by_the_sine),
    ("unpatchify", by_slices),
    ("label_dropout", drop),
    ("label_dropout", package_drop),
]

# --- wrong, each with the words that its hint must hold -------------------------------------------


def split(images, p, *order):
    """The axes (b, c, h, p1, w, p2) in another order, the first three and the last three merged."""
    b, c, height, width = images.shape
    axes = images.reshape(b, c, height // p, p, width // p, p)
    return axes.permute(0, *order).flatten(1, 2).flatten(2)


def unmerged(images, p):
    b, c, height, width = images.shape
    return images.reshape(b, c, height // p, p, width // p, p).permute(0, 2, 4, 3, 5, 1)


def square_only(images, p):
    n = images.shape[2] // p
    return rearrange(images, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", h=n, w=n, p1=p, p2=p)


PATCHIFY = {
    "the channels stand first": lambda x, p: split(x, p, 2, 4, 1, 3, 5),
    "columns come before rows": lambda x, p: split(x, p, 2, 4, 5, 3, 1),
    "counted column by column": lambda x, p: split(x, p, 4, 2, 3, 5, 1),
    "rows and columns are exchanged": lambda x, p: split(x, p, 4, 2, 5, 3, 1),
    "a reshape alone": lambda x, p: x.view(len(x), -1, p * p * x.shape[1]),
    "the result is transposed": lambda x, p: F.unfold(x, p, stride=p),
    "whole rows of pixels": lambda x, p: torch.cat(
        [z.permute(1, 2, 0).reshape(1, -1, p * p * len(z)) for z in x]
    ),
    "the grid still has two axes": lambda x, p: unmerged(x, p).flatten(3),
    "a patch still has its own axes": lambda x, p: unmerged(x, p).flatten(1, 2),
    "taken to be equal": square_only,
}


def one_axis(positions, dim, divisor, cos_first=False, sign=-1):
    omega = 10_000.0 ** (sign * torch.arange(dim // 4) / divisor)
    angles = positions[:, None] * omega
    waves = [angles.cos(), angles.sin()] if cos_first else [angles.sin(), angles.cos()]
    return torch.cat(waves, 1)


def two_axes(dim, grid, divisor=None, first="column", start=0, **kwargs):
    row = torch.arange(grid[0]).repeat_interleave(grid[1]) + start
    column = torch.arange(grid[1]).repeat(grid[0]) + start
    divisor = divisor or dim / 4
    axes = (column, row) if first == "column" else (row, column)
    return torch.cat([one_axis(axis, dim, divisor, **kwargs) for axis in axes], 1)


def alternating_positions(dim, grid):
    table = torch.empty(grid[0] * grid[1], dim)
    right = two_axes(dim, grid)
    quarter = dim // 4
    for half in (0, dim // 2):
        for k in range(quarter):
            table[:, half + 2 * k] = right[:, half + k]
            table[:, half + 2 * k + 1] = right[:, half + quarter + k]
    return table


def column_by_column(dim, grid):
    rows = two_axes(dim, grid).reshape(*grid, dim)
    return rows.transpose(0, 1).reshape(-1, dim)


POSITIONS = {
    "the row comes first": lambda dim, grid: two_axes(dim, grid, first="row"),
    "cos comes before sin": lambda dim, grid: two_axes(dim, grid, cos_first=True),
    "sin and cos alternate": alternating_positions,
    "each half, column and row": lambda dim, grid: (
        two_axes(dim, grid).unflatten(1, (4, -1))[:, [0, 2, 1, 3]].flatten(1)
    ),
    "divided by dim/4 - 1": lambda dim, grid: two_axes(dim, grid, dim / 4 - 1),
    "the frequencies grow": lambda dim, grid: two_axes(dim, grid, sign=1),
    "counted from 1": lambda dim, grid: two_axes(dim, grid, start=1),
    "is read as (w, h)": lambda dim, grid: two_axes(dim, (grid[1], grid[0])),
    "listed column by column": column_by_column,
}


def times(t, dim, base=10_000.0, divisor=None, sign=-1, sin_first=False):
    half = dim // 2
    omega = base ** (sign * torch.arange(half) / (divisor or half))
    angles = t[:, None] * omega
    waves = [angles.sin(), angles.cos()] if sin_first else [angles.cos(), angles.sin()]
    return F.pad(torch.cat(waves, 1), (0, dim % 2))


def alternating_times(t, dim):
    out = torch.zeros(len(t), dim)
    right = times(t, dim)
    half = dim // 2
    out[:, 0 : 2 * half : 2], out[:, 1 : 2 * half : 2] = right[:, :half], right[:, half : 2 * half]
    return out


TIMESTEP_EMBEDDING = {
    "sin comes before cos": lambda t, dim: times(t, dim, sin_first=True),
    "cos and sin alternate": alternating_times,
    "the frequencies grow; ": lambda t, dim: times(t, dim, sign=1),
    "the frequencies grow as 10^(4k/dim)": lambda t, dim: times(t, dim, 10.0, dim / 4, 1),
    "divided by half - 1": lambda t, dim: times(t, dim, divisor=dim // 2 - 1),
    "k runs from 1": lambda t, dim: times(t / 10_000 ** (1 / (dim // 2)), dim),
    "themselves are a linspace": lambda t, dim: torch.cat(
        [f(t[:, None] * torch.linspace(1, 1e-4, dim // 2)) for f in (torch.cos, torch.sin)]
        + [torch.zeros(len(t), dim % 2)],
        dim=1,
    ),
    "a logarithm is missing": lambda t, dim: times(t, dim, base=math.e),
    "an odd dim loses": lambda t, dim: times(t, dim)[:, : dim - dim % 2],
}

WRONG = {
    "patchify": PATCHIFY,
    "positions": POSITIONS,
    "timestep_embedding": TIMESTEP_EMBEDDING,
}

test_right_ones_pass = students.right(RIGHT)
test_each_mistake_gets_its_hint = students.wrong(WRONG)


# --- every check, with its own list of mistakes --------------------------------------------------

CHECKS = {name: value for name, value in vars(check).items() if hasattr(value, "mistakes")}


def test_no_module_hides_a_check():
    modules = {path.stem for path in Path(check.__file__).parent.glob("*.py")}
    assert CHECKS and not modules & {*CHECKS, "label_dropout", "property_test"}


@pytest.mark.parametrize("name", CHECKS)
def test_what_the_package_keeps_as_right_passes(name):
    one = CHECKS[name]
    assert one(one.right), one(one.right)
    assert one.__doc__.startswith("Check `fn(") and one.__name__ == name


@pytest.mark.parametrize("name", CHECKS)
def test_each_mistake_that_the_package_keeps_gets_its_own_hint(name):
    for hint, mistake in CHECKS[name].mistakes.items():
        verdict = CHECKS[name](mistake)
        assert not verdict and repr(verdict).startswith(f"✗ {name} is not right yet. With ")
        assert repr(verdict).endswith(f"\n  The likeliest cause: {hint}."), verdict
        assert not re.search("NameError|UnboundLocalError", repr(verdict)), "a name in an edit"


@pytest.mark.parametrize("name", [*CHECKS, "label_dropout"])
def test_a_stub_is_still_to_be_written(name):
    def stub(*arguments):
        raise NotImplementedError("exercise 1")

    verdict = getattr(check, name)(stub)
    assert not verdict and repr(verdict) == f"○ {name} is still to be written: exercise 1"


# --- label dropout: found by counting, not by comparing -------------------------------------------


def all_at_once(y, null_label, probability):
    return torch.full_like(y, null_label) if torch.rand(()) < probability else y


def in_place(y, null_label, probability):
    y[torch.rand(len(y)) < probability] = null_label
    return y


def always_the_first(y, null_label, probability):
    places = torch.arange(len(y)) < probability * len(y)
    return y.masked_fill(places, null_label)


def never_quite(y, null_label, probability):
    return drop(y, null_label, min(max(probability, 0.25), 0.25))


DROPS = {
    "no label is ever dropped": lambda y, null, p: y.clone(),
    "become 10, which is a class of its own": lambda y, null, p: drop(y, 10, p),
    "become 11, which is a class of its own": lambda y, null, p: drop(y, null - 1, p),
    "become 0, which is a class of its own": lambda y, null, p: drop(y, 0, p),
    "become -1, which is no class": lambda y, null, p: drop(y, -1, p),
    "you keep with probability": lambda y, null, p: drop(y, null, 1 - p),
    "the whole batch": all_at_once,
    "the same places": always_the_first,
    "instead of 0.25": lambda y, null, p: drop(y, null, p / 2),
    "with probability 0": never_quite,
    "in place": in_place,
    "became floats": lambda y, null, p: drop(y, null, p).float(),
    "returns shape (1, 1000)": lambda y, null, p: drop(y, null, p)[None],
    "returns a list": lambda y, null, p: drop(y, null, p).tolist(),
}


@pytest.mark.parametrize("words", DROPS)
def test_each_wrong_dropout_is_told(words):
    verdict = check.label_dropout(DROPS[words])
    assert not verdict and words in repr(verdict), verdict


def test_label_dropout_leaves_the_global_generator_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check.label_dropout(drop)
    assert torch.equal(torch.rand(4), expected)


# --- what no table explains -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda x, p: x.flatten(), "returns shape (16,), and (1, 4, 4) is expected"),
        (lambda x, p: patchify(x, p) + 1, "a row [1, 2, 5, 6] instead of [0, 1, 4, 5]"),
        (lambda x, p: x.no_such_method(), "raises AttributeError"),
        (lambda x, p: patchify(x.long(), p).softmax(-1), "not implemented for 'Long'"),
        (lambda x, p: patchify(x.neg_().neg_().add_(1), p), "in place"),
    ],
)
def test_an_unknown_mistake_is_shown_by_its_outcome(fn, words):
    verdict = check.patchify(fn)
    assert not verdict and words in repr(verdict)
    assert "likeliest" not in repr(verdict)


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda d, g: [sincos_2d(d, g)][1:].clear(), "a `return` is missing"),
        (lambda d, g: sincos_2d(d, g) * math.nan, "NaN comes from"),
        (lambda d, g: sincos_2d(d, g).T, "the last two axes are exchanged"),
        (lambda d, g: sincos_2d(d, g).long(), "whole numbers"),
        (lambda d, g: -2 * sincos_2d(d, g), "the right answer times -2"),
        (lambda d, g: sincos_2d(d, g) + torch.rand(()), "nothing must be drawn at random"),
        (lambda d, g: sincos_2d(d, g).numpy(), "returns a ndarray"),
    ],
)
def test_what_any_function_may_get_wrong_is_told(fn, words):
    verdict = check.positions(fn)
    assert not verdict and words in repr(verdict), verdict


def test_a_failure_on_one_kind_of_input_names_that_kind():
    def one_channel_only(x, p):
        if x.shape[1] > 1:
            raise RuntimeError("shape mismatch\nwith a second line")
        return patchify(x, p)

    verdict = check.patchify(one_channel_only)
    assert "With two tall images of three channels it raises RuntimeError: shape mismatch." in repr(
        verdict
    )


def test_a_verdict_can_be_printed_where_there_is_no_cross():
    program = "from minidit import check; print(check.patchify(lambda x, p: x))"
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment)
    assert done.returncode == 0 and done.stdout.startswith(b"? patchify is not right yet")
