"""The shortest way from random weights to digits that a classifier recognises.

The aim: 95 % of the samples recognised at guidance 2, with a recall near that of real images, in
the least time. The preset "speedrun" is the fastest recipe found so far. Here each of its parts is
replaced by the usual one ("instead"), next to what was tried and not taken, and to the paper's
recipe for the same network with as many steps, and with five and ten times as many. Where a change
makes a step slower or quicker, the number of steps is another one, so that all but the paper's take
about as long.
"""

from minidit.lab.runner import Experiment, merge
from minidit.lab.trials import train_and_judge
from minidit.training.presets import PRESETS

_STEPS = PRESETS["speedrun"]["recipe"]["steps"]
_PROCESS = PRESETS["speedrun"]["diffusion"]


def _with(steps: float = 1.0, **changes) -> dict:
    """The recipe with changes, and `steps` times its steps; a process is changed in part, too."""
    if "diffusion" in changes:
        changes["diffusion"] = _PROCESS | changes["diffusion"]
    return merge({"preset": "speedrun", "recipe": {"steps": round(_STEPS * steps)}}, changes)


def _paper(times: int) -> dict:
    """DiT's recipe (arXiv 2212.09748, section 4) for the same network and batch."""
    recipe = dict(optimizer="adamw", lr=1e-4, betas=(0.9, 0.999), warmup=0, cooldown=0.0)
    recipe |= dict(ema_decay=0.9999, times="uniform")
    return _with(
        times,
        model={"label_std": 0.02},
        diffusion={"predict": "eps", "weight": "eps"},
        recipe=recipe,
        sampling={"options": {"clip": True}},
    )


_WEIGHT = PRESETS["demo"]["diffusion"]["max_weight"]
_UNDONE = {
    "width 128, 6 blocks": _with(0.23, model={"hidden_size": 128, "depth": 6}),
    "patches of 4": _with(0.6, model={"patch_size": 4}),
    "AdamW for all weights": _with(1.2, recipe={"optimizer": "adamw"}),
    "AdamW's rate 2e-3": _with(recipe={"lr": 2e-3}),
    "little noise weighs up to 400 times": _with(diffusion={"max_weight": _WEIGHT}),
    "straight line": _with(diffusion={"schedule": "straight"}),
    "cosine schedule": _with(diffusion={"schedule": "cosine"}),
    "velocity predicted": _with(diffusion={"predict": "v"}),
    "noise predicted": _with(diffusion={"predict": "eps"}, sampling={"options": {"clip": True}}),
    "uniform t": _with(recipe={"times": "uniform"}),
    "label table at 0.02": _with(model={"label_std": 0.02}),
    "constant rate": _with(recipe={"cooldown": 0.0}),
    "no average": _with(recipe={"ema_decay": 0.0}),
}
_TRIED = {
    "tried: all errors of the image alike": _with(diffusion={"weight": "x0"}),
    "tried: Muon at 0.04": _with(recipe={"muon_lr": 0.04}),
    "tried: batches of 16": _with(1.4, recipe={"batch_size": 16}),
    "tried: batches of 64": _with(0.7, recipe={"batch_size": 64}),
    "tried: 4 blocks": _with(0.6, model={"depth": 4}),
    "tried: width 128": _with(0.5, model={"hidden_size": 128}),
    "tried: U-ViT": _with(0.7, network="UViT", model={"depth": 3, "pos_std": 0.7}),
}
SPEEDRUN = {
    "speedrun": Experiment(
        "How soon are 95 % of the digits recognised?",
        {"the recipe": _with()}
        | {f"instead: {name}": changes for name, changes in _UNDONE.items()}
        | _TRIED
        | {"half the steps": _with(0.5), "twice the steps": _with(2)}
        | {f"paper's recipe, {n} × the steps": _paper(n) for n in (1, 5, 10)},
        {
            "smoke": {"recipe": {"steps": 5}, "sampling": {"per_class": 7}},
            "cpu": {"sampling": {"per_class": 50}},
            "gpu": {"sampling": {"per_class": 500}},
        },
        train_and_judge,
        {"steps": ".0f", "processor seconds": ".0f", "recognised": ".1%", "frechet": ".2f"}
        | {"recall": ".1%", "coverage": ".1%"},
    )
}
