"""The command line with scenes: training, prompts and boxes, and the judging of obedience."""

import json

import numpy as np
import pytest
import torch

from minidit import DiT, data, weights
from minidit.__main__ import main
from minidit.data import digits, scenes
from minidit.diffusion import Diffusion
from minidit.evaluate import prompt_alignment as obedience
from minidit.evaluate.detector import SceneDetector, make_detector
from minidit.training import presets

KINDS = ("text", "layout")
PROMPT = "a red three left of a small blue seven"
BOXES = "red three 0.1 0.2 0.4 0.7; blue seven 0.6 0.3 0.9 0.6"


@pytest.fixture
def few_scenes(tmp_path, monkeypatch):
    """A few scenes, and digits, in a folder of their own."""
    monkeypatch.setattr(scenes, "COUNTS", {"train": 40, "test": 20})
    monkeypatch.setattr(digits, "COUNTS", {"train": 20, "test": 20})
    monkeypatch.setenv("MINIDIT_DATA", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights files of small networks that read texts and layouts, and one that reads labels."""
    folder = tmp_path_factory.mktemp("weights")
    diffusion = Diffusion.from_config(presets.PRESETS["scenes-text"]["diffusion"])
    made = {}
    for kind in KINDS:
        condition = presets.PRESETS[f"scenes-{kind}"]["model"]["condition"] | {"depth": 1}
        model = DiT(
            32, 16, 3, 16, 1, 2, num_classes=0, learn_sigma=False,
            block="cross_attention", condition=condition | {"num_heads": 2},
        )  # fmt: skip
        made[kind] = folder / f"{kind}.safetensors"
        weights.save(model, made[kind], diffusion)
    made["labels"] = folder / "labels.safetensors"
    weights.save(DiT(32, 16, 3, 16, 1, 2, num_classes=3, learn_sigma=False), made["labels"])
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_presets_know_the_words_kinds_and_colours_of_scenes(kind):
    model, _, recipe = presets.build(f"scenes-{kind}", (3, 32, 32), 3)
    assert model.null_label == 0 and recipe["optimizer"] == "muon"
    _, objects, _ = scenes.render(50, seed=0)
    told = data.captions.describe(objects, 0)
    drawn = data.Dataset(objects, objects, (), "scenes", "train", objects, told, objects)
    y = data.condition_of(drawn, model.label_embed)
    model.label_embed.check(y, 50)
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 3e6
    json.dumps(model.config)


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_sampling(kind, few_scenes, tmp_path):
    run = tmp_path / "run"
    arguments = ["train", "--data", "scenes", "--preset", f"scenes-{kind}", "--steps", "2"]
    assert main([*arguments, "--batch-size", "2", "--out", str(run)]) == 0
    path = str(run / "weights.safetensors")
    asked = ["--prompt", PROMPT, "a green circle"] if kind == "text" else ["--boxes", BOXES, ""]
    out = tmp_path / "images.npz"
    sampling = ["--steps", "2", "--per-class", "2", "--out", str(out)]
    assert main(["sample", "--weights", path, *asked, *sampling]) == 0
    with np.load(out) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert images.shape == (4, 32, 32, 3)
    assert (labels[0] == labels[1]).all() and (labels[0] != labels[2]).any()
    assert weights.info(path)["command"].startswith("python -m minidit train --data scenes")


def test_a_picture_has_a_row_for_each_prompt(files, tmp_path):
    from matplotlib.image import imread

    out = str(tmp_path / "sheet.png")
    asked = ["--prompt", PROMPT, "--prompt", "a white one", "--per-class", "3", "--steps", "2"]
    assert main(["sample", "--weights", str(files["text"]), *asked, "--out", out]) == 0
    assert imread(out).shape[:2] == (2 * 32 + 2, 3 * 32 + 2 * 2)


def test_boxes_are_read_as_objects(files):
    from minidit.cli.sample import read_request

    encoder = weights.load(files["layout"]).model.label_embed
    (layout,) = read_request(encoder, None, [BOXES])
    assert layout[:, :2].tolist() == [[4, 1], [8, 3], [0, 0]]
    torch.testing.assert_close(layout[1, 2:], torch.tensor([0.6, 0.3, 0.9, 0.6]))


@pytest.mark.parametrize(
    ("weights_of", "asked", "words"),
    [
        ("text", [], ["told what to draw", "--prompt"]),
        ("text", ["--boxes", BOXES], ["told what to draw", "--prompt"]),
        ("text", ["--boxes", BOXES, "--prompt", PROMPT], ["both given", "--prompt"]),
        ("text", ["--prompt", "a red cat"], ["'cat' is unknown", "circle"]),
        ("layout", ["--prompt", PROMPT], ["told what to draw", "--boxes"]),
        ("layout", ["--boxes", "red three"], ["'red three'", "left, top, right, bottom"]),
        ("layout", ["--boxes", "three red 0 0 .5 .5"], ["'three'", "'red', 'green'"]),
        ("layout", ["--boxes", "red cat 0 0 .5 .5"], ["'cat'", "'circle'"]),
        ("layout", ["--boxes", "red three .5 0 .5 .5"], ["[0.5, 0.0, 0.5, 0.5]", "x0 < x1"]),
        ("layout", ["--boxes", f"{BOXES}; {BOXES}"], ["4 boxes", "take 3"]),
        ("labels", ["--prompt", PROMPT], ["these take --labels"]),
    ],
)
def test_requests_that_cannot_be_met(weights_of, asked, words, files, tmp_path, capsys):
    path = files[weights_of]
    if weights_of == "labels":
        model, _ = weights.load(path)
        path = tmp_path / "labels.safetensors"
        weights.save(model, path, Diffusion.from_config(presets.PRESETS["demo"]["diffusion"]))
    assert main(["sample", "--weights", str(path), *asked, "--out", str(tmp_path / "x.png")]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in message for word in words), message


def test_text_needs_scenes(few_scenes, tmp_path, capsys):
    arguments = ["train", "--data", "digits", "--preset", "scenes-text", "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "digits has no captions; the network needs 'scenes'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_obedience_is_judged_for_seen_and_held_out_pairs(
    kind, files, few_scenes, capsys, monkeypatch
):
    monkeypatch.setattr(obedience, "scene_detector", lambda: SceneDetector(13, 6, width=2).eval())
    path = str(files[kind])
    options = ["--per-class", "3", "--steps", "2", "--guidance", "3", "--store"]
    assert main(["evaluate", "--weights", path, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    for start in ("    seen pairs, real:", "held-out pairs, guidance 1:", "guidance 3:"):
        assert any(start in line for line in lines), lines
    stored = weights.info(path)["evaluations"]
    assert [entry["scenes"] for entry in stored] == ["seen pairs", "held-out pairs"]
    for entry in stored:
        assert entry["samples"] == 3 and 0 <= entry["guidance 3"]["objects"] <= 1
    assert main(["evaluate", "--weights", path, "--per-class", "11"]) == 2
    assert "11 scenes of each half" in capsys.readouterr().err


def test_a_judge_is_trained_from_the_command_line(few_scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(make_detector, "__defaults__", (2, 50, 0, None))
    out = str(tmp_path / "judge.safetensors")
    assert main(["classifier", "--data", "scenes", "--steps", "2", "--out", out]) == 0
    assert "it finds all objects of" in capsys.readouterr().out
    assert isinstance(weights.load(out).model, SceneDetector)
    assert set(weights.info(out)["test"]) == {"objects", "iou", "boxes", "scenes"}
