"""Planted copies of training images are found, and fresh images are none."""

import sys
from pathlib import Path

import pytest
import torch

from minidit import data, evaluate
from minidit.__main__ import main
from minidit.cli import evaluate as evaluate_commands
from minidit.evaluate import inception as inception_module
from minidit.evaluate import matching, memorisation
from minidit.evaluate.classifier import Classifier
from minidit.evaluate.inception import WEIGHTS, inception, inception_features
from minidit.evaluate.memorisation import near_copies, nearest


def noise(n, seed, side=8):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, side, side, generator=rng) * 2 - 1


def test_the_nearest_is_found_and_its_distance_is_of_half_the_resolution(monkeypatch):
    monkeypatch.setattr(memorisation, "OTHERS", 2)
    training = torch.zeros(4, 1, 4, 4)
    for k, level in enumerate((-1.0, 0.0, 0.5, 1.0)):
        training[k] = level
    found = nearest(torch.full((1, 1, 4, 4), 0.1), training)
    assert found.index.tolist() == [1]
    assert found.distance.item() == pytest.approx(0.1 * 2, abs=1e-5)  # four pixels: √4
    assert found.ratio.item() == pytest.approx(0.1 / ((0.4 + 0.9) / 2), abs=1e-4)


def test_copies_are_found_whatever_their_order_and_fresh_images_are_none():
    training, unseen = noise(300, 0), nearest(noise(200, 1), noise(300, 0))
    planted = training[torch.arange(250, 0, -1)]  # more than one chunk
    exact = nearest(planted, training)
    assert exact.index.tolist() == list(range(250, 0, -1))
    slightly = (planted + 0.05 * noise(250, 2)).clamp(-1, 1)
    assert near_copies(exact, unseen) == near_copies(nearest(slightly, training), unseen) == 1
    fresh = nearest(noise(200, 3), training)
    assert near_copies(fresh, unseen) <= 0.05
    assert near_copies(unseen, unseen) == pytest.approx(0.01)


def test_whole_numbers_are_the_same_images():
    training = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8)
    whole, floats = nearest(training, training), nearest(data.to_unit(training), training)
    assert torch.equal(whole.index, torch.arange(60))
    torch.testing.assert_close(whole.ratio, floats.ratio)


@pytest.mark.parametrize(
    "training, sentence", [((60, 3, 8, 8), "3 channels"), ((50, 1, 8, 8), "50 training images")]
)
def test_what_does_not_fit_is_refused(training, sentence):
    with pytest.raises(ValueError, match=sentence):
        nearest(noise(5, 0), torch.zeros(training))


def test_real_images_have_the_labels_that_were_asked_for():
    labels = torch.tensor([2, 0, 0, 1, 2, 0])
    assert matching(labels, torch.tensor([0, 2, 0])).tolist() == [0, 1, 2]
    assert matching(labels, torch.tensor([1, 1])).tolist() == [3], "as far as they last"


@pytest.fixture
def small_world(monkeypatch):
    """160 training images, as many test images, and an untrained classifier."""

    def load(name, split="train"):
        images = data.to_uint8(noise(160, len(split), 28))
        return data.Dataset(
            images, torch.arange(160) % 10, data.DATASETS[name].classes, name, split
        )

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(evaluate, "classifier", lambda name: Classifier(1, 10, width=2).eval())


def test_samples_that_are_training_images_are_told_from_real_ones(small_world):
    train = data.load("mnist")
    copied, real = evaluate_commands.compare(
        "mnist", data.to_unit(train.images[:70]), train.labels[:70]
    )
    assert copied["images"] == 70 and real["images"] == 67  # in its half some classes are rarer
    assert copied["near copies"] == 1 and real["near copies"] <= 0.1
    assert {"recognised", "frechet", "precision", "recall", "density", "coverage"} <= real.keys()


def test_real_samples_are_no_part_of_their_reference(small_world):
    test = data.load("mnist", "test")
    dealt = torch.randperm(160, generator=torch.Generator().manual_seed(0))[:70]
    mine, real = evaluate_commands.compare(
        "mnist", data.to_unit(test.images[dealt]), test.labels[dealt]
    )
    assert mine == real and real["coverage"] < 1


# --- the usual FID --------------------------------------------------------------------------------


def test_missing_data_are_missed_before_anything_is_drawn(monkeypatch, capsys):
    def load(name, split):
        raise data.DownloadError(f"no {split} images of {name}")

    def states(*arguments):
        raise AssertionError("drawn for nothing")

    monkeypatch.setattr(evaluate_commands.data, "load", load)
    monkeypatch.setattr(evaluate_commands.Painter, "states", states)
    assert main(["evaluate", "--weights", "dit-mnist"]) == 2
    assert "no test images of mnist" in capsys.readouterr().err


def test_without_library_or_file_a_sentence_says_what_to_get(monkeypatch, tmp_path, capsys):
    command = ["evaluate", "--weights", "dit-mnist", "--inception", "x.pth"]
    assert main(command) == 2 and "not for mnist" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    name = "torch_fidelity.feature_extractor_inceptionv3"
    monkeypatch.setitem(sys.modules, name, None)
    command[2] = "uvit-cifar10"
    assert main(command) == 2 and 'pip install "minidit[fid]"' in capsys.readouterr().err
    fake = type("M", (), {"FeatureExtractorInceptionV3": None})
    monkeypatch.setitem(sys.modules, "torch_fidelity", fake)
    monkeypatch.setitem(sys.modules, name, fake)
    assert main([*command[:-1], str(tmp_path / "no.pth")]) == 2
    error = capsys.readouterr().err
    assert "no.pth is missing; get it from https://github.com/" in error and WEIGHTS in error
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(ValueError, match="doesn't begin with 6726825d"):
        inception(tmp_path / "other.pth")

    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "pwned",))

    # eight digits of a sha256 can be forged, so they aren't all that guards the file
    monkeypatch.setattr(inception_module, "file_sha256", lambda path: "6726825d" + "0" * 56)
    torch.save({"weights": Payload()}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds more than tensors"):
        inception(tmp_path / "other.pth")
    assert not (tmp_path / "pwned").exists()


def test_inception_features_are_joined_in_order():
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    network = torch.nn.Module()
    network.forward = lambda x: (x.flatten(1).float(),)
    found = inception_features(network, images, batch_size=2)
    assert torch.equal(found, images.flatten(1).float())
