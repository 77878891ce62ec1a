"""The choices of U-ViT and DiT, one at a time: ablations, at a small scale; and popular claims.

What U-ViT chose (arXiv 2209.12152, section 3, figure 2), and how a DiT uses its condition, be it a
label (arXiv 2212.09748, section 3.2, figure 5) or a caption. Seeds change initial weights and the
order of the data; the loss on held-out images is taken at the same times with the same noise.
"""

from functools import cache, partial

import torch
from torch import Tensor, nn

from minidit import data
from minidit.blocks import BLOCKS
from minidit.diffusion import Diffusion
from minidit.dit import DiT
from minidit.evaluate.flops import count
from minidit.lab import training, trials
from minidit.lab.claims import grow_frequencies, make_aware
from minidit.lab.runner import EXPERIMENTS, Experiment, merge
from minidit.lab.sequence import SequenceDiffusion, SequencePrior
from minidit.lab.trials import Prepared
from minidit.training import presets
from minidit.training.presets import ratio_of, without_skips

SCALES = training.SCALES | {"cpu": {"recipe": {"steps": 400}, "sampling": {"per_class": 30}}}
COLUMNS = {
    "parameters": ",.0f",
    "processor seconds": ".0f",
    "validation loss": ".3f",
    "loss, t ≥ 100": ".3f",
    "recognised": ".1%",
    "frechet": ".2f",
}


def unzero(model: nn.Module, diffusion: Diffusion | None = None) -> None:
    """Start the blocks' adaptive layers as any other linear layer, Xavier-uniform, and not at zero.

    That is adaLN-Zero without its zero (DiT, section 3.2), and what an initialisation of all
    linear layers in one sweep does by accident. Raises ValueError for blocks that have none.
    """
    layers = [block.adaln for block in model.blocks if hasattr(block, "adaln")]
    if not layers:
        raise ValueError(
            "model has no adaptive layers; unzero is for block='adaln' or 'adaln_zero'"
        )
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)


# changes of a fresh network, called with it, its process and what the settings say
SURGERY = {"aware": make_aware, "grow_frequencies": grow_frequencies, "unzero": unzero}


def prepare_changed(settings: dict, seed: int) -> Prepared:
    """As `prepare`, and then changes of what is fresh.

    Settings: `surgery`, {name in `SURGERY`: arguments}; `sequence_weight`, of the loss of
    `sequence`.
    """
    run = trials.prepare(settings, seed)
    with trials.seeded(seed):
        for name, arguments in settings.get("surgery", {}).items():
            SURGERY[name](run.model, run.diffusion, **arguments)
    if "sequence_weight" not in settings:
        return run
    prior = SequencePrior(data.to_unit(run.images), run.model.patch_size)
    more = {"prior": prior, "sequence_weight": settings["sequence_weight"]}
    return run._replace(diffusion=SequenceDiffusion(**vars(run.diffusion), **more))


def train_and_compare(settings: dict, seed: int) -> dict:
    """Train a network, see `prepare_changed`; measure its loss on held-out images, and samples.

    Where there is hardly any noise an error of the image weighs up to 400 times; so the first tenth
    of the steps makes about half of the loss, and most of its scatter. The second loss leaves it
    out.
    """
    run = prepare_changed(settings, seed)
    average, facts = trials.train(run)
    losses = trials.held_out_loss(average, run.diffusion)
    tenths = trials.by_tenth(losses)
    return {
        "validation loss": round(losses.mean().item(), 5),
        "loss, t ≥ 100": round(sum(tenths[1:]) / len(tenths[1:]), 5),
        "validation loss by tenth of t": tenths,
        **trials.draw_and_measure(average, run.diffusion, settings.get("sampling", {}), seed),
        **facts,
    }


# --- U-ViT ----------------------------------------------------------------------------------------

