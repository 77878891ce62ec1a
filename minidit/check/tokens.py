"""Patches and sinusoids: is your version right, and if not, which of these mistakes is it?"""

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from minidit import embed
from minidit.check.verdict import against

_IMAGES = (  # b, c, height, width, patch
    ("a square image of one channel", 1, 1, 4, 4, 2),
    ("a wide image", 1, 1, 4, 6, 2),
    ("two tall images of three channels", 2, 3, 9, 6, 3),
    ("patch 1", 2, 3, 2, 3, 1),
    ("one patch for the whole image", 1, 2, 4, 4, 4),
)

_ORDERS = (  # axes in a wrong order, whichever way it is walked
    "the channels stand first inside a patch; here they stand last, as in (p1 p2 c)",
    {"(p1 p2 c)": "(c p1 p2)"},
    "inside a patch, columns come before rows; pixels are read row by row, (p1 p2 c)",
    {"(p1 p2 c)": "(p2 p1 c)"},
    "the patches are counted column by column; they are read row by row, (h w)",
    {"(h w)": "(w h)"},
    "rows and columns are exchanged, both of the patches and inside them",
    {"(h w)": "(w h)", "(p1 p2 c)": "(p2 p1 c)"},
    "a patch takes pixels from afar instead of neighbours; split as (h p1), not (p1 h)",
    {"(h p1) (w p2)": "(p1 h) (p2 w)"},
)


def _counting(*shape: int) -> Tensor:
    """Every number its own: what lands in the wrong place is seen, and told."""
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


@against(
    *((name, _counting(*shape), patch) for name, *shape, patch in _IMAGES),
    *_ORDERS,
    "a reshape alone moves nothing, it cuts the memory into pieces; "
    "split the axes, permute them, then merge",
    lambda images, p: images.reshape(len(images), -1, p * p * images.shape[1]),
    "the result is transposed, as unfold leaves it; tokens come before features",
    {"b (h w) (p1 p2 c)": "b (c p1 p2) (h w)"},
    "whole rows of pixels are cut into pieces; split the axes into (h p1) and (w p2) first",
    lambda images, p: images.movedim(1, 3).reshape(len(images), -1, p * p * images.shape[1]),
    "the grid still has two axes; merge (h w) into one axis of tokens",
    {"(h w)": "h w"},
    "a patch still has its own axes; merge (p1 p2 c) into one axis of features",
    {"(p1 p2 c)": "p1 p2 c"},
    "height and width are taken to be equal",
    {"p2=patch": "p2=patch, w=images.shape[2] // patch"},
)
def patchify(images: Tensor, patch: int) -> Tensor:
    """(b, c, h·p, w·p) → (b, h·w, p·p·c)."""
    return rearrange(images, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch, p2=patch)


# images read off the memory, in the order in which the numbers stand
_READ = {"p2=patch)": "p2=patch).reshape(len(tokens), -1, h * patch, w * patch)"}


