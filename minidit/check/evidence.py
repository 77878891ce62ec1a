"""What numbers show: a permutation test, and a fit of two slopes at once."""

from collections.abc import Callable, Sequence
from itertools import combinations, product

import torch
from torch import Tensor

from minidit.check.verdict import against


def _flipped(a: Sequence[float], b: Sequence[float]) -> float:
    gaps = [x - y for x, y in zip(a, b)]
    means = [
        sum(s * g for s, g in zip(signs, gaps)) for signs in product((1, -1), repeat=len(gaps))
    ]
    return sum(abs(m) >= abs(means[0]) for m in means) / len(means)


@against(
    {
        "three and three, no overlap": ([1.0, 2.0, 3.0], [4.0, 5.0, 7.0]),
        "two and three, mixed": ([1.0, 4.0], [2.0, 3.0, 8.0]),
        "the first ones larger": ([9.0, 8.0, 5.0], [1.0, 6.0]),
        "some values equal": ([2.0, 2.0, 6.0, 3.0], [2.0, 7.0]),
    },
    "only differences of the same sign are counted; chance may as well give the other one",
    {"counts": lambda d, real: d * real >= real * real},
    "the absolute value is missing, on both sides",
    {"counts": lambda d, real: d >= real},
    "the absolute value is missing: b's mean minus a's is taken with its sign",
    {"counts": lambda d, real: d <= real},
    "the real choice, and others as large, count, too: >= and not >",
    {"counts": lambda d, real: abs(d) > abs(real)},
    "smaller differences are counted",
    {"counts": lambda d, real: abs(d) < abs(real)},
    "sums are compared; with different lengths only means can be",
    {"of": sum},
    "the real choice is left out; it is one of those that chance may give",
    {"share": lambda found, ways: (found - 1) / (ways - 1)},
    "this is the number of choices, not their share",
    {"share": lambda found, ways: found},
    "the signs of the differences a - b are flipped; these values don't come in pairs",
    _flipped,
    otherwise="each way to choose len(a) of all values counts once (itertools.combinations of "
    "their places, since values may be equal); ways that are drawn at random come only near it",
)
def permutation_share(
    a: Sequence[float],
    b: Sequence[float],
    *,
    counts: Callable[[float, float], bool] = lambda d, real: abs(d) >= abs(real),
    of: Callable[[list], float] = lambda values: sum(values) / len(values),
    share: Callable[[int, int], float] = lambda found, ways: found / ways,
) -> float:
    """The share of choices of len(a) of all values whose means differ at least as much as a and b.

    Each choice is compared with the rest, in absolute value.
    """
    values, gaps = [*a, *b], []
    for chosen in combinations(range(len(values)), len(a)):
        rest = [value for k, value in enumerate(values) if k not in chosen]
        gaps.append(of([values[k] for k in chosen]) - of(rest))
    return share(sum(counts(gap, gaps[0]) for gap in gaps), len(gaps))


def _one_by_one(weights: Tensor, tokens: Tensor, fid: Tensor) -> Tensor:
    """The slope of each alone."""
    y = fid.double().log()
    pairs = (torch.cov(torch.stack([x.double().log(), y])) for x in (weights, tokens))
    return torch.stack([pair[0, 1] / pair[0, 0] for pair in pairs])


_WEIGHTS = torch.tensor([1e6, 1e6, 4e6, 9e6, 9e6, 3e7])
_TOKENS = torch.tensor([16.0, 64.0, 16.0, 64.0, 256.0, 256.0])
_POWERS = 500 * _WEIGHTS**-0.25 * _TOKENS**-0.5


@against(
    {
        "exact powers": (_WEIGHTS, _TOKENS, _POWERS),
        "powers and chance": (_WEIGHTS, _TOKENS, _POWERS * torch.arange(6.0).sin().exp()),
        "whole numbers": (_WEIGHTS.long(), _TOKENS.long(), torch.tensor([90, 60, 70, 30, 20, 10])),
    },
    "the order is (tokens, weights); b belongs to the weights",
    {"kept": [2, 1]},
    "the constant a is returned, and c isn't",
    {"kept": [0, 1]},
    "the constant is missing: a column of ones",
    {"one": 0.0},
    "the logarithm of the FID is missing",
    {"log_fid": torch.Tensor.double},
    "the logarithms of weights and tokens are missing",
    {"log": torch.Tensor.double},
    "each slope is fitted alone; the two causes go together, so they need one fit",
    _one_by_one,
    tolerance=1e-3,
)
def scaling_slopes(
    weights: Tensor,
    tokens: Tensor,
    fid: Tensor,
    *,
    one: float = 1.0,
    kept: Sequence[int] = (1, 2),
    log: Callable[[Tensor], Tensor] = lambda z: z.double().log(),
    log_fid: Callable[[Tensor], Tensor] = lambda z: z.double().log(),
) -> Tensor:
    """(b, c) of log FID = a + b·log weights + c·log tokens by least squares; each (networks,)."""
    x, y = log(weights), log(tokens)
    A = torch.stack([torch.full_like(x, one), x, y], dim=1)
    return torch.linalg.lstsq(A, log_fid(fid), driver="gelsd").solution[list(kept)]
