"""How a training step's time and memory grow, with tokens, width, depth and batch; and to XL/2.

`growth` measures the package on networks that differ from `BASE` in one thing; `page` fits powers
to what was found, and continues it on paper to the DiT paper's largest network.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from minidit import plot
from minidit._validate import check_positive
from minidit.evaluate.flops import table as counted
from minidit.lab.bench import where
from minidit.lab.bench.contest import Contest
from minidit.lab.bench.peak import peaks
from minidit.lab.bench.timing import median_and_quartiles, take_turns

BASE = {"tokens": 49, "width": 128, "depth": 6, "batch": 32}
AXES = {  # 28×28 pixels in patches of 14, 7, 4 and 2
    "tokens": (4, 16, 49, 196),
    "width": (64, 128, 256, 512),
    "depth": (2, 4, 8, 16),
    "batch": (8, 16, 32, 64, 128),
}
PAPER = {"400K steps": 400_000, "7M steps": 7_000_000}
PAPER_BATCH = 256
UTILISATION = 0.4  # assumed
MACHINES = {  # FLOP/s of dense bfloat16 products, as their maker states them
    "one A100": 312e12,
    "one H100": 989e12,
    "eight H100": 8 * 989e12,
}


def growth(
    *,
    axes: dict[str, Sequence[int]] | None = None,
    repeats: int = 5,
    device: torch.device | str = "cpu",
    seconds: float = 0.2,
    report: Callable[[str], None] = lambda line: None,
) -> dict:
    """Seconds and MiB of a training step along each axis; the networks of an axis take turns."""
    check_positive(repeats=repeats)
    device, found = torch.device(device), {}
    for axis, values in (AXES if axes is None else axes).items():
        sizes = [_size(**BASE | {axis: value}) for value in values]
        contests = [Contest(size, device=device, only="package") for size in sizes]
        steps = {
            str(v): c.contestants("training step")["package"] for v, c in zip(values, contests)
        }
        memory = peaks([{"size": size, "only": "package"} for size in sizes], device)
        spent = take_turns(steps, repeats, device, seconds)
        found[axis] = [
            {
                "value": value,
                "FLOPs": contest.flops("training step"),
                "seconds": [round(s, 7) for s in spent[str(value)]],
                "MiB": mib,
            }
            for value, contest, mib in zip(values, contests, memory)
        ]
        report(f"{axis}: " + ", ".join(f"{p['value']} {_ms(p):.1f} ms" for p in found[axis]))
    return {"base": BASE, "axes": found} | where(device)


def _size(tokens: int, width: int, depth: int, batch: int) -> dict:
    model = dict(input_size=28, patch_size=28 // math.isqrt(tokens), in_channels=1, depth=depth)
    model |= dict(hidden_size=width, num_heads=width // 32, num_classes=10)
    return {"model": model, "batch": (batch, batch)}


def _ms(point: dict) -> float:
    return 1e3 * median_and_quartiles(point["seconds"])[0]


def power(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The k of y ∝ x^k that fits best in the logarithms."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def straight_line(results: dict) -> tuple[float, float]:
    """(overhead in seconds, FLOP/s): seconds = overhead + FLOPs / rate over all points.

    Relative errors are made least, so that the quick steps count as much as the slow.
    """
    points = [point for points in results["axes"].values() for point in points]
    spent = np.array([_ms(point) / 1e3 for point in points])
    flops = np.array([point["FLOPs"] for point in points], dtype=float)
    columns = np.stack([np.ones_like(flops), flops / 1e9], axis=1) / spent[:, None]
    overhead, per_gflop = np.linalg.lstsq(columns, np.ones_like(spent), rcond=None)[0]
    return float(overhead), 1e9 / float(per_gflop)


def page(results: dict) -> str:
    """What was found as a Markdown page."""
    base = ", ".join(f"{key} {value}" for key, value in results["base"].items())
    text = (
        f"# How do time and memory of a training step grow?\n\nDiT on 28×28 pixels, {base}, and "
        f"one of the four changed; {results['device']} ({results['vectors']}), "
        f"{results['threads']} threads, torch {results['torch']}, revision {results['revision']}. "
        "Medians, and quartiles in brackets. The power k is that of y ∝ x^k, fitted to the "
        "values above it.\n\n"
        "| | value | ms | GFLOP/s | MiB |\n|---|---|---|---|---|\n"
    )
    for axis, points in results["axes"].items():
        for point in points:
            middle, low, high = (1e3 * s for s in median_and_quartiles(point["seconds"]))
            mib = f"{point['MiB']:.0f}" if point["MiB"] is not None else "–"
            text += f"| {axis} | {point['value']} | {middle:.1f} ({low:.1f}…{high:.1f}) "
            text += f"| {point['FLOPs'] / middle / 1e6:.0f} | {mib} |\n"
        text += f"| {axis} | **power** | {_power(points, _ms)} | | {_power(points, _mib)} |\n"
    overhead, rate = straight_line(results)
    text += (
        f"\nAll points together: {1e3 * overhead:.1f} ms + FLOPs / ({rate / 1e9:.0f} GFLOP/s). "
        f"{_best(results)}\n"
    )
    return text + _on_paper(rate, results["device"])


def _best(results: dict) -> str:
    """The point with most FLOP/s, which the line through all may miss."""
    rates = {
        (axis, point["value"]): point["FLOPs"] / _ms(point) / 1e6
        for axis, points in results["axes"].items()
        for point in points
    }
    (axis, value), rate = max(rates.items(), key=lambda item: item[1])
    return (
        f"The most is {rate:.0f} GFLOP/s, at {axis} {value}: where large products prevail, a step "
        "is quicker than this line says."
    )


def _mib(point: dict) -> float | None:
    return point["MiB"]


def _power(points: list[dict], of: Callable[[dict], float | None]) -> str:
    ys = [of(point) for point in points]
    if len(points) < 2 or any(y is None or y <= 0 for y in ys):
        return "–"
    return f"{power([point['value'] for point in points], ys):.2f}"


def _on_paper(rate: float, device: str) -> str:
    """DiT-XL/2 on ImageNet's latents: arithmetic, not measurement."""
    (row,) = counted(["XL/2"], ["adaln_zero"])
    step = 3 * 2 * row["macs"] * PAPER_BATCH
    text = (
        f"\n## On paper: DiT-XL/2\n\nArithmetic, not measurement. A training step of "
        f"{PAPER_BATCH} latents is 3 · 2 · {row['macs'] / 1e9:.1f}·10⁹ · {PAPER_BATCH} = "
        f"{step / 1e12:.0f}·10¹² FLOPs. Machines at an assumed {UTILISATION:.0%} of their stated "
        "bfloat16 peak; this one at the rate fitted above, which is the slow side; the autoencoder "
        "is left out.\n\n"
        "| | FLOPs | " + " | ".join([*MACHINES, f"this machine ({device})"]) + " |\n"
        "|---|---|" + "---|" * (len(MACHINES) + 1) + "\n"
    )
    rates = [UTILISATION * peak_rate for peak_rate in MACHINES.values()] + [rate]
    for name, steps in PAPER.items():
        days = [steps * step / r / 86_400 for r in rates]
        cells = [f"{d:,.1f} days" if d < 1000 else f"{d / 365.25:,.0f} years" for d in days]
        text += f"| {name} | {steps * step:.2g} | " + " | ".join(cells) + " |\n"
    return text


def draw(results: dict, out: Path) -> None:
    """Time above, memory below, an axis a column, both logarithmic; a PNG file."""
    axes = results["axes"]
    rows = {"ms": _ms, "MiB": _mib}
    with plot.figure(2, len(axes), height=4.6, out=out) as panels:
        for k, ax in enumerate(panels):
            axis, (unit, of) = list(axes)[k % len(axes)], list(rows.items())[k // len(axes)]
            xs = [point["value"] for point in axes[axis] if of(point) is not None]
            ys = [of(point) for point in axes[axis] if of(point) is not None]
            ax.plot(xs, ys, marker="o", color=plot.COLORS[k // len(axes)])
            ax.set(xscale="log", yscale="log", xlabel=axis, ylabel=unit)
            if len(xs) > 1:
                ax.set_title(f"{unit} ∝ {axis}^{power(xs, ys):.2f}", size=9)
            ax.set_xticks(xs, [str(x) for x in xs], minor=False)
            ax.set_xticks([], minor=True)
            ax.tick_params(labelsize=8)
            ax.yaxis.set_minor_formatter("")  # powers of ten are enough
