"""Latents or pixels, when both may cost the same? (LDM, arXiv 2112.10752, section 4.1.)

Every network is trained on CIFAR-10 until it has spent the same number of multiply-accumulates, so
one with four times the tokens gets about a quarter of the steps. The autoencoder's own training is
not counted: it is done once, for as many networks as one likes.
"""

import math

from minidit.evaluate.flops import count
from minidit.lab.runner import Experiment, merge
from minidit.lab.trials import Prepared, prepare, train_and_judge

_WIDE = dict(hidden_size=128, depth=6, num_heads=4, label_std=1.0)


def spend_and_judge(settings: dict, seed: int) -> dict:
    """`train_and_judge` with the number of steps that comes out of a budget.

    `budget`: multiply-accumulates, in billions, of all forward passes in training; the other
    settings are those of `train_and_judge`.
    """
    run = prepare(settings, seed)
    steps = steps_for(run, settings["budget"])
    found = train_and_judge(merge(settings, {"recipe": {"steps": steps}}), seed)
    macs = count(run.model).macs
    return {"steps": steps, "MACs": macs, "tokens": math.prod(run.model.grid), **found}


def steps_for(run: Prepared, budget: float) -> int:
    """How many steps of a run spend `budget` billions of multiply-accumulates in forward passes."""
    return max(1, round(budget * 1e9 / (count(run.model).macs * run.recipe.batch_size)))


def _on_pixels(patch_size: int) -> dict:
    return {"data": "cifar10", "model": _WIDE | {"patch_size": patch_size}, "recipe": {}}


BUDGETS = {
    "latent-or-pixel": Experiment(
        "Latents or pixels, at equal compute?",
        {
            "latents 16×16×4, patches of 2": _on_pixels(2) | {"autoencoder": "kl-cifar10"},
            "pixels 32×32×3, patches of 4": _on_pixels(4),
            "pixels 32×32×3, patches of 2": _on_pixels(2),
        },
        {
            "smoke": {"budget": 20, "sampling": {"per_class": 7}},
            "cpu": {"budget": 2000, "sampling": {"per_class": 30}},
            "gpu": {"budget": 1_000_000, "sampling": {"per_class": 500}},
        },
        spend_and_judge,
        {"tokens": ".0f", "steps": ".0f", "processor seconds": ".0f"}
        | {"recognised": ".1%", "frechet": ".2f"},
    )
}
