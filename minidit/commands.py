"""What the commands of the command line do; each takes the parsed options."""

import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from minidit import data, latent, plot, presets, scene_commands, shards, weights
from minidit import evaluate as judging
from minidit._validate import check_choice, check_positive
from minidit.autoencoder_commands import train_autoencoder, training_set
from minidit.autoencoder_presets import AUTOENCODERS, PHOTOGRAPHS
from minidit.classifier import train_classifier
from minidit.condition import ConditionEncoder
from minidit.demo import run_demo
from minidit.diffusion import Diffusion
from minidit.experiments import EXPERIMENTS
from minidit.generate import generate
from minidit.runner import measures, run_experiment, table
from minidit.sample import SAMPLERS
from minidit.sample import sample as last
from minidit.steps import State, select_steps
from minidit.terminal import (
    Log,
    bar,
    command_of,
    device_of,
    set_threads,
    writable,
    write_images,
)


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
    command = command_of(args, "data preset autoencoder steps batch-size lr seed threads out")
    facts = {"data": args.data, "recipe": asdict(recipe), "command": command}
    weights.save(average, path, diffusion, facts, stage.link if stage is not None else None)
    print(f"wrote {path}; look at it: python -m minidit sample --weights {path}")
    shards.leave()


def sample(args: Namespace) -> None:
    """Draw images with trained weights."""
    out = writable(args.out, ".png", ".npz")
    model, diffusion = _denoiser(args)
    stage = _first_stage(args)
    labels = _labels(args, model)
    states, count = _states(args, model, diffusion, labels)
    began = time.perf_counter()
    with bar(count) as progress:
        for state in states:  # noqa: B007 (the last one is what counts)
            progress.update()
    columns = min(10, len(labels))
    if isinstance(model.label_embed, ConditionEncoder):
        columns = args.per_class
    elif args.labels is None:
        columns = model.config["num_classes"]
    images = _pixels(stage, state.x.cpu())
    write_images(out, data.to_uint8(images), labels, columns)
    print(f"wrote {out}: {len(labels)} images in {time.perf_counter() - began:.1f} s")


def _denoiser(args: Namespace) -> weights.Loaded:
    check_choice("--sampler", args.sampler, SAMPLERS)
    device = device_of(args.device)
    model, diffusion = weights.load(args.weights)
    if diffusion is None:
        raise ValueError(f"--weights {args.weights} is no diffusion model; try dit-mnist")
    return weights.Loaded(model.to(device), diffusion)


def _first_stage(args: Namespace) -> latent.FirstStage | None:
    stage = latent.first_stage_of(args.weights, args.autoencoder)
    if stage is not None and args.clip:
        raise ValueError("--clip is for pixels; these weights draw latents, so leave it out")
    return stage


def _pixels(stage: latent.FirstStage | None, drawn: Tensor) -> Tensor:
    """What was drawn, decoded if it is latents."""
    return drawn if stage is None else latent.decode(stage.model, drawn)


def _states(
    args: Namespace,
    model: torch.nn.Module,
    diffusion: Diffusion,
    labels: Tensor,
    guidance: float | None = None,
) -> tuple[Iterator[State], int]:
    """A sampler's states, and how many there will be; `guidance`: instead of --guidance."""
    steps = int(args.steps) if args.steps.isdecimal() else args.steps
    count = len(select_steps(diffusion.schedule, steps))
    states = generate(
        model,
        diffusion,
        labels,
        guidance=args.guidance if guidance is None else guidance,
        sampler=args.sampler,
        steps=steps,
        seed=args.seed,
        clip=args.clip,
    )
    return states, count


def _labels(args: Namespace, model: torch.nn.Module) -> Tensor:
    if args.per_class < 1:
        raise ValueError(f"--per-class {args.per_class} must be at least 1")
    num_classes = model.config["num_classes"]
    if isinstance(model.label_embed, ConditionEncoder):
        if args.labels is not None:
            raise ValueError("--labels is for weights with classes; use --prompt or --boxes")
        y = scene_commands.read_request(model.label_embed, args.prompt, args.boxes)
        return y.repeat_interleave(args.per_class, dim=0)
    if args.prompt or args.boxes:
        raise ValueError("--prompt and --boxes are for weights of scenes; these take --labels")
    if args.labels is None:
        return torch.arange(num_classes).repeat(args.per_class)
    try:
        labels = [int(part) for part in args.labels.split(",")]
    except ValueError:
        raise ValueError(f"--labels {args.labels} must be numbers and commas: 3,1,4") from None
    if not all(0 <= label < num_classes for label in labels):
        raise ValueError(f"--labels {args.labels}: these weights know 0 … {num_classes - 1}")
    return torch.tensor(labels)


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


def evaluate(args: Namespace) -> None:
    """Judge samples of some weights, beside as many real images."""
    model, diffusion = _denoiser(args)
    stage = _first_stage(args)
    if isinstance(model.label_embed, ConditionEncoder):

        def draw(y: Tensor, guidance: float) -> Tensor:
            states, _ = _states(args, model, diffusion, y, guidance)
            return _pixels(stage, last(states).cpu())

        return scene_commands.evaluate(args, model.label_embed, draw)
    args.data = args.data or weights.info(args.weights).get("data", "mnist")
    judge = judging.classifier(args.data)
    if args.per_class * model.config["num_classes"] <= 64:
        raise ValueError(f"--per-class {args.per_class} is too few to judge; try 100")
    labels = torch.arange(model.config["num_classes"]).repeat(args.per_class)
    began = time.perf_counter()
    images = _pixels(stage, last(_states(args, model, diffusion, labels)[0]).cpu())
    spent = time.perf_counter() - began
    real = data.load(args.data, "test")
    real_images = data.to_unit(real.images[: len(images)])
    found = {
        "samples": len(images),
        "guidance": args.guidance,
        "sampler": args.sampler,
        "steps": args.steps,
        "seed": args.seed,
        "clip": args.clip,
        "recognised": round(judging.accuracy(judge, images, labels), 4),
        "frechet": round(judging.frechet_to_real(judge, images), 3),
        "real recognised": round(
            judging.accuracy(judge, real_images, real.labels[: len(images)]), 4
        ),
        "real frechet": round(judging.frechet_to_real(judge, real_images), 3),
    }
    for name, value in found.items():
        print(f"{name:>16}: {value}")
    print(f"{'seconds':>16}: {spent:.1f}")
    if args.store:
        weights.add_info(args.weights, "evaluations", found)


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
    plot.dots(panels, title=results["question"], out=path.with_suffix(".png"))
    print(page)