@against(
    *(
        (name, _counting(b, height // p * (width // p), p * p * c), p, (height // p, width // p))
        for name, b, c, height, width, p in _IMAGES
    ),
    *_ORDERS,
    "a reshape alone moves nothing; split the axes, permute them, then merge",
    {"b c (h p1) (w p2)": "b (h w p1 p2 c)", **_READ},
    "grid is (h, w), rows first, and is read as (w, h)",
    {"h, w = grid": "w, h = grid"},
    "that is the permutation of patchify once more; the way back needs the inverse one",
    {"b c (h p1) (w p2)": "b (w p2 p1 c h)", **_READ},
    "the axes are split as (w, h) and merged as (h, w); grid is (h, w), rows first",
    {"h=h, w=w": "h=w, w=h", **_READ},
    "the axes aren't interleaved: bring them to c h p1 w p2 before you merge, not c h w p1 p2",
    {"b c (h p1) (w p2)": "b (c h w p1 p2)", **_READ},
)
def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """(b, h·w, p·p·c), grid (h, w) → (b, c, h·p, w·p)."""
    h, w = grid
    pattern = "b (h w) (p1 p2 c) -> b c (h p1) (w p2)"
    return rearrange(tokens, pattern, h=h, w=w, p1=patch, p2=patch)


@against(
    ("a square grid", 8, (3, 3)),
    ("a wide grid", 16, (2, 3)),
    ("a tall grid", 16, (5, 2)),
    ("a single row", 8, (1, 4)),
    "the row comes first; the first half of the channels tells the column",
    {"(columns, rows)": "(rows, columns)"},
    "cos comes before sin; in this table sin comes first",
    {"(torch.sin, torch.cos)": "(torch.cos, torch.sin)"},
    "sin and cos alternate; in each half all sines come first, then all cosines",
    {"dim=1)": "dim=1).unflatten(1, (2, 2, -1)).mT.flatten(1)"},
    "all sines come first, then all cosines; each half, column and row, has both",
    {"dim=1)": "dim=1).unflatten(1, (2, 2, -1)).transpose(1, 2).flatten(1)"},
    "the exponent is divided by dim/4 - 1; each half has dim/4 frequencies, -k/(dim/4)",
    {"(dim / 4)": "(dim / 4 - 1)"},
    "the exponent is divided by dim/2; each half has dim/4 frequencies, -k/(dim/4)",
    {"(dim / 4)": "(dim / 2)"},
    "the exponent is divided by dim; each half has dim/4 frequencies, -k/(dim/4)",
    {"(dim / 4)": "dim"},
    "the frequencies grow; the exponent is negative, 10000^(-k/(dim/4))",
    {"-torch.arange": "torch.arange"},
    "positions are counted from 1; they start at 0",
    {"z[:, None]": "(z[:, None] + 1)"},
    "grid is (h, w), rows first, and is read as (w, h)",
    {"h, w = grid": "w, h = grid"},
    "the positions are listed column by column; tokens are read row by row, (h w)",
    {".repeat_interleave(w)": ".repeat(w)", ".repeat(h)": ".repeat_interleave(h)"},
    "the grid still has two axes; merge (h w) into one axis of tokens",
    {"dim=1)": "dim=1).unflatten(0, grid)"},
    "the rows are repeated as a whole, 0 1 0 1; each row lasts for w tokens, repeat_interleave",
    {".repeat_interleave(w)": ".repeat(w)"},
    "the columns are held, 0 0 1 1; they run through anew in each row, repeat",
    {".repeat(h)": ".repeat_interleave(h)"},
    "the grid is taken to be square: a row lasts for w tokens, and there are h rows",
    {"dim=1)": "dim=1).reshape(h, h, dim).flatten(0, 1)"},
    "both halves tell the column; the second tells the row",
    {"(columns, rows)": "(columns, columns)"},
    "both halves tell the row; the first tells the column",
    {"(columns, rows)": "(rows, rows)"},
)
def positions(dim: int, grid: tuple[int, int]) -> Tensor:
    """The table of `sincos_2d` for a grid (h, w) → (h·w, dim)."""
    h, w = grid
    omega = 10_000.0 ** (-torch.arange(dim // 4) / (dim / 4))
    rows, columns = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)  # (h·w,)
    angles = [z[:, None] * omega for z in (columns, rows)]
    return torch.cat([wave(a) for a in angles for wave in (torch.sin, torch.cos)], dim=1)


@against(
    ("whole steps", torch.tensor([0, 1, 5, 20]), 8),
    ("a single step", torch.tensor([7]), 16),
    ("fractions", torch.tensor([0.25, 3.5, 19.75]), 8),
    ("an odd dim", torch.tensor([3, 12]), 7),
    "sin comes before cos; here cos comes first",
    {"[angles.cos(), angles.sin()]": "[angles.sin(), angles.cos()]"},
    "cos and sin alternate; all cosines come first, then all sines",
    {"dim=1)": "dim=1).unflatten(1, (2, -1)).mT.flatten(1)"},
    "the frequencies grow; the exponent is negative, 10000^(-k/half)",
    {"-k / half": "k / half"},
    "the frequencies grow as 10^(4k/dim); here they fall, 10000^(-k/half)",
    {"10_000 ** (-k / half)": "10 ** (4 * k / dim)"},
    "the exponent is divided by dim; there are half = dim//2 frequencies, -k/half",
    {"-k / half": "-k / dim"},
    "the exponent is divided by half - 1, as some codes do, and as a linspace from 0 to 1 is; here "
    "it is -k/half",
    {"-k / half": "-k / (half - 1)"},
    "k runs from 1 to half; it runs from 0 to half - 1, and the first frequency is 1",
    {"-k / half": "-(k + 1) / half"},
    "the frequencies themselves are a linspace; their exponents are evenly spaced, -k/half",
    {"10_000 ** (-k / half)": "torch.linspace(1, 1e-4, half)"},
    "a logarithm is missing; 10000^(-k/half) is exp(-ln(10000)·k/half)",
    {"10_000 ** (-k / half)": "torch.exp(-k / half)"},
    "t is cut to a whole number; it may be a fraction",
    {"t[:, None]": "t[:, None].long()"},
    "t is divided by 1000 first; the sinusoids take the number of the step itself",
    {"t[:, None]": "t[:, None] / 1000"},
    "an odd dim loses its last channel; pad with a zero at the end",
    {"(0, dim % 2)": "(0, 0)"},
    tolerance=0.01,
)
def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """The sinusoids of a time; (b,) → (b, dim)."""
    half = dim // 2
    k = torch.arange(half, dtype=torch.float64)
    angles = t[:, None] * 10_000 ** (-k / half)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


@against(
    ("64 numbers", embed.timestep_embedding(torch.tensor([0.0, 1.0, 42.5, 999.0]), 64)),
    ("8 numbers", embed.timestep_embedding(torch.tensor([3.0, 500.0, 720.25]), 8)),
    ("one step", embed.timestep_embedding(torch.tensor([250.0]), 32)),
    "the quickest hand, the first, has been round many times; the slowest hasn't",
    {"sines[:, -1], cosines[:, -1]": "sines[:, 0], cosines[:, 0]", "angle / speed": "angle"},
    "sine and cosine are exchanged: atan2(sine, cosine), and the cosines are the first half",
    {"cosines, sines =": "sines, cosines ="},
    "that is the angle; it is t times the speed, so divide",
    {"angle / speed": "angle"},
    "the angle is multiplied by the speed; it is t times the speed, so divide",
    {"angle / speed": "angle * speed"},
    "the slowest hand has k = half - 1, so it is a little quicker than 1/10000",
    {"half - 1": "half"},
    "a cosine near 1 can't tell small angles apart; atan2 of sine and cosine can",
    {"torch.atan2(sines[:, -1], cosines[:, -1])": "cosines[:, -1].acos()"},
    "the time is rounded; it may lie between two steps",
    {"angle / speed": "(angle / speed).round()"},
    tolerance=0.1,
)
def clock(vectors: Tensor) -> Tensor:
    """The sinusoids of times in 0 … 999, even dim from 6 → the times; (b, dim) → (b,)."""
    cosines, sines = vectors.chunk(2, dim=1)
    half = cosines.shape[1]
    angle, speed = torch.atan2(sines[:, -1], cosines[:, -1]), 10_000 ** -((half - 1) / half)
    return angle / speed
