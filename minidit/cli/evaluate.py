"""What the command line does to measure samples, and to train the networks that read them.

Real images are test images with the samples' labels. Precision, recall, density and coverage hold
both to other test images. A near-copy is nearer to a training image than all of those but 1 %;
about 1 % of the real images are that near, too.
"""

import math
import time
from argparse import Namespace

import torch
from torch import Tensor

from minidit import data, weights
from minidit import evaluate as judging
from minidit._validate import check_positive
from minidit.cli import images as image_commands
from minidit.cli.sample import HOW, Painter, add_sampling
from minidit.cli.terminal import bar, command, command_of, writable
from minidit.conditions.encoders import ConditionEncoder, TextEncoder
from minidit.conditions.images import ImageEncoder
from minidit.evaluate import memorisation as copies
from minidit.evaluate import prompt_alignment as alignment
from minidit.evaluate.classifier import train_classifier
from minidit.evaluate.detector import make_detector
from minidit.evaluate.inception import inception, inception_features

MOST = 2000  # test images that tell how near to a training image is suspicious


def add(subparsers) -> None:
    """The options of `evaluate` and of `classifier`."""
    told = "measure samples beside as many real images"
    option = command(subparsers, evaluate, told, "device", "store")
    each = "of each class, or of scenes with seen and held-out pairs (%(default)s)"
    add_sampling(option, 100, each)
    option("--data", help="whose classifier and images (default: what they trained on)")
    file = "of photographs, the usual FID as well: the file of InceptionV3's weights"
    option("--inception", metavar="FILE", help=file)

    told = "train the classifier that reads samples"
    option = command(subparsers, classifier, told, "threads")
    option("--data", default="mnist", help="digits, mnist, cifar10 or scenes (%(default)s)")
    option("--out", required=True, help="FILE.safetensors")
    option("--steps", type=int, default=3000, help="of 256 images (%(default)s)")
    option("--seed", type=int, default=0, help="of weights and batches (%(default)s)")


def evaluate(args: Namespace) -> None:
    """Measure samples of some weights, beside as many real images."""
    painter = Painter(args)
    encoder, num_classes = painter.model.label_embed, painter.model.config["num_classes"]
    if isinstance(encoder, ConditionEncoder):
        if args.inception is not None:
            raise ValueError("--inception is for photographs; scenes have prompt alignment")
        if args.data not in (None, "scenes"):
            raise ValueError(f"--data {args.data}: these weights draw scenes; leave the option out")
        return _evaluate_scenes(args, encoder, painter)
    args.data = args.data or weights.info(args.weights).get("data", "mnist")
    if args.inception is not None and not data.find(args.data).photographs:
        raise ValueError(f"--inception is for photographs, not for {args.data}; leave it out")
    network = inception(args.inception) if args.inception is not None else None
    judging.classifier(args.data)
    if args.per_class * (num_classes or len(data.find(args.data).classes)) <= 64:
        raise ValueError(f"--per-class {args.per_class} is too few to measure; try 100")
    if isinstance(encoder, ImageEncoder):
        return image_commands.evaluate(args, encoder, painter.draw)
    test = data.load(args.data, "test")  # what can't be had is said before the work begins
    drawn, real = (painter.model.in_channels, *painter.model.size), tuple(test.images.shape[1:])
    fits = painter.stage is not None or drawn == real
    if not (fits and 1 <= num_classes <= len(test.classes)):
        told = f"images {real} of {len(test.classes)} classes, and these weights draw {drawn}"
        raise ValueError(f"--data {args.data} has {told} of {num_classes}; choose another data set")
    labels = torch.arange(num_classes).repeat(args.per_class)
    began = time.perf_counter()
    images = painter.draw(labels, args.guidance)
    spent = time.perf_counter() - began
    mine, real = compare(args.data, images, labels, network)
    found = {"samples": len(images)} | {key: getattr(args, key) for key in HOW}
    for key, value in found.items():
        print(f"{key:>18}: {value}")
    print(f"{'seconds':>18}: {spent:.1f}\n{'':>18}  {'samples':>8} {'real':>8}")
    for key, value in mine.items():
        print(f"{key:>18}: {value:>8} {real[key]:>8}")
    if args.store:
        found |= mine | {f"real {key}": value for key, value in real.items()}
        weights.add_info(args.weights, "evaluations", found)


