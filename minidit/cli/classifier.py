"""What `classifier` does: train a judge of samples."""

from argparse import Namespace

from minidit import data, weights
from minidit import evaluate as judging
from minidit._validate import check_positive
from minidit.cli import scenes as scene_commands
from minidit.cli.terminal import bar, command_of, set_threads, writable
from minidit.evaluate.classifier import train_classifier
from minidit.latents.presets import PHOTOGRAPHS


def classifier(args: Namespace) -> None:
    """Train a judge of samples."""
    set_threads(args.threads)
    path = writable(args.out, ".safetensors")
    check_positive(steps=args.steps)
    if args.data == "scenes":
        return scene_commands.train_detector(args, path)
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
