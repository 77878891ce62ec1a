"""Training: that it learns, can be stopped anywhere, and says when it can't go on."""

import math
import os
import pickle
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from minidit import EMA, Diffusion, KLAutoencoder, Recipe, fit, linear, straight
from minidit.evaluate.classifier import train_classifier
from minidit.latents.training import Terms, fit_autoencoder
from minidit.train import (
    OPTIMIZERS,
    Run,
    draw_times,
    learning_rate,
    step_generator,
)
from minidit.weights.checkpoint import Checkpoint, fingerprint

SHORT = {"steps": 9, "batch_size": 4, "warmup": 2}
EVERY_OPTIMIZER = pytest.mark.parametrize("optimizer", ["adamw", "muon"])


def data(n=12):
    rng = torch.Generator().manual_seed(4)
    images = torch.randint(256, (n, 1, 8, 8), generator=rng, dtype=torch.uint8)
    return images, torch.arange(n) % 3


def fresh(tiny_dit, **changes):
    torch.manual_seed(7)
    return tiny_dit(**changes)


def equal(a, b):
    """Whether two checkpoints hold the same, tensor for tensor and bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


# --- the parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_networks_learn_whatever_the_caller_s_mode_is(mode, tiny_dit):
    def learned(mode):
        model, recipe = fresh(tiny_dit), Recipe(**SHORT)
        torch.manual_seed(1)
        autoencoder = KLAutoencoder(1, 2, width=4)
        with mode():
            images, labels = (z.clone() for z in data())
            average = fit(model, Diffusion(linear()), images, labels, recipe=recipe)
            terms = {"recipe": recipe, "terms": Terms(feature=0.0)}
            restored = fit_autoencoder(autoencoder, images, **terms)
            classifier = train_classifier(images, labels, steps=2)
        return [net.state_dict() for net in (model, average, autoencoder, restored, classifier)]

    assert equal(learned(mode), learned(torch.enable_grad))
    assert not equal(learned(mode)[0], fresh(tiny_dit).state_dict())


def test_a_network_made_in_inference_mode_can_not_learn(tiny_dit):
    images, labels = data()
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match="made in inference_mode"),
    ):
        fit(fresh(tiny_dit), Diffusion(linear()), images, labels, recipe=Recipe(**SHORT))


def test_learning_rate_warms_up_stays_and_cools_down():
    rates = [learning_rate(step, 100, 2.0, warmup=10, cooldown=0.5) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (k + 1) for k in range(10)])
    assert set(rates[10:55]) == {2.0}
    expected = [1 + math.cos(math.pi * (k - 55) / 45) for k in range(55, 100)]
    assert rates[55:] == pytest.approx(expected)
    assert 0 < rates[-1] < 0.01


@pytest.mark.parametrize("warmup", [0, 5])
def test_learning_rate_can_stay_constant(warmup):
    rates = [learning_rate(step, 20, 3.0, warmup, cooldown=0.0) for step in range(20)]
    assert set(rates[warmup:]) == {3.0}


def test_learning_rate_of_a_run_shorter_than_its_warmup():
    rates = [learning_rate(step, 3, 1.0, warmup=10, cooldown=1.0) for step in range(3)]
    assert rates == pytest.approx([0.1, 0.2, 0.3])


def test_learning_rate_between_two_steps_is_at_most_its_peak():
    assert learning_rate(9.7, 100, 2.0, warmup=10, cooldown=0.5) == 2.0


def test_uniform_times_are_uniform():
    t = draw_times("uniform", 10, 20_000, torch.Generator().manual_seed(0))
    counts = t.bincount(minlength=10)
    assert len(counts) == 10 and (counts - 2000).abs().max() < 5 * 2000**0.5


def test_logit_normal_times_prefer_the_middle():
    t = draw_times("logit_normal", 1000, 20_000, torch.Generator().manual_seed(0))
    u = (t.double() + 0.5) / 1000
    assert 0 <= t.min() and t.max() <= 999 and t.dtype == torch.int64
    logits = (u / (1 - u)).log()
    assert abs(logits.mean()) < 0.05 and logits.std().item() == pytest.approx(1, abs=0.05)


def test_half_of_the_times_are_uniform():
    t = draw_times("half", 1000, 40_001, torch.Generator().manual_seed(0))
    assert t.shape == (40_001,) and t.dtype == torch.int64
    both = torch.Generator().manual_seed(0)
    first, second = (
        draw_times(k, 1000, n, both) for k, n in [("logit_normal", 20_001), ("uniform", 20_000)]
    )
    assert t.equal(torch.cat([first, second]))
    assert (t < 10).sum() == pytest.approx(200, abs=5 * 200**0.5)


def test_ema_takes_buffers_as_they_are():
    model = torch.nn.BatchNorm2d(2)
    ema = EMA(model)
    for step in range(3):
        model(torch.randn(4, 2, 3, 3) + 5)
        ema.update(model, step)
    assert model.running_mean.min() > 0.5
    for name, buffer in model.named_buffers():
        assert torch.equal(ema.model.get_buffer(name), buffer)


def test_ema_is_its_formula(tiny_dit):
    model = fresh(tiny_dit)
    ema = EMA(model, decay=0.5)
    average = [p.clone().double() for p in model.parameters()]
    for step in range(12):
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p))
        ema.update(model, step)
        keep = min(0.5, (1 + step) / (10 + step))
        average = [keep * a + (1 - keep) * p for a, p in zip(average, model.parameters())]
    for a, p in zip(average, ema.model.parameters()):
        torch.testing.assert_close(p.double(), a, atol=1e-5, rtol=1e-5)
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert torch.equal(ema.model.pos_embed, model.pos_embed)


def test_every_step_has_random_numbers_of_its_own():
    draws = {
        torch.rand(1, generator=step_generator(seed, step)).item()
        for seed in range(3)
        for step in range(20)
    }
    assert len(draws) == 60


def test_muon_gets_the_blocks_matrices_and_adamw_the_rest(tiny_dit):
    model = fresh(tiny_dit)
    muon, adamw = OPTIMIZERS["muon"](model, Recipe(**SHORT, optimizer="muon", muon_lr=0.3, lr=0.1))
    named = {id(p): name for name, p in model.named_parameters()}
    mine, its = ([named[id(p)] for p in o.param_groups[0]["params"]] for o in (muon, adamw))
    assert mine and all(n.startswith("blocks.") and n.endswith("weight") for n in mine)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(mine) | set(its) == trained and not set(mine) & set(its)
    assert (muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"]) == (0.3, 0.1)


def test_a_batch_is_scaled_and_some_of_its_labels_dropped(tiny_dit):
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    model = fresh(tiny_dit, class_dropout_prob=0.3)
    recipe = Recipe(**SHORT | {"batch_size": 2000})
    run = Run(model, Diffusion(linear()), images, torch.tensor([0, 1]), recipe)
    x0, _, _, y = run.inputs(step_generator(0, 0))
    assert set(x0.unique().tolist()) == {-1.0, 1.0}
    dropped = y == model.null_label
    assert abs(dropped.float().mean() - 0.3) < 5 * (0.3 * 0.7 / 2000) ** 0.5
    assert torch.equal(y[~dropped], (x0[~dropped, 0, 0, 0] > 0).long())


@pytest.mark.parametrize("scale", [1, 255])
def test_pixels_in_another_range_are_refused(scale, tiny_dit):
    images = torch.rand(4, 1, 8, 8) * scale
    with pytest.raises(ValueError, match="none of them negative; networks see"):
        Run(fresh(tiny_dit), Diffusion(linear()), images, None, Recipe(**SHORT))


# --- learning -------------------------------------------------------------------------------------


@EVERY_OPTIMIZER
def test_a_tiny_network_learns_a_tiny_data_set(optimizer, tiny_dit):
    """Each class is one flat grey: the average network paints it, told the label and pure noise."""
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 1, 8, 8)
    losses = []
    recipe = Recipe(
        steps=120,
        batch_size=32,
        lr=1e-2,
        muon_lr=0.02,
        optimizer=optimizer,
        warmup=5,
        ema_decay=0.9,
    )
    model = fit(
        fresh(tiny_dit, label_std=1.0),
        Diffusion(straight(), "x0"),
        images,
        torch.arange(3),
        recipe=recipe,
        report=lambda step, loss: losses.append(loss),
    )
    assert len(losses) == 120
    assert sum(losses[-20:]) / 20 < 0.1 * sum(losses[:5]) / 5
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    painted = model(noise, torch.full((3,), 999.0), torch.arange(3)).mean(dim=(1, 2, 3))
    assert painted.tolist() == pytest.approx([-1, 0, 1], abs=0.2)


def test_training_teaches_the_variance_too(tiny_dit):
    model = fresh(tiny_dit, learn_sigma=True)
    fit(model, Diffusion(linear(), learn_sigma=True), *data(), recipe=Recipe(**SHORT, lr=1e-2))
    assert (model.final.proj.weight.unflatten(0, (16, 2))[:, 1] != 0).any()


def test_a_network_without_labels_and_float_images(tiny_dit):
    losses = []
    fit(
        fresh(tiny_dit, num_classes=0),
        Diffusion(straight(), "v"),
        torch.rand(5, 1, 8, 8) * 2 - 1,
        recipe=Recipe(**SHORT),
        report=lambda step, loss: losses.append((step, loss)),
    )
    assert [step for step, _ in losses] == list(range(1, 10))
    assert all(math.isfinite(loss) for _, loss in losses)


# --- stopping and going on ------------------------------------------------------------------------


class Stopped(Exception):
    pass


def train(tiny_dit, out, optimizer="adamw", stop=None, save_every=1, wrap=lambda m: m, **changes):
    """Nine steps into `out`, or fewer: stopped after the step `stop`, before that one is saved."""

    def report(step, loss):
        if step == stop:
            raise Stopped

    recipe = Recipe(**SHORT | {"optimizer": optimizer} | changes)
    diffusion = Diffusion(straight(), "v")
    return fit(
        wrap(fresh(tiny_dit)),
        diffusion,
        *data(),
        recipe=recipe,
        out=out,
        save_every=save_every,
        report=report,
    )


@EVERY_OPTIMIZER
def test_training_is_deterministic(optimizer, tiny_dit, tmp_path):
    for name in "ab":
        torch.rand(len(name))  # the global generator has no part in it
        train(tiny_dit, tmp_path / name, optimizer)
    first, second = (Checkpoint(tmp_path / name / "checkpoint.pt").read() for name in "ab")
    assert equal(first, second)
    train(tiny_dit, tmp_path / "c", optimizer, seed=1)
    assert not equal(first["model"], Checkpoint(tmp_path / "c" / "checkpoint.pt").read()["model"])


@EVERY_OPTIMIZER
@pytest.mark.parametrize(
    "stops, save_every", [([1], 1), ([2], 3), ([5], 3), ([9], 1), ([3, 4, 8], 3), ([4, 5, 8], 1)]
)
def test_a_stopped_run_resumes_to_the_bit(optimizer, stops, save_every, tiny_dit, tmp_path):
    whole = train(tiny_dit, tmp_path / "whole", optimizer, save_every=save_every)
    for stop in stops:
        with pytest.raises(Stopped):
            train(tiny_dit, tmp_path / "cut", optimizer, stop, save_every)
    resumed = train(tiny_dit, tmp_path / "cut", optimizer, save_every=save_every)
    states = [Checkpoint(tmp_path / n / "checkpoint.pt").read() for n in ("whole", "cut")]
    assert states[0]["done"] == 9 and len(states[0]["optimizers"]) == (
        2 if optimizer == "muon" else 1
    )
    assert all(optimizer["state"] for optimizer in states[0]["optimizers"])
    assert equal(*states)
    assert equal(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize(
    "wrap", [torch.nn.DataParallel, lambda model: torch.compile(model, backend="eager")]
)
def test_a_run_of_a_wrapped_network_resumes_without_the_wrapper(wrap, tiny_dit, tmp_path):
    with pytest.raises(Stopped):
        train(tiny_dit, tmp_path, stop=4, wrap=wrap)
    resumed, whole = train(tiny_dit, tmp_path), train(tiny_dit, None)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_finished_run_takes_no_further_step(tiny_dit, tmp_path):
    whole = train(tiny_dit, tmp_path)
    with_stop = train(tiny_dit, tmp_path, stop=9)  # would raise at step 9
    assert equal(whole.state_dict(), with_stop.state_dict())


def test_only_the_checkpoint_is_left(tiny_dit, tmp_path):
    train(tiny_dit, tmp_path / "new" / "folder")
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["checkpoint.pt"]


CHILD = """
import os, signal, sys, time
import torch
from minidit import Diffusion, DiT, Recipe, fit, straight, weights

