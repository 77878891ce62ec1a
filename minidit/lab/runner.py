"""Runs an experiment: variants × seeds, resumable, one JSON file each; tables from the file alone.

What one run does is the experiment's `trial`; here is only what all of them share. A new experiment
is an entry of `EXPERIMENTS`, wherever it is made.
"""

import json
import math
import platform
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch

from minidit._validate import check_choice, check_positive
from minidit.lab.processes import side_by_side
from minidit.weights.files import locked, read_json, write_json

_CPUINFO = Path("/proc/cpuinfo")
SCALES = ("smoke", "cpu", "gpu")
RATES = (10**-0.5, 1.0, 10**0.5)  # as factors: half a decade apart
SWEPT = range(100, 103)  # seeds of a sweep: those that are compared had no say in their rate
# These may be large, and nothing has diverged.
COSTS = ("parameters", "tokens", "MMACs", "steps", "processor seconds")


@dataclass(frozen=True)
class Experiment:
    """A question, its variants, and the trial that measures one of them with one seed.

    `variants()` gives {name: settings}; where they are known at once, the dict itself will do.
    `scales`: see `by_scale`, merged into a variant's settings part by part; `trial(settings, seed)`
    gives a dict of what was measured; `columns`: {key of that dict: format}, e.g.
    {"recognised": ".1%"}.
    """

    question: str
    variants: Callable[[], dict[str, dict]]
    scales: dict[str, dict]
    trial: Callable[[dict, int], dict]
    columns: dict[str, str]
    base: str | None = None  # what `verdicts` hold the others against, by "frechet"; "": the first
    paired: bool = False  # variants of a seed share a network: differences count seed by seed

    def __post_init__(self) -> None:
        if isinstance(self.variants, dict):
            object.__setattr__(self, "variants", partial(deepcopy, self.variants))


EXPERIMENTS: dict[str, Experiment] = {}  # by name; add your own


