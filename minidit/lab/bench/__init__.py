"""How fast the package is: against a plain reading of the papers, others, and the machine.

`bench` measures; what it found is a dict of plain values, and `page` makes a Markdown page of it.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product

import torch
from torch import Tensor

from minidit._validate import check_choice, check_positive
from minidit.lab.bench import contest as rules
from minidit.lab.bench.contest import GROWTH, NETWORKS, TASKS, Contest, Maker, find_peers
from minidit.lab.runner import machine, markdown
from minidit.training.matmul import onednn, onednn_is_exact

__all__ = ["GROWTH", "bench", "find_peers", "page"]


def bench(
    sizes: Sequence[str] = ("small", "tokens"),
    networks: Sequence[str] = tuple(NETWORKS),
    *,
    tasks: Sequence[str] = TASKS,
    peers: dict[str, Maker] | None = None,
    repeats: int = 9,
    batch: int | None = None,
    device: torch.device | str = "cpu",
    bfloat16: bool = False,
    compiled: str | None = None,
    seconds: float = 0.2,
    report: Callable[[str], None] = lambda line: None,
) -> dict:
    """Time the networks of every size, at every task, `repeats` times in turns.

    `peers`: see `find_peers`; they are held against the DiT. `seconds`: how long a turn is, at
    least; `batch`: instead of the sizes' own; `bfloat16`: all but the plain version in mixed
    precision on a processor, too, as on a GPU. `report` hears a line for each measurement. Raises
    ArithmeticError if package and plain version don't agree.
    """
    check_positive(repeats=repeats, batch=1 if batch is None else batch)
    every = rules.SIZES | GROWTH
    for name, chosen, known in (("sizes", sizes, every), ("networks", networks, NETWORKS)):
        for one in chosen:
            check_choice(name, one, known)
    if not seconds > 0:
        raise ValueError(f"seconds={seconds:g} must be above 0, e.g. 0.2")
    device, rows = torch.device(device), []
    half = bfloat16 or device.type == "cuda"
    how = {"batch": batch, "device": device, "half": half, "compiled": compiled}
    for size, network in product(sizes, networks):
        contest = Contest(every[size], network, peers=peers if network == "DiT" else {}, **how)
        more = {"size": size, "network": network, "differences": contest.differences()}
        for task in tasks:
            rows.append(more | {"task": task} | _row(contest, task, repeats, seconds))
            spent, _, _ = median_and_quartiles(rows[-1]["seconds"]["package"])
            report(f"{size}, {network}, {task}: {1e3 * spent:.1f} ms")
    return {
        **{"rows": rows, "compiled": compiled, "at once": batch, "platform": device.type},
        "half": half,
        **machine(),
        "oneDNN's float32 is exact": onednn_is_exact(),
    }


def _row(contest: Contest, task: str, repeats: int, seconds: float) -> dict:
    """Seconds of all and of a matrix product, in turns; products in bfloat16, too, if used."""
    dtypes = {"float32": torch.float32}
    if contest.half:
        dtypes["bfloat16"] = torch.bfloat16
    products = {name: large_product(contest.device, dtype) for name, dtype in dtypes.items()}
    calls = contest.contestants(task)
    calls |= {name: multiply for name, (multiply, _) in products.items()}
    found = take_turns(calls, repeats, contest.device, seconds)
    ceilings = {name: flops / min(found.pop(name)) for name, (_, flops) in products.items()}
    return {
        "batch": len(contest.wanted) if task == "sampling" else contest.batch,
        "FLOPs": contest.flops(task),
        "seconds": {who: [round(s, 7) for s in spent] for who, spent in found.items()},
        "ceiling": {name: round(rate) for name, rate in ceilings.items()},
    }


def large_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Tensor], int]:
    """A large matrix product, by the fastest library, and its operations."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    exact = device.type == "cpu" and dtype == torch.float32 and onednn_is_exact()

    def multiply() -> Tensor:
        with onednn() if exact else nullcontext():
            return a @ b

    return multiply, 2 * side**3


