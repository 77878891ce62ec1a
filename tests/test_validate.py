"""Every message of the public entrances: it names the argument, its value, and the way out.

(Files that are wrong, weights and checkpoints, have theirs in test_weights and test_train.)
"""

import math
import re

import numpy as np
import pytest
import torch

import minidit
from minidit import (
    EMA,
    Attention,
    Diffusion,
    DiT,
    KLAutoencoder,
    LabelEmbedder,
    LayoutEncoder,
    Mlp,
    PatchEmbed,
    Recipe,
    SceneDetector,
    Schedule,
    TextEncoder,
    UViT,
    VQAutoencoder,
    bits_per_dim,
    ddim,
    ddpm,
    fit,
    guided,
    linear,
    patchify,
    sample,
    sincos_2d,
    timestep_embedding,
    unpatchify,
)
from minidit.conditions import InpaintEncoder
from minidit.evaluate import accuracy, frechet_to_real
from minidit.evaluate.classifier import Classifier
from minidit.latents import latent
from minidit.train import draw_times
from minidit.training.generate import generate
from minidit.training.muon import Muon

SMALL = {
    "input_size": 8,
    "patch_size": 4,
    "in_channels": 1,
    "hidden_size": 16,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 3,
    "learn_sigma": False,
}


def dit(**changes):
    return DiT(**SMALL | changes)


def ask(x=(2, 1, 8, 8), t=(2,), y=(0, 1), **changes):
    """Call a small network; shapes stand for tensors, y for the labels themselves."""
    x = torch.zeros(x) if isinstance(x, tuple) else x
    t = torch.zeros(t) if isinstance(t, tuple) else t
    y = torch.tensor(y) if isinstance(y, tuple) else y
    return dit(**changes)(x, t, y)


def images(*shape):
    return torch.zeros(shape)


def of_alpha(*alpha, sigma=None, path="variance_preserving"):
    alpha = torch.tensor(alpha, dtype=torch.float64)
    sigma = (1 - alpha**2).abs().sqrt() if sigma is None else torch.tensor(sigma)
    return Schedule(alpha, sigma, torch.arange(len(alpha)), path)


def run(sampler=ddpm, model=lambda x, t, y: x, T=50, **options):
    return sample(sampler(model, Diffusion(linear(T)), images(2, 1, 4, 4), **options))


def train(pictures=None, labels=(0, 1), model=None, save_every=1, seconds=None, out=None, **recipe):
    pictures = images(2, 1, 8, 8) if pictures is None else pictures
    labels = torch.tensor(labels) if isinstance(labels, tuple) else labels
    recipe = Recipe(**{"steps": 1, "batch_size": 2} | recipe)
    how = {"recipe": recipe, "save_every": save_every, "seconds": seconds, "out": out}
    fit(model or dit(), Diffusion(linear()), pictures, labels, **how)


def noise_it(x0=(2, 1, 4, 4), t=(3, 4), noise=(2, 1, 4, 4)):
    t = torch.tensor(t) if isinstance(t, tuple) else t
    return Diffusion(linear()).q_sample(torch.zeros(x0), t, torch.zeros(noise))


def loss_of(channels, learn_sigma, x0=torch.zeros(2, 1, 4, 4)):  # noqa: B008
    """The loss when a network with so many output channels is given images of one channel."""
    diffusion = Diffusion(linear(), learn_sigma=learn_sigma)
    model = lambda x, t, y: images(2, channels, 4, 4)  # noqa: E731
    t = torch.tensor([3, 4])
    return diffusion.loss(model, x0, t, images(2, 1, 4, 4))


