"""What `classifier` does: train the network that reads samples; of scenes it is a detector."""

from argparse import Namespace

from minidit import data, evaluate, weights
from minidit._validate import check_positive
from minidit.cli.terminal import add_shared, bar, command_of, writable
from minidit.evaluate import detector
from minidit.evaluate import prompt_alignment as alignment
from minidit.evaluate.classifier import train_classifier


def add(subparsers) -> None:
    """The options of `classifier`."""
    p = subparsers.add_parser("classifier", help="train the classifier that reads samples")
    p.add_argument("--data", default="mnist", help="digits, mnist, cifar10 or scenes (%(default)s)")
    p.add_argument("--out", required=True, help="FILE.safetensors")
    p.add_argument("--steps", type=int, default=3000, help="of 256 images (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of weights and batches (%(default)s)")
    add_shared(p, "threads")
    p.set_defaults(run=classifier)


def classifier(args: Namespace) -> None:
    """Train a classifier or the detector, and store it with what it gets right of test images."""
    path = writable(args.out, ".safetensors")
    writable(path.with_suffix(".json"), ".json")
    check_positive(steps=args.steps)
    test = data.load(args.data, "test")
    images, facts = data.to_unit(test.images), {"steps": args.steps, "seed": args.seed}
    with bar(args.steps) as progress:
        how = facts | {"report": lambda step, loss: progress.update()}
        if args.data == "scenes":
            model = detector.make_detector(**how)
            right = alignment.layout_alignment(model, images, test.objects)
            facts["test"] = {name: round(value, 4) for name, value in right.items()}
            told = f"finds all objects of {right['scenes']:.2%}"
        else:
            train, photographs = data.load(args.data), data.find(args.data).photographs
            model = train_classifier(train.images, train.labels, photographs=photographs, **how)
            right = evaluate.accuracy(model, images, test.labels)
            facts["test accuracy"], told = round(right, 4), f"recognises {right:.2%}"
    weights.save(model, path, info={"data": args.data, **facts, "command": command_of(args)})
    print(f"wrote {path}; it {told} of the test images")
