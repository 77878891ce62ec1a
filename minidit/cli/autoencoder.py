"""What the commands of the command line do with autoencoders and their latents."""

import os
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from minidit import data, weights
from minidit import evaluate as judging
from minidit._validate import check_positive
from minidit.cli.terminal import (
    Log,
    bar,
    command_of,
    device_of,
    recipe_of,
    set_threads,
    writable,
    write_images,
)
from minidit.latents import latent
from minidit.latents import presets as autoencoder_presets
from minidit.latents.presets import AUTOENCODERS, PHOTOGRAPHS
from minidit.latents.training import fit_autoencoder

PAIRS = 30  # images in the picture of `reconstruct`


def train_autoencoder(args: Namespace) -> None:
    """Train an autoencoder's preset, or go on where it stopped."""
    out, preset = Path(args.out), AUTOENCODERS[args.preset]
    args.data = args.data or preset["data"]
    if args.autoencoder is not None:
        raise ValueError(f"--autoencoder: {args.preset} is one itself; leave the option out")
    others = args.start is not None or args.accumulate != 1 or args.compile is not None
    if others or "WORLD_SIZE" in os.environ:
        raise ValueError(
            "--start, --accumulate, --compile and torchrun are for diffusion models; leave them "
            "out, an autoencoder trains from nothing in one process"
        )
    recipe = recipe_of(args, preset)
    judge, device = judging.classifier(preset["judge"]), device_of(args.device)
    train = data.load(args.data)
    model, terms = autoencoder_presets.build(args.preset, train.images.shape[1], args.seed)
    with Log(out / "log.csv", recipe.steps) as log:
        average = fit_autoencoder(
            model.to(device),
            train.images,
            recipe=recipe,
            terms=terms,
            judge=judge,
            flips=args.data in PHOTOGRAPHS,
            out=out,
            save_every=args.save_every,
            report=log,
        )
    if log.bar is None:
        print(f"all {recipe.steps} steps were taken before")
    facts = {"data": args.data, "recipe": asdict(recipe), "terms": asdict(terms)}
    facts |= {"judge": f"classifier-{preset['judge']}"}
    facts |= {"command": command_of(args, "data preset steps batch-size lr seed threads out")}
    path = out / "weights.safetensors"
    weights.save(average, path, info=facts)
    print(
        f"wrote {path}, scale {average.scale.item():.4f}; look at it: "
        f"python -m minidit reconstruct --weights {path} --data {args.data}"
    )


def training_set(args: Namespace, images: Tensor) -> tuple[latent.FirstStage | None, Tensor, int]:
    """What a diffusion model is trained on: (None, images, 1), or an autoencoder's latents.

    Photographs are encoded as they are and mirrored: (first stage, latents, 2), and the labels are
    needed twice.
    """
    if args.autoencoder is None:
        return None, images, 1
    stage = latent.first_stage(args.autoencoder)
    stage.model.to(device_of(args.device))
    flips = args.data in PHOTOGRAPHS
    path = latent.place(data.data_root(), args.data, "train", stage)
    latents = _cached(path, stage, images, flips)
    return stage, latents, 2 if flips else 1


def _cached(path: Path, stage: latent.FirstStage, images: Tensor, flips: bool) -> Tensor:
    with bar(len(images) * (1 + flips), unit="image") as progress:
        return latent.cached(
            path,
            stage,
            images,
            flips=flips,
            report=lambda done: progress.update(done - progress.n),
        )


def encode(args: Namespace) -> None:
    """Encode a data set into scaled latents."""
    set_threads(args.threads)
    stage, images = latent.first_stage(args.weights), data.load(args.data, args.split).images
    stage.model.to(device_of(args.device))
    if args.out is None:
        path = latent.place(data.data_root(), args.data, args.split, stage)
    else:
        path = writable(args.out, ".safetensors")
    flips = args.data in PHOTOGRAPHS and args.split == "train"
    latents = _cached(path, stage, images, flips)
    print(
        f"{path}: {tuple(latents.shape)}{', half of them mirrored' if flips else ''}; mean "
        f"{latents.mean().item():.3f}, deviation {latents.std().item():.3f}"
    )


def reconstruct(args: Namespace) -> None:
    """Encode and decode test images, and judge what is left of them."""
    set_threads(args.threads)
    out = writable(args.out, ".png")
    check_positive(images=args.images)
    stage, judge = latent.first_stage(args.weights), judging.classifier(args.data)
    test = data.load(args.data, "test")
    if args.images <= 64:
        raise ValueError(f"--images {args.images} is too few to judge; try 1000")
    images, labels = data.to_unit(test.images[: args.images]), test.labels[: args.images]
    found = judging.reconstruction(judge, stage.model, images, labels)
    rounded = {k: round(v, 4) for k, v in found._asdict().items() if v is not None}
    figures = {"images": len(images), "data": args.data} | rounded
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):>16}: {value}")
    with torch.no_grad():
        restored = stage.model(images[:PAIRS])
    rows = [row for pair in zip(images[:PAIRS].split(10), restored.split(10)) for row in pair]
    write_images(out, data.to_uint8(torch.cat(rows)), labels, 10)
    print(f"wrote {out}: every other row is the reconstruction of the row above it")
    if args.store:
        weights.add_info(args.weights, "reconstructions", figures)
