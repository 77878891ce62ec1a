"""Patches and sinusoids: is your version right, and if not, which of these mistakes is it?"""

import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from minidit import embed, patches
from minidit.check.verdict import against

# (b, c, height, width, patch)
_IMAGES = {
    "a square image of one channel": (1, 1, 4, 4, 2),
    "a wide image": (1, 1, 4, 6, 2),
    "two tall images of three channels": (2, 3, 9, 6, 3),
    "patch 1": (2, 3, 2, 3, 1),
    "one patch for the whole image": (1, 2, 4, 4, 4),
}

# Axes in a wrong order, whichever way it is walked.
_ORDERS = (
    "the channels stand first inside a patch; here they stand last, as in (p1 p2 c)",
    "b c (h p1) (w p2) -> b (h w) (c p1 p2)",
    "inside a patch, columns come before rows; pixels are read row by row, (p1 p2 c)",
    "b c (h p1) (w p2) -> b (h w) (p2 p1 c)",
    "the patches are counted column by column; they are read row by row, (h w)",
    "b c (h p1) (w p2) -> b (w h) (p1 p2 c)",
    "rows and columns are exchanged, both of the patches and inside them",
    "b c (h p1) (w p2) -> b (w h) (p2 p1 c)",
    "a patch takes pixels from afar instead of neighbours; split as (h p1), not (p1 h)",
    "b c (p1 h) (p2 w) -> b (h w) (p1 p2 c)",
)


def _counting(*shape: int) -> Tensor:
    """Every number its own: what lands in the wrong place is seen, and told."""
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


def _cut(order: str) -> Callable:
    return lambda images, p: rearrange(images, order, p1=p, p2=p)


@against(
    {name: (_counting(*shape), patch) for name, (*shape, patch) in _IMAGES.items()},
    *(_cut(words) if "->" in words else words for words in _ORDERS),
    "a reshape alone moves nothing, it cuts the memory into pieces; "
    "split the axes, permute them, then merge",
    lambda images, p: images.reshape(len(images), -1, p * p * images.shape[1]),
    "the result is transposed, as unfold leaves it; tokens come before features",
    lambda images, p: F.unfold(images, p, stride=p),
    "whole rows of pixels are cut into pieces; split the axes into (h p1) and (w p2) first",
    lambda images, p: images.movedim(1, 3).reshape(len(images), -1, p * p * images.shape[1]),
    "the grid still has two axes; merge (h w) into one axis of tokens",
    _cut("b c (h p1) (w p2) -> b h w (p1 p2 c)"),
    "a patch still has its own axes; merge (p1 p2 c) into one axis of features",
    _cut("b c (h p1) (w p2) -> b (h w) p1 p2 c"),
    "height and width are taken to be equal",
    lambda images, p: patches.patchify(images.reshape(*images.shape[:3], images.shape[2]), p),
)
def patchify(images: Tensor, patch: int) -> Tensor:
    """(b, c, h·p, w·p) → (b, h·w, p·p·c)."""
    return patches.patchify(images, patch)


def _joined(order: str) -> Callable:
    """The way back of an order."""
    image, tokens = order.split(" -> ")
    return lambda z, p, grid: rearrange(z, f"{tokens} -> {image}", h=grid[0], w=grid[1], p1=p, p2=p)


