"""Scenes: what is drawn where, which pairs are held out, and whether captions tell the truth."""

import pytest
import torch

from minidit import data
from minidit.data import captions, scenes
from minidit.data.scenes import COLOURS, HELD_OUT, KINDS


@pytest.fixture(scope="module")
def drawn():
    return scenes.render(1500, seed=4, novel=0.5)


def rows(objects):
    """Every object as (image, slot, row)."""
    for image, slot in (objects[..., 0] > 0).nonzero().tolist():
        yield image, slot, objects[image, slot]


def test_scenes_are_the_same_for_a_seed_and_others_for_another():
    state = torch.random.get_rng_state()
    one, again, other = (scenes.render(40, seed) for seed in (1, 1, 2))
    for a, b in zip(one, again):
        assert torch.equal(a, b)
    assert not torch.equal(one[0], other[0])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_pixels_are_pinned():
    images, objects, _ = scenes.render(64, seed=0)
    assert images.dtype == torch.uint8 and images.shape == (64, 3, 32, 32)
    assert images.double().mean().item() == pytest.approx(37.7597, abs=0.02)
    assert objects.double().mean().item() == pytest.approx(1.3071106, abs=1e-5)


def test_one_to_three_objects_all_kinds_colours_and_sizes(drawn):
    _, objects, _ = drawn
    counts = (objects[..., 0] > 0).sum(dim=1)
    shares = counts.bincount(minlength=4) / len(counts)
    torch.testing.assert_close(shares, torch.tensor([0, 0.3, 0.4, 0.3]), atol=0.05, rtol=0)
    kinds, colours = objects[..., 0].long().unique(), objects[..., 1].long().unique()
    assert kinds.tolist() == list(range(14)) and colours.tolist() == list(range(7))
    large = [captions.is_large(row[2:].tolist()) for _, _, row in rows(objects)]
    assert 0.25 < sum(large) / len(large) < 0.5


def test_boxes_lie_inside_and_apart(drawn):
    _, objects, _ = drawn
    for _, _, row in rows(objects):
        x0, y0, x1, y1 = row[2:].tolist()
        assert -1e-6 <= x0 < x1 <= 1 + 1e-6 and -1e-6 <= y0 < y1 <= 1 + 1e-6
    for scene in objects:
        boxes = [row[2:] for row in scene if row[0] > 0]
        pairs = [tuple(row[:2].tolist()) for row in scene if row[0] > 0]
        assert len(set(pairs)) == len(pairs)
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                gap = torch.maximum(a[:2] - b[2:], b[:2] - a[2:]).max().item() * 32
                assert gap > 0.99


def test_boxes_and_colours_are_those_of_the_ink(drawn):
    """Where an object is alone, the ink's own box is that of `objects`, and its colour named."""
    images, objects, _ = drawn
    paint = torch.tensor(list(COLOURS.values())).float()
    alone = (objects[..., 0] > 0).sum(dim=1) == 1
    assert alone.sum() > 100
    for image, scene in zip(images[alone].float(), objects[alone]):
        (row,) = [row for row in scene if row[0] > 0]
        ink = (image - image.flatten(1).median(dim=1).values[:, None, None]).abs().amax(0) > 90
        y, x = ink.nonzero().unbind(1)
        found = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]) / 32
        assert (found - row[2:]).abs().max() * 32 < 1.3
        middle = image[:, ink].median(dim=1).values  # (3,)
        assert (paint - middle).abs().sum(dim=1).argmin() + 1 == row[1]


def test_every_kind_has_one_colour_held_out_and_every_colour_some_kinds():
    assert [kind for kind, _ in HELD_OUT] == list(range(len(KINDS)))
    counts = torch.tensor([colour for _, colour in HELD_OUT]).bincount(minlength=len(COLOURS))
    assert counts.min() >= 2 and counts.max() <= 3


def is_held_out(row):
    return (int(row[0]) - 1, int(row[1]) - 1) in HELD_OUT


def test_no_held_out_pair_is_in_training_and_half_the_test_images_have_one():
    _, objects, held_out = scenes.render(3000, seed=0)
    assert not any(is_held_out(row) for _, _, row in rows(objects)) and not held_out.any()
    _, objects, held_out = scenes.render(1000, seed=1, novel=0.5)
    assert held_out.sum() == 500
    shown = torch.zeros(1000, dtype=torch.bool)
    for image, _, row in rows(objects):
        shown[image] |= is_held_out(row)
    assert torch.equal(shown, held_out)
    seen = {(int(row[0]) - 1, int(row[1]) - 1) for _, _, row in rows(objects)}
    assert seen >= set(HELD_OUT)


