"""The choices of DiT, one at a time, and where U-ViT chose otherwise, at a small scale.

How a block hears its condition (DiT, arXiv 2212.09748, section 3.2, figure 5), whether the time is
a token or in the normalisations, where the two papers disagree (U-ViT, arXiv 2209.12152, section
3.1), and what the network predicts. Seeds change initial weights and the order of the data.
"""

import torch

from minidit.attention import ratio_of
from minidit.blocks import BLOCKS
from minidit.dit import DiT
from minidit.evaluate.flops import count
from minidit.lab.ablations import BASE, COLUMNS, SCALES, train_and_compare
from minidit.lab.runner import Experiment
from minidit.lab.trials import train_and_judge
from minidit.training.presets import PRESETS

_DEMO = PRESETS["demo"]["model"]
_ZERO = "adaln_zero"


def as_large_as(config: dict, other: dict) -> dict:
    """A DiT's arguments with MLPs so wide that it has as many parameters as `other` has.

    MLPs grow by whole features of all blocks, so the two differ by half of one feature at most.
    """

    def parameters(arguments: dict) -> int:
        with torch.device("meta"):
            return count(DiT(**arguments)).parameters

    d = config["hidden_size"]
    narrow, wide = (parameters(config | {"mlp_ratio": ratio_of(inner, d)}) for inner in (1, 2))
    inner = 1 + round((parameters(other) - narrow) / (wide - narrow))
    return config | {"mlp_ratio": ratio_of(max(1, inner), d)}


def _matched(block: str) -> dict:
    """The demo's network with another block, as large as with adaLN-Zero."""
    size = dict(input_size=28, in_channels=1, num_classes=10, learn_sigma=False)
    model = as_large_as(size | _DEMO | {"block": block}, size | _DEMO | {"block": _ZERO})
    return {"model": {key: model[key] for key in ("block", "mlp_ratio")}}


NAMES = {
    "in_context": "in-context",
    "cross_attention": "cross-attention",
    "adaln": "adaLN",
    "adaln_zero": "adaLN-Zero",
}
STEPS = {
    "smoke": {"recipe": {"steps": 5}, "sampling": {"per_class": 7}},
    "cpu": {"recipe": {"steps": 300}, "sampling": {"per_class": 50}},
    "gpu": {"recipe": {"steps": 6000, "batch_size": 128}, "sampling": {"per_class": 500}},
}


def _learned(predict: str, schedule: str, weight: str | None = None, times: str = "") -> dict:
    """Settings that change what is predicted, on which path, and what weighs how much."""
    diffusion = dict(schedule=schedule, predict=predict)
    if weight is not None:
        diffusion |= dict(weight=weight, max_weight=400.0)
    clip = schedule != "straight" and predict == "eps"  # or the first guess, x_t/α, runs away
    sampling = {"options": {"steps": 20, "clip": True}} if clip else {}
    recipe = {"times": times} if times else {}
    return {"diffusion": diffusion, "recipe": recipe, "sampling": sampling}


DIT_ABLATIONS = {
    "dit-blocks": Experiment(
        "How should a block hear its condition?",
        {NAMES[block]: {"model": {"block": block}} for block in BLOCKS}
        | {
            f"{NAMES[block]}, as many parameters": _matched(block)
            for block in BLOCKS
            if block != _ZERO
        }
        | {"adaLN-Zero without its zero": {"surgery": {"unzero": {}}}},
        STEPS,
        train_and_compare,
        COLUMNS,
    ),
    "time-conditioning": Experiment(
        "Is the time a token, or in the normalisations, with long skips and without?",
        {
            f"{name}, {'long skips' if skip == 'concat' else 'no skips'}": {
                "network": "UViT",
                "model": BASE | ({"skip": skip} if skip != "concat" else {}) | changes,
            }
            for skip in ("concat", "none")
            for name, changes in {
                "token": {"time": "token"},
                "adaLN": {"time": "adaln"},
                "adaLN-Zero": {"time": "adaln_zero"},
            }.items()
        },
        SCALES,
        train_and_compare,
        COLUMNS,
    ),
    "prediction": Experiment(
        "What should the network predict, on which path, and which errors weigh how much?",
        {
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
            "x0, straight line, weighed as v, uniform t": _learned(
                "x0", "straight", "v", "uniform"
            ),
        },
        STEPS,
        train_and_judge,
        {"processor seconds": ".0f", "recognised": ".1%", "frechet": ".2f"}
        | {"precision": ".0%", "recall": ".0%"},
    ),
}