# The paper's choices, nine blocks on 49 patches of 4×4 pixels of MNIST. Labels and positions start
# larger than in the official code, to have an effect in so short a run.
UVIT = dict(
    skip="concat", time="token", conv="after", patch_embed="linear", pos_embed="learned_1d"
) | dict(patch_size=4, hidden_size=64, depth=8, num_heads=4, label_std=1.0, pos_std=0.7)
TIMES = {"token": "token", "adaln": "adaLN", "adaln_zero": "adaLN-Zero"}
CHOICES = {  # of which argument, and what a table calls each of its values
    "uvit-skips": (
        "How should a long skip join?",
        "skip",
        {
            "concat": "Linear(concat(x, skip))",
            "add": "x + skip",
            "add_linear": "x + Linear(skip)",
            "linear_add": "Linear(x + skip)",
            "none": "no skips",
        },
    ),
    "uvit-time": ("Is the time a token, or in the normalisations?", "time", TIMES),
    "uvit-conv": (
        "What does a 3×3 convolution at the end do?",
        "conv",
        {"after": "after the linear layer", "before": "before it", "none": "none"},
    ),
    "uvit-patch-embed": (
        "Should patches be embedded by one linear map or by convolutions?",
        "patch_embed",
        {"linear": "linear", "conv": "3×3 and 1×1 convolutions"},
    ),
    "uvit-positions": (
        "How do patches know where they are?",
        "pos_embed",
        {"learned_1d": "learned", "sincos_2d": "2-D sinusoids", "none": "not at all"},
    ),
}


def _uvit(**changes) -> dict:
    return {"network": "UViT", "model": UVIT | changes}


def _choice(name: str) -> dict[str, dict]:
    """The variants of one of `CHOICES`, and of two of them one more."""
    _, argument, names = CHOICES[name]
    variants = {title: _uvit(**{argument: value}) for value, title in names.items()}
    if name == "uvit-skips":
        variants["no skips, wider MLPs"] = {"network": "UViT", "model": without_skips(UVIT)}
    if name == "uvit-positions":
        variants["learned, from 0.02 as in the official code"] = _uvit(pos_std=0.02)
    return variants


for _name in CHOICES:
    EXPERIMENTS[_name] = Experiment(
        CHOICES[_name][0], partial(_choice, _name), SCALES, train_and_compare, COLUMNS
    )
EXPERIMENTS["time-conditioning"] = Experiment(
    "Is the time a token, or in the normalisations, with long skips and without?",
    lambda: {
        f"{name}, {skips}": _uvit(skip=skip, time=value)
        for skip, skips in {"concat": "long skips", "none": "no skips"}.items()
        for value, name in TIMES.items()
    },
    SCALES,
    train_and_compare,
    COLUMNS,
)


# --- DiT's blocks ---------------------------------------------------------------------------------

NAMES = {  # what tables call a block, where it isn't its own name
    "in_context": "in-context",
    "cross_attention": "cross-attention",
    "adaln": "adaLN",
    "adaln_zero": "adaLN-Zero",
}


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


@cache
def _matched_ratio(block: str) -> float:
    """The `mlp_ratio` with which a demo's network of such blocks is as large as adaLN-Zero's."""
    size = dict(input_size=28, in_channels=1, num_classes=10, learn_sigma=False)
    size |= presets.PRESETS["demo"]["model"]
    return as_large_as(size | {"block": block}, size | {"block": "adaln_zero"})["mlp_ratio"]


def _blocks() -> dict[str, dict]:
    """Every block as it is, and made as large as adaLN-Zero; that one also without its zero."""
    names = {block: NAMES.get(block, block) for block in BLOCKS}
    variants = {name: {"model": {"block": block}} for block, name in names.items()}
    for block, name in names.items():
        if block != "adaln_zero":
            model = {"block": block, "mlp_ratio": _matched_ratio(block)}
            variants[f"{name}, as many parameters"] = {"model": model}
    return variants | {"adaLN-Zero without its zero": {"surgery": {"unzero": {}}}}


EXPERIMENTS["dit-blocks"] = Experiment(
    "How should a block hear its condition?",
    _blocks,
    training.SCALES,
    train_and_compare,
    COLUMNS,
)


# --- captions -------------------------------------------------------------------------------------

SCENES_HELD_OUT = 500  # training scenes, the last ones, that networks don't see
AT = (600, 750, 850, 950)


