"""How good are samples? Recognition by a classifier, and distances between feature clouds.

The features are those of our own classifiers, so the numbers compare runs with each other and
with real images, not with FIDs from other networks.
"""

import torch
from torch import Tensor

from minidit.classifier import Classifier
from minidit.weights import load


def classifier(name: str) -> Classifier:
    """The shipped classifier for a data set: "mnist" or "digits"."""
    return load(f"classifier-{name}").model


def _in_batches(function, images: Tensor, size: int = 500) -> Tensor:
    with torch.no_grad():
        return torch.cat([function(part) for part in images.split(size)])


def features(judge: Classifier, images: Tensor) -> Tensor:
    """(n, c, h, w) in [-1, 1] → (n, 64)."""
    return _in_batches(judge.features, images)


def predictions(judge: Classifier, images: Tensor) -> Tensor:
    """(n, c, h, w) in [-1, 1] → the most likely labels (n,)."""
    return _in_batches(judge, images).argmax(dim=1)


def accuracy(judge: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of images that the classifier takes for their label, 0 … 1."""
    if labels.shape != images.shape[:1]:
        shape = tuple(labels.shape)
        raise ValueError(f"labels have shape {shape} for {len(images)} images; one label an image")
    return (predictions(judge, images) == labels).double().mean().item()


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """‖μ1 - μ2‖² + tr(C1 + C2 - 2·(C1·C2)^½) of two normal distributions (arXiv 1706.08500).

    Means (k,), covariances (k, k). The trace of the root is the sum of the roots of the
    eigenvalues of C1^½·C2·C1^½, which is symmetric.
    """
    mean1, cov1, mean2, cov2 = (a.double() for a in (mean1, cov1, mean2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T  # C1^½
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return ((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross).item()


def frechet_to_real(judge: Classifier, images: Tensor) -> float:
    """Fréchet distance of images (n, c, h, w) in [-1, 1] to the judge's real training images.

    It falls with n even for real images: compare with as many real ones. n should exceed 64.
    """
    if len(images) <= 64:
        raise ValueError(f"{len(images)} images are too few for a 64×64 covariance; give hundreds")
    f = features(judge, images).double()
    return frechet_distance(f.mean(dim=0), f.T.cov(), judge.mean, judge.cov)
