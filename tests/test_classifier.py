"""The classifier: its shapes, that it learns, and that jitter moves images only a little."""

import pytest
import torch

from minidit import load
from minidit.evaluate.classifier import (
    Classifier,
    feature_distance,
    flip_and_shift,
    jitter,
    train_classifier,
)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("channels, side", [(1, 28), (3, 32)])
def test_shapes(channels, side, residual):
    model = Classifier(channels, num_classes=7, width=4, residual=residual).eval()
    images = torch.randn(5, channels, side, side)
    assert model(images).shape == (5, 7)
    features = model.features(images)
    assert features.shape == (5, 64) and features.min() >= 0
    torch.testing.assert_close(model(images[2:3]), model(images)[2:3], atol=1e-5, rtol=1e-4)


def test_jitter_moves_images_a_little_and_the_same_for_the_same_generator():
    images = torch.full((200, 1, 28, 28), -1.0)
    images[:, :, 12:16, 12:16] = 1
    moved = jitter(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.min() >= -1 and moved.max() <= 1
    weight = moved[:, 0] + 1
    places = torch.arange(28.0) - 13.5
    mass = weight.sum(dim=(1, 2))
    center = torch.stack([(weight.sum(dim=d) * places).sum(dim=1) / mass for d in (2, 1)], 1)
    assert 1.5 < center.abs().max() < 2.5 and center.mean(dim=0).abs().max() < 0.3
    assert (mass / 32).min() > 0.6 and (mass / 32).max() < 1.5  # 16 pixels of brightness 2
    assert torch.equal(moved, jitter(images, torch.Generator().manual_seed(0)))


def test_photographs_are_mirrored_and_shifted_whole():
    rng = torch.Generator().manual_seed(1)
    image = torch.rand(3, 12, 12, generator=rng)
    moved = flip_and_shift(image.expand(500, 3, 12, 12), torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(image[None], (4, 4, 4, 4), mode="reflect")[0]
    windows = {
        (flip, y, x): padded[:, y : y + 12, x : x + 12].flip(2) if flip else
        padded[:, y : y + 12, x : x + 12]
        for flip in (False, True) for y in range(9) for x in range(9)
    }  # fmt: skip
    found = set()
    for one in moved:
        (place,) = [place for place, window in windows.items() if torch.equal(one, window)]
        found.add(place)
    assert {y for _, y, _ in found} == {x for _, _, x in found} == set(range(9))
    assert len({flip for flip, _, _ in found}) == 2
    again = flip_and_shift(image.expand(500, 3, 12, 12), torch.Generator().manual_seed(0))
    assert torch.equal(moved, again)


def test_activations_lead_to_the_features():
    for residual in (False, True):
        model = Classifier(3, 4, width=2, residual=residual).eval()
        images = torch.randn(2, 3, 32, 32)
        stages = model.activations(images)
        assert len(stages) == 4 and all(len(stage) == 2 for stage in stages)
        assert torch.equal(stages[-1], model.convs(images))


def test_feature_distance_is_zero_for_equal_images_and_pulls_at_the_first_only():
    model = Classifier(1, 3, width=2).eval()
    a, b = (torch.randn(3, 1, 28, 28, requires_grad=True) for _ in range(2))
    assert feature_distance(model, a, a) < 1e-10
    distance = feature_distance(model, a, b)
    distance.backward()
    assert 0 < distance < 2 and a.grad.abs().sum() > 0 and b.grad is None


def test_photographs_get_the_deeper_network():
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    model = train_classifier(images, torch.arange(20) % 2, steps=1, photographs=True)
    assert model.config["residual"] and model.mean.abs().sum() > 0


def test_the_shipped_classifiers_are_what_they_were():
    """Their files were written before there was another kind of network."""
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = {
        "digits": [
            [-6.86342, -7.03553, 1.34503],
            [-7.92619, -6.53298, 0.01771],
            [-7.53935, -6.93678, 0.11396],
        ],
        "mnist": [
            [-6.03334, -5.21863, -6.95275],
            [-6.24586, -5.19816, -7.48533],
            [-6.47862, -5.16748, -6.94631],
        ],
    }
    for name, logits in expected.items():
        ours = load(f"classifier-{name}").model(images)[:, :3]
        torch.testing.assert_close(ours, torch.tensor(logits), atol=1e-4, rtol=1e-4)


def test_it_learns_and_knows_the_statistics_of_its_training_images():
    """Two classes: a bright left half, a bright right half, under noise."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(100, (64, 1, 28, 28), generator=rng, dtype=torch.uint8)
    labels = torch.arange(64) % 2
    images[labels == 0, :, :, :14] += 150
    images[labels == 1, :, :, 14:] += 150
    reported = []
    torch.manual_seed(5)
    state = torch.get_rng_state()
    model = train_classifier(
        images, labels, steps=12, report=lambda step, loss: reported.append(step)
    )
    assert reported == list(range(1, 13))
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are untouched
    x = images.float() / 127.5 - 1
    assert (model(x).argmax(dim=1) == labels).float().mean() > 0.95
    features = model.features(x).double()
    torch.testing.assert_close(model.mean, features.mean(dim=0))
    torch.testing.assert_close(model.cov, features.T.cov())
    assert not model.training
