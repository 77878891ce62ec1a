"""Long skips: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from minidit.check.verdict import against, waves
from minidit.training.presets import without_skips


def _join(b: int, n: int, d: int) -> tuple[Tensor, ...]:
    return waves(b, n, d), waves(b, n, d, start=50), waves(d, 2 * d), waves(d)


@against(
    {
        "two images of three tokens": _join(2, 3, 4),
        "one token": _join(1, 1, 2),
        "as many tokens as channels": _join(1, 4, 4),
    },
    "early comes before x; the late tokens are first, then the early ones",
    lambda x, early, weight, bias: long_skip.right(early, x, weight, bias),
    "the bias is forgotten",
    lambda x, early, weight, bias: long_skip.right(x, early, weight, 0 * bias),
    "x is added once more; the linear layer is all there is",
    lambda x, early, weight, bias: x + long_skip.right(x, early, weight, bias),
    "the layer gets d channels and takes 2·d: x and early are joined along the tokens, or added; "
    "join them along the channels, dim=-1",
    lambda x, early, weight, bias: F.linear(torch.cat([x, early], dim=1), weight, bias),
)
def long_skip(x: Tensor, early: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Linear([x, early]); (b, n, d), (b, n, d), (d, 2d), (d,) → (b, n, d)."""
    return F.linear(torch.cat([x, early], dim=-1), weight, bias)


def _walk(
    partners: Callable[[list[Tensor]], list[Tensor]],
    joined: Callable[..., Tensor] = lambda x, early, block, skip: block(skip(x, early)),
) -> Callable[..., Tensor]:
    """Down and up; the skips take partners(x and all outputs up to the middle), in turn."""

    def walk(x: Tensor, blocks: Sequence[Callable], skips: Sequence[Callable]) -> Tensor:
        walked = [x]
        for block in blocks[: len(skips) + 1]:
            walked.append(block(walked[-1]))
        x = walked[-1]
        for early, block, skip in zip(partners(walked), blocks[len(skips) + 1 :], skips):
            x = joined(x, early, block, skip)
        return x

    return walk


_BLOCKS = [lambda x, k=k: x + torch.sin(x * (k + 1)) for k in range(7)]
_SKIPS = [lambda x, early, k=k: 0.5 * x - early * (k + 1) for k in range(3)]


@against(
    {
        "three blocks": (waves(1, 2, 2), _BLOCKS[:3], _SKIPS[:1]),
        "seven blocks": (waves(2, 3, 2), _BLOCKS, _SKIPS),
        "one block, and no skip": (waves(1, 1, 2), _BLOCKS[:1], []),
    },
    "the first that was kept is the first that is taken; take the last one, so that blocks at the "
    "same height meet",
    _walk(lambda walked: walked[1:-1]),
    "what goes into a block is kept; keep what comes out of it",
    _walk(lambda walked: walked[-3::-1]),
    "a skip joins after its block; it comes before, so that the block works on both",
    _walk(lambda walked: walked[-2:0:-1], lambda x, early, block, skip: skip(block(x), early)),
    "the middle block keeps its output, too; it has no partner",
    _walk(lambda walked: walked[:1:-1]),
    "the skips are left out",
    lambda x, blocks, skips: reduce(lambda x, block: block(x), blocks, x),
)
def u_walk(x: Tensor, blocks: Sequence[Callable], skips: Sequence[Callable]) -> Tensor:
    """2k + 1 functions of x (b, n, d), k of (x, early), in the order of use → (b, n, d)."""
    return _walk(lambda walked: walked[-2:0:-1])(x, blocks, skips)


# a skip has 2·d² + d parameters, one more feature in an MLP 2·d + 1
@against(
    {f"d = {d}, depth = {n}": (d, n) for d, n in ((64, 12), (512, 12), (1152, 28))},
    "one more feature is counted as one matrix's; it has d weights on the way up, d on the way "
    "down, and a bias",
    lambda d, depth: 4 * d + round((2 * d + 1) * (depth // 2) / (depth + 1)),
    "every block is given a skip; only half of them have one",
    lambda d, depth: 4 * d + round(d * depth / (depth + 1)),
    "only the late blocks get wider; spread it over all",
    lambda d, depth: 4 * d + d,
    "the 4·d features that are there already are forgotten",
    lambda d, depth: inner_width.right(d, depth) - 4 * d,
)
def inner_width(d: int, depth: int) -> int:
    """Features inside the MLPs that make up for skips left out: a number."""
    return int(d * without_skips({"hidden_size": d, "depth": depth})["mlp_ratio"])
