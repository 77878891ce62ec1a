"""The command line with autoencoders: train one, encode, train on latents, sample pixels, judge."""

import csv
import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from minidit import Diffusion, DiT, KLAutoencoder, data, evaluate, straight, weights
from minidit.__main__ import main
from minidit.cli import terminal
from minidit.cli import train as train_command
from minidit.evaluate.classifier import Classifier
from minidit.latents import latent
from minidit.latents.training import AUTOENCODERS
from minidit.training import presets
from minidit.training.generate import generate

SIDES = {"mnist": (1, 28), "cifar10": (3, 32)}
TINY = {
    "kl": ("KLAutoencoder", {"latent_channels": 2, "width": 4, "multipliers": (1, 2)}),
    "vq": ("VQAutoencoder", {"latent_channels": 2, "width": 4, "num_codes": 8}),
}
LATENT = {"patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2}


@pytest.fixture(autouse=True)
def small_world(monkeypatch, tmp_path):
    """Few images, tiny presets, an untrained judge of photographs, and nothing but `tmp_path`."""

    def few(name, split="train", **options):
        channels, side = SIDES[name]
        rng = torch.Generator().manual_seed(len(split))
        images = torch.randint(256, (160, channels, side, side), generator=rng, dtype=torch.uint8)
        return data.Dataset(
            images, torch.arange(160) % 10, data.DATASETS[name].classes, name, split
        )

    def judge(name):
        if name != "cifar10":
            return weights.load(f"classifier-{name}").model
        torch.manual_seed(0)
        return Classifier(3, 10, width=2, residual=True).eval()

    monkeypatch.setattr(data, "load", few)
    monkeypatch.setattr(evaluate, "classifier", judge)
    monkeypatch.setenv("MINIDIT_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    recipe = {"steps": 3, "batch_size": 4, "warmup": 1}
    for name, parts in list(AUTOENCODERS.items()):
        network, model = TINY[name[:2]]
        small = parts | {"network": network, "model": model, "recipe": recipe}
        monkeypatch.setitem(AUTOENCODERS, name, small)
    for name in ("dit-cifar10", "uvit-cifar10"):
        small = presets.PRESETS[name] | {"model": LATENT, "recipe": recipe}
        monkeypatch.setitem(presets.PRESETS, name, small)


def run(*arguments):
    return main([str(argument) for argument in arguments])


def train(preset, out, *more):
    return run("train", "--preset", preset, "--out", out, "--save-every", 2, *more)


@pytest.mark.parametrize("preset", ["kl-mnist", "kl-cifar10", "vq-cifar10"])
def test_an_autoencoder_is_trained_and_judged(preset, tmp_path, capsys):
    assert train(preset, "run") == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"checkpoint.pt", "log.csv", "weights.safetensors", "weights.json"}
    with open("run/log.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    own, note = AUTOENCODERS[preset], weights.info("run/weights.safetensors")
    assert note["data"] == own["data"] and note["judge"] == f"classifier-{own['classifier']}"
    assert note["recipe"]["steps"] == 3 and note["terms"]["kl"] == 1e-6
    assert note["command"].startswith(f"python -m minidit train --data {own['data']} --preset")
    model = weights.load("run/weights.safetensors").model
    assert type(model).__name__ == own["network"] and model.scale != 1
    assert f"scale {model.scale.item():.4f}" in capsys.readouterr().out

    arguments = ["--weights", "run/weights.safetensors", "--data", own["data"], "--store"]
    assert run("reconstruct", *arguments, "--images", 70, "--out", "new/pairs.png") == 0
    channels, side = SIDES[own["data"]]
    assert imread("new/pairs.png").shape[:2] == (6 * side + 5 * 2, 10 * side + 9 * 2)
    (stored,) = weights.info("run/weights.safetensors")["reconstructions"]
    assert {"psnr", "recognised", "real_recognised", "frechet"} < stored.keys()
    assert stored["images"] == 70 and ("perplexity" in stored) == (preset == "vq-cifar10")
    assert f"psnr: {stored['psnr']}" in capsys.readouterr().out


class Stopped(Exception):
    pass


def test_the_same_command_goes_on_and_ends_bit_equal(capsys):
    assert train("vq-cifar10", "whole") == 0

    @contextmanager
    def stopping(path, steps):
        def report(step, loss):
            take_note(step, loss)
            if step == 3:
                raise Stopped

        with terminal.log(path, steps) as take_note:
            yield report

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(train_command, "log", stopping)
        train("vq-cifar10", "cut")
    assert train("vq-cifar10", "cut") == 0
    ours, theirs = (
        weights.load(f"{name}/weights.safetensors").model.state_dict() for name in ("cut", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert open("cut/log.csv").read() == open("whole/log.csv").read()
    assert train("vq-cifar10", "cut", "--lr", 0.5) == 2
    assert train("vq-cifar10", "cut") == 0
    assert "all 3 steps were taken before" in capsys.readouterr().out


def test_latents_are_encoded_once_and_trained_on(tmp_path, capsys):
    assert train("kl-cifar10", "auto") == 0
    stage = latent.first_stage("auto/weights.safetensors")
    link = ["--autoencoder", "auto/weights.safetensors"]
    for preset in ("dit-cifar10", "uvit-cifar10"):
        assert train(preset, preset, *link) == 0
        (cache,) = (tmp_path / "data" / "latents").iterdir()
        assert cache.name == f"cifar10-train-{stage.sha256[:12]}.safetensors"
        path = f"{preset}/weights.safetensors"
        assert weights.autoencoder_of(path) == stage.link
        assert weights.load(path).model.config["in_channels"] == 2
        assert "--autoencoder auto/weights.safetensors" in weights.info(path)["command"]
    assert run("encode", "--weights", "auto/weights.safetensors", "--data", "cifar10") == 0
    printed = capsys.readouterr()
    assert "(320, 2, 16, 16), half of them mirrored" in printed.out
    arguments = ["--weights", "auto/weights.safetensors", "--data", "cifar10", "--split", "test"]
    assert run("encode", *arguments, "--out", "test.safetensors") == 0
    assert "(160, 2, 16, 16); mean" in capsys.readouterr().out


def test_samples_of_latents_are_pixels(tmp_path, capsys):
    assert train("kl-cifar10", "auto") == 0
    assert train("dit-cifar10", "dit", "--autoencoder", "auto/weights.safetensors") == 0
    own = ["--weights", "dit/weights.safetensors", "--steps", 2]
    assert run("sample", *own, "--labels", "3,1,4", "--out", "a.npz") == 0
    with np.load("a.npz") as arrays:
        assert arrays["images"].shape == (3, 32, 32, 3) and arrays["images"].dtype == np.uint8
        images = arrays["images"]
    model, process = weights.load("dit/weights.safetensors")
    *_, state = generate(model, process, torch.tensor([3, 1, 4]), steps=2)
    stage = latent.first_stage("auto/weights.safetensors")
    ours = data.to_uint8(latent.decode(stage.model, state.x)).permute(0, 2, 3, 1).numpy()
    assert (images == ours).all()

    assert run("evaluate", *own, "--data", "cifar10", "--per-class", 7, "--store") == 0
    (stored,) = weights.info("dit/weights.safetensors")["evaluations"]
    assert stored["samples"] == stored["images"] == 70
    assert stored["real images"] == 67  # in their half of 160 some classes have fewer than 7
    assert stored["real near copies"] <= 1 and stored["seed"] == 0
    page = capsys.readouterr().out
    assert "near copies" in page and "coverage" in page and "FID" not in page

    (tmp_path / "auto").rename(tmp_path / "moved")
    assert run("sample", *own, "--out", "b.npz") == 2
    assert "auto/weights.safetensors', which isn't there" in capsys.readouterr().err
    moved = ["--autoencoder", "moved/weights.safetensors"]
    assert run("sample", *own, *moved, "--labels", "3,1,4", "--out", "b.npz") == 0
    with np.load("b.npz") as arrays:
        assert (arrays["images"] == images).all()


def test_digits_are_not_mirrored(capsys):
    assert train("kl-mnist", "auto") == 0
    assert run("encode", "--weights", "auto/weights.safetensors") == 0
    assert "(160, 2, 14, 14); mean" in capsys.readouterr().out


def test_a_judge_of_photographs_is_of_the_deeper_kind(capsys):
    assert run("classifier", "--data", "cifar10", "--steps", 1, "--out", "judge.safetensors") == 0
    assert weights.load("judge.safetensors").model.config["residual"]
    assert json.loads(open("judge.json").read())["data"] == "cifar10"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "--preset", "kl-mars", "--out", "x"], ["kl-mars", "kl-mnist", "demo"]),
        (["train", "--preset", "kl-mnist", "--autoencoder", "y", "--out", "x"], ["leave the opt"]),
        (["train", "--preset", "kl-mnist", "--steps", "0", "--out", "x"], ["--steps 0"]),
        (["train", "--preset", "kl-mnist", "--start", "kl-mnist", "--out", "x"], ["--start"]),
        (["train", "--preset", "kl-mnist", "--accumulate", "2", "--out", "x"], ["--accumulate"]),
        (["train", "--preset", "kl-mnist", "--bfloat16", "--out", "x"], ["--bfloat16"]),
        (["train", "--preset", "kl-mnist", "--compile", "--out", "x"], ["--compile"]),
        (["train", "--preset", "dit-cifar10", "--autoencoder", "no", "--out", "x"], ["'no'"]),
        (["train", "--preset", "dit-cifar10", "--autoencoder", "dit-mnist", "--out", "x"],
         ["'dit-mnist' are a DiT, no autoencoder"]),
        (["encode", "--weights", "dit-mnist"], ["no autoencoder"]),
        (["encode", "--weights", "AUTO", "--out", "x.npz"], ["x.npz", ".safetensors"]),
        (["encode", "--weights", "AUTO", "--split", "x", "--threads", "0"], ["--threads 0"]),
        (["reconstruct", "--weights", "classifier-mnist"], ["no autoencoder"]),
        (["reconstruct", "--weights", "AUTO", "--images", "9"], ["--images 9", "too few"]),
        (["reconstruct", "--weights", "AUTO", "--out", "x.gif"], ["x.gif", ".png"]),
        (["reconstruct", "--weights", "AUTO", "--data", "cifar10"], ["3 channels"]),
        (["sample", "--weights", "dit-mnist", "--autoencoder", "AUTO"], ["draw pixels"]),
        (["sample", "--weights", "DIT", "--clip"], ["--clip is for pixels"]),
        (["evaluate", "--weights", "DIT", "--clip"], ["--clip is for pixels"]),
        (["sample", "--weights", "AUTO"], ["no diffusion model"]),
    ],
)  # fmt: skip
def test_errors_are_one_sentence_and_exit_code_2(arguments, words, capsys, tmp_path):
    model = KLAutoencoder(in_channels=1, **TINY["kl"][1])
    weights.save(model, "auto.safetensors")
    stage = latent.first_stage("auto.safetensors")
    dit = DiT(14, 7, 2, 16, 1, 2, num_classes=10, learn_sigma=False)
    weights.save(dit, "dit.safetensors", Diffusion(straight()), autoencoder=stage.link)
    names = {"AUTO": "auto.safetensors", "DIT": "dit.safetensors"}
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    for word in words:
        assert word in message
    assert not list(tmp_path.glob("x*"))
