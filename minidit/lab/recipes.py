"""How a network is trained: recipes, what it predicts, the plateau of its loss, and its size.

Sizes are DiT's main result (arXiv 2212.09748, section 5, figures 6 to 10) at a small scale: three
of them with patches of 7, 4 and 2 pixels of MNIST, and the smallest with patches of 1.
"""

import math
import time
from functools import partial

import torch

from minidit import evaluate
from minidit.evaluate.flops import count
from minidit.lab import trials
from minidit.lab.runner import EXPERIMENTS, Experiment, by_scale, merge
from minidit.lab.trials import by_tenth
from minidit.training.presets import PRESETS

SCALES = by_scale(steps=(5, 400, 6000), batch_size=(None, None, 128), per_class=(7, 30, 500))
COLUMNS = {"processor seconds": ".0f", "recognised": ".1%", "frechet": ".2f"}
_CLIP = {"options": {"clip": True}}  # or the first guess, x_t/α, runs away
_CLIPPED = {"options": {"steps": 20, "clip": True}}
_UNIFORM = {"times": "uniform"}
_PAPER = dict(optimizer="adamw", lr=1e-4, cooldown=0.0, betas=(0.9, 0.999))  # DiT's, section 4


def train_and_measure(settings: dict, seed: int) -> dict:
    """Train on MNIST, see `prepare`; measure the loss on held-out images, and samples, see `draw`.

    Where there is hardly any noise an error weighs up to 400 times, so the first tenth of
    the steps makes half of the loss and most of its scatter: the second loss leaves it out.
    """
    run = trials.prepare(settings, seed)
    average, facts = trials.train(run)
    tenths = by_tenth(losses := trials.held_out_loss(average, run.diffusion))
    found = trials.draw_and_measure(average, run.diffusion, settings.get("sampling", {}), seed)
    return {
        "MMACs": count(run.model).macs / 1e6,
        "tokens": math.prod(run.model.grid),
        "validation loss": round(losses.mean().item(), 5),
        "loss, t ≥ 100": round(sum(tenths[1:]) / len(tenths[1:]), 5),
        "validation loss by tenth of t": tenths,
        **found,
        **facts,
    }


trained = partial(Experiment, scales=SCALES, trial=train_and_measure, columns=COLUMNS)

_RECIPES = {
    "the demo's: Muon, x0 predicted, logit-normal t": {},
    "AdamW instead of Muon": {"recipe": {"optimizer": "adamw"}},
    "velocity predicted": {"diffusion": {"schedule": "straight", "predict": "v"}},
    "noise predicted, cosine schedule": {"diffusion": {"schedule": "cosine", "predict": "eps"}},
    "noise predicted, linear schedule, x0 clipped in sampling": {
        "diffusion": {"schedule": "linear", "predict": "eps"},
        "sampling": _CLIPPED,
    },
    "uniform t": {"recipe": _UNIFORM},
    "label table at 0.02": {"model": {"label_std": 0.02}},
    "patches of 4": {"model": {"patch_size": 4}},
    "paper's optimiser (AdamW 1e-4, constant)": {"recipe": _PAPER},
}
EXPERIMENTS["recipes"] = trained(
    "Which recipe learns MNIST soonest?",
    _RECIPES,
    scales=by_scale(steps=(20, 400, 6000), batch_size=(None, None, 128)),
    columns=COLUMNS | {"frechet": ".1f"},
)


def _learned(predict: str, schedule: str, weight: str | None = None, **recipe: str) -> dict:
    """Settings that change what is predicted, on which path, and what weighs how much."""
    diffusion = dict(schedule=schedule, predict=predict)
    if weight is not None:
        diffusion |= dict(weight=weight, max_weight=400.0)
    clip = schedule != "straight" and predict == "eps"
    own = {"preset": "speedrun", "diffusion": diffusion, "recipe": recipe}
    return own | {"sampling": _CLIPPED if clip else {}}


