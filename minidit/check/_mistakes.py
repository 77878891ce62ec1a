"""The common mistakes, as functions that make them; `check` looks for one that acts like yours.

Each table: what to say → a function of the same arguments as the right one.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from minidit import patches

Mistakes = dict[str, Callable]
SIN_COS = torch.sin, torch.cos

# --- patches: an order of the image's axes, and of the tokens' ------------------------------------

ORDERS = {
    "the channels stand first inside a patch; here they stand last, as in (p1 p2 c)": (
        "b c (h p1) (w p2)",
        "b (h w) (c p1 p2)",
    ),
    "inside a patch, columns come before rows; pixels are read row by row, (p1 p2 c)": (
        "b c (h p1) (w p2)",
        "b (h w) (p2 p1 c)",
    ),
    "the patches are counted column by column; they are read row by row, (h w)": (
        "b c (h p1) (w p2)",
        "b (w h) (p1 p2 c)",
    ),
    "rows and columns are exchanged, both of the patches and inside them": (
        "b c (h p1) (w p2)",
        "b (w h) (p2 p1 c)",
    ),
    "a patch takes pixels from afar instead of neighbours; split as (h p1), not (p1 h)": (
        "b c (p1 h) (p2 w)",
        "b (h w) (p1 p2 c)",
    ),
}


def _regroup(images: Tensor, patch: int, image: str, tokens: str) -> Tensor:
    return rearrange(images, f"{image} -> {tokens}", p1=patch, p2=patch)


def _plain_reshape(images: Tensor, patch: int) -> Tensor:
    b, c, height, width = images.shape
    return images.reshape(b, height * width // patch**2, patch * patch * c)


def _square_patchify(images: Tensor, patch: int) -> Tensor:
    if images.shape[2] != images.shape[3]:
        raise ValueError("not square")
    return patches.patchify(images, patch)


PATCHIFY: Mistakes = {
    hint: partial(_regroup, image=image, tokens=tokens) for hint, (image, tokens) in ORDERS.items()
} | {
    "a reshape alone moves nothing, it cuts the memory into pieces; "
    "split the axes, permute them, then merge": _plain_reshape,
    "the result is transposed, as unfold leaves it; tokens come before features": (
        lambda images, patch: F.unfold(images, patch, stride=patch)
    ),
    "the grid still has two axes; merge (h w) into one axis of tokens": (
        partial(_regroup, image="b c (h p1) (w p2)", tokens="b h w (p1 p2 c)")
    ),
    "a patch still has its own axes; merge (p1 p2 c) into one axis of features": (
        partial(_regroup, image="b c (h p1) (w p2)", tokens="b (h w) p1 p2 c")
    ),
    "height and width are taken to be equal": _square_patchify,
}


def _ungroup(tokens: Tensor, patch: int, grid: tuple, image: str, order: str) -> Tensor:
    sizes = dict(zip("hw", grid), p1=patch, p2=patch)
    return rearrange(tokens, f"{order} -> {image}", **sizes)


def _square_unpatchify(tokens: Tensor, patch: int, grid: tuple) -> Tensor:
    if grid[0] != grid[1]:
        raise ValueError("not square")
    return patches.unpatchify(tokens, patch, grid)


UNPATCHIFY: Mistakes = {
    hint: partial(_ungroup, image=image, order=tokens) for hint, (image, tokens) in ORDERS.items()
} | {
    "a reshape alone moves nothing; split the axes, permute them, then merge": (
        lambda tokens, p, grid: tokens.reshape(len(tokens), -1, grid[0] * p, grid[1] * p)
    ),
    "grid is (h, w), rows first, and is read as (w, h)": (
        lambda tokens, p, grid: patches.unpatchify(tokens, p, grid[::-1])
    ),
    "the channels are left at the end; images are (b, c, height, width)": (
        partial(_ungroup, image="b (h p1) (w p2) c", order="b (h w) (p1 p2 c)")
    ),
    "the grid is taken to be square": _square_unpatchify,
}

# --- sinusoids: frequencies base^exponent, of positions and of times ------------------------------


def _waves(position: Tensor, exponents: Tensor, functions: tuple = SIN_COS) -> Tensor:
    angles = position.double().reshape(-1, 1) * 10_000.0**exponents
    return torch.cat([f(angles) for f in functions], dim=1)


def _falling(count: int, last: float = 1.0) -> Tensor:
    """-k/count·last, k = 0 … count - 1."""
    return -last * torch.arange(count, dtype=torch.float64) / count


def _interleave(halves: Tensor) -> Tensor:
    return rearrange(halves, "n (two k) -> n (k two)", two=2)


def _table(
    dim: int,
    grid: tuple[int, int],
    order: str = "column row",
    functions: tuple = SIN_COS,
    start: int = 0,
    last: float = 1.0,
) -> Tensor:
    row, column = torch.meshgrid(*(torch.arange(n) + start for n in grid), indexing="ij")
    axes = {"row": row, "column": column}
    exponents = _falling(dim // 4, last)
    return torch.cat([_waves(axes[a], exponents, functions) for a in order.split()], dim=1)


POSITIONS: Mistakes = {
    "the row comes first; the first half of the channels tells the column": (
        partial(_table, order="row column")
    ),
    "cos comes before sin; in this table sin comes first": partial(_table, functions=SIN_COS[::-1]),
    "sin and cos alternate; in each half all sines come first, then all cosines": (
        lambda dim, grid: torch.cat([_interleave(a) for a in _table(dim, grid).chunk(2, 1)], dim=1)
    ),
    "the exponent is divided by dim/2; each half has dim/4 frequencies, -k/(dim/4)": (
        partial(_table, last=0.5)
    ),
    "the exponent is divided by dim; each half has dim/4 frequencies, -k/(dim/4)": (
        partial(_table, last=0.25)
    ),
    "the frequencies grow; the exponent is negative, 10000^(-k/(dim/4))": partial(_table, last=-1),
    "positions are counted from 1; they start at 0": partial(_table, start=1),
    "grid is (h, w), rows first, and is read as (w, h)": (
        lambda dim, grid: _table(dim, grid[::-1])
    ),
    "the positions are listed column by column; tokens are read row by row, (h w)": (
        lambda dim, grid: rearrange(_table(dim, grid), "(h w) d -> (w h) d", h=grid[0])
    ),
    "the grid still has two axes; merge (h w) into one axis of tokens": (
        lambda dim, grid: _table(dim, grid).unflatten(0, grid)
    ),
}


def _time(t: Tensor, dim: int, functions: tuple = SIN_COS[::-1], last: float = 1.0) -> Tensor:
    return F.pad(_waves(t, _falling(dim // 2, last), functions), (0, dim % 2))


def _last_reached(t: Tensor, dim: int) -> Tensor:
    half = dim // 2
    return _time(t, dim, last=half / (half - 1))


TIMES: Mistakes = {
    "sin comes before cos; here cos comes first": partial(_time, functions=SIN_COS),
    "cos and sin alternate; all cosines come first, then all sines": (
        lambda t, dim: F.pad(_interleave(_time(t, dim // 2 * 2)), (0, dim % 2))
    ),
    "the frequencies grow; the exponent is negative, 10000^(-k/half)": partial(_time, last=-1),
    "the frequencies grow as 10^(4k/dim); here they fall, 10000^(-k/half)": (
        lambda t, dim: _time(t, dim, last=-(dim // 2) / dim)
    ),
    "the exponent is divided by dim; there are half = dim//2 frequencies, -k/half": (
        lambda t, dim: _time(t, dim, last=dim // 2 / dim)
    ),
    "the exponent is divided by half - 1, as some codes do; here it is -k/half": _last_reached,
    "a logarithm is missing; 10000^(-k/half) is exp(-ln(10000)·k/half)": (
        partial(_time, last=1 / math.log(10_000.0))
    ),
    "t is cut to a whole number; it may be a fraction": lambda t, dim: _time(t.long(), dim),
    "t is divided by 1000 first; the sinusoids take the number of the step itself": (
        lambda t, dim: _time(t / 1000, dim)
    ),
    "an odd dim loses its last channel; pad with a zero at the end": (
        lambda t, dim: _time(t, dim)[:, : dim // 2 * 2]
    ),
}
