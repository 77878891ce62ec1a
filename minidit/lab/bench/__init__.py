"""How fast the package is: against a plain reading of the papers, and against the machine.

`bench` measures; what it found is a dict of plain values, and `page` makes a Markdown page of it.
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch

from minidit._validate import check_choice, check_positive
from minidit.lab.bench.contest import NETWORKS, SCALE, SIZES, STEPS, TASKS, Contest, peak_memory
from minidit.lab.bench.timing import large_product, median_and_quartiles, take_turns
from minidit.lab.machine import machine
from minidit.training.matmul import onednn_is_exact

BOTH = ("plain", "package")


def bench(
    sizes: Sequence[str] = ("small", "tokens"),
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    repeats: int = 9,
    batch: int | None = None,
    device: torch.device | str = "cpu",
    compiled: str | None = None,
    seconds: float = 0.2,
    report: Callable[[str], None] = lambda line: None,
) -> dict:
    """Time the networks of every size, at every task, `repeats` times in turns.

    `seconds`: how long a turn is, at least; `batch`: instead of the sizes' own. `report` hears a
    line for each measurement. Raises ArithmeticError if package and plain version don't agree.
    """
    check_positive(repeats=repeats)
    for size in sizes:
        check_choice("size", size, SIZES)
    device, rows = torch.device(device), []
    options = {"batch": batch, "compiled": compiled}
    for size, network in product(sizes, networks):
        memory = {who: peak_memory(who, device, SIZES[size], network, **options) for who in BOTH}
        contest = Contest(SIZES[size], network, device=device, **options)
        more = {"training step": {"differences": contest.differences(), "MiB": memory}}
        for task in TASKS:
            row = {"size": size, "network": network, "task": task}
            rows.append(row | _row(contest, task, repeats, seconds) | more.get(task, {}))
            report(f"{size}, {network}, {task}: {ratio(rows[-1])[0]:.2f} times as fast")
    return {"rows": rows, "compiled": compiled, "at once": batch} | where(device)


def where(device: torch.device) -> dict:
    """The machine, and what it can do."""
    return machine() | {
        "platform": device.type,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "oneDNN's float32 is exact": onednn_is_exact(),
    }


def _row(contest: Contest, task: str, repeats: int, seconds: float) -> dict:
    """Seconds of both and of a matrix product, in turns; the products of a GPU in bfloat16, too."""
    dtypes = {"float32": torch.float32}
    if contest.device.type == "cuda":
        dtypes["bfloat16"] = torch.bfloat16
    products = {name: large_product(contest.device, dtype) for name, dtype in dtypes.items()}
    contestants = contest.contestants(task) | {name: p[0] for name, p in products.items()}
    found = take_turns(contestants, repeats, contest.device, seconds)
    ceilings = {name: p[1] / min(found.pop(name)) for name, p in products.items()}
    return {
        "batch": len(contest.wanted) if task == "sampling" else contest.batch,
        "FLOPs": contest.flops(task),
        "seconds": {who: [round(s, 7) for s in spent] for who, spent in found.items()},
        "ceiling": {name: round(rate) for name, rate in ceilings.items()},
    }


def ratio(row: dict) -> tuple[float, float, float]:
    """How many times as fast the package is, turn by turn: median and quartiles."""
    spent = row["seconds"]
    pairs = zip(spent["plain"], spent["package"])
    return median_and_quartiles([plain / package for plain, package in pairs])


def page(results: dict) -> str:
    """What was found as a Markdown page."""
    mode = results["compiled"]
    compiled = f" and compiled ({mode}), but for sampling" if mode else ""
    head = (
        f"# How fast is it?\n\nOn {results['device']} ({results['vectors']}), "
        f"{results['threads']} threads, torch {results['torch']}, revision {results['revision']}: "
        "medians, and quartiles in brackets. The plain version computes the same, in float32; the "
        f"package in {'mixed precision' if results['platform'] == 'cuda' else 'float32'}"
        f"{compiled}. Sampling is {STEPS} steps of DDIM with guidance {SCALE:g}. A "
        "multiply-accumulate counts as two FLOPs; the ceiling is the fastest large matrix product "
        "between the turns, in the same precision. Memory is that of a training step.\n\n"
    )
    titles = "size|network|task|batch|plain, ms|package, ms|times as fast|GFLOP/s, plain"
    titles += "|GFLOP/s, package|ceiling, plain|ceiling, package|MiB, plain|MiB, package"
    titles += "|images/s, package"
    lines = ["| " + " | ".join(titles.split("|")) + " |", "|---" * (titles.count("|") + 1) + "|"]
    for row in results["rows"]:
        lines.append("| " + " | ".join(_cells(row, results["platform"])) + " |")
    return head + "\n".join(lines) + "\n"


def _cells(row: dict, platform: str) -> list[str]:
    spent = {who: median_and_quartiles(values) for who, values in row["seconds"].items()}
    rates = {who: row["FLOPs"] / median for who, (median, _, _) in spent.items()}
    half = "bfloat16" if platform == "cuda" else "float32"
    ceilings = {"plain": row["ceiling"]["float32"], "package": row["ceiling"][half]}
    memory = row.get("MiB", {})
    return [
        row["size"],
        row["network"],
        row["task"],
        str(row["batch"]),
        *(_spread([1e3 * value for value in spent[who]], ".1f") for who in spent),
        _spread(ratio(row), ".2f"),
        *(f"{rates[who] / 1e9:.0f}" for who in spent),
        *(f"{rates[who] / ceilings[who]:.0%} of {ceilings[who] / 1e9:.0f}" for who in spent),
        *(f"{memory[who]:.0f}" if memory.get(who) is not None else "–" for who in spent),
        f"{row['batch'] / spent['package'][0]:.1f}",
    ]


def _spread(values: Sequence[float], form: str) -> str:
    return f"{values[0]:{form}} ({values[1]:{form}}…{values[2]:{form}})"
