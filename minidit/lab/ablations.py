"""The choices of U-ViT, one at a time (arXiv 2209.12152, section 3, figure 2), at a small scale.

Every network is a U-ViT of nine blocks on 49 patches of 4×4 pixels of MNIST, and differs from the
paper's choice in one argument. Labels and positions start larger than in the official code, to be
heard in so short a run. Seeds change initial weights and the order of the data; the loss on
held-out images is taken at the same times with the same noise for all.
"""

from minidit.lab.runner import Experiment
from minidit.lab.trials import judge_samples, train
from minidit.lab.watching import by_tenth, held_out_loss
from minidit.uvit import without_skips

CHOICES = dict(
    skip="concat", time="token", conv="after", patch_embed="linear", pos_embed="learned_1d"
)  # the paper's
BASE = CHOICES | dict(
    patch_size=4, hidden_size=64, depth=8, num_heads=4, label_std=1.0, pos_std=0.7
)
SCALES = {
    "smoke": {"recipe": {"steps": 5}, "sampling": {"per_class": 7}},
    "cpu": {"recipe": {"steps": 400}, "sampling": {"per_class": 30}},
    "gpu": {"recipe": {"steps": 6000, "batch_size": 128}, "sampling": {"per_class": 500}},
}
COLUMNS = {
    "parameters": ",.0f",
    "processor seconds": ".0f",
    "validation loss": ".3f",
    "loss, t ≥ 100": ".3f",
    "recognised": ".1%",
    "frechet": ".2f",
}


def train_and_compare(settings: dict, seed: int) -> dict:
    """Train a network, and measure its loss on held-out images as well as its samples.

    Where there is hardly any noise an error of the image weighs up to 400 times; so the first tenth
    of the steps makes about half of the loss, and most of its scatter. The second loss leaves it
    out.
    """
    average, diffusion, facts = train(settings, seed)
    losses = held_out_loss(average, diffusion)
    tenths = by_tenth(losses)
    found = judge_samples(average, diffusion, settings.get("sampling", {}), seed)
    return {
        "validation loss": round(losses.mean().item(), 5),
        "loss, t ≥ 100": round(sum(tenths[1:]) / len(tenths[1:]), 5),
        "validation loss by tenth of t": tenths,
        **found,
        **facts,
    }


def _uvit(**changes) -> dict:
    return {"network": "UViT", "model": BASE | changes}


def _one(question: str, argument: str, names: dict[str, str], **more: dict) -> Experiment:
    """An experiment that changes one argument; `names`: {value: what a table calls it}."""
    variants = {name: _uvit(**{argument: value}) for value, name in names.items()}
    return Experiment(question, variants | more, SCALES, train_and_compare, COLUMNS)


UVIT_ABLATIONS = {
    "uvit-skips": _one(
        "How should a long skip join?",
        "skip",
        {
            "concat": "Linear(concat(x, skip))",
            "add": "x + skip",
            "add_linear": "x + Linear(skip)",
            "linear_add": "Linear(x + skip)",
            "none": "no skips",
        },
        **{"no skips, wider MLPs": {"network": "UViT", "model": without_skips(BASE)}},
    ),
    "uvit-time": _one(
        "Is the time a token, or in the normalisations?",
        "time",
        {"token": "token", "adaln": "adaLN", "adaln_zero": "adaLN-Zero"},
    ),
    "uvit-conv": _one(
        "What does a 3×3 convolution at the end do?",
        "conv",
        {"after": "after the linear layer", "before": "before it", "none": "none"},
    ),
    "uvit-patch-embed": _one(
        "Should patches be embedded by one linear map or by convolutions?",
        "patch_embed",
        {"linear": "linear", "conv": "3×3 and 1×1 convolutions"},
    ),
    "uvit-positions": _one(
        "How do patches know where they are?",
        "pos_embed",
        {"learned_1d": "learned", "sincos_2d": "2-D sinusoids", "none": "not at all"},
        **{"learned, from 0.02 as in the official code": _uvit(pos_std=0.02)},
    ),
}
