"""How fast the package is: against a plain reading of the papers, and against the machine.

`bench` measures; what it found is a dict of plain values, and `page` makes a Markdown page of it.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import product

import torch
from torch import Tensor

from minidit._validate import check_choice, check_positive
from minidit.lab.bench.contest import NETWORKS, SCALE, SIZES, STEPS, TASKS, Contest, peak_memory
from minidit.lab.runner import machine, markdown
from minidit.training.matmul import onednn, onednn_is_exact

Calls = dict[str, Callable[[], object]]

BASE = {"tokens": 49, "width": 128, "depth": 6, "batch": 32}
AXES = {  # 28×28 pixels in patches of 14, 7, 4 and 2
    "tokens": (4, 16, 49, 196),
    "width": (64, 128, 256, 512),
    "depth": (2, 4, 8, 16),
    "batch": (8, 16, 32, 64, 128),
}


def bench(
    sizes: Sequence[str] = ("small", "tokens"),
    networks: Sequence[str] = tuple(NETWORKS),
    *,
    growth: bool = False,
    repeats: int = 9,
    batch: int | None = None,
    device: torch.device | str = "cpu",
    compiled: str | None = None,
    seconds: float = 0.2,
    report: Callable[[str], None] = lambda line: None,
) -> dict:
    """Time the networks of every size, at every task, `repeats` times in turns.

    `growth`: instead, a training step of the package's along `AXES`. `seconds`: how long a turn is,
    at least; `batch`: instead of the sizes' own. `report` hears a line for each measurement. Raises
    ArithmeticError if package and plain version don't agree.
    """
    check_positive(repeats=repeats, batch=1 if batch is None else batch)
    for name, chosen, known in (("sizes", sizes, SIZES), ("networks", networks, NETWORKS)):
        for one in chosen:
            check_choice(name, one, known)
    if not seconds > 0:
        raise ValueError(f"seconds={seconds:g} must be above 0, e.g. 0.2")
    cases = [({"size": s, "network": n}, SIZES[s], n) for s, n in product(sizes, networks)]
    tasks, contestants = TASKS, ("plain", "package")
    if growth:
        places = [{"axis": axis, "value": v} for axis, values in AXES.items() for v in values]
        cases = [(at, _grown(**BASE | {at["axis"]: at["value"]}), "DiT") for at in places]
        tasks, contestants = ("training step",), ("package",)
    device, rows, options = torch.device(device), [], {"batch": batch, "compiled": compiled}
    for names, size, network in cases:
        fresh = partial(Contest, size, network, device=device, **options)
        more = {"MiB": {who: peak_memory(fresh, who, device) for who in contestants}}
        contest = fresh()
        if "plain" in contestants:
            more["differences"] = contest.differences()
        for task in tasks:
            row = names | {"task": task} | _row(contest, task, contestants, repeats, seconds)
            rows.append(row | (more if task == "training step" else {}))
            spent = median_and_quartiles(row["seconds"]["package"])[0]
            report(f"{', '.join(map(str, names.values()))}, {task}: {1e3 * spent:.1f} ms")
    return {
        **{"rows": rows, "compiled": compiled, "at once": batch, "platform": device.type},
        **machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "oneDNN's float32 is exact": onednn_is_exact(),
        **({"base": BASE} if growth else {}),
    }


def _grown(tokens: int, width: int, depth: int, batch: int) -> dict:
    """A size like those of `SIZES`."""
    model = dict(patch_size=28 // math.isqrt(tokens), hidden_size=width, depth=depth)
    model = SIZES["small"]["model"] | model | {"num_heads": width // 32}
    return {"model": model, "batch": (batch, batch)}


def _row(
    contest: Contest, task: str, contestants: Sequence[str], repeats: int, seconds: float
) -> dict:
    """Seconds of them and of a matrix product, in turns; the products of a GPU in bfloat16, too."""
    dtypes = {"float32": torch.float32}
    if contest.device.type == "cuda":
        dtypes["bfloat16"] = torch.bfloat16
    products = {name: large_product(contest.device, dtype) for name, dtype in dtypes.items()}
    calls = {who: contest.contestants(task)[who] for who in contestants}
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
    contestants: Calls, repeats: int, device: torch.device, seconds: float
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
    rows, mode, on_gpu = results["rows"], results["compiled"], results["platform"] == "cuda"
    head = (
        f"On {results['device']} ({results['vectors']}), {results['threads']} threads, torch "
        f"{results['torch']}, revision {results['revision']}: medians, and quartiles in brackets; "
        f"the package in {'mixed precision' if on_gpu else 'float32'}"
        f"{f' and compiled ({mode}), but for sampling' if mode else ''}. A multiply-accumulate "
        "counts as two FLOPs; the ceiling is the fastest large matrix product between the turns, "
        "in the same precision. Memory is that of a training step. "
    )
    cells = [_cells(row, "bfloat16" if on_gpu else "float32") for row in rows]
    title = "How fast is it?"
    if "base" not in results:
        head += f"The plain version computes the same, in float32. Sampling is {STEPS} steps of "
        head += f"DDIM with guidance {SCALE:g}."
    else:
        title = "How do time and memory of a training step grow?"
        base = ", ".join(f"{key} {value}" for key, value in results["base"].items())
        head += f"DiT on 28×28 pixels, {base}, and one of the four changed. The power k is that of "
        head += "y ∝ x^k, fitted to the values of that name."
    for axis in results.get("base", ()):
        along = [row for row in rows if row["axis"] == axis]
        values, memory = [row["value"] for row in along], [row["MiB"]["package"] for row in along]
        spent = [median_and_quartiles(row["seconds"]["package"])[0] for row in along]
        found = {"axis": axis, "value": "**power**", "package, ms": power(values, spent)}
        cells.append(found | {"MiB, package": power(values, memory)})
    lines = [[cell.get(key, "") for key in cells[0]] for cell in cells]
    return f"# {title}\n\n{head}\n\n{markdown(list(cells[0]), lines)}\n"


def _cells(row: dict, precision: str) -> dict[str, str]:
    """One row of the table, by column; `precision`: the package's."""
    spent = {who: median_and_quartiles(values) for who, values in row["seconds"].items()}
    rates = {who: row["FLOPs"] / median / 1e9 for who, (median, _, _) in spent.items()}  # GFLOP/s
    used, memory = {"plain": "float32", "package": precision}, row.get("MiB", {})
    names = [key for key in ("size", "network", "axis", "value", "task", "batch") if key in row]
    cells = {key: str(row[key]) for key in names}
    cells |= {f"{who}, ms": _spread([1e3 * s for s in spent[who]], ".1f") for who in spent}
    if "plain" in spent:
        pairs = zip(row["seconds"]["plain"], row["seconds"]["package"])  # turn by turn
        cells["times as fast"] = _spread(median_and_quartiles([a / b for a, b in pairs]), ".2f")
    cells |= {f"GFLOP/s, {who}": f"{rates[who]:.0f}" for who in spent}
    for who in spent if "ceiling" in row else ():
        ceiling = row["ceiling"][used[who]] / 1e9
        cells[f"ceiling, {who}"] = f"{rates[who] / ceiling:.0%} of {ceiling:.0f}"
    for who in spent:
        cells[f"MiB, {who}"] = "–" if memory.get(who) is None else f"{memory[who]:.0f}"
    return cells | {"images/s, package": f"{row['batch'] / spent['package'][0]:.1f}"}


def _spread(values: Sequence[float], form: str) -> str:
    return f"{values[0]:{form}} ({values[1]:{form}}…{values[2]:{form}})"


def median_and_quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and between which two values half of all lie."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def power(xs: Sequence[float], ys: Sequence[float | None]) -> str:
    """The k of y ∝ x^k that fits best in the logarithms; "–" if there is nothing to fit."""
    if len(xs) < 2 or None in ys:
        return "–"
    logs = ([math.log(z) for z in zs] for zs in (xs, ys))
    return f"{statistics.linear_regression(*logs).slope:.2f}"
