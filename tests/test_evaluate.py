"""Measures of samples against cases whose answer is known."""

import math

import pytest
import torch

from minidit import KLAutoencoder, VQAutoencoder, evaluate
from minidit.evaluate import (
    accuracy,
    features,
    frechet_distance,
    frechet_to_real,
    neighbours,
    psnr,
    reconstruction,
)
from minidit.evaluate.classifier import Classifier


@pytest.fixture
def classifier():
    return Classifier(1, num_classes=3, width=2).eval()


def gaussian(k, seed):
    rng = torch.Generator().manual_seed(seed)
    root = torch.randn(k, k, generator=rng, dtype=torch.float64)
    return torch.randn(k, generator=rng, dtype=torch.float64), root @ root.T


def test_a_cloud_is_at_no_distance_from_itself():
    mean, cov = gaussian(8, 0)
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-9)


def test_one_image_has_no_covariance():
    with (
        pytest.warns(UserWarning, match="degrees of freedom"),
        pytest.raises(ValueError, match="isn't finite; take two images at least"),
    ):
        frechet_distance(*evaluate.moments(torch.ones(1, 8)), *gaussian(8, 0))


def test_distance_of_diagonal_clouds_is_that_of_their_deviations():
    (mean1, _), (mean2, _) = gaussian(5, 1), gaussian(5, 2)
    std1, std2 = torch.tensor([[0.0, 0.5, 1, 2, 3], [1, 0, 1, 1, 2.5]], dtype=torch.float64)
    expected = (mean1 - mean2).square().sum() + (std1 - std2).square().sum()
    distance = frechet_distance(mean1, std1.square().diag(), mean2, std2.square().diag())
    assert distance == pytest.approx(expected.item(), rel=1e-9)


def test_distance_is_the_formula_symmetric_and_the_same_in_every_basis():
    (mean1, cov1), (mean2, cov2) = gaussian(6, 3), gaussian(6, 4)
    distance = frechet_distance(mean1, cov1, mean2, cov2)
    root = torch.linalg.eigvals(cov1 @ cov2).sqrt().sum().real  # tr (C1·C2)^½
    expected = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * root
    assert distance == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(mean2, cov2, mean1, cov1) == pytest.approx(distance, rel=1e-9)
    q = torch.linalg.qr(gaussian(6, 5)[1]).Q
    turned = frechet_distance(q @ mean1, q @ cov1 @ q.T, q @ mean2, q @ cov2 @ q.T)
    assert turned == pytest.approx(distance, rel=1e-9)


def test_distance_of_clouds_with_fewer_points_than_dimensions():
    points = torch.randn(2, 4, 20, dtype=torch.float64)
    clouds = [(p.mean(dim=0), p.T.cov()) for p in points]
    assert frechet_distance(*clouds[0], *clouds[1]) > 0
    assert frechet_distance(*clouds[0], *clouds[0]) == pytest.approx(
        0, abs=1e-5
    )  # roots of rounding errors


def test_features_do_not_depend_on_the_batches(classifier):
    images = torch.randn(7, 1, 28, 28)
    whole = evaluate._in_batches(classifier.features, images, size=7)
    parts = evaluate._in_batches(classifier.features, images, size=3)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features(classifier, images), whole)


def test_accuracy_counts(classifier):
    images = torch.randn(8, 1, 28, 28)
    labels = classifier(images).argmax(dim=1)
    assert accuracy(classifier, images, labels) == 1
    labels[:2] = (labels[:2] + 1) % 3
    assert accuracy(classifier, images, labels) == 0.75


def test_real_images_are_at_no_distance_from_themselves(classifier):
    images = torch.randn(100, 1, 28, 28)
    f = features(classifier, images).double()
    classifier.mean.copy_(f.mean(dim=0))
    classifier.cov.copy_(f.T.cov())
    assert frechet_to_real(classifier, images) == pytest.approx(
        0, abs=1e-5
    )  # roots of rounding errors
    assert frechet_to_real(classifier, images + 0.5) > 5e-5


