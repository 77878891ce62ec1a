"""What the commands of the command line do with autoencoders' latents; `train` trains them."""

from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor

from minidit import data, evaluate, weights
from minidit._validate import check_positive
from minidit.cli.terminal import bar, command, writable, write_images
from minidit.latents import latent

PAIRS = 30  # images in the picture of `reconstruct`


def add(subparsers) -> None:
    """The options of `encode` and of `reconstruct`."""
    told = "encode a data set into scaled latents, once"
    option = command(subparsers, encode, told, "threads", "device")
    option("--weights", default="kl-mnist", help="an autoencoder's (%(default)s)")
    option("--data", default="mnist", help="digits, mnist or cifar10 (%(default)s)")
    option("--split", default="train", help="train or test (%(default)s)")
    option("--out", help="FILE.safetensors (default: the cache that training looks into)")

    told = "encode and decode test images, and measure what is left of them"
    option = command(subparsers, reconstruct, told, "store", "threads")
    option("--weights", default="kl-mnist", help="an autoencoder's (%(default)s)")
    option("--data", default="mnist", help="whose classifier and images (%(default)s)")
    option("--images", type=int, default=10_000, help="how many to measure (%(default)s)")
    option("--out", default="reconstructions.png", help="the picture (%(default)s)")


def encoded(
    args: Namespace, autoencoder: str, split: str, images: Tensor, path: Path | None = None
) -> tuple[latent.FirstStage, Tensor, Path]:
    """The autoencoder, a split's images (n, c, h, w) as its latents, and their file or cache.

    Photographs that are trained on are encoded as they are and mirrored: (2·n, k, h, w).
    """
    stage, photographs = latent.first_stage(autoencoder), data.find(args.data).photographs
    flips = photographs and split == "train"
    _check_fit(args, stage, images)
    stage.model.to(args.device)
    path = path or latent.place(data.data_root(), Path(args.data).name, split, stage)
    with bar(len(images) * (1 + flips), unit="image") as progress:
        how = {"flips": flips, "report": lambda done: progress.update(done - progress.n)}
        return stage, latent.cached(path, stage, images, **how), path


def _check_fit(args: Namespace, stage: latent.FirstStage, images: Tensor) -> None:
    channels = stage.model.config["in_channels"]
    if images.shape[1] != channels:
        raise ValueError(
            f"the autoencoder {stage.name} is for images of {channels} channels, and those of "
            f"--data {args.data} have {images.shape[1]} channels; choose another of the two"
        )


def encode(args: Namespace) -> None:
    """Encode a data set into scaled latents."""
    out = None if args.out is None else writable(args.out, ".safetensors")
    images = data.load(args.data, args.split).images
    _, latents, path = encoded(args, args.weights, args.split, images, out)
    mirrored = ", half of them mirrored" if len(latents) > len(images) else ""
    mean, deviation = latents.mean().item(), latents.std().item()
    print(f"{path}: {tuple(latents.shape)}{mirrored}; mean {mean:.3f}, deviation {deviation:.3f}")


def reconstruct(args: Namespace) -> None:
    """Encode and decode test images, and measure what is left of them."""
    out = writable(args.out, ".png")
    check_positive(images=args.images)
    stage, classifier = latent.first_stage(args.weights), evaluate.classifier(args.data)
    test = data.load(args.data, "test")
    if args.images <= 64:
        raise ValueError(f"--images {args.images} is too few to measure; try 1000")
    _check_fit(args, stage, test.images)
    images, labels = data.to_unit(test.images[: args.images]), test.labels[: args.images]
    found = evaluate.reconstruction(classifier, stage.model, images, labels)
    rounded = {k: round(v, 4) for k, v in found._asdict().items() if v is not None}
    figures = {"images": len(images), "data": args.data} | rounded
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):>16}: {value}")
    with torch.no_grad():
        restored = stage.model(images[:PAIRS])
    rows = [row for pair in zip(images[:PAIRS].split(10), restored.split(10)) for row in pair]
    write_images(out, data.to_uint8(torch.cat(rows)), 10)
    print(f"wrote {out}: every other row is the reconstruction of the row above it")
    if args.store:
        weights.add_info(args.weights, "reconstructions", figures)