def compare(
    name: str, images: Tensor, labels: Tensor, network: torch.nn.Module | None = None
) -> tuple[dict, dict]:
    """The figures of samples (n, c, h, w) in [-1, 1], and of as many real images of a data set.

    Real are test images with the same labels (n,), out of one half of the test set (fewer, if it
    has no more of them); the other half is the reference. The halves are dealt, always alike: of
    MNIST as it lies other people wrote the second than the first. With a `network` of `inception`
    also the FID to all training images: its features are many, so thousands of images are needed.
    """
    train, test = data.load(name), data.load(name, "test")
    dealt = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    half, others = dealt[: len(test) // 2], dealt[len(test) // 2 :]
    rows = half[judging.matching(test.labels[half], labels)]
    real, known = test.images[rows], train.images
    if data.find(name).photographs:  # networks have seen them mirrored, too
        known = torch.cat([known, known.flip(3)])
    classifier, reference = judging.classifier(name), data.to_unit(test.images[others])
    features = judging.features(classifier, reference)
    unseen = copies.nearest(reference[:MOST], known)
    found = []
    for x, y in ((images, labels), (data.to_unit(real), test.labels[rows])):
        near = copies.near_copies(copies.nearest(x, known), unseen)
        values = judging.measure(classifier, x, y, features)
        found.append({"images": len(x), **values, "near copies": round(near, 4)})
    if network is not None:
        moments = judging.moments(inception_features(network, train.images))
        for values, shown in zip(found, (data.to_uint8(images), real)):
            own = judging.moments(inception_features(network, shown))
            values["FID"] = round(judging.frechet_distance(*own, *moments), 2)
    return tuple(found)


def _evaluate_scenes(args: Namespace, encoder: ConditionEncoder, painter: Painter) -> None:
    """How well test scenes are drawn, with and without guidance.

    Scenes with none but pairs of kind and colour that training showed, and with held-out ones.
    """
    detector, test = alignment.scene_detector(), data.load("scenes", "test")
    each, most, y = args.per_class, int(test.held_out.sum()), data.condition_of(test, encoder)
    if not 1 <= each <= most:
        raise ValueError(f"{each} scenes of each half can't be had: 1 … {most}")
    settings = {key: getattr(args, key) for key in HOW if key != "guidance"}
    for name, chosen in (("seen pairs", ~test.held_out), ("held-out pairs", test.held_out)):
        rows = chosen.nonzero().flatten()[:each]
        images = {"real": data.to_unit(test.images[rows])}
        for scale in dict.fromkeys([1.0, args.guidance]):
            images[f"guidance {scale:g}"] = painter.draw(y[rows], scale)
        found = {}
        for kind, x in images.items():
            if isinstance(encoder, TextEncoder):  # images are held to what the encoder was told
                told = [test.captions[row] for row in rows.tolist()]
                values = alignment.caption_alignment(detector, x, told)
            else:
                values = alignment.layout_alignment(detector, x, test.objects[rows])
            found[kind] = {k: round(v, 4) for k, v in values.items() if not math.isnan(v)}
            figures = "  ".join(f"{key} {value:.3f}" for key, value in found[kind].items())
            print(f"{name:>14}, {kind + ':':<12} {figures}")
        if args.store:
            entry = {"scenes": name, "samples": each, **settings, **found}
            weights.add_info(args.weights, "evaluations", entry)


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
            model = make_detector(**how)
            right = alignment.layout_alignment(model, images, test.objects)
            facts["test"] = {name: round(value, 4) for name, value in right.items()}
            told = f"finds all objects of {right['scenes']:.2%}"
        else:
            train, photographs = data.load(args.data), data.find(args.data).photographs
            model = train_classifier(train.images, train.labels, photographs=photographs, **how)
            right = judging.accuracy(model, images, test.labels)
            facts["test accuracy"], told = round(right, 4), f"recognises {right:.2%}"
    weights.save(model, path, info={"data": args.data, **facts, "command": command_of(args)})
    print(f"wrote {path}; it {told} of the test images")
