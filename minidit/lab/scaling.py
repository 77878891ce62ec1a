"""Does quality follow compute? Sizes × patches, at equal steps and at equal compute.

DiT's main result (arXiv 2212.09748, section 5, figures 6 to 10), at a small scale: three sizes of
network with patches of 7, 4 and 2 pixels of MNIST, and the smallest with patches of 1.
"""

import math

from minidit.evaluate.flops import count
from minidit.lab.budgets import steps_for
from minidit.lab.runner import Experiment, merge
from minidit.lab.trials import judge_samples, prepare, train
from minidit.lab.watching import held_out_loss

SIZES = {
    "S": dict(hidden_size=64, depth=4, num_heads=2),
    "M": dict(hidden_size=96, depth=5, num_heads=3),
    "L": dict(hidden_size=128, depth=6, num_heads=4),
}
PATCHES = {"S": (7, 4, 2, 1), "M": (7, 4, 2), "L": (7, 4, 2)}
COLUMNS = {
    "parameters": ",.0f",
    "tokens": ".0f",
    "MMACs": ".1f",
    "steps": ".0f",
    "processor seconds": ".0f",
    "validation loss": ".3f",
    "recognised": ".1%",
    "frechet": ".2f",
}


def train_and_scale(settings: dict, seed: int) -> dict:
    """Train a network, and judge samples that took few and many evaluations of it.

    `sampling_steps`: how many, rising; the last one's figures are the run's. `budget`: see
    `steps_for`; without it, the recipe's number of steps. Other settings: those of `trials.train`.
    """
    run = prepare(settings, seed)
    macs = count(run.model).macs
    if "budget" in settings:
        settings = merge(settings, {"recipe": {"steps": steps_for(run, settings["budget"])}})
    average, diffusion, facts = train(settings, seed)
    by_steps = {}
    for steps in settings["sampling_steps"]:
        sampling = settings.get("sampling", {}) | {"options": {"steps": steps}}
        by_steps[str(steps)] = judge_samples(average, diffusion, sampling, seed)
    return {
        "MMACs": macs / 1e6,
        "tokens": math.prod(run.model.grid),
        "steps": facts["recipe"]["steps"],
        "validation loss": round(held_out_loss(average, diffusion).mean().item(), 5),
        **by_steps[str(settings["sampling_steps"][-1])],
        "by sampling steps": {
            steps: {key: found[key] for key in ("recognised", "frechet", "evaluations")}
            for steps, found in by_steps.items()
        },
        **facts,
    }


def _scaling(question: str, scales: dict[str, dict]) -> Experiment:
    variants = {
        f"{size}/{patch}": {"model": SIZES[size] | {"patch_size": patch}, "recipe": {}}
        for size, patches in PATCHES.items()
        for patch in patches
    }
    return Experiment(question, variants, scales, train_and_scale, COLUMNS)


SCALING = {
    "dit-scaling": _scaling(
        "Does quality follow compute, at equal steps?",
        {
            "smoke": {
                "recipe": {"steps": 2, "batch_size": 8},
                "sampling": {"per_class": 7},
                "sampling_steps": [2, 3],
            },
            "cpu": {
                "recipe": {"steps": 400, "batch_size": 32},
                "sampling": {"per_class": 30},
                "sampling_steps": [2, 5, 20],
            },
            "gpu": {
                "recipe": {"steps": 10_000, "batch_size": 128},
                "sampling": {"per_class": 500},
                "sampling_steps": [2, 5, 20, 100],
            },
        },
    ),
    "dit-scaling-compute": _scaling(
        "Which network is best, when all may spend the same compute?",
        {
            "smoke": {
                "recipe": {"batch_size": 4},
                "budget": 0.5,
                "sampling": {"per_class": 7},
                "sampling_steps": [2],
            },
            "cpu": {
                "recipe": {"batch_size": 32},
                "budget": 400,
                "sampling": {"per_class": 30},
                "sampling_steps": [5],
            },
            "gpu": {
                "recipe": {"batch_size": 128},
                "budget": 200_000,
                "sampling": {"per_class": 500},
                "sampling_steps": [20],
            },
        },
    ),
}
