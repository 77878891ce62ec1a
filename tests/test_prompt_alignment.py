"""The detector of scenes, and whether prompt alignment is counted as a reader would count it."""

import math

import pytest
import torch

from minidit import data
from minidit.data import captions, scenes
from minidit.data.scenes import COLOURS, KINDS
from minidit.evaluate import prompt_alignment
from minidit.evaluate.detector import (
    FOUND,
    SceneDetector,
    detector_loss,
    make_detector,
    middles,
    overlap,
)
from minidit.weights import load, save


class Oracle(torch.nn.Module):
    """A detector that finds what it is given, whatever the images; those come in order."""

    def __init__(self, objects):
        super().__init__()
        self.objects = torch.nn.functional.pad(objects, (0, 0, 0, FOUND - objects.shape[1]))

    def find(self, images):
        found = self.objects[: len(images)]
        self.objects = self.objects.roll(-len(images), dims=0)
        return found


def scene(*objects):
    """Objects ("red three", x0, y0, x1, y1) as (1, 3, 6)."""
    rows = torch.zeros(1, 3, 6)
    for k, (name, *box) in enumerate(objects):
        colour, kind = name.split()
        rows[0, k] = torch.tensor([1 + KINDS.index(kind), 1 + list(COLOURS).index(colour), *box])
    return rows


PICTURE = torch.zeros(1, 3, 32, 32)
THREE = ("red three", 0.1, 0.1, 0.3, 0.4)
SEVEN = ("blue seven", 0.6, 0.1, 0.85, 0.55)


# --- boxes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("b", "expected"),
    [
        ([0.0, 0.0, 2.0, 2.0], 1.0),
        ([1.0, 0.0, 3.0, 2.0], 1 / 3),
        ([1.0, 1.0, 3.0, 3.0], 1 / 7),
        ([2.0, 0.0, 3.0, 2.0], 0.0),
        ([5.0, 5.0, 6.0, 6.0], 0.0),
        ([0.0, 0.0, 0.0, 0.0], 0.0),
    ],
)
def test_overlap_by_hand(b, expected):
    a, b = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor(b)
    assert overlap(a, b).item() == overlap(b, a).item() == pytest.approx(expected)
    assert overlap(torch.zeros(4), torch.zeros(4)) == 0


def test_middles_of_cells():
    found = middles(torch.zeros(1, 3, 8, 12))
    assert found.shape == (6, 2)
    assert found[0].tolist() == pytest.approx([1 / 6, 0.25])
    assert found[4].tolist() == pytest.approx([0.5, 0.75])


# --- the detector ---------------------------------------------------------------------------------


def told(objects, detector, size=32):
    """A detector whose network is replaced by the maps that would be right for these objects."""
    n = (size // 4) ** 2
    near = torch.full((len(objects), n), -9.0)
    kind = torch.zeros(len(objects), n, detector.parts[1])
    colour, box = torch.zeros(len(objects), n, detector.parts[2]), torch.zeros(len(objects), n, 4)
    places = middles(torch.zeros(1, 3, size, size))
    for i, row in enumerate(objects):
        for k, c, *corners in row.tolist():
            if k:
                at = torch.tensor([corners[0] + corners[2], corners[1] + corners[3]]) / 2
                cells = ((places - at).abs().amax(1) <= 2.5 / size).nonzero().flatten()
                near[i, cells] = 9 - (places[cells] - at).norm(dim=1)
                kind[i, cells, int(k) - 1] = colour[i, cells, int(c) - 1] = 20.0
                box[i, cells] = torch.tensor(corners)
    detector.forward = lambda images: (near, kind, colour, box)
    return detector


def test_right_maps_are_read_as_the_objects_they_are_of_and_have_no_loss():
    images, objects, _ = scenes.render(200, seed=9, novel=0.5)
    detector = told(objects, SceneDetector(13, 6, width=2))
    found = detector.find(data.to_unit(images))
    assert found.shape == (200, FOUND, 6)
    for wanted, rows in zip(objects.tolist(), found.tolist()):
        assert sorted(r for r in rows if r[0]) == sorted(r for r in wanted if r[0])
    assert detector_loss(detector, data.to_unit(images), objects) < 0.01
    assert detector_loss(detector, data.to_unit(images), objects.roll(1, dims=0)) > 1


def test_two_cells_that_found_one_object_count_once_and_doubts_not_at_all():
    detector = told(scene(THREE, SEVEN), SceneDetector(13, 6, width=2))
    near, kind, colour, box = detector(PICTURE)
    doubted = near.clone()
    doubted[box[..., 0] > 0.5] = -0.1  # the seven is less likely than not
    detector.forward = lambda images: (doubted, kind, colour, box)
    (rows,) = detector.find(PICTURE)
    assert (rows[:, 0] > 0).sum() == 1 and rows[0].tolist() == scene(THREE)[0, 0].tolist()


def test_a_detector_learns_what_is_where():
    detector = make_detector(steps=6, images=64)  # long enough to see the loss fall
    assert not detector.training
    images, objects, _ = scenes.render(64, seed=2**40, novel=0.3)
    fresh = SceneDetector(13, 6)
    assert detector_loss(detector, data.to_unit(images), objects) < 0.8 * detector_loss(
        fresh, data.to_unit(images), objects
    )


def test_training_is_repeatable_and_leaves_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    one, two = (make_detector(steps=2, images=16) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(one.state_dict().values(), two.state_dict().values()):
        assert torch.equal(a, b)


def test_a_detector_is_saved_and_loaded(tmp_path):
    detector = SceneDetector(13, 6, width=2).eval()
    save(detector, tmp_path / "detector.safetensors")
    again = load(tmp_path / "detector.safetensors").model
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(again.find(images), detector.find(images))


# --- alignment with boxes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (scene(THREE, SEVEN), (1, 1, 1, 1)),
        (scene(SEVEN, THREE), (1, 1, 1, 1)),
        (scene(THREE), (0.5, 0.5, 0.5, 0)),
        (scene(THREE, SEVEN, ("white one", 0.1, 0.6, 0.3, 0.9)), (1, 1, 1, 0)),
        (scene(THREE, ("green seven", *SEVEN[1:])), (0.5, 0.5, 0.5, 0)),
        (scene(THREE, ("blue six", *SEVEN[1:])), (0.5, 0.5, 0.5, 0)),
        (scene(THREE, ("blue seven", 0.6, 0.55, 0.85, 1.0)), (1, 0.5, 0.5, 0)),
        (scene(("red three", 0.1, 0.1, 0.3, 0.265), SEVEN), (1, 0.775, 1, 1)),
        (torch.zeros(1, 3, 6), (0, 0, 0, 0)),
    ],
)
def test_layout_alignment_by_hand(found, expected):
    measured = prompt_alignment.layout_alignment(Oracle(found), PICTURE, scene(THREE, SEVEN))
    assert tuple(measured) == ("objects", "iou", "boxes", "scenes")
    assert tuple(measured.values()) == pytest.approx(expected, abs=1e-5)