_PREDICTION = {
    "ε, linear β": _learned("eps", "linear"),
    "ε, linear β, weighed as v": _learned("eps", "linear", "v"),
    "v, linear β": _learned("v", "linear"),
    "x0, linear β, weighed as v": _learned("x0", "linear", "v"),
    "ε, cosine": _learned("eps", "cosine"),
    "v, cosine": _learned("v", "cosine"),
    "x0, cosine, weighed as v": _learned("x0", "cosine", "v"),
    "v, straight line": _learned("v", "straight"),
    "x0, straight line, weighed as v": _learned("x0", "straight", "v"),
    "x0, straight line, all errors alike": _learned("x0", "straight"),
    "x0, straight line, weighed as v, uniform t": _learned("x0", "straight", "v", **_UNIFORM),
}
EXPERIMENTS["prediction"] = trained(
    "What should the network predict, on which path, and which errors weigh how much?",
    _PREDICTION,
    columns=COLUMNS | {"precision": ".0%", "recall": ".0%"},
    base="x0, linear β, weighed as v",  # the speedrun's own
)


def speedrun(steps: float = 1.0, **changes) -> dict:
    """The recipe with changes, and `steps` times its steps; a process is changed in part, too."""
    own = PRESETS["speedrun"]
    if "diffusion" in changes:
        changes["diffusion"] = own["diffusion"] | changes["diffusion"]
    recipe = {"steps": round(own["recipe"]["steps"] * steps)}
    return merge({"preset": "speedrun", "recipe": recipe}, changes)


def _variants() -> dict[str, dict]:
    """The shortest way from random weights to digits that a classifier recognises.

    Each part of the fastest recipe so far is replaced by the usual one ("instead"), next to what
    was tried and not taken, and to the paper's recipe for the same network. Where a change makes a
    step slower or quicker, their number differs, so that all but the paper's take about as long.
    """
    usual = PRESETS["demo"]["diffusion"]["max_weight"]
    recipe = _PAPER | _UNIFORM | dict(warmup=0, ema_decay=0.9999)
    paper = dict(model={"label_std": 0.02}, recipe=recipe, sampling=_CLIP)
    paper["diffusion"] = {"predict": "eps", "weight": "eps"}
    undone = {
        "width 128, 6 blocks": speedrun(0.23, model={"hidden_size": 128, "depth": 6}),
        "patches of 4": speedrun(0.6, model={"patch_size": 4}),
        "AdamW for all weights": speedrun(1.2, recipe={"optimizer": "adamw"}),
        "AdamW's rate 2e-3": speedrun(recipe={"lr": 2e-3}),
        "little noise weighs up to 400 times": speedrun(diffusion={"max_weight": usual}),
        "straight line": speedrun(diffusion={"schedule": "straight"}),
        "cosine schedule": speedrun(diffusion={"schedule": "cosine"}),
        "velocity predicted": speedrun(diffusion={"predict": "v"}),
        "noise predicted": speedrun(diffusion={"predict": "eps"}, sampling=_CLIP),
        "uniform t": speedrun(recipe=_UNIFORM),
        "label table at 0.02": speedrun(model={"label_std": 0.02}),
        "constant rate": speedrun(recipe={"cooldown": 0.0}),
        "no average": speedrun(recipe={"ema_decay": 0.0}),
    }
    return {
        "the recipe": speedrun(),
        **{f"instead: {name}": changes for name, changes in undone.items()},
        "tried: all errors of the image alike": speedrun(diffusion={"weight": "x0"}),
        "tried: Muon at 0.04": speedrun(recipe={"muon_lr": 0.04}),
        "tried: batches of 16": speedrun(1.4, recipe={"batch_size": 16}),
        "tried: batches of 64": speedrun(0.7, recipe={"batch_size": 64}),
        "tried: 4 blocks": speedrun(0.6, model={"depth": 4}),
        "tried: width 128": speedrun(0.5, model={"hidden_size": 128}),
        "tried: U-ViT": speedrun(0.7, network="UViT", model={"depth": 3, "pos_std": 0.7}),
        "half the steps": speedrun(0.5),
        "twice the steps": speedrun(2),
        **{f"paper's recipe, {n} × the steps": speedrun(n, **paper) for n in (1, 5, 10)},
        **{f"paper's recipe, {n} × its rate": speedrun(rate=n, **paper) for n in (3, 10, 30)},
        "paper's recipe, 10 × the steps, 30 × its rate": speedrun(10, rate=30, **paper),
    }


