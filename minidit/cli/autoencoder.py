"""What the commands of the command line do with autoencoders' latents; `train` trains them."""

from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor

from minidit import data, evaluate, weights
from minidit._validate import check_positive
from minidit.cli.terminal import add_shared, bar, writable, write_images
from minidit.latents import latent

PAIRS = 30  # images in the picture of `reconstruct`


def add(subparsers) -> None:
    """The options of `encode` and of `reconstruct`."""
    p = subparsers.add_parser("encode", help="encode a data set into scaled latents, once")
    p.add_argument("--weights", default="kl-mnist", help="an autoencoder's (%(default)s)")
    p.add_argument("--data", default="mnist", help="digits, mnist or cifar10 (%(default)s)")
    p.add_argument("--split", default="train", help="train or test (%(default)s)")
    p.add_argument("--out", help="FILE.safetensors (default: the cache that training looks into)")
    add_shared(p, "threads", "device")
    p.set_defaults(run=encode)

    told = "encode and decode test images, and judge what is left of them"
    p = subparsers.add_parser("reconstruct", help=told)
    p.add_argument("--weights", default="kl-mnist", help="an autoencoder's (%(default)s)")
    p.add_argument("--data", default="mnist", help="whose classifier and images (%(default)s)")
    p.add_argument("--images", type=int, default=10_000, help="how many to judge (%(default)s)")
    p.add_argument("--out", default="reconstructions.png", help="the picture (%(default)s)")
    add_shared(p, "store", "threads")
    p.set_defaults(run=reconstruct)


def training_set(args: Namespace, images: Tensor) -> tuple[latent.FirstStage | None, Tensor, int]:
    """What a diffusion model is trained on: (None, images, 1), or an autoencoder's latents.

    Photographs are encoded as they are and mirrored: (first stage, latents, 2), and the labels are
    needed twice.
    """
    if args.autoencoder is None:
        return None, images, 1
    stage, flips = latent.first_stage(args.autoencoder), data.DATASETS[args.data].photographs
    path = latent.place(data.data_root(), args.data, "train", stage)
    return stage, _cached(args, path, stage, images, flips), 2 if flips else 1


def _cached(
    args: Namespace, path: Path, stage: latent.FirstStage, images: Tensor, flips: bool
) -> Tensor:
    stage.model.to(args.device)
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
    stage, images = latent.first_stage(args.weights), data.load(args.data, args.split).images
    if args.out is None:
        path = latent.place(data.data_root(), args.data, args.split, stage)
    else:
        path = writable(args.out, ".safetensors")
    flips = data.DATASETS[args.data].photographs and args.split == "train"
    latents = _cached(args, path, stage, images, flips)
    print(
        f"{path}: {tuple(latents.shape)}{', half of them mirrored' if flips else ''}; mean "
        f"{latents.mean().item():.3f}, deviation {latents.std().item():.3f}"
    )


def reconstruct(args: Namespace) -> None:
    """Encode and decode test images, and judge what is left of them."""
    out = writable(args.out, ".png")
    check_positive(images=args.images)
    stage, judge = latent.first_stage(args.weights), evaluate.classifier(args.data)
    test = data.load(args.data, "test")
    if args.images <= 64:
        raise ValueError(f"--images {args.images} is too few to judge; try 1000")
    images, labels = data.to_unit(test.images[: args.images]), test.labels[: args.images]
    found = evaluate.reconstruction(judge, stage.model, images, labels)
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
