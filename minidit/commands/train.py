"""What demo, train, classifier and experiment do; each takes the parsed options."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import torch

from minidit import data, plot, presets, shards, weights
from minidit import evaluate as judging
from minidit._validate import check_choice, check_positive
from minidit.autoencoder_presets import AUTOENCODERS, PHOTOGRAPHS
from minidit.classifier import train_classifier
from minidit.commands import scenes as scene_commands
from minidit.commands.autoencoder import train_autoencoder, training_set
from minidit.commands.demo import run_demo
from minidit.commands.terminal import (
    Log,
    bar,
    command_of,
    device_of,
    set_threads,
    writable,
)
from minidit.experiments import EXPERIMENTS
from minidit.experiments.runner import measures, run_experiment, table


def demo(args: Namespace) -> None:
    """Train on drawn digits, and write a picture."""
    run_demo(
        writable(args.out, ".png"), args.seconds, args.seed, device_of(args.device), bar, print
    )


def train(args: Namespace) -> None:
    """Train a preset on a data set, or go on where it stopped."""
    set_threads(args.threads)
    check_choice("--preset", args.preset, [*presets.PRESETS, *AUTOENCODERS])
    if args.preset in AUTOENCODERS:
        return train_autoencoder(args)
    out, preset = Path(args.out), presets.PRESETS[args.preset]
    args.data = args.data or preset.get("data", "mnist")
    args.autoencoder = args.autoencoder or preset.get("autoencoder")
    args.start = args.start or preset.get("start")
    recipe = presets.recipe_of(
        preset["recipe"],
        steps=args.steps,
        batch_size=args.batch_size,
        lr=args.lr,
        seed=args.seed,
    )
    device = shards.join(device_of(args.device))
    with shards.first_process_first():
        train = data.load(args.data)
        stage, images, copies = training_set(args, train.images)
    model, diffusion, _ = presets.build(
        args.preset, tuple(images.shape[1:]), len(train.classes), args.seed
    )
    if args.start is not None:
        weights.start_from(model, args.start)
    asked = torch.cat([data.asked(train, model.label_embed)] * copies)
    run = shards.ShardedRun(
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


def classifier(args: Namespace) -> None:
    """Train a judge of samples."""
    set_threads(args.threads)
    path = writable(args.out, ".safetensors")
    check_positive(steps=args.steps)
    if args.data == "scenes":
        return scene_commands.train_judge(args, path)
    train, test = data.load(args.data), data.load(args.data, "test")
    progress = bar(args.steps)
    judge = train_classifier(
        train.images,
        train.labels,
        steps=args.steps,
        seed=args.seed,
        photographs=args.data in PHOTOGRAPHS,
        report=lambda step, loss: progress.update(),
    )
    progress.close()
    right = judging.accuracy(judge, data.to_unit(test.images), test.labels)
    facts = {
        "data": args.data,
        "steps": args.steps,
        "seed": args.seed,
        "test accuracy": round(right, 4),
        "command": command_of(args, "data steps seed threads out"),
    }
    weights.save(judge, path, info=facts)
    print(f"wrote {path}; it recognises {right:.2%} of the test images")


def experiment(args: Namespace) -> None:
    """List the experiments, or run one."""
    if args.name is None:
        for name, entry in EXPERIMENTS.items():
            print(f"{name}: {entry.question} {len(entry.variants)} variants")
        return
    check_choice("experiment", args.name, EXPERIMENTS)
    set_threads(args.threads)
    results = run_experiment(
        args.name,
        EXPERIMENTS[args.name],
        Path(args.out),
        seeds=args.seeds,
        scale=args.scale,
        report=print,
    )
    path = Path(args.out) / f"{args.name}.md"
    page = f"# {results['question']}\n"
    for scale in dict.fromkeys(run["scale"] for run in results["runs"]):
        page += f"\nScale: {scale}\n\n{table(results, scale)}\n"
    path.write_text(page)
    panels = dict(list(measures(results, args.scale).items())[:4])  # more would be too narrow
    log = [key for key in ("frechet",) if key in panels]  # from 0.2 to hundreds
    plot.dots(panels, log=log, title=results["question"], out=path.with_suffix(".png"))
    print(page)