def test_a_measure_sends_each_image_through_the_classifier_once(classifier, monkeypatch):
    images, seen, plain = torch.randn(100, 1, 28, 28), [], classifier.features
    labels = classifier(images).argmax(dim=1)
    real = features(classifier, torch.randn(80, 1, 28, 28))
    monkeypatch.setattr(classifier, "features", lambda x: (seen.append(len(x)), plain(x))[1])
    found = evaluate.measure(classifier, images, labels, real)
    assert sum(seen) == 100 and found["recognised"] == 1
    assert found["frechet"] == round(frechet_to_real(classifier, images), 3)
    near = neighbours(real, features(classifier, images))
    assert found["density"] == round(near.density, 4) and found["coverage"] == round(near[3], 4)
    assert evaluate.measure(classifier, images, labels).keys() == {"recognised", "frechet"}


# --- reconstruction -------------------------------------------------------------------------------


def test_psnr_is_its_formula():
    images = torch.zeros(2, 1, 4, 4)
    others = images + torch.tensor([0.2, 0.02]).reshape(2, 1, 1, 1)
    assert psnr(images, others) == pytest.approx((20 + 40) / 2, abs=1e-4)
    with pytest.raises(ValueError, match=r"shape \(2, 1, 4, 4\), others \(1, 1, 4, 4\)"):
        psnr(images, others[:1])


class Perfect(KLAutoencoder):
    """Restores images, but for a constant."""

    error = 0.0

    def latents(self, images, generator=None):
        return images

    def decode(self, latents):
        return latents + self.error


def test_reconstructions_are_measured_beside_their_images(classifier):
    images, model = torch.rand(100, 1, 28, 28) - 0.5, Perfect(1, 1, width=4)
    labels = classifier(images).argmax(dim=1)
    model.error = 0.002
    found = reconstruction(classifier, model, images, labels)
    assert found.psnr == pytest.approx(60, abs=1e-2) and found.recognised >= 0.98
    assert found.real_recognised == 1 and 0 <= found.frechet < 1e-4
    assert found.share is found.perplexity is None
    model.error = 0.4
    worse = reconstruction(classifier, model, images, labels)
    assert worse.psnr == pytest.approx(20 * math.log10(2 / 0.4), abs=1e-2)
    assert worse.frechet > 10 * found.frechet and worse.real_recognised == 1
    model.error = 40.0  # beyond what an image can hold
    assert reconstruction(classifier, model, images, labels).psnr > 0


def test_use_of_the_codebook_is_part_of_it(classifier):
    model = VQAutoencoder(1, 2, width=4, num_codes=8)
    images = torch.rand(70, 1, 28, 28)
    model.quantizer.table.data = torch.full((8, 2), 1e3)
    model.quantizer.table.data[3] = 0
    found = reconstruction(classifier, model, images, torch.zeros(70, dtype=torch.int64))
    assert (found.share, found.perplexity) == (1 / 8, pytest.approx(1))


# --- neighbours -----------------------------------------------------------------------------------


def test_neighbours_on_a_line():
    """Counted by hand: balls reach to the next point, k = 1."""
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii 1, 1, 1, 8
    samples = torch.tensor([[0.5], [1.5], [30.0]])  # radii 1, 1, 28.5
    found = neighbours(real, samples, k=1)
    assert found.precision == pytest.approx(2 / 3)  # 30 is in no real ball
    assert found.recall == 1  # 0, 1, 2 are near 0.5 or 1.5; 10 is in the outlier's ball
    assert found.density == pytest.approx((2 + 2 + 0) / 3)
    assert found.coverage == pytest.approx(3 / 4)  # no sample is in the ball of 10


def test_equal_clouds_and_distant_ones():
    points = torch.randn(60, 5)
    same, far = neighbours(points, points), neighbours(points, points + 1000)
    assert same.precision == same.recall == same.coverage == 1
    assert far == (0, 0, 0, 0)


def test_one_real_image_again_and_again_is_precise_but_covers_nothing():
    real = torch.randn(60, 5)
    found = neighbours(real, real[:1].repeat(60, 1))
    assert found.precision == 1 and found.recall < 0.1 and found.coverage < 0.5


@pytest.mark.parametrize(
    "real, samples, k, sentence",
    [
        ((9, 3), (9, 4), 5, r"real has shape \(9, 3\), samples \(9, 4\); both must be features"),
        ((9, 1, 2, 2), (9, 1, 2, 2), 5, "both must be features"),
        ((9, 3), (5, 3), 5, "9 and 5 points are too few for k=5"),
        ((9, 3), (9, 3), 0, "k=0 must be at least 1"),
    ],
)
def test_neighbours_refuse_what_does_not_fit(real, samples, k, sentence):
    with pytest.raises(ValueError, match=sentence):
        neighbours(torch.randn(real), torch.randn(samples), k)
