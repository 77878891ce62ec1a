"""The runner of experiments: it resumes, stores each run as it ends; its table is the file's."""

import json

import pytest
import torch

from minidit import data, experiments
from minidit.experiments import run_experiment, table

TINY = {"model": {"patch_size": 14, "hidden_size": 8, "depth": 1, "num_heads": 1}}


@pytest.fixture
def small(monkeypatch):
    """An experiment with two tiny variants, on a few random images."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (400, 1, 28, 28), generator=rng).to(torch.uint8)
    labels = torch.randint(0, 10, (400,), generator=rng)
    dataset = data.Dataset(images, labels, data.CLASSES["mnist"], "mnist", "train")
    variants = {"plain": TINY, "slow": TINY | {"recipe": {"lr": 1e-9, "optimizer": "adamw"}}}
    monkeypatch.setattr(experiments.data, "load", lambda name: dataset)
    monkeypatch.setattr(experiments, "HELD_OUT", 320)
    monkeypatch.setitem(experiments.EXPERIMENTS, "small", ("Does it run?", 3, variants))


def test_every_variant_and_seed_is_run_once_and_stored(small, tmp_path):
    heard = []
    results = run_experiment("small", 2, tmp_path, heard.append)
    assert [(run["variant"], run["seed"]) for run in results["runs"]] == [
        ("plain", 0), ("slow", 0), ("plain", 1), ("slow", 1)
    ]  # fmt: skip
    assert len(heard) == 4 and "recognised" in heard[0]
    assert json.loads((tmp_path / "small.json").read_text()) == results
    run = results["runs"][1]
    assert run["recipe"]["lr"] == 1e-9 and run["recipe"]["steps"] == 3
    assert 0 <= run["recognised"] <= 1 and run["frechet"] > 0 and run["revision"]


def test_a_second_call_runs_only_what_is_missing(small, tmp_path):
    first = run_experiment("small", 1, tmp_path, lambda line: None)
    heard = []
    second = run_experiment("small", 2, tmp_path, heard.append)
    assert len(heard) == 2 and second["runs"][:2] == first["runs"]


def test_equal_seeds_give_equal_results(small, tmp_path):
    one = run_experiment("small", 1, tmp_path / "a", lambda line: None)["runs"][0]
    two = run_experiment("small", 1, tmp_path / "b", lambda line: None)["runs"][0]
    for key in ("recognised", "frechet", "frechet of real images"):
        assert one[key] == two[key]


def test_the_table_gives_mean_and_spread():
    run = {"variant": "a", "processor seconds": 10.0, "recognised": 0.5, "frechet": 3.0}
    other = run | {"recognised": 0.7, "frechet": 5.0}
    worse = run | {"variant": "b", "frechet": 1e9}
    rows = table({"runs": [run, other, worse]}).splitlines()
    assert rows[2] == "| a | 2 | 10 ± 0 | 60.0 ± 10.0 % | 4.0 ± 1.0 |"
    assert rows[3] == "| b | 1 | 10 | 50.0 % | diverged |"


def test_an_unknown_experiment_is_refused(tmp_path):
    with pytest.raises(ValueError, match="experiment='nothing'.*recipes"):
        run_experiment("nothing", 1, tmp_path, print)
