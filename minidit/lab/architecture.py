"""The choices of U-ViT and DiT, one at a time: ablations, at a small scale; and popular claims.

What U-ViT chose (arXiv 2209.12152, section 3, figure 2), and how a DiT uses its condition, be it a
label (arXiv 2212.09748, section 3.2, figure 5) or a caption.
"""

from functools import cache, partial

import torch
from torch import Tensor, nn

from minidit import data
from minidit.blocks import BLOCKS
from minidit.diffusion import Diffusion
from minidit.dit import DiT
from minidit.evaluate.flops import count
from minidit.lab import recipes, trials
from minidit.lab.runner import EXPERIMENTS, Experiment, by_scale
from minidit.train import Run
from minidit.training.presets import PRESETS, ratio_of, without_skips

COLUMNS = {"parameters": ",.0f", "processor seconds": ".0f", "validation loss": ".3f"}
COLUMNS |= {"loss, t ≥ 100": ".3f", "recognised": ".1%", "frechet": ".2f"}

# The paper's choices, nine blocks at the speedrun's width. Labels and positions start larger than
# in the official code, to have an effect in so short a run.
UVIT = dict(skip="concat", time="token", conv="after", patch_embed="linear", pos_embed="learned_1d")
UVIT |= PRESETS["speedrun"]["model"] | dict(depth=8, pos_std=0.7)
SCENES_HELD_OUT = 500  # training scenes, the last ones, that networks don't see
AT = (600, 750, 850, 950)  # steps at which the response to the condition is measured
TIMES = {"token": "token", "adaln": "adaLN", "adaln_zero": "adaLN-Zero"}
# What tables call a block, where it isn't its own name.
NAMES = TIMES | {"in_context": "in-context", "cross_attention": "cross-attention"}


def _uvit(**changes) -> dict:
    return {"preset": "speedrun", "network": "UViT", "model": UVIT | changes}


def _choice(argument: str, patch_size: int = 7, **names: str) -> dict[str, dict]:
    """A variant for each value of an argument; `names`: what a table calls each of them."""
    sized = {"patch_size": patch_size}
    return {title: _uvit(**sized, **{argument: value}) for value, title in names.items()}


def _skips() -> dict[str, dict]:
    """The five kinds of long skips, and none with as many parameters."""
    names = dict(concat="Linear(concat(x, skip))", add="x + skip", add_linear="x + Linear(skip)")
    names |= dict(linear_add="Linear(x + skip)", none="no skips")
    return _choice("skip", **names) | {"no skips, wider MLPs": _uvit(**without_skips(UVIT))}


_CONV = dict(after="after the linear layer", before="before it", none="none")
_POSITIONS = dict(learned_1d="learned", sincos_2d="2-D sinusoids", none="not at all")
CHOICES = {
    "uvit-skips": ("How should a long skip join?", _skips),
    "uvit-time": ("Is the time a token, or in the normalisations?", _choice("time", **TIMES)),
    "uvit-conv": ("What does a 3×3 convolution at the end do?", _choice("conv", **_CONV)),
    "uvit-patch-embed": (
        "Should patches be embedded by one linear map or by convolutions?",
        # four pixels a side, since each of its convolutions halves them
        _choice("patch_embed", 4, linear="linear", conv="3×3 and 1×1 convolutions"),
    ),
    "uvit-positions": (
        "How do patches know where they are?",
        _choice("pos_embed", **_POSITIONS)
        | {"learned, from 0.02 as in the official code": _uvit(pos_std=0.02)},
    ),
    "time-conditioning": (
        "Is the time a token, or in the normalisations, with long skips and without?",
        {
            f"{name}, {skips}": _uvit(skip=skip, time=value)
            for skip, skips in {"concat": "long skips", "none": "no skips"}.items()
            for value, name in TIMES.items()
        },
    ),
}
for _name, (_question, _variants) in CHOICES.items():
    EXPERIMENTS[_name] = recipes.trained(_question, _variants, columns=COLUMNS, base="")


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


def _four(**changes) -> dict:
    """The speedrun's network with four blocks in place of two, and changes of its arguments."""
    return {"preset": "speedrun", "model": {"depth": 4} | changes}


@cache
def _matched_ratio(block: str) -> float:
    """The `mlp_ratio` with which a network of such blocks is as large as adaLN-Zero's."""
    size = dict(input_size=28, in_channels=1, num_classes=10, learn_sigma=False)
    size |= PRESETS["speedrun"]["model"] | _four()["model"]
    return as_large_as(size | {"block": block}, size | {"block": "adaln_zero"})["mlp_ratio"]


