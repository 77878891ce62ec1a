"""Named experiments: variants × seeds, resumable, one JSON file each in data/results.

A variant is a preset with changes. Every run trains on MNIST without its last 5,000 training
images, which judge it: the test split is left alone.
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from minidit import data, evaluate, presets
from minidit._validate import check_choice
from minidit.diffusion import Diffusion
from minidit.generate import generate
from minidit.sample import sample
from minidit.train import Recipe, fit

HELD_OUT = 5000

# name: (the question, CPU seconds of training for a run, {variant: changes of the preset "demo"})
EXPERIMENTS: dict[str, tuple[str, float, dict[str, dict[str, dict]]]] = {
    "recipes": (
        "Which recipe learns MNIST soonest on a processor?",
        130.0,
        {
            "as in the demo": {},
            "AdamW instead of Muon": {"recipe": {"optimizer": "adamw"}},
            "velocity predicted": {"diffusion": {"schedule": "straight", "predict": "v"}},
            "noise predicted, cosine schedule": {
                "diffusion": {"schedule": "cosine", "predict": "eps"}
            },
            "uniform t": {"recipe": {"times": "uniform"}},
            "label table at 0.02": {"model": {"label_std": 0.02}},
            "patches of 4": {"model": {"patch_size": 4}},
            "paper's optimiser (AdamW 1e-4, constant)": {
                "recipe": dict(optimizer="adamw", lr=1e-4, cooldown=0.0, betas=(0.9, 0.999))
            },
        },
    ),
}


def run_experiment(
    name: str, seeds: int, out: Path, report: Callable[[str], None], seconds: float | None = None
) -> dict:
    """Run what is still missing of an experiment and keep the results in out/NAME.json.

    Each run gets `seconds` of processor time for training (the experiment's own by default), all
    runs the same; how many steps that is, is measured first. `report` hears a line for each run.
    """
    check_choice("experiment", name, EXPERIMENTS)
    question, budget, variants = EXPERIMENTS[name]
    budget = seconds or budget
    path = out / f"{name}.json"
    results = json.loads(path.read_text()) if path.exists() else {"runs": []}
    results |= {"experiment": name, "question": question, "cpu_seconds": budget}
    done = {(r["variant"], r["seed"], r["cpu_seconds"]) for r in results["runs"]}
    train = data.load("mnist")
    for seed in range(seeds):
        for variant, changes in variants.items():
            if (variant, seed, budget) in done:
                continue
            run = {"variant": variant, "seed": seed, "cpu_seconds": budget}
            run |= _one_run(train, changes, seed, budget)
            results["runs"].append(run)
            _store(results, path)
            report(f"{variant}, seed {seed}: {run['steps']} steps, {_short(run)}")
    return results


def _one_run(train: data.Dataset, changes: dict, seed: int, budget: float) -> dict:
    preset = {
        part: presets.PRESETS["demo"][part] | changes.get(part, {}) for part in ("model", "recipe")
    }
    preset["diffusion"] = changes.get("diffusion", presets.PRESETS["demo"]["diffusion"])
    images, labels = train.images[:-HELD_OUT], train.labels[:-HELD_OUT]

    def attempt(steps: int) -> tuple[torch.nn.Module, Diffusion, Recipe, float]:
        model, diffusion, parts = presets.build(preset, (1, 28, 28), 10, seed)
        recipe = Recipe(**(parts | {"steps": steps, "seed": seed}))
        began = time.process_time()
        average = fit(model, diffusion, images, labels, recipe=recipe)
        return average, diffusion, recipe, time.process_time() - began

    attempt(3)
    steps = max(20, int(budget / (attempt(12)[3] / 12)))
    average, diffusion, recipe, spent = attempt(steps)
    measured = _measure(average, diffusion, train.images[-HELD_OUT:], train.labels[-HELD_OUT:])
    config = {"model": average.config, "diffusion": diffusion.config, "recipe": asdict(recipe)}
    return {"steps": steps, "spent": round(spent, 1), **measured, **config, **machine()}


def _measure(model, diffusion: Diffusion, images: Tensor, labels: Tensor) -> dict:
    """Accuracy and Fréchet distance of 500 samples at guidance 1 and 2, 25 DDIM steps."""
    judge = evaluate.classifier("mnist")
    asked = torch.arange(10).repeat(50)
    measured = {}
    for scale in (1, 2):
        x = sample(generate(model, diffusion, asked, guidance=scale, steps=25))
        measured[f"accuracy s={scale}"] = evaluate.accuracy(judge, x, asked)
        measured[f"frechet s={scale}"] = round(evaluate.frechet_to_real(judge, x), 2)
    real = data.to_unit(images[:500])
    measured["frechet real"] = round(evaluate.frechet_to_real(judge, real), 2)
    return measured


def _short(run: dict) -> str:
    return ", ".join(
        f"{k} {v:.3g}" for k, v in run.items() if k.startswith(("accuracy", "frechet"))
    )


def machine() -> dict:
    """Where and from which revision a result comes."""
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parent,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        revision = "unknown"
    return {
        "revision": revision,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
    }


def _store(results: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(part, path)


def table(results: dict) -> str:
    """The results as a Markdown table: mean over seeds, and the spread where there are several."""
    names = list(dict.fromkeys(run["variant"] for run in results["runs"]))
    columns = ["steps", "accuracy s=1", "frechet s=1", "accuracy s=2", "frechet s=2"]
    lines = ["| variant | seeds | " + " | ".join(columns) + " |", "|---" * 7 + "|"]
    for name in names:
        runs = [run for run in results["runs"] if run["variant"] == name]
        cells = [_cell([float(run[column]) for run in runs], column) for column in columns]
        lines.append(f"| {name} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float], column: str) -> str:
    scale, unit = (100, " %") if column.startswith("accuracy") else (1, "")
    digits = 1 if column != "steps" else 0
    mean = sum(values) / len(values) * scale
    spread = (max(values) - min(values)) / 2 * scale
    text = f"{mean:.{digits}f}"
    return text + (f" ± {spread:.{digits}f}" if len(values) > 1 else "") + unit
