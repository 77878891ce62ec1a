"""How a training step's time grows, with tokens, width, depth and batch; on a GPU memory, too.

`growth` measures the package on networks that differ from `BASE` in one thing; `page` fits powers
to what was found.
"""

import math
import statistics
from collections.abc import Callable, Sequence

import torch

from minidit._validate import check_positive
from minidit.lab.bench import where
from minidit.lab.bench.contest import Contest, peak_memory
from minidit.lab.bench.timing import median_and_quartiles, take_turns

BASE = {"tokens": 49, "width": 128, "depth": 6, "batch": 32}
AXES = {  # 28×28 pixels in patches of 14, 7, 4 and 2
    "tokens": (4, 16, 49, 196),
    "width": (64, 128, 256, 512),
    "depth": (2, 4, 8, 16),
    "batch": (8, 16, 32, 64, 128),
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
    for axis, values in (axes or AXES).items():
        sizes = [_size(**BASE | {axis: value}) for value in values]
        memory = [peak_memory("package", device, size) for size in sizes]
        contests = [Contest(size, device=device) for size in sizes]
        steps = {k: contest.step for k, contest in enumerate(contests)}
        spent = take_turns(steps, repeats, device, seconds)
        found[axis] = [
            {
                "value": value,
                "FLOPs": contests[k].flops("training step"),
                "seconds": [round(s, 7) for s in spent[k]],
                "MiB": memory[k],
            }
            for k, value in enumerate(values)
        ]
        report(f"{axis}: " + ", ".join(f"{p['value']} {_ms(p):.1f} ms" for p in found[axis]))
    return {"base": BASE, "axes": found} | where(device)


def _size(tokens: int, width: int, depth: int, batch: int) -> dict:
    model = dict(input_size=28, patch_size=28 // math.isqrt(tokens), in_channels=1, depth=depth)
    model |= dict(hidden_size=width, num_heads=width // 32, num_classes=10)
    return {"model": model, "batch": (batch, batch)}


def _ms(point: dict) -> float:
    return 1e3 * median_and_quartiles(point["seconds"])[0]


def power(xs: Sequence[float], ys: Sequence[float | None]) -> str:
    """The k of y ∝ x^k that fits best in the logarithms; "–" if there is nothing to fit."""
    if len(xs) < 2 or None in ys:
        return "–"
    logs = ([math.log(z) for z in zs] for zs in (xs, ys))
    return f"{statistics.linear_regression(*logs).slope:.2f}"


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
        values, memory = ([point[key] for point in points] for key in ("value", "MiB"))
        for point in points:
            middle, low, high = (1e3 * s for s in median_and_quartiles(point["seconds"]))
            mib = f"{point['MiB']:.0f}" if point["MiB"] is not None else "–"
            text += f"| {axis} | {point['value']} | {middle:.1f} ({low:.1f}…{high:.1f}) "
            text += f"| {point['FLOPs'] / middle / 1e6:.0f} | {mib} |\n"
        of_time, of_memory = power(values, list(map(_ms, points))), power(values, memory)
        text += f"| {axis} | **power** | {of_time} | | {of_memory} |\n"
    return text