def run_experiment(
    name: str,
    experiment: Experiment,
    out: Path,
    *,
    seeds: int | Sequence[int] = 1,
    scale: str = "cpu",
    jobs: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> dict:
    """Run what is still missing, and keep every run in out/NAME.json as soon as it ends.

    `seeds`: how many, from 0 on, or which. `jobs`: how many trials run at a time, see
    `side_by_side`; the results are the same. `report` hears a line for each run. A killed
    experiment goes on with its next run. A run that another experiment in `out` has made with the
    same trial, settings and seed isn't made again, whatever the revision; one that lacks a column,
    or was told otherwise, is. Raises ValueError where new runs would join stored ones with other
    settings that this call would not make again.
    """
    check_choice("scale", scale, experiment.scales)
    check_positive(seeds=seeds if isinstance(seeds, int) else len(seeds), jobs=jobs)
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    path, variants = out / f"{name}.json", experiment.variants()

    now = {name: merge(own, experiment.scales[scale]) for name, own in variants.items()}

    def outdated(run: dict) -> bool:
        """Whether it lacks a column, or was told something else than it would be now."""
        told = now.get(run["variant"]) if run["scale"] == scale else None
        same = told is None or _plain(run.get("settings", told)) == _plain(told)
        return not same or not experiment.columns.keys() <= run.keys()

    def asked(run: dict) -> bool:
        return run["scale"] == scale and run["variant"] in variants and run["seed"] in seeds

    for run in filter(outdated, stored(path)["runs"]):
        if not asked(run):
            which = f"{run['variant']!r}, seed {run['seed']}, scale {run['scale']}"
            raise ValueError(
                f"{path} holds a run ({which}) with other settings or without a column, and it "
                "isn't among those that would be made again; ask for more seeds, or move it away"
            )

    def keep(*more: dict) -> dict:
        """Add runs to the file as it is now: another process may have added to it meanwhile."""
        with locked(path.with_suffix(".lock"), wait=True):
            results = stored(path) | {"experiment": name, "question": experiment.question}
            found = [*results["runs"], *more]
            names = list(dict.fromkeys([*variants, *(run["variant"] for run in found)]))
            by_place = {
                (SCALES.index(run["scale"]), run["seed"], names.index(run["variant"])): run
                for run in found
            }
            runs = [run for _, run in sorted(by_place.items())]
            results |= {"columns": experiment.columns, "runs": runs}
            write_json(path, results)
        for run in more:
            cells = (f"{k} {run[k]:{form}}" for k, form in experiment.columns.items())
            report(f"{run['variant']}, seed {run['seed']}: " + ", ".join(cells))
        return results

    def missing() -> Iterator[tuple[str, dict]]:
        """What is to be measured; what another experiment has measured is kept on the way."""
        for seed, variant in product(seeds, variants):
            key = {"variant": variant, "seed": seed, "scale": scale}
            settings = now[variant]
            run = _find(path, key, experiment)
            if run is None or outdated(run):
                told = {"trial": experiment.trial.__name__, "settings": settings, "seed": seed}
                if (run := _made_elsewhere(out, told, experiment)) is None:
                    yield f"{variant}, seed {seed}", told | key
                else:
                    keep(run | key)

    with closing(side_by_side(partial(_measure, experiment.trial), missing(), jobs)) as done:
        for run in done:
            keep(run)
    return keep()


def tuned(
    name: str,
    experiment: Experiment,
    out: Path,
    *,
    scale: str = "cpu",
    jobs: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> Experiment:
    """The experiment with each variant at its own best rate, after a sweep over `RATES`.

    What is missing of the sweep is run as by `run_experiment`, and kept as out/NAME-rates.json; the
    least mean logarithm of "frechet" wins. Raises ValueError for experiments that compare none, or
    whose variants share a network, and so its rate.
    """
    if experiment.base is None or experiment.paired:
        raise ValueError(f"experiment={name!r} compares no distances that could tell a best rate")
    variants = experiment.variants()
    swept = {
        f"{variant}, rate × {rate:.2g}": settings | {"rate": rate}
        for variant, settings in variants.items()
        for rate in RATES
    }
    sweep = replace(experiment, variants=swept)
    how = {"seeds": SWEPT, "scale": scale, "jobs": jobs, "report": report}
    results = run_experiment(f"{name}-rates", sweep, out, **how)
    found = measures(results, scale)["frechet"]

    def best(variant: str) -> float:
        values = [found[f"{variant}, rate × {rate:.2g}"] for rate in RATES]
        logs = [[math.log(v) if 0 < v < math.inf else math.inf for v in of] for of in values]
        return min(zip(map(statistics.fmean, logs), RATES))[1]

    return replace(experiment, variants={v: s | {"rate": best(v)} for v, s in variants.items()})


def _measure(trial: Callable[[dict, int], dict], told: dict) -> dict:
    """Run a trial; what it was told, what it found, how long it took, and where."""
    began = time.perf_counter()
    found = trial(told["settings"], told["seed"])
    return told | {"seconds": round(time.perf_counter() - began, 1), **found, **machine()} | told


def _find(path: Path, told: dict, experiment: Experiment) -> dict | None:
    """The stored run of which all that is `told` is true, if it has all columns.

    A newer version of an experiment may measure more; then its runs are made again.
    """
    runs = (run for run in stored(path)["runs"] if experiment.columns.keys() <= run.keys())
    return next((run for run in runs if told.items() <= run.items()), None)


def _plain(settings: dict) -> dict:
    """Settings as they are read from a file, where a rate of 1 may be left out."""
    return json.loads(json.dumps(settings)) | {"rate": settings.get("rate", 1.0)}


def _made_elsewhere(out: Path, told: dict, experiment: Experiment) -> dict | None:
    """The run of another experiment that was told the same, e.g. of a shared baseline."""
    told = json.loads(json.dumps(told))  # as it is read from a file: tuples become lists
    for path in sorted(out.glob("*.json")):
        with suppress(ValueError):  # no experiment's, or damaged, of which its own run will tell
            if (run := _find(path, told, experiment)) is not None:
                return {"from": path.stem} | run
    return None


def merge(settings: dict, more: dict) -> dict:
    """Settings with more of them; where both hold a dict under one key, their union."""
    both = {k: v | more[k] for k, v in settings.items() if isinstance(v, dict) and k in more}
    return settings | more | both


def by_scale(**values: tuple) -> dict[str, dict]:
    """{"smoke" | "cpu" | "gpu": settings}, from each setting's three values; None sets nothing.

    `steps` and `batch_size` are those of the recipe, `per_class` is that of sampling.
    """
    found: dict[str, dict] = {scale: {} for scale in SCALES}
    for name, three in values.items():
        part = {"steps": "recipe", "batch_size": "recipe", "per_class": "sampling"}.get(name)
        for settings, value in zip(found.values(), three):
            if value is not None:
                (settings.setdefault(part, {}) if part else settings)[name] = value
    return found


def stored(path: Path) -> dict:
    """What the file holds; no runs if there is none yet."""
    if not path.exists():
        return {"runs": []}
    run, way_out = {"variant": str, "seed": int, "scale": str}, "mend it, or move it away"
    results = read_json(path, {"runs": [run]}, way_out)
    for run in results["runs"]:
        check_choice(f"{path}: scale", run["scale"], SCALES)
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
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def table(results: dict, scale: str | None = None) -> str:
    """The results as a Markdown table: mean ± standard deviation over the seeds."""
    lines = []
    for variant, runs in rows(results, scale).items():
        values = {key: [float(run[key]) for run in runs] for key in results["columns"]}
        cells = [_cell(key, values[key], form) for key, form in results["columns"].items()]
        lines.append([variant, str(len(runs)), *cells])
    return markdown(["variant", "seeds", *results["columns"]], lines)


def optimisers(results: dict, scale: str | None = None) -> str:
    """What trained the variants, at which rate, to go on a sentence; "" if nothing was trained."""
    found: dict[str, list[str]] = {}
    for variant, runs in rows(results, scale).items():
        if recipe := runs[0].get("recipe"):
            muon = f"Muon at {recipe['muon_lr']:g}, and " * (recipe["optimizer"] == "muon")
            found.setdefault(f"{muon}AdamW at {recipe['lr']:g}", []).append(variant)
    most = max(found, key=lambda how: len(found[how]), default="")
    others = (f"; for “{'”, “'.join(of)}” {how}" for how, of in found.items() if how != most)
    return f". Optimiser: {most}{''.join(others)}." if found else ""


def _cell(key: str, values: Sequence[float], form: str) -> str:
    limit = math.inf if key in COSTS else 1e4
    if max(values) > limit or not all(map(math.isfinite, values)):
        return "diverged"
    mean, spread = mean_and_spread(values)
    return f"{mean:{form}}" + (f" ± {spread:{form}}" if len(values) > 1 else "")


def markdown(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells."""
    head = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return "\n".join([*head, *("| " + " | ".join(cells) + " |" for cells in lines)])


def machine() -> dict:
    """Where and from which revision of the package a result comes."""
    told = _CPUINFO.read_text() if _CPUINFO.exists() else ""  # on Linux
    sets = re.findall(r"\b(?:avx|amx|fma|asimd|sve)\w*", told.partition("\n\n")[0])
    return {
        "revision": _revision(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(told),
        "vectors": torch.backends.cpu.get_cpu_capability(),  # what torch makes of them
        "instruction sets": " ".join(sets),
    }


def processor(told: str) -> str:
    """The processor's name, as far as it says so; `told`: what /proc/cpuinfo holds."""
    named = re.search(r"^model name[ \t]*:[ \t]*(\S.*)", told, re.MULTILINE)
    return named.group(1) if named else platform.processor() or platform.machine()


def _revision() -> str:
    folder, git = Path(__file__).parents[2], shutil.which("git")
    if git is None or not (folder / ".git").exists():  # else another project's would be named
        return "unknown"
    command = [git, "describe", "--always", "--dirty"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return answer.stdout.strip() or "unknown"
