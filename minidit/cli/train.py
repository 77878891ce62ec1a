"""What `train` does: a diffusion model or an autoencoder, from the start or where it stopped."""

import os
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from shlex import quote

import torch
from torch import nn

from minidit import data, evaluate, weights
from minidit._validate import check_choice
from minidit.cli.autoencoder import encoded
from minidit.cli.terminal import command, command_of, log, writable
from minidit.latents.training import AUTOENCODERS, AutoencoderRun, build_autoencoder
from minidit.train import Loop, Recipe
from minidit.training import distributed, presets


def add(subparsers) -> None:
    """The options of `train`."""
    option = command(
        subparsers,
        train,
        "train a network; the same command again goes on where it stopped",
        *("compile", "threads", "device"),
        description="Train a DiT, a U-ViT or an autoencoder. The folder --out receives "
        "checkpoint.pt, log.csv and, at the end, weights.safetensors. Stop it when you like: the "
        "same command goes on, to the bit. On several GPUs or machines: torchrun … -m minidit "
        "train …, with the same arguments.",
    )
    told = "or a FOLDER with a subfolder of PNG or JPEG pictures for each class"
    option("--data", help=f"{', '.join(data.DATASETS)}, {told} (default: the preset's, or mnist)")
    option("--out", required=True, help="folder of the run")
    names = "of minidit.training.presets or minidit.latents.training (%(default)s)"
    option("--preset", default="mnist", help=names)
    option("--autoencoder", help="whose latents to train on (default: the preset's)")
    option("--start", help="weights to start from, as far as they fit (the preset's)")
    option("--steps", type=int, help="instead of the preset's")
    told = "go on though --steps, --batch-size, --lr, --compile or the weights of --start aren't "
    told += "those the run in --out began with"
    option("--change", action="store_true", help=told)
    option("--batch-size", type=int, help="instead of the preset's")
    option("--lr", type=float, help="AdamW's, instead of the preset's; Muon keeps its own")
    told = "train in bfloat16 on a processor, too: faster if it has AVX512_BF16 or AMX"
    option("--bfloat16", action="store_true", default=None, help=told)
    option("--seed", type=int, default=0, help="of weights and batches (%(default)s)")
    option("--save-every", type=int, default=100, help="steps (%(default)s)")
    parts = "compute a batch in so many parts, for want of memory; same result (%(default)s)"
    option("--accumulate", type=int, default=1, help=parts)


def train(args: Namespace) -> None:
    """Train a preset on a data set, or go on where it stopped."""
    check_choice("--preset", args.preset, [*presets.PRESETS, *AUTOENCODERS])
    preset = (presets.PRESETS | AUTOENCODERS)[args.preset]
    args.data = args.data or preset.get("data", "mnist")
    own = {key: getattr(args, key) for key in ("steps", "batch_size", "lr", "seed")}
    own["mixed_precision"] = "always" if args.bfloat16 else None
    recipe = presets.recipe_of(preset["recipe"], **own)
    path = writable(Path(args.out) / "weights.safetensors", ".safetensors")
    train_one = train_autoencoder if args.preset in AUTOENCODERS else train_diffusion
    train_one(args, preset, recipe, path)


def _go(run: Loop, args: Namespace) -> nn.Module:
    """Take the steps that are left and return the average; one process of all shows them."""

    def tell(changed: dict) -> None:
        after, *plan = changed.items()
        told = ", ".join(f"{name} {old} → {new}" for name, (old, new) in plan)
        if run.writes:
            print(f"changed after step {after[1]}: {told}")

    run.changing = tell if args.change else None
    if not run.writes:
        return run.go(args.out, args.save_every)
    with log(Path(args.out) / "log.csv", run.recipe.steps) as report:
        return run.go(args.out, args.save_every, report=report)


def _load(args: Namespace) -> data.Dataset:
    """The images; what was done to a folder's is said once."""
    train = data.load(args.data)
    if train.told and distributed.rank() == 0:
        print(train.told)
    return train


def _facts(args: Namespace, run: Loop, train: data.Dataset) -> dict:
    facts = {"data": args.data, "classes": train.classes, "recipe": asdict(run.recipe)}
    facts |= {"changes": run.changes} if run.changes else {}
    return facts | {"command": command_of(args)}


def train_diffusion(args: Namespace, preset: dict, recipe: Recipe, path: Path) -> None:
    """Train a diffusion model, in as many processes as there are, and store its weights."""
    args.autoencoder = args.autoencoder or preset.get("autoencoder")
    args.start = args.start or preset.get("start")
    args.device, stage = distributed.join(args.device), None
    with distributed.first_process_first():
        train = _load(args)
        images = train.images
        if args.autoencoder is not None:
            stage, images, _ = encoded(args, args.autoencoder, "train", images)
    shape, num_classes = tuple(images.shape[1:]), len(train.classes)
    model, diffusion, _ = presets.build(args.preset, shape, num_classes, args.seed)
    if args.start is not None:
        weights.start_from(model, args.start)
    y = data.condition_of(train, model.label_embed)
    y = torch.cat([y] * (len(images) // len(y)))  # once more for what was mirrored
    run = distributed.DistributedRun(
        model.to(args.device), diffusion, images, y, recipe, args.accumulate, args.compile
    )
    run.start = args.start and weights.file_sha256(weights.find(args.start))
    average = _go(run, args)
    if run.writes:
        link = stage.link if stage is not None else None
        facts = _facts(args, run, train)
        facts |= {"start": {"name": args.start, "sha256": run.start}} if run.start else {}
        weights.save(average, path, diffusion, facts, link)
        print(f"wrote {path}; look at it: python -m minidit sample --weights {quote(str(path))}")
    distributed.leave()


def train_autoencoder(args: Namespace, preset: dict, recipe: Recipe, path: Path) -> None:
    """Train an autoencoder, and store its weights."""
    if args.autoencoder is not None:
        raise ValueError(f"--autoencoder: {args.preset} is one itself; leave the option out")
    others = args.start is not None or args.accumulate != 1 or args.compile is not None
    if others or args.bfloat16 or "WORLD_SIZE" in os.environ:
        raise ValueError(
            "--start, --accumulate, --compile, --bfloat16 and torchrun are for diffusion models; "
            "leave them out, an autoencoder trains from nothing in one process"
        )
    classifier, train = evaluate.classifier(preset["classifier"]), _load(args)
    images = train.images
    model, terms = build_autoencoder(args.preset, images.shape[1], args.seed)
    flips = data.find(args.data).photographs
    run = AutoencoderRun(model.to(args.device), images, recipe, terms, classifier, flips)
    average = _go(run, args)
    average.set_scale(images)
    facts = {"terms": asdict(terms), "judge": f"classifier-{preset['classifier']}"}
    weights.save(average, path, info=_facts(args, run, train) | facts)
    print(f"wrote {path}, scale {average.scale.item():.4f}; look at it:", end=" ")
    print(f"python -m minidit reconstruct --weights {quote(str(path))} --data {args.data}")