@torch.no_grad()
def surplus(
    model: nn.Module, diffusion: Diffusion, images: Tensor, y: Tensor, t: int, seed: int = 0
) -> float:
    """The response to the condition: by what share the loss at step t grows with a wrong one.

    images: (n, c, h, w) in [-1, 1], y: the condition of each; a wrong one is that of the next
    image. Images, noise and network are the same, so what is added to the error comes from the
    condition: 0 if a network ignores it. It takes no sampling, and shows long before pictures do.
    """
    rng = torch.Generator().manual_seed(seed)
    noise, times = torch.randn(images.shape, generator=rng), torch.full((len(images),), t)
    place = next(model.parameters()).device
    x0, times, noise, y = (z.to(place) for z in (images, times, noise, y))
    right, wrong = (
        diffusion.loss(model, x0, times, noise, cond).mean().item() for cond in (y, y.roll(1, 0))
    )
    return wrong / right - 1


def train_on_captions(settings: dict, seed: int) -> dict:
    """Train the preset "scenes-text" with changes of its `model` and `recipe`, from nothing.

    `surplus` is the mean over `AT` of what `surplus` says of held-out scenes.
    """
    preset = merge(presets.PRESETS["scenes-text"], settings)
    scenes = data.load("scenes")
    model, diffusion, parts = presets.build(preset, tuple(scenes.images.shape[1:]), 0, seed)
    captions, n = data.condition_of(scenes, model.label_embed), SCENES_HELD_OUT
    recipe = presets.recipe_of(parts, seed=seed)
    run = Prepared(model, diffusion, scenes.images[:-n], captions[:-n], recipe)
    average, facts = trials.train(run)
    held = data.to_unit(scenes.images[-n:])
    by_time = {str(t): round(surplus(average, diffusion, held, captions[-n:], t), 4) for t in AT}
    return {
        **{key: facts[key] for key in ("processor seconds", "parameters")},
        "surplus": round(sum(by_time.values()) / len(by_time), 4),
        "surplus by t": by_time,
    }


EXPERIMENTS["caption-blocks"] = Experiment(
    "How should a network hear a caption?",
    lambda: {
        NAMES[block]: {"model": {"block": block}, "recipe": {}}
        for block in ("in_context", "cross_attention", "adaln_zero")
    },
    {
        "smoke": {"recipe": {"steps": 2, "batch_size": 4}},
        "cpu": {"recipe": {"steps": 300, "batch_size": 32}},
        "gpu": {"recipe": {"steps": 10_000, "batch_size": 128}},
    },
    train_on_captions,
    {"parameters": ",.0f", "processor seconds": ".0f", "surplus": ".1%"},
)


# --- claims ---------------------------------------------------------------------------------------


def _claim(**changes) -> dict:
    """The demo's network on DDPM's linear schedule, since the claims speak of its β.

    What is predicted is the image, weighed as the velocity, which learns soonest there.
    """
    process = {"schedule": "linear", "predict": "x0", "weight": "v", "max_weight": 400.0}
    return {"diffusion": process, **changes}


def _aware(temperature: str = "none", mask: str = "none") -> dict:
    return _claim(surgery={"aware": {"temperature": temperature, "mask": mask}})


EXPERIMENTS["claims"] = Experiment(
    "Do the parts that notes on DiT describe help?",
    lambda: {
        "baseline": _claim(),
        "temperature as stated: logits · √(β k)": _aware("stated"),
        "temperature as summed up: logits / √β": _aware("summary"),
        "noise mask as stated": _aware(mask="stated"),
        "noise mask as corrected": _aware(mask="corrected"),
        "temperature and mask, both as stated": _aware("stated", "stated"),
        "temperature as summed up, mask as corrected": _aware("summary", "corrected"),
        "sequence loss, weight 0.01": _claim(sequence_weight=0.01),
        "sequence loss, weight 0.1": _claim(sequence_weight=0.1),
        "growing embedding frequencies": _claim(surgery={"grow_frequencies": {}}),
    },
    training.SCALES,
    train_and_compare,
    # no losses: those of the sequence variants hold a term more
    {key: form for key, form in COLUMNS.items() if "loss" not in key},
)
