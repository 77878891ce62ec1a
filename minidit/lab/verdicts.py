"""Is one variant better than another, or is it chance? One rule for every table.

A difference of means is told from chance by Welch's t-test, which lets every variant have its own
spread over seeds, and Holm's correction, which keeps the chance that a table holds any false
verdict at `ALPHA`, however many comparisons it makes. Compared is the logarithm of one measure
that was named before, so a difference is a factor.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch

from minidit.lab.runner import markdown, measures

ALPHA = 0.05
POWER = 0.8  # how often the smallest difference that can be found is found


class Comparison(NamedTuple):
    """A variant's mean less that of the baseline, and what chance makes of it."""

    difference: float
    p: float  # Holm's: a verdict holds if it is at most ALPHA
    seeds: int  # of the variant
    error: float  # the standard error of the difference …
    dof: float  # … and its degrees of freedom
    level: float  # ALPHA, divided by the number of comparisons

    @property
    def told(self) -> bool:
        """Whether the difference is told from chance."""
        return self.p <= ALPHA

    @property
    def smallest(self) -> float:
        """The difference that would be told in `POWER` of all cases, with spreads like these."""
        return (quantile(self.level, self.dof) + quantile(2 * (1 - POWER), self.dof)) * self.error


def compare(values: dict[str, Sequence[float]], base: str | None = None) -> dict[str, Comparison]:
    """Every variant against `base`, the first one unless named; values: {variant: one a seed}.

    Raises ValueError for fewer than two seeds: one run is a picture, not a verdict.
    """
    base = next(iter(values)) if base is None else base
    if few := [name for name, runs in values.items() if len(runs) < 2]:
        raise ValueError(f"{few[0]!r} has {len(values[few[0]])} seed; a verdict needs two at least")
    others = [name for name in values if name != base]
    found = {name: _welch(values[name], values[base]) for name in others}
    adjusted, largest = {}, 0.0
    for k, name in enumerate(sorted(others, key=lambda name: found[name][0])):
        largest = max(largest, min(1.0, (len(others) - k) * found[name][0]))
        adjusted[name] = largest
    center, level = statistics.fmean(values[base]), ALPHA / max(1, len(others))
    return {
        name: Comparison(
            statistics.fmean(values[name]) - center, adjusted[name], len(values[name]), *rest, level
        )
        for name, (_, *rest) in found.items()
    }


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """p of equal means, the standard error of their difference, its degrees of freedom."""
    parts = [statistics.variance(runs) / len(runs) for runs in (a, b)]
    gap, error = abs(statistics.fmean(a) - statistics.fmean(b)), math.sqrt(sum(parts))
    if error == 0:  # seeds that make no difference at all
        return float(gap == 0), 0.0, 1.0
    dof = sum(parts) ** 2 / sum(v**2 / (len(runs) - 1) for v, runs in zip(parts, (a, b)))
    return tails(gap / error, dof), error, dof


def tails(t: float, dof: float) -> float:
    """P(|T| > t) of Student's t: with t = √dof·tan θ its density becomes cos^(dof - 1) θ."""
    edge = math.atan(t / math.sqrt(dof))
    theta = torch.linspace(edge, math.pi / 2, 1001, dtype=torch.float64)
    tail = torch.trapezoid(theta.cos().clamp(min=0) ** (dof - 1), theta).item()
    whole = math.exp(math.lgamma(dof / 2) - math.lgamma((dof + 1) / 2)) * math.sqrt(math.pi) / 2
    return min(1.0, tail / whole)


def quantile(p: float, dof: float) -> float:
    """The t that |T| exceeds with probability p, by bisection."""
    low, high = 0.0, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if tails(middle, dof) > p else (low, middle)
    return high


def verdicts(
    results: dict, measure: str = "frechet", base: str | None = None, scale: str | None = None
) -> dict[str, Comparison]:
    """`compare` the logarithms of a measure in an experiment's results, see `runner`.

    Variants with a value that isn't finite and above zero, as after divergence, are left out.
    """
    runs = measures(results, scale)[measure]
    sound = {k: v for k, v in runs.items() if all(0 < x < math.inf for x in v)}
    return compare({name: [math.log(x) for x in v] for name, v in sound.items()}, base)


def page(
    results: dict, measure: str = "frechet", base: str | None = None, scale: str | None = None
) -> str:
    """What can be said of `verdicts`, as Markdown: a table, and under what rule it was made."""
    found = verdicts(results, measure, base, scale)
    base = base or next(iter(measures(results, scale)[measure]))
    lines = []
    for name, one in found.items():
        word = ("smaller" if one.difference < 0 else "larger") if one.told else "not told from it"
        cells = f"× {math.exp(one.difference):.2f}", f"{one.p:.3f}", word
        lines.append([name, str(one.seeds), *cells, f"× {math.exp(one.smallest):.2f}"])
    titles = ["variant", "seeds", f"{measure}, times that of “{base}”", "p", "verdict"]
    rule = (
        f"Welch's t-test of log {measure}; p by Holm for {len(found)} comparisons, a verdict up to "
        f"{ALPHA:g}. The last column: the factor that would be found in {POWER:.0%} of cases."
    )
    return markdown([*titles, "could be found"], lines) + f"\n\n{rule}\n"
