"""The demo: train a small DiT on drawn digits for a minute or two, and look at what it draws."""

import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from minidit import data, evaluate, weights
from minidit.cli.terminal import bar, device_of, writable
from minidit.sampling import sample
from minidit.train import Recipe, fit, replacing
from minidit.training import presets
from minidit.training.generate import generate

HOW = {"guidance": 2.0, "sampler": "ddim", "steps": 30}
PER_CLASS = 20


def demo(args: Namespace) -> None:
    """Train on drawn digits, and write a picture."""
    run_demo(
        writable(args.out, ".png"), args.seconds, args.seed, device_of(args.device), bar, print
    )


def run_demo(
    out: Path, seconds: float, seed: int, device: torch.device, bar: Callable, say: Callable
) -> float:
    """Train, sample, judge, and write the picture; returns the share of recognised samples."""
    train = data.load("digits")
    model, diffusion, recipe = presets.build("demo", (1, 28, 28), 10, seed)
    recipe = Recipe(**(recipe | {"seed": seed}))
    say(f"training {sum(p.numel() for p in model.parameters()):,} random weights on drawn digits")
    progress, began = bar(recipe.steps), time.perf_counter()

    def report(step: int, loss: float) -> None:
        fits = step * seconds / (time.perf_counter() - began)  # steps, at this speed
        progress.total = max(step, min(recipe.steps, round(fits)))
        progress.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        progress.update(step - progress.n)

    average = fit(
        model.to(device),
        diffusion,
        train.images,
        train.labels,
        recipe=recipe,
        seconds=seconds,
        report=report,
    )
    progress.close()
    labels = torch.arange(10).repeat(PER_CLASS)
    images = sample(generate(average, diffusion, labels, **HOW, seed=seed)).cpu()
    judge = evaluate.classifier("digits")
    right = evaluate.accuracy(judge, images, labels)
    film = [s.x[0].cpu() for s in generate(average, diffusion, labels[3:4], **HOW, seed=seed)]
    shipped, process = weights.load("dit-mnist")
    shipped.to(device)
    mnist = sample(generate(shipped, process, labels[:80], **HOW, seed=seed)).cpu()
    picture(out, images[:80], film, mnist)
    say(f"a classifier recognises {right:.1%} of {len(labels)} samples (guidance 2)")
    say(f"the picture: {out.resolve()}")
    say("go on with the notebooks: python3 tasks.py lab")
    return right


def picture(out: Path, images: Tensor, film: list[Tensor], mnist: Tensor) -> None:
    """One PNG: samples (n, 1, 28, 28), a column per class; a film of states (k, 1, 28, 28) below.

    `mnist` (n, 1, 28, 28): what the shipped weights draw, which stands beside the samples.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from minidit.plot import tile

    figure = Figure(figsize=(11, 6.6), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    left, right, below = figure.subplot_mosaic("AB;CC", height_ratios=[8, 1.25]).values()
    chosen = torch.linspace(0, len(film) - 1, 12).round().int().tolist()
    parts = [
        (left, tile(images, 10), "just trained here, on digits drawn from fonts"),
        (right, tile(mnist, 10), "the shipped weights, trained on MNIST"),
        (below, tile(torch.stack([film[i] for i in chosen]), 12), "one image, from noise to digit"),
    ]
    for axes, sheet, title in parts:
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, loc="left", fontsize=12)
        axes.axis("off")
    figure.tight_layout()
    with replacing(out) as file:
        figure.savefig(file, format="png")