torch.set_num_threads(1)
folder, moment = sys.argv[1:]

def die():
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

def half(state, file, save=torch.save):
    save(state, file)
    if state["done"] == 5:
        file.truncate(file.tell() // 2)
        file.flush()
        die()

def dying(function):
    def call(*arguments):
        call.count += 1
        if call.count == 5:
            die()
        return function(*arguments)
    call.count = 0
    return call

if moment == "half written":
    torch.save = half
elif moment == "before the rename":
    weights.files.os.replace = dying(os.replace)

def report(step, loss):
    print(step, flush=True)
    if moment.isdigit() and step >= int(moment):
        time.sleep(0.05)

torch.manual_seed(7)
model = DiT(8, 4, 1, 16, 2, 2, num_classes=3, learn_sigma=False)
rng = torch.Generator().manual_seed(4)
images = torch.randint(256, (12, 1, 8, 8), generator=rng, dtype=torch.uint8)
recipe = Recipe(steps=9, batch_size=4, warmup=2, optimizer="muon")
process = Diffusion(straight(), "v")
labels = torch.arange(12) % 3
fit(model, process, images, labels, recipe=recipe, out=folder, save_every=1, report=report)
"""


@pytest.mark.parametrize("moment", ["half written", "before the rename", "5"])
def test_a_run_killed_while_saving_or_at_any_step_resumes_to_the_bit(moment, tiny_dit, tmp_path):
    script = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path / "killed"), moment]
    child = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in child.stdout:
        if line.strip() == moment:  # the step is taken; its checkpoint is about to be written
            time.sleep(0.04)  # about when the child wakes up
            child.kill()
            break
    _, errors = child.communicate(timeout=600)
    assert child.returncode != 0, errors
    if not moment.isdigit():
        assert Checkpoint(tmp_path / "killed" / "checkpoint.pt").read()["done"] == 4, errors
    train(tiny_dit, tmp_path / "killed", "muon")
    train(tiny_dit, tmp_path / "whole", "muon")
    states = [Checkpoint(tmp_path / n / "checkpoint.pt").read() for n in ("whole", "killed")]
    assert equal(*states)
    assert [p.name for p in (tmp_path / "killed").iterdir()] == ["checkpoint.pt"]


# --- what is refused ------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tiny_dit, tmp_path):
    with pytest.raises(Stopped):
        train(tiny_dit, tmp_path, stop=4)
    return tmp_path / "checkpoint.pt"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_named(share, checkpoint, tiny_dit):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged or no checkpoint; remove it"):
        train(tiny_dit, checkpoint.parent)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_checkpoint_is_named_or_at_least_not_resumed(place, checkpoint, tiny_dit):
    content = bytearray(checkpoint.read_bytes())
    for k in range(200):
        content[int(place * len(content)) + k] ^= 0xFF
    checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        train(tiny_dit, checkpoint.parent)


class Code:
    def __reduce__(self):
        return os.makedirs, ("pwned",)


@pytest.mark.parametrize("write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_code_in_a_checkpoint_is_refused(write, checkpoint, tiny_dit, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    write({"done": 3, "model": Code()}, checkpoint)
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        train(tiny_dit, checkpoint.parent)
    assert not (checkpoint.parent / "pwned").exists()


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("model", lambda part: part.popitem()),
        ("ema", lambda part: part.update({"final.proj.bias": torch.zeros(1)})),
        ("ema", lambda part: part["final.proj.bias"].fill_(math.nan)),
        ("optimizers", lambda part: part[0]["state"][0].update(exp_avg=torch.zeros(1))),
        ("optimizers", lambda part: part[0].update(state=3)),
        ("data", None),
        ("done", None),
    ],
)
def test_a_whole_checkpoint_of_another_version_is_named(place, change, checkpoint, tiny_dit):
    """An optimiser's memory of another shape was read beyond its end by the fused kernel."""
    state = Checkpoint(checkpoint).read()
    if change is None:
        state[place] = -1
    else:
        change(state[place])
    torch.save(state, checkpoint)
    with pytest.raises(ValueError, match=r"checkpoint\.pt doesn't fit this run .*; remove it"):
        train(tiny_dit, checkpoint.parent)


@pytest.mark.parametrize("value", [math.nan, math.inf, 128.0])
def test_images_with_a_number_out_of_all_range_are_refused(value, tiny_dit):
    images = torch.randn(4, 1, 8, 8)
    images[2, 0, 3, 3] = value
    with pytest.raises(ValueError, match="images are floats in .*; networks see about"):
        fit(tiny_dit(), Diffusion(straight(), "v"), images, recipe=Recipe(steps=1))


def test_another_file_of_torchs_is_no_checkpoint(checkpoint, tiny_dit):
    torch.save(tiny_dit().state_dict(), checkpoint)
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        train(tiny_dit, checkpoint.parent)


def test_a_checkpoint_of_another_recipe_is_refused(checkpoint, tiny_dit):
    with pytest.raises(ValueError, match=r"its recipe has \{'lr': 0.001\}, this run \{'lr': 0.5\}"):
        train(tiny_dit, checkpoint.parent, lr=0.5)
    assert Checkpoint(checkpoint).read()["done"] == 3  # and stays as it was


def test_a_checkpoint_of_other_data_is_refused(checkpoint, tiny_dit):
    images, labels = data()
    recipe = Recipe(**SHORT)
    turned = images.clone()
    turned[3] = turned[3].flip(2)  # of the same sum
    others = [(255 - images, labels), (images[:9], labels[:9]), (images, labels.roll(1))]
    for other in (*others, (turned, labels), (images.roll(1, 0), labels)):
        with pytest.raises(ValueError, match="another run: its data"):
            fit(
                fresh(tiny_dit),
                Diffusion(straight(), "v"),
                *other,
                recipe=recipe,
                out=checkpoint.parent,
            )


def test_data_is_known_again_whatever_the_threads():
    rng, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    floats = torch.randn(64, 4, 64, 64, generator=rng), torch.rand(20_000, 18, generator=rng)
    found = []
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            found.append(fingerprint(*floats))
    finally:
        torch.set_num_threads(threads)
    assert found == found[:1] * 4


def test_a_checkpoint_of_another_network_or_process_is_refused(checkpoint, tiny_dit):
    def resume(model, diffusion):
        fit(model, diffusion, *data(), recipe=Recipe(**SHORT), out=checkpoint.parent)

    with pytest.raises(
        ValueError, match=r"its network has \{'depth': 2\}, this run \{'depth': 3\}"
    ):
        resume(fresh(tiny_dit, depth=3), Diffusion(straight(), "v"))
    with pytest.raises(ValueError, match="another run: its diffusion has .*'predict': 'v'"):
        resume(fresh(tiny_dit), Diffusion(straight(), "x0"))


@pytest.mark.parametrize("wrong", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_the_run(wrong, checkpoint, tiny_dit, monkeypatch):
    before = checkpoint.read_bytes()
    real = Diffusion.loss

    def loss(self, model, *arguments):
        bad = math.nan * model.final.proj.weight.sum()
        good = real(self, model, *arguments)
        return good + bad if wrong == "loss" else good + (0 * model.final.proj.weight.sum()).sqrt()

    monkeypatch.setattr(Diffusion, "loss", loss)
    with pytest.raises(FloatingPointError) as error:
        train(tiny_dit, checkpoint.parent)
    for part in (
        "loss is nan at step 4",
        "smaller lr than 0.001",
        "warmup",
        "clip",
        str(checkpoint),
    ):
        assert part in str(error.value)
    assert checkpoint.read_bytes() == before


def test_weights_that_are_not_finite_are_not_kept(tiny_dit, tmp_path):
    recipe = Recipe(steps=3, batch_size=4, warmup=0, lr=1e38, weight_decay=1e30)
    with pytest.raises(FloatingPointError, match="weights are not finite after step|loss is"):
        fit(fresh(tiny_dit), Diffusion(straight(), "v"), *data(), recipe=recipe,
            out=tmp_path, save_every=1)  # fmt: skip
    for path in tmp_path.glob("checkpoint.pt"):
        assert all(t.isfinite().all() for t in Checkpoint(path).read()["model"].values())


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    Checkpoint(path).write({"done": 1})
    before = path.read_bytes()
    with pytest.raises(Exception):  # noqa: B017 - whatever pickle makes of a lambda
        Checkpoint(path).write({"done": lambda: 0})
    assert path.read_bytes() == before


# --- a limit of time ------------------------------------------------------------------------------


def test_a_limit_of_time_ends_the_run_and_its_learning_rate_in_time(tiny_dit, monkeypatch):
    rates, heard = [], []
    real = learning_rate

    def watched(position, *rest):
        rates.append(real(position, *rest))
        return rates[-1]

    monkeypatch.setattr("minidit.train.learning_rate", watched)
    recipe = Recipe(steps=1_000_000, batch_size=4, warmup=0)
    images, labels = data()
    began = time.perf_counter()
    fit(
        fresh(tiny_dit), Diffusion(straight(), "v"), images, labels,
        recipe=recipe, seconds=2.0, report=lambda step, loss: heard.append(step),
    )  # fmt: skip
    assert 2 <= time.perf_counter() - began < 10
    assert heard == list(range(1, len(heard) + 1)) and 1 < len(heard) < 100_000
    assert rates[0] == pytest.approx(1e-3) and rates[-1] < 0.8e-3
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("seconds, out", [(0.0, None), (-1.0, None), (5.0, "folder")])
def test_a_limit_of_time_that_makes_no_sense_is_refused(seconds, out, tiny_dit):
    with pytest.raises(ValueError, match="seconds=.*must be above 0"):
        fit(
            fresh(tiny_dit), Diffusion(straight(), "v"), *data(),
            recipe=Recipe(**SHORT), seconds=seconds, out=out,
        )  # fmt: skip