# What is called, what it raises, and what its message must contain, in this order.
CASES = {
    # patches
    "patch too big": (
        lambda: patchify(images(1, 1, 6, 8), 4),
        "patch=4",
        "6×8",
        "these do: [1, 2]",
    ),
    "patch 0": (lambda: patchify(images(1, 1, 6, 8), 0), "patch=0 must be at least 1"),
    "patch 2.0": (
        lambda: patchify(images(1, 1, 6, 8), 2.0),
        TypeError,
        "patch=2.0",
        "integer",
        "float",
    ),
    "patch True": (lambda: patchify(images(1, 1, 6, 8), True), TypeError, "patch=True", "bool"),
    "images 3-d": (
        lambda: patchify(images(1, 6, 8), 2),
        "images have shape (1, 6, 8)",
        "(b, c, h, w)",
    ),
    "images list": (
        lambda: patchify([0], 2),
        TypeError,
        "images must be a tensor (b, c, h, w)",
        "list",
    ),
    "tokens, grid": (
        lambda: unpatchify(images(1, 6, 4), 2, (2, 2)),
        "(1, 6, 4)",
        "grid=(2, 2)",
        "4",
    ),
    "tokens, patch": (lambda: unpatchify(images(1, 4, 6), 2, 2), "6 features", "patch² = 4"),
    "embed channels": (
        lambda: ask(images(2, 1, 8, 8), in_channels=3),
        "1 channels",
        "in_channels is 3",
    ),
    "embed width": (lambda: PatchEmbed(3, 2, 0), "hidden_size=0 must be at least 1"),
    # embeddings
    "dim 0": (lambda: timestep_embedding(images(2), 0), "dim=0 must be at least 1"),
    "t 2-d": (lambda: timestep_embedding(images(2, 1), 8), "t has shape (2, 1); expected (b,)"),
    "t number": (
        lambda: timestep_embedding(3, 8),
        TypeError,
        "t must be a tensor of shape (b,)",
        "int",
    ),
    "t scalar": (
        lambda: timestep_embedding(torch.tensor(3), 8),
        "t has shape ()",
        "torch.full((b,), t)",
    ),
    "dim 6": (lambda: sincos_2d(6, 4), "dim=6", "hidden_size", "multiple of 4"),
    "dropout 1": (lambda: LabelEmbedder(3, 4, dropout=1.0), "dropout=1.0", "[0, 1)"),
    "no classes": (lambda: LabelEmbedder(0, 4), "num_classes=0 must be at least 1"),
    "y list": (lambda: LabelEmbedder(3, 4)([1]), TypeError, "y must be a tensor", "list"),
    "y float": (lambda: LabelEmbedder(3, 4)(images(2)), TypeError, "torch.float32", "use y.long()"),
    "y big": (lambda: LabelEmbedder(3, 4)(torch.tensor([3])), "y contains 3", "0 … 2"),
    "y negative": (
        lambda: LabelEmbedder(3, 4, 0.1)(torch.tensor([-1, 3])),
        "y contains -1",
        "0 … 3",
    ),
    # attention
    "heads": (lambda: Attention(10, 4), "num_heads=4 does not divide hidden_size=10"),
    "no heads": (lambda: Attention(8, 0), "num_heads=0 must be at least 1"),
    "no context": (
        lambda: Attention(8, 2, cross=True)(images(1, 3, 8)),
        "context is missing",
        "cross=True",
    ),
    "a context": (
        lambda: Attention(8, 2)(images(1, 3, 8), images(1, 3, 8)),
        "context is given",
        "cross=False",
    ),
    "mlp ratio": (lambda: Mlp(8, 0.01), "mlp_ratio=0.01", "4"),
    # the network
    "block": (lambda: dit(block="adaln_one"), "block='adaln_one' is unknown", "'adaln_zero'"),
    "patch_size": (lambda: dit(patch_size=3), "patch_size=3", "input_size=8", "divides both"),
    "patch_size, one side": (lambda: dit(input_size=(8, 6)), "patch_size=4", "input_size=(8, 6)"),
    "input_size 0": (lambda: dit(input_size=0), "input_size=0"),
    "depth 0": (lambda: dit(depth=0), "depth=0 must be at least 1"),
    "depth text": (lambda: dit(depth="2"), TypeError, "depth='2' must be an integer", "str"),
    "width": (lambda: dit(hidden_size=18), "18", "hidden_size", "multiple of 4"),
    "width, heads": (lambda: dit(num_heads=3), "num_heads=3 does not divide hidden_size=16"),
    "dit dropout": (lambda: dit(class_dropout_prob=-0.1), "dropout=-0.1", "[0, 1)"),
    "x channels": (lambda: ask(x=(2, 3, 8, 8)), "images have 3 channels; in_channels is 1"),
    "x size": (lambda: ask(x=(2, 1, 12, 8)), "(12, 8) pixels", "input_size is (8, 8)"),
    "x 3-d": (lambda: ask(x=(1, 8, 8)), "shape (1, 8, 8)", "(b, c, h, w)"),
    "one t for two": (
        lambda: ask(t=(1,)),
        "t has shape (1,); expected (2,)",
        "torch.full((2,), t)",
    ),
    "one t, no labels": (
        lambda: ask(t=(1,), y=None, num_classes=0),
        "t has shape (1,); expected (2,)",
    ),
    "t column": (lambda: ask(t=(2, 1)), "t has shape (2, 1); expected (2,)"),
    "t bfloat16": (
        lambda: ask(t=torch.zeros(2, dtype=torch.bfloat16)),
        TypeError,
        "t is torch.bfloat16",
        "float32",
    ),
    "bytes": (
        lambda: ask(x=torch.zeros(2, 1, 8, 8, dtype=torch.uint8)),
        TypeError,
        "images are torch.uint8",
        "floats in [-1, 1]",
    ),
    "t int": (lambda: ask(t=5), TypeError, "t must be a tensor of shape (2,), not int"),
    "one y for two": (lambda: ask(y=(1,)), "y has shape (1,); expected (2,)", "one label an image"),
    "y out of range": (lambda: ask(y=(0, 4)), "y contains 4", "0 … 3"),
    "no y": (lambda: ask(y=None), "y=None", "needs labels", "model.null_label"),
    "y in vain": (
        lambda: ask(num_classes=0),
        "y is given",
        "no labels (num_classes=0)",
        "leave y out",
    ),
    # schedules
    "T too small": (lambda: linear(20), "T=20", "at least 21"),
    "T 0": (lambda: minidit.cosine(0), "T=0 must be at least 1"),
    "T float": (lambda: minidit.straight(10.0), TypeError, "T=10.0 must be an integer"),
    "path": (
        lambda: Schedule(images(2), images(2), images(2), "crooked"),
        "path='crooked'",
        "'straight'",
    ),
    "tables": (
        lambda: Schedule(images(3), images(2), images(3), "straight"),
        "sigma has shape (2,)",
        "(T,)",
    ),
    "alpha nan": (lambda: of_alpha(0.9, math.nan), "α ≥ 0, σ > 0 and α² + σ² = 1 at all steps"),
    "alpha above 1": (lambda: of_alpha(1.1, 0.5), "α² + σ² = 1"),
    "alpha below 0": (lambda: of_alpha(0.5, -0.1), "α ≥ 0"),
    "no noise": (lambda: of_alpha(1.0, 0.5), "σ > 0"),
    "off the circle": (lambda: of_alpha(0.9, 0.5, sigma=(0.1, 0.5)), "α² + σ² = 1"),
    "off the line": (lambda: of_alpha(0.9, 0.5, path="straight"), "α + σ = 1", "straight path"),
    "steps fall": (
        lambda: linear().respace([5, 3]),
        "steps=[5, 3] must rise",
        "sorted(set(steps))",
    ),
    "steps repeat": (
        lambda: linear().respace([3, 3]),
        "steps=[3, 3] must rise, without repetition",
    ),
    "steps outside": (lambda: linear().respace([3, 1000]), "steps=[3, 1000]", "within 0 … 999"),
    "no steps": (lambda: linear().respace([]), "steps=[]", "within 0 … 999"),
    # the process
    "predict": (lambda: Diffusion(linear(), "noise"), "predict='noise' is unknown", "'eps'"),
    "weight": (lambda: Diffusion(linear(), weight="snr"), "weight='snr' is unknown", "'x0'"),
    "interval": (lambda: guided(dit(), 2.0, interval=(5, 2)), "interval=(5, 2)", "low ≤ high"),
    "one beta": (lambda: Recipe(3, betas=(0.9,)), "betas=(0.9,) must be two"),
    "grid": (
        lambda: unpatchify(torch.zeros(1, 16, 4), 2, (-4, -4)),
        "grid's height=-4 must be at least 1",
    ),
    "no folder": (lambda: train(out=""), "out='' names no folder"),
    "seed float": (lambda: Recipe(3, seed=1.5), "seed=1.5 must be an integer"),
    "max_weight": (lambda: Diffusion(linear(), max_weight=-1), "max_weight=-1", "above 0"),
    "max_weight nan": (lambda: Diffusion(linear(), max_weight=math.nan), "max_weight=nan"),
    "bound_scale": (lambda: Diffusion(linear(), bound_scale=-1), "bound_scale=-1", "at least 0"),
    "variance": (
        lambda: Diffusion(linear(), variance="tiny"),
        "variance='tiny'",
        "'large', 'small'",
    ),
    "config": (
        lambda: Diffusion.from_config({"schedule": "custom"}),
        "schedule='custom' is unknown",
        "'linear'",
    ),
    "noise shape": (
        lambda: noise_it(noise=(1, 1, 4, 4)),
        "noise has shape (1, 1, 4, 4); x0 has (2,",
    ),
    "t too big": (
        lambda: noise_it(t=(3, 1000)),
        "t contains 1000",
        "0 … 999 is a step of the schedule",
    ),
    "t negative": (lambda: noise_it(t=(-1, 3)), "t contains -1"),
    "t of floats": (
        lambda: noise_it(t=(0.5, 0.1)),
        TypeError,
        "t has dtype torch.float32",
        "0 … 999",
    ),
    "t of bools": (lambda: noise_it(t=(True, False)), TypeError, "t has dtype torch.bool"),
    "t for one": (
        lambda: noise_it(t=(3,)),
        "t has shape (1,); expected (2,)",
        "torch.full((2,), t)",
    ),
    "t no tensor": (lambda: noise_it(t=3), TypeError, "t must be a tensor of shape (2,), not int"),
    "sigma unasked": (
        lambda: loss_of(2, False),
        "(2, 2, 4, 4)",
        "learn_sigma=False",
        "give (2, 1, 4, 4)",
    ),
    "sigma missing": (
        lambda: loss_of(1, True),
        "(2, 1, 4, 4)",
        "learn_sigma=True",
        "give (2, 2, 4, 4)",
    ),
    # samplers
    "too many steps": (lambda: run(steps=51), "51 steps"),
    "steps rule": (lambda: run(steps="fast"), "'fast'", "ddim"),
    "ddim stride": (lambda: run(steps="ddim49"), "counts='ddim49'", "49 of 50"),
    "half steps": (lambda: run(ddim, steps=[0.5, 2.5]), "steps=[0.5, 2.5]", "in whole numbers"),
    "no schedule": (
        lambda: Diffusion("linear"),
        TypeError,
        "schedule='linear' is no Schedule; take e.g. linear()",
    ),
    "step list": (lambda: run(steps=[0, 50]), "steps=[0, 50]", "0 … 49"),
    "eta": (lambda: run(ddim, eta=1.5), "eta=1.5", "0 (deterministic) … 1"),
    "noise too short": (
        lambda: run(steps=3, noise=images(2, 2, 1, 4, 4)),
        "noise holds 2 draws",
        "needs 3",
    ),
    "noise of other shape": (
        lambda: run(steps=2, noise=images(2, 1, 1, 4, 4)),
        "(1, 1, 4, 4)",
        "2 of (2, 1, 4, 4)",
    ),
    "no noise at all": (lambda: run(steps=2, noise=[]), "noise holds 0 draws", "needs 2"),
    "output channels": (
        lambda: run(model=lambda x, t, y: torch.cat([x, x], 1), steps=2),
        "(2, 2, 4, 4)",
        "learn_sigma",
    ),
    "nothing to sample": (lambda: sample([]), "no state", "at least one step"),
    "no null label": (
        lambda: guided(dit(class_dropout_prob=0.0), 2.0),
        "null label",
        "class_dropout_prob > 0",
    ),
    "channels": (
        lambda: guided(dit(), 2.0, channels="three"),
        "channels='three'",
        "'all' or a number",
    ),
    "channels 0": (lambda: guided(dit(), 2.0, channels=0), "channels=0"),
    "guided without y": (
        lambda: guided(dit(), 2.0)(images(2, 1, 8, 8), images(2), None),
        "y=None",
        "guid",
    ),
    # training
    "steps 0": (lambda: Recipe(steps=0), "steps=0 must be at least 1"),
    "batch_size": (lambda: Recipe(steps=1, batch_size=1.5), TypeError, "batch_size=1.5", "integer"),
    "optimizer": (lambda: Recipe(steps=1, optimizer="sgd"), "optimizer='sgd'", "'adamw', 'muon'"),
    "times": (lambda: Recipe(steps=1, times="late"), "times='late'", "'uniform', 'logit_normal'"),
    "lr": (lambda: Recipe(steps=1, lr=0.0), "lr=0.0 must be above 0", "1e-3"),
    "lr nan": (lambda: Recipe(steps=1, lr=math.nan), "lr=nan must be above 0"),
    "lr inf": (lambda: Recipe(steps=1, lr=math.inf), "lr=inf must be above 0 and finite"),
    "muon_lr": (lambda: Recipe(steps=1, muon_lr=-1.0), "muon_lr=-1.0 must be above 0"),
    "betas": (lambda: Recipe(steps=1, betas=(0.9, 1.0)), "betas=(0.9, 1.0)", "[0, 1)"),
    "weight_decay": (lambda: Recipe(steps=1, weight_decay=math.nan), "weight_decay=nan"),
    "seed": (lambda: Recipe(steps=1, seed=10**20), "seed=1000", "2⁴³"),
    "steps too many": (lambda: Recipe(steps=10**20), "steps=1000", "below 2³¹"),
    "guidance nan": (lambda: guided(dit(), math.nan), "scale=nan must be finite"),
    "guidance inf": (lambda: guided(dit(), -math.inf), "scale=-inf must be finite"),
    "a count too large": (
        lambda: minidit.select_steps(minidit.linear(), f"quad{10**20}"),
        "unknown",
    ),
    "clip": (lambda: Recipe(steps=1, clip=0.0), "clip=0.0 must be above 0", "math.inf"),
    "warmup": (lambda: Recipe(steps=1, warmup=-5), "warmup=-5", "0 for none"),
    "cooldown": (lambda: Recipe(steps=1, cooldown=2), "cooldown=2", "0 … 1"),
    "ema_decay": (lambda: train(ema_decay=1.0), "ema_decay=1.0", "[0, 1)", "0.999"),
    "decay": (lambda: EMA(dit(), decay=-1), "decay=-1 is out of range"),
    "kind of times": (lambda: draw_times("no", 5, 5, torch.Generator()), "times='no' is unknown"),
    "no images": (lambda: train(images(0, 1, 8, 8), ()), "images is empty", "at least one"),
    "images of ints": (
        lambda: train(images(2, 1, 8, 8).int()),
        TypeError,
        "torch.int32",
        "uint8, or floats",
    ),
    "images' channels": (
        lambda: train(images(2, 3, 8, 8)),
        "images have 3 channels; in_channels is 1",
    ),
    "labels too few": (
        lambda: train(labels=(1,)),
        "labels have shape (1,) for 2 images",
        "one label",
    ),
    "labels out of range": (lambda: train(labels=(0, 3)), "y contains 3", "0 … 2"),
    "labels of bytes": (
        lambda: train(labels=torch.zeros(2, dtype=torch.uint8)),
        TypeError,
        "torch.uint8",
        "use y.long()",
    ),
    "labels of a list": (
        lambda: train(labels=[0, 1]),
        TypeError,
        "labels are a list; torch.as_tensor",
    ),
    "labels of numpy": (
        lambda: train(labels=np.array([0, 1])),
        TypeError,
        "labels are a ndarray",
    ),
    "labels to generate": (
        lambda: generate(dit(), Diffusion(linear()), [0, 1]),
        TypeError,
        "labels must be a tensor (b,), not list; torch.as_tensor",
    ),
    "labels to guide": (
        lambda: guided(dit(), 2.0)(images(2, 1, 8, 8), images(2), [0, 1]),
        "y=[0, 1] can't be guided",
        "tensor",
    ),
    "labels to recognise": (
        lambda: accuracy(Classifier(1, 3, 2), images(2, 1, 8, 8), np.array([0, 1])),
        TypeError,
        "labels must be a tensor (n,), not ndarray",
    ),
    "half precision": (
        lambda: train(model=dit().bfloat16()),
        "weights are torch.bfloat16",
        "use float32",
    ),
    "labels in vain": (
        lambda: train(model=dit(num_classes=0)),
        "labels",
        "num_classes=0",
        "leave them out",
    ),
    "labels missing": (lambda: train(labels=None), "y=None", "needs labels"),
    "save_every": (lambda: train(save_every=0), "save_every=0 must be at least 1"),
    "muon's matrices": (
        lambda: Muon([torch.nn.Parameter(images(3))], lr=0.1),
        "Muon is for matrices",
        "(3,)",
    ),
    # the judge
    "judge": (lambda: Classifier(width=0), "width=0 must be at least 1"),
    "judge channels": (
        lambda: Classifier(1, width=2)(images(1, 3, 28, 28)),
        "3 channels; in_channels is 1",
    ),
    "bytes to recognise": (
        lambda: Classifier(width=2)(images(1, 1, 28, 28).byte()),
        TypeError,
        "images are torch.uint8",
        "data.to_unit",
    ),
    "bytes to find things in": (
        lambda: SceneDetector(2, 2, width=2).find(images(1, 3, 8, 8).byte()),
        TypeError,
        "images are torch.uint8",
    ),
    "bytes to encode": (
        lambda: KLAutoencoder(1, 2, width=4)(images(1, 1, 8, 8).byte()),
        TypeError,
        "images are torch.uint8",
    ),
    "label_std": (lambda: dit(label_std=-1.0), "std=-1.0 finite and ≥ 0"),
    "label_std nan": (
        lambda: UViT(8, 4, 1, 16, 1, 2, num_classes=3, label_std=math.nan),
        "std=nan",
    ),
    "pos_std": (lambda: UViT(8, 4, 1, 16, 1, 2, pos_std=math.nan), "pos_std=nan finite and ≥ 0"),
    "std of words": (lambda: TextEncoder(16, ["a"], std=math.nan), "std=nan finite"),
    "std of boxes": (lambda: LayoutEncoder(16, ["a"], ["b"], std=-1.0), "std=-1.0 finite"),
    "std of images": (lambda: InpaintEncoder(16, (1, 8, 8), 4, std=-1.0), "std=-1.0 finite"),
    "average of another": (
        lambda: EMA(dit()).update(dit(hidden_size=32), 0),
        "isn't the network that is averaged",
    ),
    "average of a deeper": (lambda: EMA(dit()).update(dit(depth=2), 0), "isn't the network"),
    "batches of none": (lambda: latent.decode(KLAutoencoder(1, 2, 4), images(1, 2, 2, 2), 0), "=0"),
    "scale of none": (lambda: KLAutoencoder(1, 2, 4).set_scale(images(1, 1, 8, 8), 0), "=0 must"),
    "bits of bytes": (
        lambda: bits_per_dim(dit(), Diffusion(linear(50)), images(2, 1, 8, 8).byte()),
        TypeError,
        "images are torch.uint8",
    ),
    "noise on bytes": (
        lambda: loss_of(1, False, images(2, 1, 4, 4).byte()),
        "torch.uint8",
        "floats of one shape",
    ),
    "schedule of arrays": (
        lambda: Schedule(np.ones(3), np.ones(3), np.arange(3), "straight"),
        TypeError,
        "alpha must be a tensor (T,), not ndarray",
    ),
    "no seconds": (lambda: train(seconds=math.nan), "seconds=nan must be above 0"),
    "endless mlp": (lambda: dit(mlp_ratio=math.inf), "mlp_ratio=inf leaves no inner width"),
    "labels of samples": (
        lambda: accuracy(Classifier(width=2), images(2, 1, 28, 28), torch.zeros(3)),
        "(3,) for 2 images",
    ),
    "few samples": (
        lambda: frechet_to_real(Classifier(width=2), images(64, 1, 28, 28)),
        "64 images",
        "hundreds",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_message(case):
    call, *parts = case
    kind = parts.pop(0) if isinstance(parts[0], type) else ValueError
    pattern = "(?s)" + ".*".join(re.escape(part) for part in parts)
    with pytest.raises(kind, match=pattern) as error:
        call()
    assert type(error.value) is kind
    message = str(error.value)
    assert "\n" not in message and len(message) < 300 and not message.endswith(".")


def test_images_in_double_precision_are_read_like_others():
    x, z = torch.rand(1, 3, 8, 8) * 2 - 1, torch.randn(1, 2, 2, 2)
    for reads, given in (
        (Classifier(3, 3, 2, residual=True).eval(), x),
        (SceneDetector(2, 2, 2).eval().find, x),
        (VQAutoencoder(3, 2, 4).decode, z),
    ):
        torch.testing.assert_close(reads(given.double()), reads(given))


def test_what_is_called_right_raises_nothing():
    assert ask().shape == (2, 1, 8, 8)
    assert run(steps=3).shape == (2, 1, 4, 4)
    assert noise_it().shape == (2, 1, 4, 4)
    assert loss_of(1, False).shape == loss_of(2, True).shape == (2,)
    train()