# --- alignment with captions ----------------------------------------------------------------------

CAPTION = "a small red three left of a large blue seven"


@pytest.mark.parametrize(
    ("caption", "found", "wrong"),
    [
        (CAPTION, scene(THREE, SEVEN), set()),
        ("a blue seven to the right of a red three", scene(THREE, SEVEN), set()),
        ("a red three at the top left and a blue seven", scene(THREE, SEVEN), set()),
        ("a red three over a blue seven", scene(THREE, SEVEN), {"relations"}),
        ("a red three right of a blue seven", scene(THREE, SEVEN), {"relations"}),
        ("a large red three and a blue seven", scene(THREE, SEVEN), {"sizes"}),
        ("a red three in the middle and a blue seven", scene(THREE, SEVEN), {"places"}),
        ("a red three", scene(THREE, SEVEN), {"counts"}),
        ("a red three", scene(("red four", *THREE[1:])), {"objects"}),
        (CAPTION, scene(("red seven", *THREE[1:]), ("blue three", *SEVEN[1:])), 4),
        (CAPTION, scene(THREE), 4),
    ],
)
def test_caption_alignment_by_hand(caption, found, wrong):
    measured = prompt_alignment.caption_alignment(Oracle(found), PICTURE, [caption])
    failed = {name for name, value in measured.items() if value < 1}  # nan: nothing was said
    if isinstance(wrong, set):
        assert failed == (wrong | {"scenes"} if wrong else set())
    else:
        assert {"objects", "sizes", "relations", "scenes"} <= failed
    if caption == "a red three":
        assert math.isnan(measured["sizes"])


def test_real_scenes_obey_their_own_captions_and_boxes_and_not_each_others():
    images, objects, _ = scenes.render(300, seed=6, novel=0.5)
    told_of = captions.describe(objects, seed=1)
    oracle = Oracle(objects)
    assert set(prompt_alignment.caption_alignment(oracle, images, told_of).values()) == {1.0}
    boxes = prompt_alignment.layout_alignment(oracle, images, objects)
    assert list(boxes.values()) == pytest.approx([1.0] * 4)
    others = prompt_alignment.caption_alignment(oracle, images, told_of[1:] + told_of[:1])
    assert others["scenes"] < 0.01 and others["objects"] < 0.1
    assert (
        prompt_alignment.layout_alignment(oracle, images, objects.roll(1, dims=0))["boxes"] < 0.02
    )


def test_numbers_of_images_and_requests_must_agree():
    with pytest.raises(ValueError, match="captions are 2 for 1 images"):
        prompt_alignment.caption_alignment(Oracle(scene(THREE)), PICTURE, ["a red three"] * 2)
