"""The demo: train a small DiT on drawn digits for a minute or two, and look at what it draws."""

import time
from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor

from minidit import data, evaluate, plot, weights
from minidit.cli.terminal import bar, command, writable
from minidit.sampling import sample
from minidit.train import fit
from minidit.training import presets
from minidit.training.generate import generate
from minidit.weights.files import replacing

HOW = {"guidance": 2.0, "sampler": "ddim", "steps": 30}
PER_CLASS = 20


def add(subparsers) -> None:
    """The options of `demo`."""
    told = "train on drawn digits for two minutes, look at samples"
    option = command(subparsers, demo, told, "device")
    option("--out", default="demo.png", help="the picture (default: %(default)s)")
    option("--seconds", type=float, default=115, help="of training, at most (%(default)g)")
    option("--seed", type=int, default=0, help="of weights and noise (%(default)s)")


def demo(args: Namespace) -> None:
    """Train on drawn digits, sample, measure, and write a picture."""
    out, how = writable(args.out, ".png"), HOW | {"seed": args.seed}
    train = data.load("digits")
    model, diffusion, recipe = presets.build("demo", (1, 28, 28), 10, args.seed)
    model, recipe = model.to(args.device), presets.recipe_of(recipe, seed=args.seed)
    print(f"training {sum(p.numel() for p in model.parameters()):,} random weights on drawn digits")
    began = time.perf_counter()
    with bar(recipe.steps) as progress:

        def report(step: int, loss: float) -> None:
            fits = step * args.seconds / (time.perf_counter() - began)  # steps, at this speed
            progress.total = max(step, min(recipe.steps, round(fits)))
            progress.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            progress.update(step - progress.n)

        limits = {"recipe": recipe, "seconds": args.seconds, "report": report}
        average = fit(model, diffusion, train.images, train.labels, **limits)
    if progress.n < recipe.steps:
        fitted = f"{progress.n} of {recipe.steps} steps fitted into --seconds {args.seconds:g}"
        print(f"{fitted}: more draw better digits, and so does a machine with less to do")
    labels = torch.arange(10).repeat(PER_CLASS)
    images = sample(generate(average, diffusion, labels, **how)).cpu()
    right = evaluate.accuracy(evaluate.classifier("digits"), images, labels)
    film = [state.x.cpu() for state in generate(average, diffusion, labels[3:4], **how)]
    shipped, process = weights.load("dit-mnist-fine")
    best = how | {"guidance": 1.5}
    mnist = sample(generate(shipped.to(args.device), process, labels[:80], **best)).cpu()
    picture(out, images[:80], film, mnist)
    print(f"a classifier recognises {right:.1%} of {len(labels)} samples (guidance 2)")
    print(f"the picture: {out.resolve()}")
    print("go on with the notebooks: python3 tasks.py lab")


def picture(out: Path, images: Tensor, film: list[Tensor], mnist: Tensor) -> None:
    """One PNG: samples (n, 1, 28, 28), a column per class; a film of (1, 1, 28, 28) states below.

    `mnist` (n, 1, 28, 28): what the shipped weights draw, which stands beside the samples.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.1), dpi=120, layout="tight")
    panels = figure.subplot_mosaic("AB;CC", height_ratios=[8, 1.7]).values()
    sheets = {
        "just trained here, on digits drawn from fonts": plot.tile(images, 10),
        "the shipped weights, trained on MNIST": plot.tile(mnist, 10),
        "one image, from noise to digit": plot.tile(plot.evenly(film, 12)[0][0], 12),
    }
    for axes, (title, sheet) in zip(panels, sheets.items()):
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, loc="left", fontsize=12)
        axes.axis("off")
    with replacing(out) as file:
        figure.savefig(file, format="png")