def test_the_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "COUNTS", {"train": 60, "test": 40})
    train, test = (data.load("scenes", split, root=tmp_path) for split in ("train", "test"))
    assert train.objects is not None
    assert repr(train) == "<scenes train: 60 images 3×32×32, 3 classes>"
    assert not train.held_out.any() and test.held_out.sum() == 20
    assert len(test.captions) == 40 and test.objects.shape == (40, 3, 6)
    assert train.labels.tolist() == [len(captions.read(c).objects) - 1 for c in train.captions]
    assert not torch.equal(train.images[:40], test.images)
    again = data.load("scenes", "train", root=tmp_path)  # now from the cache
    assert torch.equal(again.images, train.images) and again.captions == train.captions
    assert len(list((tmp_path / "scenes").iterdir())) == 2
    with pytest.raises(TypeError, match="seed=None must be an integer"):
        data.load("scenes", seed=None, root=tmp_path)


# --- captions -------------------------------------------------------------------------------------


def test_captions_are_pinned(drawn):
    assert captions.describe(drawn[1][:3], seed=0) == (
        "there is a small red triangle over a small yellow seven",
        "a white seven right of a yellow one",
        "a green square at the top left",
    )


def test_captions_use_the_known_words_only_and_all_of_them(drawn):
    words = [c.replace(",", "").split() for c in captions.describe(drawn[1], seed=0)]
    assert {word for caption in words for word in caption} == set(captions.WORDS)
    assert max(map(len, words)) <= captions.LENGTH


def test_what_a_caption_says_is_true_and_names_every_object(drawn):
    _, objects, _ = drawn
    told = captions.describe(objects, seed=0)
    kinds = {"sizes": 0, "places": 0, "relations": 0}
    for caption, scene in zip(told, objects.tolist()):
        boxes = {
            (KINDS[int(row[0]) - 1], list(COLOURS)[int(row[1]) - 1]): row[2:]
            for row in scene
            if row[0]
        }
        request = captions.read(caption)
        assert {(described.kind, described.colour) for described in request.objects} == set(boxes)
        its_boxes = [boxes[described.kind, described.colour] for described in request.objects]
        for described, box in zip(request.objects, its_boxes):
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            if described.size is not None:
                longer = max(box[2] - box[0], box[3] - box[1]) * 32
                assert (longer > 12) == (described.size == "large")
            if described.place is not None:
                for m, third in zip((x, y), described.place):
                    assert (m <= 0.4, 0.4 < m <= 0.6, m > 0.6)[third]
            kinds["sizes"] += described.size is not None
            kinds["places"] += described.place is not None
        for i, where, k in request.relations:
            (ax, ay), (bx, by) = (
                (box[0] + box[2], box[1] + box[3]) for box in (its_boxes[i], its_boxes[k])
            )
            assert {"left": ax < bx, "right": ax > bx, "above": ay < by, "below": ay > by}[where]
            kinds["relations"] += 1
    assert min(kinds.values()) > 300


def test_other_seeds_tell_the_same_scene_in_other_words(drawn):
    told = {captions.describe(drawn[1][1:2], seed) for seed in range(12)}
    assert len(told) > 6


@pytest.mark.parametrize(
    ("caption", "objects", "relations"),
    [
        (
            "A red three left of a small blue seven",
            [("three", "red", None, None), ("seven", "blue", "small", None)],
            [(0, "left", 1)],
        ),
        ("there is a green circle at the top", [("circle", "green", None, (1, 0))], []),
        (
            "a white zero to the right of a large red six, and a blue one at the bottom left",
            [
                ("zero", "white", None, None),
                ("six", "red", "large", None),
                ("one", "blue", None, (0, 2)),
            ],
            [(0, "right", 1)],
        ),
    ],
)
def test_captions_are_read(caption, objects, relations):
    request = captions.read(caption)
    assert list(map(tuple, request.objects)) == objects
    assert list(request.relations) == relations


def test_a_caption_without_objects_is_refused():
    with pytest.raises(ValueError, match="caption='at the top' names no object; write"):
        captions.read("at the top")
