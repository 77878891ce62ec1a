"""Common mistakes about long skips, as functions; see `_mistakes`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from minidit.check._mistakes import Mistakes

# --- one skip -------------------------------------------------------------------------------------


def long_skip(x: Tensor, early: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Linear([x, early]): (b, n, d), (b, n, d), (d, 2d), (d,) → (b, n, d)."""
    return F.linear(torch.cat([x, early], dim=-1), weight, bias)


LONG_SKIP: Mistakes = {
    "early comes before x; the late tokens are first, then the early ones": (
        lambda x, early, weight, bias: long_skip(early, x, weight, bias)
    ),
    "the bias is forgotten": lambda x, early, weight, bias: long_skip(x, early, weight, 0 * bias),
    "x is added once more; the linear layer is all there is": (
        lambda x, early, weight, bias: x + long_skip(x, early, weight, bias)
    ),
    "the layer gets d channels and takes 2·d: x and early are joined along the tokens, or added; "
    "join them along the channels, dim=-1": (
        lambda x, early, weight, bias: F.linear(torch.cat([x, early], dim=1), weight, bias)
    ),
}

# --- the walk down and up -------------------------------------------------------------------------


def _walk(
    pop: int = -1, entering: bool = False, late: bool = False, down: int = 0, up: int = 0
) -> Callable:
    """Down, over the middle and up.

    `pop`: which of the kept tokens comes next; `entering`: kept is what goes into a block; `late`:
    the skip comes after the block; `down`, `up`: so many blocks more keep, or are joined.
    """

    def walk(x: Tensor, blocks: Sequence[Callable], skips: Sequence[Callable]) -> Tensor:
        half, kept, waiting = len(blocks) // 2, [], list(skips)
        for k, block in enumerate(blocks):
            joined = k > half - up and waiting and kept
            before = x
            if joined and not late:
                x = waiting.pop(0)(x, kept.pop(pop))
            x = block(x)
            if joined and late:
                x = waiting.pop(0)(x, kept.pop(pop))
            if k < half + down:
                kept.append(before if entering else x)
        return x

    return walk


u_walk = _walk()

U_WALK: Mistakes = {
    "the first that was kept is the first that is taken; take the last one, so that blocks at the "
    "same height meet": _walk(pop=0),
    "what goes into a block is kept; keep what comes out of it": _walk(entering=True),
    "a skip joins after its block; it comes before, so that the block works on both": (
        _walk(late=True)
    ),
    "the middle block keeps its output, too; it has no partner": _walk(down=1),
    "the skips are left out": lambda x, blocks, skips: u_walk(x, blocks, []),
}

# --- a fair opponent ------------------------------------------------------------------------------


def _inner(
    each: Callable[[int], int] = lambda d: 2 * d + 1,
    blocks: Callable[[int], int] = lambda depth: depth + 1,
    skips: Callable[[int], int] = lambda depth: depth // 2,
    before: int = 4,
) -> Callable:
    return lambda d, depth: (
        before * d + round((2 * d * d + d) * skips(depth) / (blocks(depth) * each(d)))
    )


inner_width = _inner()

INNER_WIDTH: Mistakes = {
    "one more feature is counted as one matrix's; it has d weights on the way up, d on the way "
    "down, and a bias": _inner(each=lambda d: d),
    "every block is given a skip; only half of them have one": _inner(skips=lambda depth: depth),
    "only the late blocks get wider; spread it over all": _inner(blocks=lambda depth: depth // 2),
    "the 4·d features that are there already are forgotten": _inner(before=0),
}
