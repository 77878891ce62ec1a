"""Checks of a student's own long skips, offered by `check` with all the others."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidit.check import _mistakes_skips as mistakes
from minidit.check._verdict import Verdict, judge
from minidit.uvit import without_skips


def _tokens(b: int, n: int, d: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + b * n * d).reshape(b, n, d).float().sin()


def long_skip(fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(x, early, weight, bias)`: Linear([x, early]), with a weight of (d, 2d)."""
    cases = {
        "two images of three tokens": (2, 3, 4),
        "one token": (1, 1, 2),
        "as many tokens as channels": (1, 4, 4),
    }
    made = {
        name: (
            _tokens(*shape),
            _tokens(*shape, 50),
            _tokens(1, d, 2 * d)[0],
            _tokens(1, 1, d)[0, 0],
        )
        for name, shape in cases.items()
        for d in shape[-1:]
    }
    right, wrong = mistakes.long_skip, mistakes.LONG_SKIP
    return judge("long_skip", fn, right, made, wrong, tolerance=1e-5)


def u_walk(fn: Callable[[Tensor, Sequence[Callable], Sequence[Callable]], Tensor]) -> Verdict:
    """Check `fn(x, blocks, skips)`: 2k + 1 functions of x, k of (x, early), in the order of use."""

    def blocks(count: int) -> list[Callable]:
        return [lambda x, k=k: x + torch.sin(x * (k + 1)) for k in range(count)]

    def skips(count: int) -> list[Callable]:
        return [lambda x, early, k=k: 0.5 * x - early * (k + 1) for k in range(count)]

    cases = {
        "three blocks": (_tokens(1, 2, 2), blocks(3), skips(1)),
        "seven blocks": (_tokens(2, 3, 2), blocks(7), skips(3)),
        "one block, and no skip": (_tokens(1, 1, 2), blocks(1), []),
    }
    return judge("u_walk", fn, mistakes.u_walk, cases, mistakes.U_WALK, tolerance=1e-4)


def inner_width(fn: Callable[[int, int], int]) -> Verdict:
    """Check `fn(d, depth)`: features inside the MLPs that make up for skips left out."""

    def package(d: int, depth: int) -> Tensor:
        ratio = without_skips({"hidden_size": d, "depth": depth})["mlp_ratio"]
        return torch.tensor([int(d * ratio)])

    def as_tensor(fn: Callable[[int, int], int]) -> Callable[[int, int], Tensor]:
        return lambda d, depth: torch.tensor([fn(d, depth)])

    cases = {f"d = {d}, depth = {n}": (d, n) for d, n in ((64, 12), (512, 12), (1152, 28))}
    wrong = {hint: as_tensor(mistake) for hint, mistake in mistakes.INNER_WIDTH.items()}
    return judge("inner_width", as_tensor(fn), package, cases, wrong)
