"""How good are samples? Recognition by a classifier, and distances between feature clouds.

The features are our own classifiers': the numbers don't compare with FIDs from other networks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from minidit._validate import check_positive, check_tensor
from minidit.evaluate.classifier import Classifier
from minidit.latents.autoencoder import Autoencoder, VQAutoencoder
from minidit.weights import known, load, shipped


def classifier(name: str) -> Classifier:
    """The shipped classifier for a data set: "mnist", "digits" or "cifar10"."""
    if not known(f"classifier-{name}"):
        there = [k.removeprefix("classifier-") for k in shipped() if k.startswith("classifier-")]
        raise ValueError(f"data {name!r} has no classifier; there is one of {there}")
    return load(f"classifier-{name}").model


def _in_batches(function, images: Tensor, size: int = 500) -> Tensor:
    with torch.no_grad():
        return torch.cat([function(part) for part in images.split(size)])


def features(model: Classifier, images: Tensor) -> Tensor:
    """(n, c, h, w) in [-1, 1] → (n, 64)."""
    return _in_batches(model.features, images)


def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of images (n, c, h, w) that the classifier takes for their label, 0 … 1.

    Here and in `frechet_to_real` the `features` of images, (n, 64), will do in their place.
    """
    found = images if images.ndim == 2 else features(model, images)
    check_tensor("labels", labels, "(n,)")
    if labels.shape != found.shape[:1]:
        shape = tuple(labels.shape)
        raise ValueError(f"labels have shape {shape} for {len(found)} images; one label an image")
    return (model.to_logits(found).argmax(dim=1) == labels).double().mean().item()


def matching(labels: Tensor, wanted: Tensor) -> Tensor:
    """Rows of `labels` (n,) with the labels `wanted` (m,): the first ones, as far as they last.

    Real images must have the labels that samples have: of a few hundred drawn at random some
    classes are rarer by chance, and that alone takes them further from the training images.
    """
    rows = [(labels == k).nonzero().flatten()[:n] for k, n in enumerate(wanted.bincount().tolist())]
    return torch.cat(rows).sort().values


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (k,) and covariance (k, k) of features (n, k), in double precision."""
    features = features.double()
    return features.mean(dim=0), features.T.cov()


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """‖μ1 - μ2‖² + tr(C1 + C2 - 2·(C1·C2)^½) of means (k,), covariances (k, k) (arXiv 1706.08500).

    The root's trace sums the roots of the eigenvalues of C1^½·C2·C1^½, which is symmetric.
    """
    mean1, cov1, mean2, cov2 = given = [a.double() for a in (mean1, cov1, mean2, cov2)]
    if not all(a.isfinite().all() for a in given):
        raise ValueError("a mean or covariance isn't finite; take two images at least, and no NaN")
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T  # C1^½
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return ((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross).item()


def frechet_to_real(model: Classifier, images: Tensor) -> float:
    """Fréchet distance of images (n, c, h, w) in [-1, 1] to the classifier's real training images.

    It falls with n even for real images: compare with as many real ones. n should exceed 64.
    """
    found = images if images.ndim == 2 else features(model, images)
    if len(found) <= 64:
        raise ValueError(f"{len(found)} images are too few for a 64×64 covariance; give hundreds")
    return frechet_distance(*moments(found), model.mean, model.cov)


def measure(
    model: Classifier, images: Tensor, labels: Tensor, reference: Tensor | None = None
) -> dict[str, float]:
    """Of images (n, c, h, w) in [-1, 1], labels (n,): "recognised", see `accuracy`, `distances`."""
    found = features(model, images)  # once for both
    right = round(accuracy(model, found, labels), 4)
    return {"recognised": right} | distances(model, found, reference)


def distances(
    model: Classifier, found: Tensor, reference: Tensor | None = None
) -> dict[str, float]:
    """The "frechet" of features (n, 64); with a `reference` (m, 64) its `neighbours`, too."""
    near = neighbours(reference, found)._asdict() if reference is not None else {}
    rounded = {key: round(value, 4) for key, value in near.items()}
    return {"frechet": round(frechet_to_real(model, found), 3)} | rounded


class Reconstruction(NamedTuple):
    """What an autoencoder leaves of real images."""

    psnr: float  # dB, see `psnr`
    recognised: float  # share of the reconstructions taken for their label, 0 … 1
    real_recognised: float  # the same of the images themselves
    frechet: float  # Fréchet distance of the reconstructions' features to the images'
    share: float | None  # of the codebook, how much these images use; None without one
    perplexity: float | None  # as many codes, equally often used, would carry as much


def psnr(images: Tensor, others: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, 10·log10(2²/MSE), of (n, c, h, w) in [-1, 1]: its mean."""
    if images.shape != others.shape:
        raise ValueError(f"images have shape {tuple(images.shape)}, others {tuple(others.shape)}")
    error = (images - others).double().square().flatten(1).mean(dim=1)  # (n,)
    return (10 * (4 / error).log10()).mean().item()


