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

from minidit import plot
from minidit.lab.runner import markdown, measures, rows

ALPHA = 0.05
POWER = 0.8  # how often the smallest difference that can be found is found
RULE = (
    f"Welch's t-test of the logarithms over seeds, p by Holm; a verdict up to p = {ALPHA:g}, else "
    f"open. The last column is the factor that would be found in {POWER:.0%} of cases."
)


class Comparison(NamedTuple):
    """A difference of two means, and what chance makes of it."""

    difference: float
    p: float  # Holm's: a verdict holds if it is at most ALPHA
    seeds: int  # of the first of the two
    error: float  # the standard error of the difference …
    dof: float  # … and its degrees of freedom
    comparisons: int  # in the whole table
    pair: tuple[Sequence[float], Sequence[float]]  # what was compared, a value for each seed

    @property
    def told(self) -> bool:
        """Whether the difference is told from chance."""
        return self.p <= ALPHA

    @property
    def smallest(self) -> float:
        """The difference that would be told in `POWER` of all cases, with spreads like these."""
        far = quantile(ALPHA / self.comparisons, self.dof) + quantile(2 * (1 - POWER), self.dof)
        return far * self.error


def compare(
    values: dict[str, Sequence[float]],
    pairs: dict[str, tuple[str, str]] | None = None,
    paired: bool = False,
) -> dict[str, Comparison]:
    """What one variant's mean has more than the other's, for {label: (one, other)}.

    values: {variant: one a seed}; without `pairs` every variant is held against the first.
    `paired`: where a seed gives both the same weights and noise, differences count seed by seed.
    Raises ValueError for fewer than two seeds: one run is a picture, not a verdict.
    """
    first, *others = [*values] or [None]
    pairs = {name: (name, first) for name in others} if pairs is None else pairs
    for name in dict.fromkeys(name for pair in pairs.values() for name in pair):
        if len(values[name]) < 2:
            raise ValueError(f"{name!r} has {len(values[name])} seed; a verdict needs two at least")
    found = {}
    for label, (one, other) in pairs.items():
        a, b = values[one], values[other]
        if paired:  # differences vary like one variant held against zero
            a, b = [x - y for x, y in zip(a, b, strict=True)], [0.0] * len(a)
        found[label] = _welch(a, b)
    adjusted, largest = {}, 0.0
    for k, label in enumerate(sorted(found, key=lambda label: found[label][0])):
        largest = max(largest, min(1.0, (len(found) - k) * found[label][0]))
        adjusted[label] = largest
    both = {label: (values[one], values[other]) for label, (one, other) in pairs.items()}
    return {
        label: Comparison(gap, adjusted[label], len(both[label][0]), *rest, len(found), both[label])
        for label, (_, gap, *rest) in found.items()
    }


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float, float]:
    """p of equal means, the difference, its standard error, and its degrees of freedom."""
    parts = [statistics.variance(runs) / len(runs) for runs in (a, b)]
    gap, error = statistics.fmean(a) - statistics.fmean(b), math.sqrt(sum(parts))
    if error == 0:  # seeds that make no difference at all
        return float(gap == 0), gap, 0.0, 1.0
    dof = sum(parts) ** 2 / sum(v**2 / (len(runs) - 1) for v, runs in zip(parts, (a, b)))
    return tails(abs(gap) / error, dof), gap, error, dof


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
    results: dict,
    measure: str = "frechet",
    pairs: dict[str, tuple[str, str]] | None = None,
    scale: str = "cpu",
    paired: bool = False,
) -> dict[str, Comparison]:
    """`compare` the logarithms of a measure in the results of an experiment.

    Variants with a value that isn't finite and above zero, as after divergence, are left out;
    if `paired`, so are seeds that not all of the pairs' variants have.
    """
    if paired:
        named = [*pairs.values()] if pairs is not None else [tuple(rows(results, scale))]
        by_name = rows(results, scale).items()
        seeds = [{run["seed"] for run in runs} for name, runs in by_name if name in sum(named, ())]
        common = set.intersection(*seeds) if seeds else set()
        results = results | {"runs": [run for run in results["runs"] if run["seed"] in common]}
    runs = measures(results, scale)[measure].items()
    logs = {name: [math.log(x) if 0 < x < math.inf else math.nan for x in v] for name, v in runs}
    sound = {name: v for name, v in logs.items() if not any(map(math.isnan, v))}
    first, *others = [*logs] or [None]  # before any is left out
    pairs = {name: (name, first) for name in others} if pairs is None else pairs
    pairs = {label: pair for label, pair in pairs.items() if {*pair} <= sound.keys()}
    return compare(sound, pairs, paired)


def draw(found: dict[str, Comparison], measure: str = "Fréchet distance") -> None:
    """Verdicts on logarithms as a picture: what was measured, and factors with their intervals.

    Left: a dot for each seed, hollow for what the other is held against. Right: the factor, and how
    far chance may have moved it: in 1 - `ALPHA` of all tables no interval misses the truth. The
    grey stroke is as wide as the smallest factor that would be found in `POWER` of all cases. What
    is told from chance is red: Holm's correction tells a little more than intervals show.
    """
    with plot.figure(1, 2, height=0.9 + 0.32 * len(found), widths=(3, 4)) as (seeds, factors):
        for row, one in enumerate(found.values()):
            hue = plot.COLORS[5 if one.told else 0]
            for logs, face, up in zip(one.pair, (hue, "none"), (-0.12, 0.12)):
                values, at = [math.exp(log) for log in logs], [row + up] * len(logs)
                seeds.plot(values, at, "o", mec=hue, mfc=face, alpha=0.7, markersize=4)
            reach = one.error * quantile(ALPHA / one.comparisons, one.dof)
            for middle, far, how in (
                (0.0, one.smallest, dict(color="#D0D0D0", lw=7)),
                (one.difference, reach, dict(color=hue, lw=2)),
            ):
                ends = [math.exp(middle - far), math.exp(middle + far)]
                factors.plot(ends, [row, row], solid_capstyle="butt", **how)
            factors.plot([math.exp(one.difference)], [row], "o", color=hue, markersize=6)
        for ax, text in ((seeds, measure), (factors, "better ← factor")):
            plot.by_factors(ax)
            ax.set(xlabel=text, yticks=range(len(found)))
            ax.set(ylim=(len(found) - 0.4, -0.6), yticklabels=found if ax is seeds else [])
        factors.axvline(1, color="black", lw=1)


def table(found: dict[str, Comparison]) -> str:
    """Verdicts on logarithms as a Markdown table: factors, and in how many SE of their logarithm.

    The last column: the factor that would be found in `POWER` of all cases.
    """
    lines = []
    for label, one in found.items():
        word = ("smaller" if one.difference < 0 else "larger") if one.told else "open"
        far = f"{one.difference / one.error:+.1f}" if one.error else "–"
        cells = f"×{math.exp(one.difference):.2f}", far, f"{one.p:.3f}", word
        lines.append([label, str(one.seeds), *cells, f"×{math.exp(one.smallest):.2f}"])
    many = f"of {max((one.comparisons for one in found.values()), default=0)} comparisons"
    titles = [many, "seeds", "factor", "SE", "p", "verdict", "could be found"]
    return markdown(titles, lines)
