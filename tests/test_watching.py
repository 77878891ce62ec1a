"""Looking inside training and the bound: what is noted, and that looking changes nothing."""

import json
import math

import pytest
import torch

from minidit import Diffusion, Recipe, data, fit, linear, save, straight
from minidit.evaluate.nll import bits_per_dim
from minidit.lab import trials, watching
from minidit.lab.runner import merge
from minidit.lab.watching import bits_by_variance, count_bits, held_out_loss, watch_training
from minidit.training import presets

TINY = {"patch_size": 14, "hidden_size": 8, "depth": 1, "num_heads": 1}


@pytest.fixture
def few(monkeypatch):
    """MNIST as a few random images; the last 320 are held out."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (400, 1, 28, 28), generator=rng).to(torch.uint8)
    labels = torch.randint(0, 10, (400,), generator=rng)
    dataset = data.Dataset(images, labels, data.DATASETS["mnist"].classes, "mnist", "train")
    monkeypatch.setattr(watching.data, "load", lambda name, split="train": dataset)
    for module in (trials, watching):
        monkeypatch.setattr(module, "HELD_OUT", 320)
    return dataset


def watched(seed=0, **changes):
    settings = {"model": TINY, "looks": [2, 4], "per_class": 7, "options": {"steps": 2}}
    return watch_training(merge(settings, changes), seed)


def test_looking_does_not_change_the_run(few):
    """At the last step the averaged weights are those of `fit`, which never stopped to look."""
    run = watched()
    preset = presets.PRESETS["demo"] | {"model": presets.PRESETS["demo"]["model"] | TINY}
    model, diffusion, parts = presets.build(preset, (1, 28, 28), 10, seed=0)
    recipe = Recipe(**(parts | {"steps": 4}))
    average = fit(model, diffusion, few.images[:-320], few.labels[:-320], recipe=recipe)
    for network, loss in {average: run["loss"], model: run["raw"]["loss"][-1]}.items():
        assert loss == pytest.approx(held_out_loss(network, diffusion, 320).mean().item(), abs=1e-4)
    assert run["raw"]["loss"] != run["average"]["loss"]


def test_every_look_is_noted_for_both_sets_of_weights(few):
    run = watched()
    assert run["looks"] == [2, 4] and run["recipe"]["steps"] == 4
    assert len(run["training loss"]) == 1
    for name in ("raw", "average"):
        assert {key: len(values) for key, values in run[name].items()} == {
            "loss": 2, "loss by tenth of t": 2, "recognised": 2, "frechet": 2
        }  # fmt: skip
        for mean, parts in zip(run[name]["loss"], run[name]["loss by tenth of t"]):
            assert sum(parts) / 10 == pytest.approx(mean, abs=1e-4)
    for key in ("loss", "recognised", "frechet"):
        assert run[key] == run["average"][key][-1]
    json.dumps(run)


def test_settings_reach_the_run(few):
    run = watched(recipe={"times": "uniform"}, diffusion={"schedule": "linear", "predict": "eps"})
    assert run["recipe"]["times"] == "uniform" and run["diffusion"]["schedule"] == "linear"
    assert run["sampling"] == {"per_class": 7, "options": {"steps": 2}}
    assert watched(seed=1)["loss"] != watched(seed=0)["loss"] == watched(seed=0)["loss"]


def test_any_network_can_be_watched(few):
    run = watched(network="UViT")
    assert run["network"] == "UViT" and run["model"]["skip"] == "concat"
    with pytest.raises(ValueError, match="network='Dit' is unknown; choose one of"):
        watched(network="Dit")


def test_means_of_ten_steps():
    losses = [1.0] * 10 + [3.0] * 10 + [5.0]
    assert watching._means(losses) == [1.0, 3.0, 5.0]


def test_the_held_out_loss_visits_all_steps_with_held_out_images(few):
    class Knowing(torch.nn.Module):
        """Is right about the first half of the steps, and answers black in the second."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, t, y):
            assert t.tolist() == [k * 1000 // 320 for k in range(320)]
            assert torch.equal(y, few.labels[-320:])
            x0 = data.to_unit(few.images[-320:])
            return torch.where((t < 500).reshape(-1, 1, 1, 1), x0, -1)

    loss = held_out_loss(Knowing(), Diffusion(straight(), "x0"))
    assert (loss[:160] == 0).all()
    expected = (data.to_unit(few.images[-160:]) + 1).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(loss[160:], expected)


# --- bits -----------------------------------------------------------------------------------------


@pytest.fixture
def sigma(tiny_dit, awaken):
    """A network with a learned variance, its process of 20 steps, and three images."""
    model = awaken(tiny_dit(learn_sigma=True))
    process = Diffusion(linear(), learn_sigma=True).respace(range(0, 1000, 50))
    x0 = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return model, process, x0, torch.tensor([0, 1, 2])


def test_the_three_variances_are_those_of_the_bound_itself(sigma):
    """Heard again, the answers give what asking the network again would."""
    model, process, x0, y = sigma
    found = bits_by_variance(model, process, x0, y, seed=5)
    for name, bits in found.items():
        if name == "learned":
            asked, same = model, process
        else:
            same = Diffusion(process.schedule, variance=name)

            def asked(x, t, y):
                return model(x, t, y)[:, :1]

        rng = watching.step_generator(5, 0)
        torch.testing.assert_close(bits, bits_per_dim(asked, same, x0, y, generator=rng))
    totals = [bits.total for bits in found.values()]
    assert not any(torch.equal(totals[i], totals[i - 1]) for i in range(3))


def test_batches_are_put_together_in_order(sigma):
    model, process, x0, y = sigma
    found = bits_by_variance(model, process, x0, y, seed=0, batch=2)["learned"]
    assert found.total.shape == (3,) and found.terms.shape == (3, 20)
    torch.testing.assert_close(found.total, found.prior + found.terms.sum(dim=1))
    first = bits_by_variance(model, process, x0[:2], y[:2], seed=0, batch=2)["learned"]
    torch.testing.assert_close(found.total[:2], first.total)


def test_bits_are_counted_for_other_images_with_another_seed(few, tmp_path, awaken):
    preset = presets.PRESETS["mnist-sigma"]
    model, diffusion, _ = presets.build(preset | {"model": TINY}, (1, 28, 28), 10)
    save(awaken(model, 0.05), tmp_path / "w.safetensors", diffusion)
    settings = {"weights": tmp_path / "w.safetensors", "steps": 25, "images": 4}
    run, other = count_bits(settings, 0), count_bits(settings, 1)
    assert run["images"] == 4 and run["prior"] < 1e-3
    assert run["shown"][0] == 0 and run["shown"][-1] == 999
    for name in ("learned", "large", "small"):
        assert math.isfinite(run[name]) and len(run["terms"][name]) == len(run["shown"])
        assert run[name] > sum(run["terms"][name]) > 0 and run[name] != other[name]
    assert run["learned"] == count_bits(settings, 0)["learned"]
    json.dumps(run)