def take_turns(
    contestants: dict[str, Callable], repeats: int, device: torch.device, seconds: float
) -> dict[str, list[float]]:
    """Seconds of each contestant's call, `repeats` times, one after the other: A, B, A, B, …

    Each turn is as many calls as fill `seconds`. The first calls, which also load and tune
    libraries, are not counted. A GPU works behind the program's back, so it is awaited.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None

    def timed(call: Callable[[], object], calls: int = 1) -> float:
        wait(device)
        began = time.perf_counter()
        for _ in range(calls):
            call()
        wait(device)
        return (time.perf_counter() - began) / calls

    calls, found = {}, {name: [] for name in contestants}
    for name, call in contestants.items():
        call()
        calls[name] = max(1, math.ceil(seconds / timed(call)))
    for _ in range(repeats):
        for name, call in contestants.items():
            found[name].append(timed(call, calls[name]))
    return found


def page(results: dict) -> str:
    """What was found as a Markdown page."""
    rows, mode = results["rows"], results["compiled"]
    half = results.get("half", results["platform"] == "cuda")
    sets = f"{results['vectors']} used; {results.get('instruction sets') or 'others not noted'}"
    head = (
        f"On {results['device']} ({sets}), {results['threads']} threads, torch "
        f"{results['torch']}, revision {results['revision']}: medians, and quartiles in brackets; "
        f"the package in {'mixed precision' if half else 'float32'}"
        f"{f' and compiled ({mode}), but for sampling' if mode else ''}. A multiply-accumulate "
        "counts as two FLOPs; the ceiling is the fastest large matrix product between the turns, "
        "in the same precision. The plain version computes the same, in float32; networks of "
        "others, if there are any, train in the loop of `fit` and sample in one piece. Sampling is "
        f"{rules.STEPS} steps of DDIM with guidance {rules.SCALE:g}."
    )
    lines = [line for row in rows for line in _lines(row, "bfloat16" if half else "float32")]
    titles = ["size", "network", "task", "batch", "who", "ms", "package: times as fast"]
    text = f"# How fast is it?\n\n{head}\n\n"
    text += markdown([*titles, "GFLOP/s", "of the ceiling", "images/s"], lines) + "\n"
    powers = [f"{axis}^{power(rows, axis)}" for axis in rules.AXES if power(rows, axis)]
    base = ", ".join(f"{axis} {value}" for axis, value in rules.BASE.items())
    told = f"\nOf {base} one was changed at a time: the package's time grows with "
    return text + (f"{told}{', '.join(powers)}.\n" if powers else "")


def _lines(row: dict, precision: str) -> list[list[str]]:
    """A line of the table for each contestant; `precision`: that of all but the plain version."""
    lines = []
    for who, values in row["seconds"].items():
        spent = median_and_quartiles(values)
        rate = row["FLOPs"] / spent[0]
        most = row.get("ceiling", {}).get("float32" if who == "plain" else precision, math.inf)
        turns = zip(values, row["seconds"]["package"])
        ratio = _spread(median_and_quartiles([a / b for a, b in turns]), ".2f")
        cells = [str(row[key]) for key in ("size", "network", "task", "batch")]
        cells += [who, _spread([1e3 * s for s in spent], ".1f"), ratio if who != "package" else ""]
        share = f"{rate / most:.0%} of {most / 1e9:.0f}" if most < math.inf else "–"
        lines.append([*cells, f"{rate / 1e9:.0f}", share, f"{row['batch'] / spent[0]:.1f}"])
    return lines


def _spread(values: Sequence[float], form: str) -> str:
    return f"{values[0]:{form}} ({values[1]:{form}}…{values[2]:{form}})"


def median_and_quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and between which two values half of all lie."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def power(rows: Sequence[dict], axis: str) -> str:
    """The k of seconds ∝ x^k, fitted to rows "axis x"; "" if there are fewer than two."""
    found = [row for row in rows if row["size"].startswith(f"{axis} ")]
    if len({row["size"] for row in found}) < 2:
        return ""
    xs = [math.log(int(row["size"].split()[1])) for row in found]
    ys = [math.log(median_and_quartiles(row["seconds"]["package"])[0]) for row in found]
    return f"{statistics.linear_regression(xs, ys).slope:.2f}"
