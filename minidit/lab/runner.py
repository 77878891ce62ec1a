"""Runs an experiment: variants × seeds, resumable, one JSON file each; tables from the file alone.

What one run does is the experiment's `trial`; here is only what all of them share: which runs are
missing, where and how a run is kept, and how several seeds become one row of a table. A new
experiment is an entry of `EXPERIMENTS`, wherever it is made.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from minidit._validate import check_choice, check_positive
from minidit.lab.machine import machine
from minidit.train import replacing

SCALES = ("smoke", "cpu", "gpu")
# may be large, and nothing has diverged
COSTS = ("parameters", "tokens", "MMACs", "steps", "processor seconds")


@dataclass(frozen=True)
class Experiment:
    """A question, its variants, and the trial that measures one of them with one seed.

    `variants()` gives {name: settings}, and is called when they are listed or run; `scales`:
    {"smoke" | "cpu" | "gpu": settings}, which are merged into a variant's own, part by part;
    `trial(settings, seed)` gives a dict of what was measured; `columns`: {key of that dict:
    format}, the table's, e.g. {"recognised": ".1%"}.
    """

    question: str
    variants: Callable[[], dict[str, dict]]
    scales: dict[str, dict]
    trial: Callable[[dict, int], dict]
    columns: dict[str, str]


EXPERIMENTS: dict[str, Experiment] = {}  # by name; add your own


def run_experiment(
    name: str,
    experiment: Experiment,
    out: Path,
    *,
    seeds: int = 1,
    scale: str = "cpu",
    report: Callable[[str], None] = lambda line: None,
) -> dict:
    """Run what is still missing, and keep every run in out/NAME.json as soon as it ends.

    `report` hears a line for each run. A killed experiment goes on with its next run. A run that
    another experiment in `out` has made with the same trial, settings and seed isn't made again,
    whatever the revision; a run that lacks one of the columns is.
    """
    check_choice("scale", scale, experiment.scales)
    check_positive(seeds=seeds)
    path, variants = out / f"{name}.json", experiment.variants()

    def keep(*more: dict) -> dict:
        """Add runs to the file as it is now: another process may have added to it meanwhile."""
        results = _read(path) | {"experiment": name, "question": experiment.question}
        new = [{k: run[k] for k in ("variant", "seed", "scale")}.items() for run in more]
        kept = [run for run in results["runs"] if not any(key <= run.items() for key in new)]
        runs = _in_order([*kept, *more], list(variants))
        results |= {"columns": experiment.columns, "runs": runs}
        with replacing(path) as file:
            file.write((json.dumps(results, indent=1) + "\n").encode())
        return results

    for seed, variant in product(range(seeds), variants):
        key = {"variant": variant, "seed": seed, "scale": scale}
        if _find(path, key, experiment) is None:
            settings = merge(variants[variant], experiment.scales[scale])
            told = {"trial": experiment.trial.__name__, "settings": settings, "seed": seed}
            run = (_made_elsewhere(out, told, experiment) or _measure(experiment, told)) | key
            keep(run)
            cells = (f"{k} {run[k]:{form}}" for k, form in experiment.columns.items())
            report(f"{variant}, seed {seed}: " + ", ".join(cells))
    return keep()


def _in_order(runs: list[dict], variants: list[str]) -> list[dict]:
    """Runs by scale, seed and variant, however they came about; unknown variants are last."""
    names = list(dict.fromkeys([*variants, *(run["variant"] for run in runs)]))

    def place(run: dict) -> tuple[int, int, int]:
        return SCALES.index(run["scale"]), run["seed"], names.index(run["variant"])

    return sorted(runs, key=place)


def _measure(experiment: Experiment, told: dict) -> dict:
    """Run a trial; what it was told, what it found, how long it took, and where."""
    began = time.perf_counter()
    found = experiment.trial(told["settings"], told["seed"])
    return told | {"seconds": round(time.perf_counter() - began, 1), **found, **machine()}


def _find(path: Path, told: dict, experiment: Experiment) -> dict | None:
    """The stored run of which all that is `told` is true, if it has all columns.

    A newer version of an experiment may measure more; then its runs are made again.
    """
    columns = experiment.columns.keys()
    for run in _read(path)["runs"]:
        if columns <= run.keys() and told.items() <= run.items():
            return run
    return None


def _made_elsewhere(out: Path, told: dict, experiment: Experiment) -> dict | None:
    """The run of another experiment that was told the same, e.g. of a shared baseline."""
    told = json.loads(json.dumps(told))  # as it is read from a file: tuples become lists
    for path in sorted(out.glob("*.json")):
        # no experiment's file, or a damaged one, of which its own run will tell
        with suppress(ValueError):
            if (run := _find(path, told, experiment)) is not None:
                return {"from": path.stem} | run
    return None


def merge(settings: dict, more: dict) -> dict:
    """Settings with more of them; where both hold a dict under one key, their union."""
    both = {k: v | more[k] for k, v in settings.items() if isinstance(v, dict) and k in more}
    return settings | more | both


def _read(path: Path) -> dict:
    """What the file holds; no runs if there is none yet."""
    if not path.exists():
        return {"runs": []}
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); mend it, or move it away") from None
    if not isinstance(results, dict) or not isinstance(results.get("runs"), list):
        raise ValueError(f"{path} holds no runs of an experiment; move it away")
    return results


def rows(results: dict, scale: str | None = None) -> dict[str, list[dict]]:
    """The runs of each variant, in the order of the file; of one scale, or of all."""
    found: dict[str, list[dict]] = {}
    for run in results["runs"]:
        if scale in (None, run["scale"]):
            found.setdefault(run["variant"], []).append(run)
    return found


def measures(results: dict, scale: str | None = None) -> dict[str, dict[str, list[float]]]:
    """What was measured, {column: {variant: a value for each seed}}, without the costs."""
    found = rows(results, scale)
    return {
        key: {variant: [float(run[key]) for run in runs] for variant, runs in found.items()}
        for key in results["columns"]
        if key not in COSTS
    }


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation over seeds (n - 1 in the divisor; 0 for a single run)."""
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else 0.0


def table(results: dict, scale: str | None = None) -> str:
    """The results as a Markdown table: mean ± standard deviation over the seeds."""
    columns = results["columns"]
    lines = ["| variant | seeds | " + " | ".join(columns) + " |"]
    lines.append("|---" * (2 + len(columns)) + "|")
    for variant, runs in rows(results, scale).items():
        cells = [
            _cell([float(run[key]) for run in runs], form, math.inf if key in COSTS else 1e4)
            for key, form in columns.items()
        ]
        lines.append(f"| {variant} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float], form: str, limit: float) -> str:
    if max(values) > limit or not all(map(math.isfinite, values)):
        return "diverged"
    mean, spread = mean_and_spread(values)
    return f"{mean:{form}}" + (f" ± {spread:{form}}" if len(values) > 1 else "")
