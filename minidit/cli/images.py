"""What the command line does with images as conditions: they are read, and results measured."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from minidit import data, weights
from minidit import evaluate as judging
from minidit.conditions.images import ImageEncoder, InpaintEncoder
from minidit.data.folders import read_picture

SAMPLES = 8  # of each image, for their mean


def read_request(encoder: ImageEncoder, image: str | None, mask: str | None) -> Tensor:
    """What --image and --mask tell a network with this encoder: y (1, c + 1, h, w)."""
    if image is None and mask is None:
        return encoder.empty(1)
    inpaint = isinstance(encoder, InpaintEncoder)
    if image is None or inpaint != (mask is not None):
        files = "--image FILE and --mask FILE, white where to draw" if inpaint else "--image FILE"
        raise ValueError(f"these weights take {files}; without both they draw from nothing")
    c, h, w = encoder.shape
    if not inpaint:
        return encoder.compose(_picture(image, c, h // encoder.FACTOR, w // encoder.FACTOR))
    return encoder.compose(_picture(image, c, h, w), _picture(mask, 1, h, w) < 0)


def _picture(path: str, c: int, h: int, w: int) -> Tensor:
    """A PNG or JPEG file as (1, c, h, w) in [-1, 1]; where pixels are too many, their means."""
    pixels = torch.from_numpy(read_picture(Path(path), (w, h), averaged=True)[0]).float()
    pixels = pixels.permute(2, 0, 1)[None]  # (1, 3, h, w)
    return (pixels if c == 3 else pixels.mean(dim=1, keepdim=True)) / 127.5 - 1


def evaluate(
    args: Namespace, encoder: ImageEncoder, draw: Callable[[Tensor, float], Tensor]
) -> None:
    """What is drawn of test images, beside what needs no network; `draw(y, guidance)`: images.

    The PSNR is that of all pixels together. Nothing has a higher one than the mean of all images
    that fit y, and it is blurred: the Fréchet distance tells.
    """
    train, test = data.load(args.data), data.load(args.data, "test")
    wanted = torch.arange(len(test.classes)).repeat(args.per_class)
    rows = judging.matching(test.labels, wanted)
    real, labels = data.to_unit(test.images[rows]), test.labels[rows]  # (n, c, h, w), (n,)
    y = encoder.tell(real, torch.Generator().manual_seed(args.seed))
    drawn = draw(y.repeat(SAMPLES, 1, 1, 1), args.guidance).unflatten(0, (SAMPLES, -1))
    if isinstance(encoder, InpaintEncoder):
        mean = data.to_unit(train.images).mean(dim=0)
        plain = {"mean of training": torch.where(y[:, -1:] > 0, real, mean)}
    else:
        small = F.avg_pool2d(real, encoder.FACTOR)
        plain = {"bicubic": F.interpolate(small, real.shape[2:], mode="bicubic").clamp(-1, 1)}
    shown = {"a sample": drawn[0], f"mean of {SAMPLES}": drawn.mean(dim=0), **plain, "real": real}
    found, classifier = {}, judging.classifier(args.data)
    for name, images in shown.items():
        error = (images - real).double().square().mean()
        psnr = {} if name == "real" else {"psnr": round((10 * (4 / error).log10()).item(), 2)}
        found[name] = psnr | judging.measure(classifier, images, labels)
    nothing = judging.features(classifier, draw(encoder.empty(len(real)), 1.0))
    found["from nothing"] = judging.distances(classifier, nothing)
    for name, values in found.items():
        print(f"{name:>18}:", *(f" {key} {value:.4g}" for key, value in values.items()))
    if args.store:
        settings = {key: getattr(args, key) for key in ("guidance", "sampler", "steps", "seed")}
        weights.add_info(args.weights, "evaluations", {"images": len(real), **settings, **found})
