"""What came after DiT: each part against its paper's formula, written out."""

import copy
import itertools
import json

import pytest
import torch
from torch.nn import functional as F

from minidit import Diffusion, data, ddim, evaluate, linear, straight
from minidit.lab import EXPERIMENTS, after, trials
from minidit.lab.claims import SURGERY
from minidit.lab.runner import merge

T = torch.tensor([0, 60, 500, 999])
SMALL = {
    "model": {"patch_size": 7, "hidden_size": 16, "depth": 2, "num_heads": 2},
    "recipe": {"steps": 8, "batch_size": 4, "warmup": 0, "lr": 0.03},
}


@pytest.fixture
def few(monkeypatch):
    """MNIST as a few drawn digits; the last 320 are held out."""
    drawn = data.Dataset(*data.digits.render(400, seed=0), tuple("0123456789"), "mnist", "train")
    monkeypatch.setattr(data, "load", lambda name, split="train": drawn)
    monkeypatch.setattr(trials, "HELD_OUT", 320)
    after._trained.cache_clear()


@pytest.fixture
def batch(tiny_dit, awaken):
    """An awake network for 28×28 pixels, and what a loss is given besides."""
    x0, noise = torch.randn(2, 4, 1, 28, 28)
    model = awaken(tiny_dit(input_size=28, patch_size=7, num_classes=10))
    return model, (x0.clamp(-1, 1), T, noise, torch.tensor([1, 2, 3, 10]))


def test_shifted_times_are_those_of_sd3():
    shifted, line = after.shifted(), straight()
    u = line.sigma
    torch.testing.assert_close(shifted.sigma, 3 * u / (1 + 2 * u))
    torch.testing.assert_close(shifted.alpha + shifted.sigma, torch.ones_like(u))
    told = (shifted.sigma * 1001 - 1).float()  # the plain line's number at that σ
    torch.testing.assert_close(shifted.steps.float(), told)
    assert torch.equal(after.shifted(shift=1.0).steps.round(), line.steps.double())
    assert after._shift(3) == [0, 749, 999], "3/2 / (1 + 1) of the way"


def test_cosine_and_sine_move_along_the_derivative():
    path, u = after.sine(), straight().sigma
    torch.testing.assert_close(path.alpha, (torch.pi / 2 * u).cos())
    x0, noise = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64)
    t, process = torch.tensor([400]), Diffusion(path, "v")
    before, behind = (process.q_sample(x0, t + k, noise) for k in (-1, 1))
    slope = (behind - before) / (2 / 1001) / (torch.pi / 2)
    torch.testing.assert_close(process.velocity(x0, noise, t), slope, atol=1e-5, rtol=1e-4)


def cheapest(cost):
    """The best of all pairings, tried one by one."""
    n = len(cost)
    ways = torch.tensor(list(itertools.permutations(range(n))))
    return ways[cost[torch.arange(n), ways].sum(dim=1).argmin()]


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_an_auction_finds_the_cheapest_pairing(n):
    for _ in range(5):
        cost = torch.rand(n, n)
        assert torch.equal(after.pairing(cost), cheapest(cost))
    assert after.pairing(torch.zeros(n, n)).sort().values.tolist() == list(range(n))


def test_images_get_the_noise_that_is_nearest(batch):
    model, (x0, t, noise, y) = batch
    plain = Diffusion(straight(), "v")
    near = cheapest((x0[:, None] - noise).square().sum(dim=(2, 3, 4)))
    assert near.tolist() != [0, 1, 2, 3]
    expected = plain.loss(model, x0, t, noise[near], y)
    assert torch.equal(SURGERY["pair"](model, plain).loss(model, x0, t, noise, y), expected)


def test_min_snr_is_a_weight_of_the_noise_with_a_limit(batch):
    model, (x0, t, noise, y) = batch
    settings = EXPERIMENTS["losses"].variants()["min-SNR, γ = 5"]
    process, schedule = Diffusion.from_config(settings["diffusion"]), linear()
    error = (model(process.q_sample(x0, t, noise), t, y) - x0).square().mean(dim=(1, 2, 3))
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    weight = snr[t].clamp(max=5).float()
    assert weight[:2].tolist() == [5, 5] and 0 < weight[3] < weight[2] < 1
    torch.testing.assert_close(process.loss(model, x0, t, noise, y), weight * error)