@against(
    {
        name: (_counting(b, height // p * (width // p), p * p * c), p, (height // p, width // p))
        for name, (b, c, height, width, p) in _IMAGES.items()
    },
    *(_joined(words) if "->" in words else words for words in _ORDERS),
    "a reshape alone moves nothing; split the axes, permute them, then merge",
    lambda tokens, p, grid: tokens.reshape(len(tokens), -1, grid[0] * p, grid[1] * p),
    "grid is (h, w), rows first, and is read as (w, h)",
    lambda tokens, p, grid: patches.unpatchify(tokens, p, grid[::-1]),
    "the channels are left at the end; images are (b, c, height, width)",
    _joined("b (h p1) (w p2) c -> b (h w) (p1 p2 c)"),
    "the grid is taken to be square",
    lambda tokens, p, grid: patches.unpatchify(tokens, p, (grid[0], grid[0])),
    "that is the permutation of patchify once more; the way back needs the inverse one",
    lambda tokens, p, grid: (
        tokens.reshape(len(tokens), *grid, p, p, -1)
        .permute(0, 2, 4, 3, 5, 1)
        .reshape(len(tokens), -1, grid[0] * p, grid[1] * p)
    ),
    "the axes are split as (w, h) and merged as (h, w); grid is (h, w), rows first",
    lambda tokens, p, grid: patches.unpatchify(tokens, p, grid[::-1]).reshape(
        len(tokens), -1, grid[0] * p, grid[1] * p
    ),
    "the axes aren't interleaved: bring them to c h p1 w p2 before you merge, not c h w p1 p2",
    lambda tokens, p, grid: rearrange(tokens, "b n (q c) -> b c (n q)", q=p * p).reshape(
        len(tokens), -1, grid[0] * p, grid[1] * p
    ),
)
def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """(b, h·w, p·p·c), grid (h, w) → (b, c, h·p, w·p)."""
    return patches.unpatchify(tokens, patch, grid)


def _places(
    dim: int,
    grid: tuple[int, int],
    column: Tensor | None = None,
    row: Tensor | None = None,
    exponent: float = -4.0,
    start: int = 0,
) -> Tensor:
    """The table by positions from `start`, or columns and rows (n,) of one's own: (n, dim)."""
    right = torch.meshgrid(*(torch.arange(n) + start for n in grid), indexing="ij")[::-1]
    omega = 10_000 ** (exponent * torch.arange(dim // 4) / dim)
    places = (own if z is None else z for z, own in zip((column, row), right))
    angles = [z.reshape(-1, 1) * omega for z in places]
    return torch.cat([wave(a) for a in angles for wave in (torch.sin, torch.cos)], dim=1)


@against(
    {
        "a square grid": (8, (3, 3)),
        "a wide grid": (16, (2, 3)),
        "a tall grid": (16, (5, 2)),
        "a single row": (8, (1, 4)),
    },
    "the row comes first; the first half of the channels tells the column",
    lambda dim, grid: embed.sincos_2d(dim, grid).roll(dim // 2, 1),
    "cos comes before sin; in this table sin comes first",
    lambda dim, grid: embed.sincos_2d(dim, grid).unflatten(1, (2, 2, -1)).flip(2).flatten(1),
    "sin and cos alternate; in each half all sines come first, then all cosines",
    lambda dim, grid: embed.sincos_2d(dim, grid).unflatten(1, (2, 2, -1)).mT.flatten(1),
    "all sines come first, then all cosines; each half, column and row, has both",
    lambda dim, grid: (
        embed.sincos_2d(dim, grid).unflatten(1, (2, 2, -1)).transpose(1, 2).flatten(1)
    ),
    "the exponent is divided by dim/4 - 1; each half has dim/4 frequencies, -k/(dim/4)",
    lambda dim, grid: _places(dim, grid, exponent=-4 * dim / (dim - 4)),
    "the exponent is divided by dim/2; each half has dim/4 frequencies, -k/(dim/4)",
    lambda dim, grid: _places(dim, grid, exponent=-2),
    "the exponent is divided by dim; each half has dim/4 frequencies, -k/(dim/4)",
    lambda dim, grid: _places(dim, grid, exponent=-1),
    "the frequencies grow; the exponent is negative, 10000^(-k/(dim/4))",
    lambda dim, grid: _places(dim, grid, exponent=4),
    "positions are counted from 1; they start at 0",
    lambda dim, grid: _places(dim, grid, start=1),
    "grid is (h, w), rows first, and is read as (w, h)",
    lambda dim, grid: embed.sincos_2d(dim, grid[::-1]),
    "the positions are listed column by column; tokens are read row by row, (h w)",
    lambda dim, grid: rearrange(embed.sincos_2d(dim, grid), "(h w) d -> (w h) d", h=grid[0]),
    "the grid still has two axes; merge (h w) into one axis of tokens",
    lambda dim, grid: embed.sincos_2d(dim, grid).unflatten(0, grid),
    "the rows are repeated as a whole, 0 1 0 1; each row lasts for w tokens, repeat_interleave",
    lambda dim, grid: _places(dim, grid, row=torch.arange(grid[0]).repeat(grid[1])),
    "the columns are held, 0 0 1 1; they run through anew in each row, repeat",
    lambda dim, grid: _places(dim, grid, torch.arange(grid[1]).repeat_interleave(grid[0])),
    "the grid is taken to be square: a row lasts for w tokens, and there are h rows",
    lambda dim, grid: embed.sincos_2d(dim, grid).reshape(grid[0], grid[0], dim).flatten(0, 1),
    "both halves tell the column; the second tells the row",
    lambda dim, grid: _places(dim, grid, row=torch.arange(grid[1]).repeat(grid[0])),
    "both halves tell the row; the first tells the column",
    lambda dim, grid: _places(dim, grid, torch.arange(grid[0]).repeat_interleave(grid[1])),
)
def positions(dim: int, grid: tuple[int, int]) -> Tensor:
    """The table of `sincos_2d` for a grid (h, w) → (h·w, dim)."""
    return embed.sincos_2d(dim, grid)


def _times(t: Tensor, omega: Callable[[Tensor], Tensor], dim: int) -> Tensor:
    """Sinusoids of times (b,) with frequencies omega(k), k = 0 … dim//2 - 1: (b, dim)."""
    angles = t[:, None] * omega(torch.arange(dim // 2, dtype=torch.float64))
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


def _even(t: Tensor, dim: int) -> Tensor:
    """The right cosines and sines (b, 2·half), without the zero of an odd dim."""
    return embed.timestep_embedding(t, dim // 2 * 2)


@against(
    {  # small times: float32 must be able to tell even frequencies that grow by mistake
        "whole steps": (torch.tensor([0, 1, 5, 20]), 8),
        "a single step": (torch.tensor([7]), 16),
        "fractions": (torch.tensor([0.25, 3.5, 19.75]), 8),
        "an odd dim": (torch.tensor([3, 12]), 7),
    },
    "sin comes before cos; here cos comes first",
    lambda t, dim: F.pad(_even(t, dim).roll(dim // 2, 1), (0, dim % 2)),
    "cos and sin alternate; all cosines come first, then all sines",
    lambda t, dim: F.pad(_even(t, dim).unflatten(1, (2, -1)).mT.flatten(1), (0, dim % 2)),
    "the frequencies grow; the exponent is negative, 10000^(-k/half)",
    lambda t, dim: _times(t, lambda k: 10_000 ** (k / (dim // 2)), dim),
    "the frequencies grow as 10^(4k/dim); here they fall, 10000^(-k/half)",
    lambda t, dim: _times(t, lambda k: 10 ** (4 * k / dim), dim),
    "the exponent is divided by dim; there are half = dim//2 frequencies, -k/half",
    lambda t, dim: _times(t, lambda k: 10_000 ** (-k / dim), dim),
    "the exponent is divided by half - 1, as some codes do, and as a linspace from 0 to 1 is; here "
    "it is -k/half",
    lambda t, dim: _times(t, lambda k: 10_000 ** (-k / (dim // 2 - 1)), dim),
    "k runs from 1 to half; it runs from 0 to half - 1, and the first frequency is 1",
    lambda t, dim: _times(t, lambda k: 10_000 ** (-(k + 1) / (dim // 2)), dim),
    "the frequencies themselves are a linspace; their exponents are evenly spaced, -k/half",
    lambda t, dim: _times(t, lambda k: torch.linspace(1, 1e-4, dim // 2), dim),
    "a logarithm is missing; 10000^(-k/half) is exp(-ln(10000)·k/half)",
    lambda t, dim: _times(t, lambda k: torch.exp(-k / (dim // 2)), dim),
    "t is cut to a whole number; it may be a fraction",
    lambda t, dim: embed.timestep_embedding(t.long(), dim),
    "t is divided by 1000 first; the sinusoids take the number of the step itself",
    lambda t, dim: embed.timestep_embedding(t / 1000, dim),
    "an odd dim loses its last channel; pad with a zero at the end",
    _even,
    tolerance=0.01,
)
def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """The sinusoids of a time; (b,) → (b, dim)."""
    return embed.timestep_embedding(t, dim)


def _slowness(vectors: Tensor, k: int = -1) -> float:
    """1/speed of hand k, counted from behind where it is negative, of sinusoids (b, dim)."""
    half = vectors.shape[1] // 2
    return 10_000 ** (k % half / half)


def _hand(vectors: Tensor, k: int = -1) -> Tensor:
    """The angle of hand k in -π … π; (b, dim) → (b,)."""
    cosines, sines = vectors.chunk(2, dim=1)
    return torch.atan2(sines[:, k], cosines[:, k])


@against(
    {
        "64 numbers": (embed.timestep_embedding(torch.tensor([0.0, 1.0, 42.5, 999.0]), 64),),
        "8 numbers": (embed.timestep_embedding(torch.tensor([3.0, 500.0, 720.25]), 8),),
        "one step": (embed.timestep_embedding(torch.tensor([250.0]), 32),),
    },
    "the quickest hand, the first, has been round many times; the slowest hasn't",
    lambda vectors: _hand(vectors, 0),
    "sine and cosine are exchanged: atan2(sine, cosine), and the cosines are the first half",
    lambda vectors: clock.right(vectors.roll(vectors.shape[1] // 2, 1)),
    "that is the angle; it is t times the speed, so divide",
    lambda vectors: _hand(vectors),
    "the angle is multiplied by the speed; it is t times the speed, so divide",
    lambda vectors: _hand(vectors) / _slowness(vectors),
    "the slowest hand has k = half - 1, so it is a little quicker than 1/10000",
    lambda vectors: _hand(vectors) * 10_000,
    "the speed is that of another hand; of the last one it is 10000^(-(half - 1)/half)",
    lambda vectors: _hand(vectors) * _slowness(vectors, -2),
    "the cosine is that of the quickest hand; the slowest has the last of each half",
    lambda vectors: torch.atan2(vectors[:, -1], vectors[:, 0]) * _slowness(vectors),
    "a cosine near 1 can't tell small angles apart; atan2 of sine and cosine can",
    lambda vectors: vectors[:, vectors.shape[1] // 2 - 1].acos() * _slowness(vectors),
    "the time is rounded; it may lie between two steps",
    lambda vectors: clock.right(vectors).round(),
    tolerance=0.1,
)
def clock(vectors: Tensor) -> Tensor:
    """The sinusoids of times in 0 … 999, even dim → the times; (b, dim) → (b,)."""
    return _hand(vectors) * _slowness(vectors)
