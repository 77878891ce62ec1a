"""Are samples copies of training images?

A distance alone doesn't tell: a plain image is near to many others. A copy is nearer to one
training image than to all the rest, so the distance to the nearest is divided by that to the next
ones (arXiv 2301.13188, section 5.1). It is taken between pixels at half the resolution: features
of a classifier, made alike within a class, miss copies with a little noise. Both miss shifted ones.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from minidit._validate import check_images
from minidit.patches import as_unit

OTHERS = 50  # the next nearest training images, whose mean distance is the measure
SHARE = 0.01  # of unseen real images: as near as these to a training image is suspicious


class Nearest(NamedTuple):
    """The training image that is nearest to each of n images."""

    index: Tensor  # (n,), among the training images
    distance: Tensor  # (n,), the root of the sum of squares, pixels in -1 … 1, at half resolution
    ratio: Tensor  # (n,), to the mean distance of the next ones: 0 of a copy, at most 1


def nearest(images: Tensor, training: Tensor) -> Nearest:
    """Find for images (n, c, h, w) the nearest of training images (m, c, h, w).

    Both are uint8 or floats in [-1, 1]; a thousand against MNIST takes seconds and 50 MB.
    Raises ValueError for images that don't fit, and for m <= `OTHERS`.
    """
    check_images(images)
    check_images(training, images.shape[1], tuple(images.shape[2:]))
    if len(training) <= OTHERS:
        raise ValueError(f"{len(training)} training images are too few for others={OTHERS}")
    halves, known = _halved(images).split(200), _halved(training)
    found = [torch.cdist(part, known).topk(OTHERS + 1, largest=False) for part in halves]
    distances, indices = (torch.cat(parts) for parts in zip(*found))  # (n, OTHERS + 1)
    mean = distances[:, 1:].mean(dim=1).clamp(min=1e-12)
    return Nearest(indices[:, 0], distances[:, 0], distances[:, 0] / mean)


def near_copies(found: Nearest, unseen: Nearest) -> float:
    """How many of n images, 0 … 1, are nearer to a training image than almost all unseen real ones.

    Nearer, by the ratio, than the nearest `SHARE` of them, which is the floor for real images.
    """
    return (found.ratio < unseen.ratio.quantile(SHARE)).double().mean().item()


def _halved(images: Tensor) -> Tensor:
    """(n, c, h, w) → (n, c·h/2·w/2), the mean of every 2 × 2 pixels."""
    return torch.cat([avg_pool2d(as_unit(part), 2).flatten(1) for part in images.split(1000)])