@pytest.mark.parametrize("name", ["image", "velocity", "noise"])
def test_whatever_is_predicted_the_error_is_the_velocity_s(name, batch):
    model, (x0, _, noise, y) = batch
    process = Diffusion.from_config(
        EXPERIMENTS["pixels"].variants()[f"{name}, patches of 7"]["diffusion"]
    )
    t = torch.tensor([300, 450, 600, 700])  # where no limit is reached
    u = ((t + 1) / 1001)[:, None, None, None]
    x_t = (1 - u) * x0 + u * noise
    out = model(x_t, t, y)
    v = {"image": (x_t - out) / u, "velocity": out, "noise": (out - x_t) / (1 - u)}[name]
    expected = (v - (noise - x0)).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(process.loss(model, x0, t, noise, y), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("teacher", ["mnist", "digits"])
def test_a_middle_block_is_aligned_with_a_classifier(teacher, batch, awaken):
    model, (x0, t, noise, y) = batch
    plain = Diffusion(straight(), "x0")
    process = after.align(model, plain, teacher, weight=0.3)
    awaken(model.project)
    x_t = plain.q_sample(x0, t, noise)
    cond, _ = model.condition(t, y)
    tokens = model.blocks[0](model.patch_embed(x_t) + model.pos_embed, cond)
    maps = evaluate.classifier(teacher).activations(x0)[-1]  # (b, 128, 7, 7)
    cosines = torch.zeros(4)
    for row, column in itertools.product(range(4), range(4)):
        low, high = (lambda k: 7 * k // 4), (lambda k: -(-7 * (k + 1) // 4))
        seen = maps[:, :, low(row) : high(row), low(column) : high(column)].mean(dim=(2, 3))
        ours = model.project(tokens[:, 4 * row + column])
        cosines += (F.normalize(ours, dim=1) * F.normalize(seen, dim=1)).sum(dim=1) / 16
    loss = process.loss(model, x0, t, noise, y)
    expected = plain.loss(model, x0, t, noise, y) - 0.3 * cosines
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
    loss.sum().backward()
    assert model.project[0].weight.grad.abs().max() > 0
    assert not model.blocks[0]._forward_hooks, "the hook is gone"


def test_neighbours_on_the_teacher_s_way_have_one_answer(batch, awaken):
    model, (x0, _, noise, y) = batch
    teacher = copy.deepcopy(model)
    awaken(model, std=0.15)
    steps, plain = [199, 399, 599, 999], Diffusion(linear(), "x0")
    process, t = plain.respace(steps), torch.arange(4)
    x_t = process.q_sample(x0, t, noise)
    expected = []
    for k in range(4):
        x, label = x_t[k : k + 1], y[k : k + 1]
        walk = ddim(teacher, plain, x, label, steps=steps[: k + 1])
        x_s = next(walk).x  # one step of the teacher
        told = [torch.tensor([steps[j]]) for j in (k, max(k - 1, 0))]
        target = model(x_s, told[1], label) if k else x_s
        expected.append((model(x, told[0], label) - target).square().mean())
    loss = after.consistency_loss(process, model, x0, t, noise, y, teacher=teacher)
    torch.testing.assert_close(loss, torch.stack(expected))
    loss.sum().backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_a_student_begins_with_what_its_teacher_has_learnt(few):
    run = trials.prepare(SMALL | {"preset": "speedrun"}, 0)
    trials.train(run)
    taught = after.student_of(run, 4, 2.0)
    assert taught.done == 0 and taught.diffusion.schedule.steps.tolist() == [249, 499, 749, 999]
    assert taught.recipe.steps == 4 and taught.recipe.lr == run.recipe.lr / 10
    for name, weight in taught.model.state_dict().items():
        assert torch.equal(weight, run.ema.model.state_dict()[name])
    before = copy.deepcopy(run.ema.model.state_dict())
    trials.train(taught)
    assert all(torch.equal(w, before[k]) for k, w in run.ema.model.state_dict().items())
    assert not torch.equal(taught.model.final.proj.weight, before["final.proj.weight"])


def test_autoguidance_leads_away_from_the_worse():
    right, wrong = torch.randn(2, 3)
    found = after.autoguided(lambda x, t, y: right, lambda x, t, y: wrong, 3.0)(1, 2, 3)
    torch.testing.assert_close(found, wrong + 3 * (right - wrong))


# --- the trial ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", after.AFTER)
def test_every_variant_trains_and_is_measured(name, few):
    experiment, seen = EXPERIMENTS[name], set()
    for settings in experiment.variants().values():
        settings = merge({"model": {}} | settings, {"recipe": SMALL["recipe"]})
        settings["model"] = SMALL["model"] | settings["model"]
        sampling = settings.setdefault("sampling", {}) | {"per_class": 7}
        steps = [0, 2, 3] if "student" in settings else [0, 500, 999]
        options = sampling.get("options", {}) | {"steps": steps}
        settings["sampling"] = sampling | {"options": options}
        if "guide" in settings:
            settings["guide"] |= {"recipe": {"steps": 2}}
        run = experiment.trial(settings, 0)
        for column, form in experiment.columns.items():
            format(run[column], form)
        guided = settings["sampling"].get("guidance", {}).get("scale", 2.0) > 1
        assert run["evaluations"] == 3 and run["passes"] <= (6 if guided else 3)
        seen.add(json.dumps([run[key] for key in ("frechet", "parameters", "diffusion")]))
        json.dumps(run)
    # steps are the same here, too few for a second order, and none is between 80 and 470
    twins = {"walks": 6, "guides": 1, "few-steps": 5}.get(name, 0)
    assert len(seen) == len(experiment.variants()) - twins
    after._trained.cache_clear()
    assert run["frechet"] == experiment.trial(settings, 0)["frechet"]
