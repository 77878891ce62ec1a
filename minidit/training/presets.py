"""Named networks with their recipes; experiment "recipes" changes the demo's, part by part."""

import torch
from torch import nn

from minidit._validate import check_choice
from minidit.blocks import LongSkip
from minidit.data import captions, scenes
from minidit.diffusion import Diffusion
from minidit.train import Recipe
from minidit.training import modern as modern  # makes its blocks known to the DiT
from minidit.weights import NETWORKS

_SMALL = dict(patch_size=7, hidden_size=128, depth=6, num_heads=4, label_std=1.0)
_LINEAR = dict(schedule="linear", predict="x0", weight="v", max_weight=25.0)
_SIGMA = _LINEAR | dict(predict="eps", learn_sigma=True)
_LINE = dict(schedule="straight", predict="x0", weight="v", max_weight=400.0)
_SHORT = dict(optimizer="muon", lr=2e-3, times="logit_normal", warmup=20)
_FINE = dict(steps=9000, batch_size=64, muon_lr=0.01, cooldown=0.9, ema_decay=0.9995)
_LONG = dict(steps=6000, optimizer="muon", lr=2e-3, times="logit_normal", warmup=100, cooldown=0.7)

_SCENES = dict(patch_size=4, hidden_size=128, depth=6, num_heads=4, label_std=1.0)
_SCENES |= dict(block="cross_attention", class_dropout_prob=0.1)
_TEXT = dict(encoder="text", words=list(captions.WORDS), length=captions.LENGTH)
_LAYOUT = dict(encoder="layout", kinds=list(scenes.KINDS), colours=list(scenes.COLOURS))
_LAYOUT |= dict(length=scenes.SLOTS)
_HALF = dict(patch_size=4, hidden_size=64, depth=4, num_heads=4, label_std=1.0)
_IMAGE = dict(diffusion=_LINE, recipe=_LONG | {"steps": 4000, "batch_size": 32})

# "demo": a minute or two on two cores. "speedrun": as soon as possible; experiment "speedrun"
# undoes it part by part. "mnist": the shipped weights. "mnist-fine" and "uvit-mnist-fine": smaller
# patches, half the rate and batch, half as many steps again. "…-modern": with the block of
# `modern`. "mnist-sigma": noise and variance predicted on DDPM's schedule, as in the paper, but
# with a recipe for one core: errors of the noise weigh more where there is much of it.
# "uvit-mnist": "mnist" for a U-ViT whose positions start as large as the DiT's sinusoids.
# "dit-cifar10", "uvit-cifar10": the same in an autoencoder's latents.
# "scenes-text", "scenes-layout": "mnist" for networks that attend to a caption's words, or to
# boxes; an hour or two. The first starts from what the second has learnt about drawing (from
# nothing words hardly mattered in twice as many steps), and errors made where noise is little weigh
# less: what a caption asks for is decided while it is much. "paper": DiT's recipe, AdamW at a
# constant rate, but for clipped gradients and an average that starts quickly; it wants a GPU and
# patience.
PRESETS: dict[str, dict] = {
    "demo": dict(model=_SMALL, diffusion=_LINE, recipe=_SHORT | dict(steps=600, batch_size=64)),
    "speedrun": dict(
        model=dict(patch_size=7, hidden_size=64, depth=2, num_heads=4, label_std=1.0),
        diffusion=_LINEAR,
        recipe=_SHORT | dict(steps=1600, batch_size=32, lr=5e-3, cooldown=0.8),
    ),
    "mnist": dict(model=_SMALL, diffusion=_LINE, recipe=_LONG),
    "mnist-fine": dict(model=_SMALL | {"patch_size": 4}, diffusion=_LINE, recipe=_LONG | _FINE),
    "mnist-sigma": dict(model=_SMALL, diffusion=_SIGMA, recipe=_LONG | {"times": "half"}),
    "dit-cifar10": dict(
        data="cifar10",
        autoencoder="kl-cifar10",
        model=_SMALL | {"patch_size": 2},
        diffusion=_LINE,
        recipe=_LONG,
    ),
    "scenes-text": dict(
        data="scenes",
        model=_SCENES | {"condition": _TEXT},
        start="dit-scenes-layout",
        diffusion=_LINE | {"max_weight": 10.0},
        recipe=_LONG | {"steps": 8000, "batch_size": 64, "muon_lr": 0.01},
    ),
    "scenes-layout": dict(
        data="scenes",
        model=_SCENES | {"condition": _LAYOUT},
        diffusion=_LINE,
        recipe=_LONG | {"steps": 5000, "batch_size": 64},
    ),
    "inpaint-mnist": _IMAGE | {"model": _HALF | {"condition": {"encoder": "inpaint"}}},
    "upscale-mnist": _IMAGE | {"model": _HALF | {"condition": {"encoder": "upscale"}}},
    "paper": dict(
        model=dict(patch_size=2, hidden_size=384, depth=12, num_heads=6),
        diffusion=dict(schedule="linear", predict="eps", learn_sigma=True),
        recipe=dict(steps=100_000, batch_size=256, lr=1e-4, betas=(0.9, 0.999), ema_decay=0.9999)
        | dict(warmup=0, cooldown=0.0),
    ),
}
for _name in ("mnist", "mnist-fine", "dit-cifar10"):
    _base = PRESETS[_name]
    _own = {"network": "UViT", "model": _base["model"] | {"pos_std": 0.7}}
    PRESETS["uvit-" + _name.removeprefix("dit-")] = _base | _own
    PRESETS[f"{_name}-modern"] = _base | {"model": _base["model"] | {"block": "modern"}}


