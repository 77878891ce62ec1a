"""What the command line does to measure samples: figures beside those of real images.

Real images are test images with the samples' labels. Precision, recall, density and coverage hold
both to other test images. A near-copy is nearer to a training image than all of those but 1 %;
about 1 % of the real images are that near, too.
"""

import time
from argparse import Namespace

import torch
from torch import Tensor

from minidit import data, weights
from minidit import evaluate as judging
from minidit.cli import images as image_commands
from minidit.cli import scenes as scene_commands
from minidit.cli.sample import HOW, Painter, add_sampling
from minidit.cli.terminal import add_shared
from minidit.conditions.encoders import ConditionEncoder
from minidit.conditions.images import ImageEncoder
from minidit.evaluate import memorisation as copies
from minidit.evaluate.inception import inception, inception_features

MOST = 2000  # test images that tell how near to a training image is suspicious


def add(subparsers) -> None:
    """The options of `evaluate`."""
    p = subparsers.add_parser("evaluate", help="measure samples beside as many real images")
    add_sampling(p, 100, "of each class, or of scenes with seen and held-out pairs (%(default)s)")
    p.add_argument("--data", help="whose classifier and images (default: what they trained on)")
    file = "of photographs, the usual FID as well: the file of InceptionV3's weights"
    p.add_argument("--inception", metavar="FILE", help=file)
    add_shared(p, "store")
    p.set_defaults(run=evaluate)


def evaluate(args: Namespace) -> None:
    """Measure samples of some weights, beside as many real images."""
    painter = Painter(args)
    encoder, num_classes = painter.model.label_embed, painter.model.config["num_classes"]
    if isinstance(encoder, ConditionEncoder):
        if args.inception is not None:
            raise ValueError("--inception is for photographs; scenes have prompt alignment")
        if args.data not in (None, "scenes"):
            raise ValueError(f"--data {args.data}: these weights draw scenes; leave the option out")
        return scene_commands.evaluate(args, encoder, painter.draw)
    args.data = args.data or weights.info(args.weights).get("data", "mnist")
    if args.inception is not None and not data.find(args.data).photographs:
        raise ValueError(f"--inception is for photographs, not for {args.data}; leave it out")
    network = inception(args.inception) if args.inception is not None else None
    if num_classes and args.per_class * num_classes <= 64:
        raise ValueError(f"--per-class {args.per_class} is too few to measure; try 100")
    judging.classifier(args.data)
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

    Real are the first test images with the same labels (n,) in one half of the test set (fewer, if
    it has no more of them); the other half is the reference. With a `network` of `inception` also
    the FID to all training images, for which 64 features are few, and thousands of images needed.
    """
    train, test = data.load(name), data.load(name, "test")
    half = len(test) // 2
    rows = judging.matching(test.labels[:half], labels)
    real, known = test.images[rows], train.images
    if data.find(name).photographs:  # networks have seen them mirrored, too
        known = torch.cat([known, known.flip(3)])
    classifier, reference = judging.classifier(name), data.to_unit(test.images[half:])
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
