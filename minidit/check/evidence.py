"""What numbers show: a permutation test, and a fit of two slopes at once."""

from collections.abc import Sequence
from itertools import combinations, product
from statistics import fmean as mean

import torch
from torch import Tensor

from minidit.check.verdict import against


def _flipped(a: Sequence[float], b: Sequence[float]) -> float:
    gaps = [x - y for x, y in zip(a, b)]
    means = [
        mean(s * g for s, g in zip(signs, gaps)) for signs in product((1, -1), repeat=len(gaps))
    ]
    return mean(abs(m) >= abs(means[0]) for m in means)


@against(
    ("three and three, no overlap", [1.0, 2.0, 3.0], [4.0, 5.0, 7.0]),
    ("two and three, mixed", [1.0, 4.0], [2.0, 3.0, 8.0]),
    ("the first ones larger", [9.0, 8.0, 5.0], [1.0, 6.0]),
    ("some values equal", [2.0, 2.0, 6.0, 3.0], [2.0, 7.0]),
    "only differences of the same sign are counted; chance may as well give the other one",
    {"abs(gap) >= abs(real)": "gap * real >= real * real"},
    "the absolute value is missing, on both sides",
    {"abs(gap) >= abs(real)": "gap >= real"},
    "the absolute value is missing: b's mean minus a's is taken with its sign",
    {"abs(gap) >= abs(real)": "gap <= real"},
    "the real choice, and others as large, count, too: >= and not >",
    {"abs(gap) >=": "abs(gap) >"},
    "smaller differences are counted",
    {"abs(gap) >=": "abs(gap) <"},
    "sums are compared; with different lengths only means can be",
    {"mean(values[": "sum(values[", "mean(rest)": "sum(rest)"},
    "the real choice is left out; it is one of those that chance may give",
    {"large / len(gaps)": "(large - 1) / (len(gaps) - 1)"},
    "this is the number of choices, not their share",
    {"large / len(gaps)": "large"},
    "the signs of the differences a - b are flipped; these values don't come in pairs",
    _flipped,
    otherwise="each way to choose len(a) of all values counts once (itertools.combinations of "
    "their places, since values may be equal); ways that are drawn at random come only near it",
)
def permutation_share(a: Sequence[float], b: Sequence[float]) -> float:
    """The share of choices of len(a) of all values whose means differ at least as much as a and b.

    Each choice is compared with the rest, in absolute value.
    """
    values, gaps = [*a, *b], []
    for chosen in combinations(range(len(values)), len(a)):
        rest = [value for k, value in enumerate(values) if k not in chosen]
        gaps.append(mean(values[k] for k in chosen) - mean(rest))
    real = gaps[0]
    large = sum(abs(gap) >= abs(real) for gap in gaps)
    return large / len(gaps)


def _one_by_one(weights: Tensor, tokens: Tensor, fid: Tensor) -> Tensor:
    """The slope of each alone."""
    y = fid.double().log()
    pairs = (torch.cov(torch.stack([x.double().log(), y])) for x in (weights, tokens))
    return torch.stack([pair[0, 1] / pair[0, 0] for pair in pairs])


_WEIGHTS = torch.tensor([1e6, 1e6, 4e6, 9e6, 9e6, 3e7])
_TOKENS = torch.tensor([16.0, 64.0, 16.0, 64.0, 256.0, 256.0])
_POWERS = 500 * _WEIGHTS**-0.25 * _TOKENS**-0.5


@against(
    ("exact powers", _WEIGHTS, _TOKENS, _POWERS),
    ("powers and chance", _WEIGHTS, _TOKENS, _POWERS * torch.arange(6.0).sin().exp()),
    ("whole numbers", _WEIGHTS.long(), _TOKENS.long(), torch.tensor([90, 60, 70, 30, 20, 10])),
    "the order is (tokens, weights); b belongs to the weights",
    {"[1:]": "[1:].flip(0)"},
    "the constant a is returned, and c isn't",
    {"[1:]": "[:2]"},
    "the constant is missing: a column of ones",
    {"torch.ones_like(x)": "torch.zeros_like(x)"},
    "the logarithm of the FID is missing",
    {"fid.double().log()": "fid.double()"},
    "the logarithms of weights and tokens are missing",
    {"weights.double().log(), tokens.double().log()": "weights.double(), tokens.double()"},
    "each slope is fitted alone; the two causes go together, so they need one fit",
    _one_by_one,
    tolerance=1e-3,
)
def scaling_slopes(weights: Tensor, tokens: Tensor, fid: Tensor) -> Tensor:
    """(b, c) of log FID = a + b·log weights + c·log tokens by least squares; each (networks,)."""
    x, y = weights.double().log(), tokens.double().log()
    A = torch.stack([torch.ones_like(x), x, y], dim=1)
    return torch.linalg.lstsq(A, fid.double().log(), driver="gelsd").solution[1:]