def _blocks(**recipe: str) -> dict[str, dict]:
    """Every block as it is, and made as large as adaLN-Zero; that one also without its zero."""
    here = [block for block in BLOCKS if not block.startswith("modern")]  # see `modern`
    names = {block: NAMES.get(block, block) for block in here}
    variants = {name: _four(block=block) for block, name in names.items()}
    for block, name in names.items():
        if block != "adaln_zero":
            wider = _four(block=block, mlp_ratio=_matched_ratio(block))
            variants[f"{name}, as many parameters"] = wider
    variants["adaLN-Zero without its zero"] = _four() | {"surgery": {"unzero": {}}}
    return {name: settings | {"recipe": recipe} for name, settings in variants.items()}


for _name, _recipe in {"dit-blocks": {}, "dit-blocks-adamw": {"optimizer": "adamw"}}.items():
    EXPERIMENTS[_name] = recipes.trained(
        f"How should a block get its condition{', if AdamW trains it' * bool(_recipe)}?",
        partial(_blocks, **_recipe),
        columns=COLUMNS,
        base="adaLN-Zero",
    )


@torch.no_grad()
def surplus(
    model: nn.Module, diffusion: Diffusion, images: Tensor, y: Tensor, t: int, seed: int = 0
) -> float:
    """The response to the condition: by what share the loss at step t grows with a wrong one.

    images: (n, c, h, w) in [-1, 1], y: the condition of each; a wrong one is the next image's. With
    the same images and noise, what is added to the error comes from the condition: 0 if a network
    ignores it. It takes no sampling, and shows long before pictures do.
    """
    rng, place = torch.Generator().manual_seed(seed), next(model.parameters()).device
    noise, times = torch.randn(images.shape, generator=rng), torch.full((len(images),), t)
    inputs = [z.to(place) for z in (images, times, noise)]
    both = y.to(place), y.to(place).roll(1, 0)
    right, wrong = (diffusion.loss(model, *inputs, cond).mean().item() for cond in both)
    return wrong / right - 1


def train_on_captions(settings: dict, seed: int) -> dict:
    """Train the preset "scenes-text" with changes of its `model` and `recipe`, from nothing.

    `surplus` is the mean over `AT` of what `surplus` says of held-out scenes.
    """
    scenes, n = data.load("scenes"), SCENES_HELD_OUT
    run = trials.prepare({"preset": "scenes-text"} | settings, seed, (scenes.images[:-n], None))
    captions = data.condition_of(scenes, run.model.label_embed)
    run = Run(run.model, run.diffusion, run.images, captions[:-n], run.recipe)
    average, facts = trials.train(run)
    held, told = data.to_unit(scenes.images[-n:]), captions[-n:]
    by_time = {str(t): round(surplus(average, run.diffusion, held, told, t), 4) for t in AT}
    return {
        **{key: facts[key] for key in ("processor seconds", "parameters")},
        "surplus": round(sum(by_time.values()) / len(by_time), 4),
        "surplus by t": by_time,
    }


_CAPTIONED = ("in_context", "cross_attention", "adaln_zero")
EXPERIMENTS["caption-blocks"] = Experiment(
    "How should a network read a caption?",
    {NAMES[block]: {"model": {"block": block}, "recipe": {}} for block in _CAPTIONED},
    by_scale(steps=(2, 300, 10_000), batch_size=(4, 32, 128)),
    train_on_captions,
    {"parameters": ",.0f", "processor seconds": ".0f", "surplus": ".1%"},
)


def _aware(**arguments) -> dict:
    return _four() | {"surgery": {"aware": arguments}}


# On DDPM's linear schedule, the speedrun's, since the claims speak of its β.
_CLAIMS = {
    "baseline": _four(),
    "temperature as stated: logits · √(β k)": _aware(temperature="stated"),
    "temperature as stated, mean over t taken out": _aware(temperature="stated", centred=True),
    "temperature as summed up: logits / √β": _aware(temperature="summary"),
    "temperature as summed up, mean over t taken out": _aware(temperature="summary", centred=True),
    "noise mask as stated": _aware(mask="stated"),
    "noise mask as corrected": _aware(mask="corrected"),
    "temperature and mask, both as stated": _aware(temperature="stated", mask="stated"),
    "temperature as summed up, mask as corrected": _aware(temperature="summary", mask="corrected"),
    "sequence loss, weight 0.01": _four() | {"sequence_weight": 0.01},
    "sequence loss, weight 0.1": _four() | {"sequence_weight": 0.1},
    "growing embedding frequencies": _four() | {"surgery": {"grow_frequencies": {}}},
}
# no losses: those of the sequence variants hold a term more
_NO_LOSSES = {key: form for key, form in COLUMNS.items() if "loss" not in key}
EXPERIMENTS["claims"] = recipes.trained(
    "Do the parts that notes on DiT describe help?", _CLAIMS, columns=_NO_LOSSES, base="baseline"
)
