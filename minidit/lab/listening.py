"""Does a network listen to what it is told? Its error when it is told the truth, and otherwise.

A scene is spoiled with much noise, and the network foresees it twice: with its own caption, and
with another scene's. Pictures, noise and network are the same, so what is added to the error comes
from the words. It takes no sampling, and shows long before pictures do.
"""

import time

import torch
from torch import Tensor, nn

from minidit import data
from minidit.diffusion import Diffusion
from minidit.lab.dit_ablations import NAMES
from minidit.lab.runner import Experiment, merge
from minidit.train import fit
from minidit.training import presets
from minidit.training.presets import PRESETS

HELD_OUT = 500  # training scenes, the last ones, that networks don't see
TIMES = (600, 750, 850, 950)


@torch.no_grad()
def surplus(
    model: nn.Module, diffusion: Diffusion, images: Tensor, y: Tensor, t: int, seed: int = 0
) -> float:
    """By what share the loss at step t grows if every image is told what the next one shows.

    images: (n, c, h, w) in [-1, 1], y: what is told of each. 0 for a network that doesn't listen.
    """
    rng = torch.Generator().manual_seed(seed)
    noise, times = torch.randn(images.shape, generator=rng), torch.full((len(images),), t)
    device = next(model.parameters()).device
    x0, times, noise, y = (z.to(device) for z in (images, times, noise, y))
    right, wrong = (
        diffusion.loss(model, x0, times, noise, told).mean().item() for told in (y, y.roll(1, 0))
    )
    return wrong / right - 1


def train_and_listen(settings: dict, seed: int) -> dict:
    """Train the preset "scenes-text" with changes of its `model` and `recipe`, then tell it lies.

    `surplus` is the mean over `TIMES` of what `surplus` says of held-out scenes.
    """
    preset = merge(PRESETS["scenes-text"], settings)
    scenes = data.load("scenes")
    model, diffusion, parts = presets.build(preset, tuple(scenes.images.shape[1:]), 0, seed)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    asked = data.condition_of(scenes, model.label_embed)
    began = time.process_time()
    average = fit(
        model,
        diffusion,
        scenes.images[:-HELD_OUT],
        asked[:-HELD_OUT],
        recipe=presets.recipe_of(parts, seed=seed),
    )
    spent = time.process_time() - began
    held, told = data.to_unit(scenes.images[-HELD_OUT:]), asked[-HELD_OUT:]
    by_time = {str(t): round(surplus(average, diffusion, held, told, t), 4) for t in TIMES}
    return {
        "processor seconds": round(spent, 1),
        "parameters": sum(p.numel() for p in average.parameters()),
        "surplus": round(sum(by_time.values()) / len(by_time), 4),
        "surplus by t": by_time,
    }


LISTENING = {
    "caption-blocks": Experiment(
        "How should a network hear a caption?",
        {
            NAMES[block]: {"model": {"block": block}, "recipe": {}}
            for block in ("in_context", "cross_attention", "adaln_zero")
        },
        {
            "smoke": {"recipe": {"steps": 2, "batch_size": 4}},
            "cpu": {"recipe": {"steps": 300, "batch_size": 32}},
            "gpu": {"recipe": {"steps": 10_000, "batch_size": 128}},
        },
        train_and_listen,
        {"parameters": ",.0f", "processor seconds": ".0f", "surplus": ".1%"},
    )
}
