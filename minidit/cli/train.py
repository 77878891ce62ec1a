"""What `train` does: a diffusion model or an autoencoder, from the start or where it stopped."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import torch

from minidit import data, weights
from minidit._validate import check_choice
from minidit.cli.autoencoder import train_autoencoder, training_set
from minidit.cli.terminal import Log, check_compile, command_of, device_of, recipe_of, set_threads
from minidit.latents.presets import AUTOENCODERS
from minidit.training import distributed as shards
from minidit.training import presets


def train(args: Namespace) -> None:
    """Train a preset on a data set, or go on where it stopped."""
    set_threads(args.threads)
    check_choice("--preset", args.preset, [*presets.PRESETS, *AUTOENCODERS])
    if args.preset in AUTOENCODERS:
        return train_autoencoder(args)
    check_compile(args.compile)
    out, preset = Path(args.out), presets.PRESETS[args.preset]
    args.data = args.data or preset.get("data", "mnist")
    args.autoencoder = args.autoencoder or preset.get("autoencoder")
    args.start = args.start or preset.get("start")
    recipe = recipe_of(args, preset)
    device = shards.join(device_of(args.device))
    with shards.first_process_first():
        train = data.load(args.data)
        stage, images, copies = training_set(args, train.images)
    model, diffusion, _ = presets.build(
        args.preset, tuple(images.shape[1:]), len(train.classes), args.seed
    )
    if args.start is not None:
        weights.start_from(model, args.start)
    asked = torch.cat([data.condition_of(train, model.label_embed)] * copies)
    run = shards.DistributedRun(
        model.to(device), diffusion, images, asked, recipe, args.accumulate, args.compile
    )
    if not run.writes:
        run.go(out, args.save_every)
        return shards.leave()
    with Log(out / "log.csv", recipe.steps) as log:
        average = run.go(out, args.save_every, report=log)
    if log.bar is None:
        print(f"all {recipe.steps} steps were taken before")
    path = out / "weights.safetensors"
    command = command_of(args, "data preset autoencoder start steps batch-size lr seed threads out")
    facts = {"data": args.data, "recipe": asdict(recipe), "command": command}
    weights.save(average, path, diffusion, facts, stage.link if stage is not None else None)
    print(f"wrote {path}; look at it: python -m minidit sample --weights {path}")
    shards.leave()