def reconstruction(
    model: Classifier, autoencoder: Autoencoder, images: Tensor, labels: Tensor
) -> Reconstruction:
    """Of images (n, c, h, w), labels (n,), best by a classifier that trained no autoencoder."""
    latents = _in_batches(autoencoder.latents, images)
    restored = _in_batches(autoencoder.decode, latents).clamp(-1, 1)
    both = [features(model, x) for x in (restored, images)]
    recognised = [accuracy(model, found, labels) for found in both]
    distance = frechet_distance(*moments(both[0]), *moments(both[1]))
    usage: tuple = (None, None)
    if isinstance(autoencoder, VQAutoencoder):
        usage = autoencoder.quantizer.usage(_in_batches(autoencoder.quantizer.nearest, latents))
    return Reconstruction(psnr(restored, images), *recognised, distance, *usage)


class Neighbours(NamedTuple):
    """Shares (0 … 1; density may exceed 1) that tell quality and variety apart."""

    precision: float  # of the samples, how many lie where real images lie
    recall: float  # of the real images, how many lie where samples lie
    density: float  # how many real neighbourhoods a sample lies in, divided by k
    coverage: float  # of the real images, how many have a sample in their neighbourhood


def neighbours(real: Tensor, samples: Tensor, k: int = 5) -> Neighbours:
    """Compare features (n, d) of real images with those (m, d) of samples by nearest neighbours.

    A neighbourhood: the ball around a point that reaches to its k-th nearest one of the same set.
    Precision, recall: arXiv 1904.06991; density, coverage, which no single outlier spoils: arXiv
    2002.09797. All depend on n and m. Raises ValueError for features that don't fit, or too few.
    """
    check_positive(k=k)
    if real.ndim != 2 or samples.ndim != 2 or real.shape[1] != samples.shape[1]:
        raise ValueError(
            f"real has shape {tuple(real.shape)}, samples {tuple(samples.shape)}; both must be "
            "features (n, d), (m, d) of one length d: see `features`"
        )
    if min(len(real), len(samples)) <= k:
        raise ValueError(f"{len(real)} and {len(samples)} points are too few for k={k}; give more")
    real, samples = real.double(), samples.double()
    around_real, around_samples = _reach(real, k), _reach(samples, k)  # (n,), (m,)
    near, counts = torch.zeros(2, len(real), dtype=torch.bool, device=real.device), []
    for part, reach in zip(samples.split(1000), around_samples.split(1000)):
        across = torch.cdist(real, part)  # (n, up to 1000)
        in_real = across <= around_real[:, None]
        counts.append(in_real.sum(dim=0))
        near |= torch.stack([(across <= reach).any(dim=1), in_real.any(dim=1)])
    count, (recalled, covered) = torch.cat(counts).double(), near.double().mean(dim=1).tolist()
    precision = (count > 0).double().mean().item()
    return Neighbours(precision, recalled, count.mean().item() / k, covered)


def _reach(points: Tensor, k: int) -> Tensor:
    """How far each of the points (n, d) is from its k-th nearest other one: (n,)."""
    # the nearest point to each is itself, at distance 0
    parts = [torch.cdist(part, points).kthvalue(k + 1, dim=1).values for part in points.split(1000)]
    return torch.cat(parts)