def build(preset: str | dict, image_shape: tuple[int, int, int], num_classes: int, seed: int = 0):
    """A fresh network and its process for images (c, h, w): (network, Diffusion, recipe's dict).

    `preset` is a name, or a dict like those of `PRESETS`. A patch size that doesn't divide the
    images gives way to the next smaller one. Raises ValueError if a single patch would be left.
    """
    if isinstance(preset, str):
        check_choice("preset", preset, PRESETS)
    parts = {"network": "DiT"} | (PRESETS[preset] if isinstance(preset, str) else preset)
    check_choice("network", parts["network"], NETWORKS)
    channels, height, width = image_shape
    size = height if height == width else (height, width)
    sizes = range(parts["model"]["patch_size"], 0, -1)
    patch = next(p for p in sizes if height % p == width % p == 0)  # 32 pixels: 7 becomes 4
    if patch == height == width:
        raise ValueError(
            f"preset={preset!r} has patches of {patch}×{patch}, and images or latents of "
            f"{height}×{width} would be a single one; choose a preset with smaller patches"
        )
    classes = 0 if "condition" in parts["model"] else num_classes
    own = parts["model"] | dict(patch_size=patch, in_channels=channels, num_classes=classes)
    own["learn_sigma"] = parts["diffusion"].get("learn_sigma", False)
    if own.get("condition", {}).get("encoder") in ("inpaint", "upscale"):
        shape = {"shape": [channels, height, width], "patch_size": patch}
        own["condition"] = own["condition"] | shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = NETWORKS[parts["network"]](size, **own)
    return model, Diffusion.from_config(parts["diffusion"]), dict(parts["recipe"])


def recipe_of(parts: dict, **changes) -> Recipe:
    """A preset's recipe with the changes that are not None."""
    return Recipe(**(parts | {k: v for k, v in changes.items() if v is not None}))


# Networks as large as others: the fair opponents of an ablation.


def ratio_of(inner: int, hidden_size: int) -> float:
    """The `ratio` with which an `Mlp` has exactly `inner` features: rounding must not lose one."""
    ratio = inner / hidden_size
    return ratio if int(hidden_size * ratio) == inner else (inner + 0.5) / hidden_size


def without_skips(config: dict) -> dict:
    """The arguments of a U-ViT without long skips, but with as many parameters.

    What the skips' linear layers had goes into wider MLPs of all blocks: the fair opponent. MLPs
    grow by whole features, so the two differ by about 1/(12·hidden_size) of them at most.
    """
    built = {"mlp_ratio": 4.0, "depth": 12, "skip": "concat", "hidden_size": 512} | config
    half, d = built["depth"] // 2, built["hidden_size"]
    with torch.device("meta"):
        spare = sum(p.numel() for p in LongSkip(built["skip"], d).parameters()) * half
    per_unit = (2 * half + 1) * (2 * d + 1)  # parameters of one more inner feature, in all blocks
    inner = int(d * built["mlp_ratio"]) + round(spare / per_unit)
    return config | {"skip": "none", "mlp_ratio": ratio_of(inner, d)}
