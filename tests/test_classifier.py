"""The judge of samples: its shapes, that it learns, and that jitter moves images only a little."""

import pytest
import torch

from minidit.classifier import Classifier, jitter, train_classifier


@pytest.mark.parametrize("channels, side", [(1, 28), (3, 32)])
def test_shapes(channels, side):
    model = Classifier(channels, num_classes=7, width=4).eval()
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


def test_it_learns_and_knows_the_statistics_of_its_training_images():
    """Two classes: a bright left half, a bright right half, under noise."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(100, (64, 1, 28, 28), generator=rng, dtype=torch.uint8)
    labels = torch.arange(64) % 2
    images[labels == 0, :, :, :14] += 150
    images[labels == 1, :, :, 14:] += 150
    heard = []
    torch.manual_seed(5)
    state = torch.get_rng_state()
    judge = train_classifier(
        images, labels, steps=12, batch_size=16, report=lambda step, loss: heard.append(step)
    )
    assert heard == list(range(1, 13))
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are untouched
    x = images.float() / 127.5 - 1
    assert (judge(x).argmax(dim=1) == labels).float().mean() > 0.95
    features = judge.features(x).double()
    torch.testing.assert_close(judge.mean, features.mean(dim=0))
    torch.testing.assert_close(judge.cov, features.T.cov())
    assert not judge.training