EXPERIMENTS["speedrun"] = trained(
    "How soon are 95 % of the digits recognised?",
    _variants,
    scales=by_scale(steps=(5, None, None), per_class=(7, 50, 500)),
    columns={"steps": ".0f"} | COLUMNS | {"recall": ".1%", "coverage": ".1%"},
)


def watch_training(settings: dict, seed: int) -> dict:
    """Train, and stop at some steps to measure both sets of weights, raw and averaged.

    Settings: those of `prepare`; `looks`, a rising list of steps, the last of which ends the run;
    `sampling`, for the samples of every look, which are drawn without guidance.
    """
    looks, sampling = settings["looks"], settings["sampling"]
    run = trials.prepare(merge(settings, {"recipe": {"steps": looks[-1]}}), seed)
    classifier, unguided = evaluate.classifier("mnist"), {"guidance": {"scale": 1.0}} | sampling
    losses, spent = [], 0.0
    seen: dict[str, dict[str, list]] = {"raw": {}, "average": {}}
    for look in looks:
        began = time.process_time()
        losses += [float(run.step()) for _ in range(run.done, look)]
        spent += time.process_time() - began
        for name, network in {"raw": run.model.eval(), "average": run.ema.model}.items():
            by_t = trials.held_out_loss(network, run.diffusion)
            images, labels, _ = trials.draw(network, run.diffusion, unguided, seed)
            found = {"loss": round(by_t.mean().item(), 5), "loss by tenth of t": by_tenth(by_t)}
            found |= evaluate.measure(classifier, images, labels)
            for key, value in found.items():
                seen[name].setdefault(key, []).append(value)
        run.model.train()
    return {
        "processor seconds": round(spent, 1),
        "looks": looks,
        "training loss": [round(ten.mean().item(), 5) for ten in torch.tensor(losses).split(10)],
        **seen,
        **{key: seen["average"][key][-1] for key in ("loss", "recognised", "frechet")},
        **trials.configuration(run),
        "sampling": sampling,
    }


_UNDER_WAY = {
    "the demo's recipe": {},
    "as in the paper: noise, linear schedule, uniform t, constant rate": {
        "diffusion": {"schedule": "linear", "predict": "eps"},
        "recipe": {"times": "uniform", "cooldown": 0.0},
        "sampling": _CLIP,
    },
}
_LOOKS = [5, 10], [30, 60, 120, 240, 480], [250, 500, 1000, 2000, 4000, 8000]
EXPERIMENTS["plateau"] = Experiment(
    "What happens while the loss hardly moves?",
    _UNDER_WAY,
    by_scale(looks=_LOOKS, per_class=(7, 20, 100)),
    watch_training,
    {"loss": ".3f", "recognised": ".1%", "frechet": ".1f"},
)

_WIDTHS = {"S": 16, "M": 32, "L": 64}  # in heads of 16; the speedrun's network is L/7


def _sizes(*finest: str) -> dict[str, dict]:
    """Three widths with patches of 7, 4 and 2 pixels each, and the `finest`, e.g. "S/1"."""
    found = {}
    for name in [*(f"{width}/{patch}" for width in _WIDTHS for patch in (7, 4, 2)), *finest]:
        width, patch = _WIDTHS[name[0]], int(name[2:])
        size = dict(hidden_size=width, num_heads=width // 16, patch_size=patch)
        found[name] = {"preset": "speedrun", "model": size}
    return found


_SCALING = {"parameters": ",.0f", "tokens": ".0f", "MMACs": ".2f", "steps": ".0f"}
_SCALING |= COLUMNS | {"validation loss": ".3f"}
EXPERIMENTS["dit-scaling"] = trained(
    "Does quality follow compute, at equal steps?",
    _sizes(),
    scales=by_scale(steps=(2, 400, 10_000), batch_size=(8, 32, 128), per_class=(7, 30, 500)),
    columns=_SCALING,
    base="",
)
EXPERIMENTS["dit-scaling-compute"] = trained(
    "Which network is best, when all may spend the same compute?",
    _sizes("S/1"),
    scales=by_scale(budget=(0.5, 20, 200_000), batch_size=(4, 32, 128), per_class=(7, 30, 500)),
    columns=_SCALING,
    base="",
)
