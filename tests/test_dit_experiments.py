"""The experiments of DiT: what variants change, what the trials measure, at the smallest size."""

import json

import pytest
import torch

from minidit import data
from minidit.lab import EXPERIMENTS, budgets, scaling, trials, watching
from minidit.lab.ablations import train_and_compare
from minidit.lab.runner import merge

SMALL = {
    "model": {"patch_size": 7, "hidden_size": 8, "depth": 2, "num_heads": 2},
    "recipe": {"steps": 6, "batch_size": 4, "warmup": 0, "lr": 0.01},
    "sampling": {"per_class": 7, "options": {"steps": 2}},
}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """MNIST as a few random images."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (400, 1, 28, 28), generator=rng).to(torch.uint8)
    labels = torch.randint(0, 10, (400,), generator=rng)
    dataset = data.Dataset(images, labels, data.DATASETS["mnist"].classes, "mnist", "train")
    monkeypatch.setattr(trials.data, "load", lambda name: dataset)
    monkeypatch.setattr(trials, "HELD_OUT", 320)
    monkeypatch.setattr(watching, "HELD_OUT", 320)


def tiny(experiment, variant):
    """A variant's settings, cut down so far that only what is named in them remains."""
    settings = merge(EXPERIMENTS[experiment].variants[variant], SMALL)
    settings["model"].pop("mlp_ratio", None)
    return settings


@pytest.mark.parametrize("name", ["dit-blocks", "time-conditioning", "prediction", "claims"])
def test_every_variant_trains_and_is_measured(name):
    experiment, seen = EXPERIMENTS[name], set()
    for variant in experiment.variants:
        run = experiment.trial(tiny(name, variant), 0)
        for column, form in experiment.columns.items():
            format(run[column], form)
        seen.add(json.dumps(run["frechet"]) + json.dumps(run["diffusion"]))
    # the parameter-matched networks lose here what distinguishes them
    twins = 3 if name == "dit-blocks" else 0
    assert len(seen) >= len(experiment.variants) - twins - 1


def test_surgery_and_the_sequence_loss_change_what_is_trained():
    plain = train_and_compare(SMALL, 0)
    for more in (
        {"surgery": {"unzero": {}}},
        {"surgery": {"aware": {"mask": "corrected"}}},
        {"surgery": {"grow_frequencies": {}}},
        {"sequence_weight": 1.0},
    ):
        run = train_and_compare(SMALL | more, 0)
        assert run["validation loss"] != plain["validation loss"], more
    assert run["diffusion"]["sequence_weight"] == 1.0
    assert train_and_compare(SMALL, 0)["validation loss"] == plain["validation loss"]


def test_surgery_is_the_same_for_equal_seeds_and_leaves_the_global_state():
    settings = SMALL | {"surgery": {"unzero": {}}}
    before = torch.random.get_rng_state()
    one, two, other = (trials.prepare(settings, seed).model for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [model.blocks[1].adaln.weight for model in (one, two, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_blocks_matched_in_parameters_are():
    sizes = {}
    for variant, settings in EXPERIMENTS["dit-blocks"].variants.items():
        model = trials.prepare(settings, 0).model
        sizes[variant] = sum(p.numel() for p in model.parameters())
    zero = sizes.pop("adaLN-Zero")
    assert sizes.pop("adaLN-Zero without its zero") == zero
    for variant, size in sizes.items():
        if "as many parameters" in variant:
            assert abs(size / zero - 1) < 1e-3, variant
        else:
            assert size < 0.95 * zero, variant


def test_time_conditioning_is_every_combination():
    found = {
        (settings["model"]["skip"], settings["model"]["time"])
        for settings in EXPERIMENTS["time-conditioning"].variants.values()
    }
    times = ("token", "adaln", "adaln_zero")
    assert found == {(skip, time) for skip in ("concat", "none") for time in times}


def test_runs_of_the_unet_experiments_are_shared():
    shared = EXPERIMENTS["uvit-time"].variants["token"]
    assert EXPERIMENTS["time-conditioning"].variants["token, long skips"] == shared
    none = EXPERIMENTS["uvit-skips"].variants["no skips"]
    assert EXPERIMENTS["time-conditioning"].variants["token, no skips"] == none


def test_scaling_measures_every_number_of_sampling_steps():
    settings = {**SMALL, "sampling": {"per_class": 7}, "sampling_steps": [2, 3]}
    run = scaling.train_and_scale(settings, 0)
    by_steps = run["by sampling steps"]
    assert {k: v["evaluations"] for k, v in by_steps.items()} == {"2": 2, "3": 3}
    assert by_steps["3"]["frechet"] == run["frechet"] != by_steps["2"]["frechet"]
    assert run["tokens"] == 16 and run["steps"] == 6 and run["MMACs"] > 0
    json.dumps(run)


def test_a_budget_is_spent_by_every_size():
    experiment = EXPERIMENTS["dit-scaling-compute"]
    spent, budget = {}, 10.0
    for variant, settings in experiment.variants.items():
        run = trials.prepare(merge(settings, {"recipe": {"batch_size": 4}}), 0)
        steps = budgets.steps_for(run, budget)
        assert steps > 1
        spent[variant] = steps * 4 * budgets.count(run.model).macs / 1e9
    assert len(spent) == 10 and all(abs(s / budget - 1) < 0.2 for s in spent.values()), spent


def test_scaling_covers_sizes_and_patches_down_to_single_pixels():
    models = [settings["model"] for settings in EXPERIMENTS["dit-scaling"].variants.values()]
    assert {model["patch_size"] for model in models} == {7, 4, 2, 1}
    assert len({model["hidden_size"] for model in models}) == 3 and len(models) >= 9


def test_speedrun_undoes_its_recipe_part_by_part():
    experiment = EXPERIMENTS["speedrun"]

    def prepared(name):
        run = trials.prepare(experiment.variants[name], 0)
        return trials.configuration(run)

    base = prepared("the recipe")
    steps = base["recipe"].pop("steps")
    for name in experiment.variants:
        found = prepared(name)
        ratio = found["recipe"].pop("steps") / steps
        if name in ("the recipe", "half the steps", "twice the steps"):
            assert found == base
        else:
            assert found != base, name
        if name.startswith("paper's recipe"):
            assert ratio == int(name.split()[2])
            assert found["recipe"]["lr"] == 1e-4 and found["diffusion"]["predict"] == "eps"
    settings = merge(experiment.variants["twice the steps"], SMALL)
    run = experiment.trial(settings, 0)
    assert all(format(run[column], form) for column, form in experiment.columns.items())
