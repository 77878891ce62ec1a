"""Named experiments: variants × seeds, resumable, one JSON file each in data/results.

A variant is a preset with changes. Every run trains on MNIST without its last 5,000 training
images. Samples are compared with the features of all training images, and for a floor so are as
many of the images left out (which the judge has seen, so the floor is low): the test split is
left alone.
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

# name: (the question, training steps of a run, {variant: changes of the preset "demo"})
EXPERIMENTS: dict[str, tuple[str, int, dict[str, dict[str, dict]]]] = {
    "recipes": (
        "Which recipe learns MNIST soonest?",
        400,
        {
            "the demo's: Muon, x0 predicted, logit-normal t": {},
            "AdamW instead of Muon": {"recipe": {"optimizer": "adamw"}},
            "velocity predicted": {"diffusion": {"schedule": "straight", "predict": "v"}},
            "noise predicted, cosine schedule": {
                "diffusion": {"schedule": "cosine", "predict": "eps"}
            },
            "noise predicted, linear schedule, x0 clipped in sampling": {
                "diffusion": {"schedule": "linear", "predict": "eps"},
                "sampling": {"clip": True},
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
    name: str, seeds: int, out: Path, report: Callable[[str], None], steps: int | None = None
) -> dict:
    """Run what is still missing of an experiment and keep the results in out/NAME.json.

    Each run trains for `steps` (the experiment's own by default); what that took in processor
    time is part of the result. `report` hears a line for each run.
    """
    check_choice("experiment", name, EXPERIMENTS)
    question, own_steps, variants = EXPERIMENTS[name]
    steps = steps or own_steps
    path = out / f"{name}.json"
    results = json.loads(path.read_text()) if path.exists() else {"runs": []}
    results |= {"experiment": name, "question": question}
    done = {(run["variant"], run["seed"], run["steps"]) for run in results["runs"]}
    train = data.load("mnist")
    for seed in range(seeds):
        for variant, changes in variants.items():
            if (variant, seed, steps) in done:
                continue
            run = {"variant": variant, "seed": seed, **_one_run(train, changes, seed, steps)}
            results["runs"].append(run)
            _store(results, path)
            report(f"{variant}, seed {seed}: {_short(run)}")
    return results


def _one_run(train: data.Dataset, changes: dict, seed: int, steps: int) -> dict:
    demo = presets.PRESETS["demo"]
    preset = {part: demo[part] | changes.get(part, {}) for part in ("model", "recipe")}
    preset["diffusion"] = changes.get("diffusion", demo["diffusion"])
    model, diffusion, parts = presets.build(preset, (1, 28, 28), 10, seed)
    recipe = Recipe(**(parts | {"steps": steps, "seed": seed}))
    images, labels = train.images[:-HELD_OUT], train.labels[:-HELD_OUT]
    began = time.process_time()
    average = fit(model, diffusion, images, labels, recipe=recipe)
    spent = round(time.process_time() - began, 1)
    sampling = changes.get("sampling", {})
    measured = _measure(average, diffusion, train.images[-HELD_OUT:], **sampling)
    config = {
        "model": average.config,
        "diffusion": diffusion.config,
        "recipe": asdict(recipe) | {"betas": list(recipe.betas)},
        "sampling": sampling,
    }
    return {"steps": steps, "processor seconds": spent, **measured, **config, **machine()}


def _measure(
    model: torch.nn.Module, diffusion: Diffusion, real: Tensor, clip: bool = False
) -> dict:
    """Accuracy and Fréchet distance of 300 samples, guidance 2, 20 DDIM steps; of real images."""
    judge = evaluate.classifier("mnist")
    asked = torch.arange(10).repeat(30)
    x = sample(generate(model, diffusion, asked, guidance=2.0, steps=20, clip=clip))
    return {
        "recognised": round(evaluate.accuracy(judge, x, asked), 4),
        "frechet": round(evaluate.frechet_to_real(judge, x), 2),
        "frechet of real images": round(
            evaluate.frechet_to_real(judge, data.to_unit(real[: len(asked)])), 2
        ),
    }


def _short(run: dict) -> str:
    return f"{run['recognised']:.1%} recognised, Fréchet distance {run['frechet']:.2f}"


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
    columns = ["processor seconds", "recognised", "frechet"]
    lines = ["| variant | seeds | " + " | ".join(columns) + " |", "|---" * 5 + "|"]
    for name in names:
        runs = [run for run in results["runs"] if run["variant"] == name]
        cells = [_cell([float(run[column]) for run in runs], column) for column in columns]
        lines.append(f"| {name} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float], column: str) -> str:
    scale, unit = (100, " %") if column == "recognised" else (1, "")
    digits = 0 if column == "processor seconds" else 1
    mean = sum(values) / len(values) * scale
    if mean > 1e4:
        return "diverged"
    spread = (max(values) - min(values)) / 2 * scale
    text = f"{mean:.{digits}f}"
    return text + (f" ± {spread:.{digits}f}" if len(values) > 1 else "") + unit
