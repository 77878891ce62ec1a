"""The runner resumes and stores each run as it ends; the experiments fit what is stored."""

import json
import math
import multiprocessing
import os
import pickle
import platform
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from shutil import copy

import pytest
import torch

from minidit.__main__ import main
from minidit.blocks import BLOCKS
from minidit.cli import lab as command
from minidit.lab import EXPERIMENTS, runner
from minidit.lab.runner import (
    Experiment,
    mean_and_spread,
    measures,
    merge,
    optimisers,
    rows,
    run_experiment,
    table,
    tuned,
)

RESULTS = Path(__file__).parents[1] / "data" / "results"


def counting(calls):
    """An experiment whose trial notes its calls and measures the sum of its settings."""

    def trial(settings, seed):
        calls.append((settings, seed))
        return {"sum": settings["part"]["a"] + settings["part"]["b"] + seed}

    return Experiment(
        "How much?",
        lambda: {"one": {"part": {"a": 1}}, "ten": {"part": {"a": 10}}},
        {"smoke": {"part": {"b": 0}}, "cpu": {"part": {"b": 100}}},
        trial,
        {"sum": ".1f"},
    )


def test_every_variant_and_seed_is_run_once_and_stored(tmp_path):
    calls, heard = [], []
    results = run_experiment("x", counting(calls), tmp_path, seeds=2, report=heard.append)
    assert [(run["variant"], run["seed"], run["sum"]) for run in results["runs"]] == [
        ("one", 0, 101), ("ten", 0, 110), ("one", 1, 102), ("ten", 1, 111)
    ]  # fmt: skip
    assert calls[0] == ({"part": {"a": 1, "b": 100}}, 0)
    assert heard[0] == "one, seed 0: sum 101.0"
    assert json.loads((tmp_path / "x.json").read_text()) == results
    assert {"revision", "torch", "threads", "device", "seconds"} <= results["runs"][0].keys()


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (
            "model name\t: Lovelace 9\nflags\t: sse avx2 fma\n\nmodel name\t: other\nflags : fma\n",
            "Lovelace 9",
        ),
        ("model name :\nHardware : board\n", None),
        (None, None),
    ],
    ids=["named", "not named", "no Linux"],
)
def test_results_name_the_processor(told, name, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    if told is not None:
        path.write_text(told)
    monkeypatch.setattr(runner, "_CPUINFO", path)
    found = runner.machine()
    assert found["device"] == (name or platform.processor() or platform.machine())
    assert found["instruction sets"] == ("avx2 fma" if name else "")


def test_a_second_call_runs_only_what_is_missing(tmp_path):
    first = run_experiment("x", counting([]), tmp_path, seeds=1)
    calls = []
    second = run_experiment("x", counting(calls), tmp_path, seeds=2)
    assert [seed for _, seed in calls] == [1, 1] and second["runs"][:2] == first["runs"]
    run_experiment("x", counting(calls), tmp_path, seeds=1, scale="smoke")
    assert len(calls) == 4, "another scale is another run"


def test_a_killed_experiment_keeps_what_it_had(tmp_path):
    def trial(settings, seed):
        if settings["a"] == 2:
            raise KeyboardInterrupt
        return {"sum": settings["a"]}

    variants = {"fine": {"a": 1}, "killed": {"a": 2}}
    experiment = Experiment("?", lambda: variants, {"cpu": {}}, trial, {"sum": "d"})
    with pytest.raises(KeyboardInterrupt):
        run_experiment("x", experiment, tmp_path)
    stored = json.loads((tmp_path / "x.json").read_text())
    assert [run["variant"] for run in stored["runs"]] == ["fine"]


def test_two_processes_keep_each_other_s_runs(tmp_path):
    def trial(settings, seed):
        if settings["a"] == 1:  # while this run is under way, another process ends its own
            run_experiment("x", Experiment("?", lambda: {"two": {"a": 2}}, *rest), tmp_path)
        return {"sum": settings["a"]}

    rest = {"cpu": {}}, trial, {"sum": "d"}
    results = run_experiment("x", Experiment("?", lambda: {"one": {"a": 1}}, *rest), tmp_path)
    assert sorted(run["variant"] for run in results["runs"]) == ["one", "two"]


def added(settings, seed):
    """A trial that other processes can import."""
    if settings["a"] == 0:
        raise ValueError("a=0 is too little")
    if settings["a"] < 0:
        os._exit(3)
    drawn = torch.randn(300, 300, generator=torch.Generator().manual_seed(seed))
    time.sleep(0.3 if settings["a"] == 1 else 0)  # the first ends last
    total = settings["a"] * (drawn @ drawn).sum().item()
    return {"sum": total, "process": os.getpid(), "took": torch.get_num_threads()}


def adding(**amounts):
    variants = {name: {"a": amount} for name, amount in amounts.items()}
    return Experiment("How much?", variants, {"cpu": {}}, added, {"sum": ".1f"})


def test_two_jobs_give_what_one_gives(tmp_path):
    own = ("seconds", "process")
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        run_experiment("x", adding(one=1, two=2, six=6), out, seeds=2, jobs=jobs)
        assert [path.name for path in out.iterdir()] == ["x.json"]
    one, two = (json.loads((tmp_path / n / "x.json").read_text())["runs"] for n in "12")
    assert {run["process"] for run in one} == {os.getpid()} and two[0]["took"] == one[0]["took"]
    assert len({run["process"] for run in two} - {os.getpid()}) == 2
    for runs in (one, two):
        for run, key in product(runs, own):
            run.pop(key)
    assert one == two and len(one) == 6


def test_a_job_that_fails_is_named_and_the_runs_before_are_kept(tmp_path):
    for amount, told in ((0, "ValueError: a=0 is too little"), (-1, "its process ended with 3")):
        out = tmp_path / str(amount)
        with pytest.raises(ChildProcessError, match=f"bad, seed 0: {told}"):
            run_experiment("x", adding(six=6, two=2, bad=amount), out, jobs=2)
        stored = json.loads((out / "x.json").read_text())["runs"]
        assert stored and {run["variant"] for run in stored} <= {"six", "two"}
    with pytest.raises(ValueError, match="jobs=0 must be at least 1"):
        run_experiment("x", adding(six=6), tmp_path, jobs=0)


def test_stopped_jobs_are_ended_and_their_runs_made_later(tmp_path):
    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment("x", adding(one=1, two=2, six=6), tmp_path, jobs=2, report=stop)
    assert not multiprocessing.active_children()
    stored = json.loads((tmp_path / "x.json").read_text())["runs"]
    assert len(stored) == 1 and [path.name for path in tmp_path.iterdir()] == ["x.json"]
    results = run_experiment("x", adding(one=1, two=2, six=6), tmp_path)
    assert [run["variant"] for run in results["runs"]] == ["one", "two", "six"]
    assert stored[0] in results["runs"]


def test_pages_name_optimiser_and_rate():
    recipe = {"optimizer": "muon", "muon_lr": 0.02, "lr": 2e-3}
    runs = [{"variant": v, "scale": "cpu", "recipe": recipe} for v in "ab"]
    assert optimisers({"runs": runs}) == ". Optimiser: Muon at 0.02, and AdamW at 0.002."
    runs.append({"variant": "c", "scale": "cpu", "recipe": recipe | {"optimizer": "adamw"}})
    assert optimisers({"runs": runs}).endswith("and AdamW at 0.002; for “c” AdamW at 0.002.")
    assert optimisers({"runs": [{"variant": "a", "scale": "cpu"}]}) == ""


def test_a_baseline_that_another_experiment_has_run_is_not_run_again(tmp_path):
    calls = []
    first = counting(calls)
    run_experiment("x", first, tmp_path, seeds=2)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"rows": []}')
    variants = {"as before": {"part": {"a": 10}}, "new": {"part": {"a": 5}}}
    second = Experiment("?", lambda: variants, first.scales, first.trial, first.columns)
    calls.clear()
    results = run_experiment("y", second, tmp_path, seeds=3)
    made = [(settings["part"]["a"], seed) for settings, seed in calls]
    assert made == [(5, 0), (5, 1), (10, 2), (5, 2)], "what is new, and the third seed"
    of = {(run["variant"], run["seed"]): run for run in results["runs"]}
    assert of["as before", 1]["sum"] == 111 and of["as before", 1]["from"] == "x"
    assert "from" not in of["new", 0] and "from" not in of["as before", 2]


def test_measures_are_sorted_by_column_and_variant_without_costs():
    runs = [
        {"variant": v, "seed": k, "scale": "cpu", "loss": float(k), "parameters": 10, "x": 2}
        for k in range(2)
        for v in "ab"
    ]
    runs.append(runs[0] | {"scale": "smoke"})
    results = {"runs": runs, "columns": {"parameters": "d", "loss": ".1f", "x": "d"}}
    found = measures(results, "cpu")
    assert found == {"loss": {"a": [0.0, 1.0], "b": [0.0, 1.0]}, "x": {"a": [2, 2], "b": [2, 2]}}


def test_the_command_writes_results_table_and_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "x", counting([]))
    assert main(["experiment", "x", "--seeds", "2", "--out", str(tmp_path)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.md", "x.png"]
    assert "| ten | 2 | 110.5 ± 0.7 |" in (tmp_path / "x.md").read_text()
    assert "one, seed 0: sum 101.0" in capsys.readouterr().out
    assert main(["experiment", "y"]) == 2 and "x" in capsys.readouterr().err


def test_a_page_says_which_differences_are_told_from_chance(tmp_path, monkeypatch):
    def trial(settings, seed):
        return {"frechet": settings["part"]["a"] * (1 + seed / 100)}

    told = replace(counting([]), trial=trial, columns={"frechet": ".2f"}, base="one")
    monkeypatch.setitem(EXPERIMENTS, "told", told)
    for seeds, found in ((1, False), (3, True)):
        assert main(["experiment", "told", "--seeds", str(seeds), "--out", str(tmp_path)]) == 0
        page = (tmp_path / "told.md").read_text()
        assert ("against “one”" in page and "| ten | 3 | ×10.00 |" in page) == found


def rated(settings, seed):
    """A distance that is least at rate 1 for "low", and at three times that for "high"."""
    best = {"low": 1.0, "high": runner.RATES[-1]}[settings["name"]]
    far = (
        math.inf if settings["name"] == "high" and settings.get("rate", 1) < 1 else 1.0
    )  # diverged
    return {"frechet": far * (1 + abs(math.log(settings.get("rate", 1.0) / best))) + seed / 1000}


RATED = Experiment(
    *("?", {name: {"name": name} for name in ("low", "high")}, {"smoke": {}, "cpu": {}}),
    *(rated, {"frechet": ".2f"}, "low"),
)


def test_each_variant_gets_its_own_best_rate(tmp_path, monkeypatch):
    best = tuned("rated", RATED, tmp_path)
    assert best.variants() == {
        "low": {"name": "low", "rate": 1.0},
        "high": {"name": "high", "rate": runner.RATES[-1]},
    }
    swept = json.loads((tmp_path / "rated-rates.json").read_text())["runs"]
    assert len(swept) == 2 * 3 * 3 and {run["seed"] for run in swept} == set(runner.SWEPT)
    monkeypatch.setitem(EXPERIMENTS, "rated", RATED)
    for more in (["--tune"], []):  # what was found once is heeded
        assert main(["experiment", "rated", "--seeds", "2", "--out", str(tmp_path), *more]) == 0
        runs = json.loads((tmp_path / "rated.json").read_text())["runs"]
        assert [run["settings"]["rate"] for run in runs] == [
            1.0,
            best.variants()["high"]["rate"],
        ] * 2
    assert "high, rate × 3.2 | 3 | 1.10" in (tmp_path / "rated.md").read_text()


def test_only_runs_at_another_rate_are_made_again(tmp_path):
    plain = replace(RATED, trial=lambda settings, seed: {"frechet": 7.0})
    run_experiment("rated", plain, tmp_path)
    runs = run_experiment("rated", tuned("rated", RATED, tmp_path), tmp_path)["runs"]
    low, high = sorted(runs, key=lambda run: run["variant"], reverse=True)
    assert low["frechet"] == 7.0 and "rate" not in low["settings"]  # its rate is the recipe's
    assert high["frechet"] == 1.0 and high["settings"]["rate"] == runner.RATES[-1]


def test_runs_at_two_rates_or_with_other_columns_are_never_in_one_table(tmp_path):
    run_experiment("rated", RATED, tmp_path, seeds=3)
    best = tuned("rated", RATED, tmp_path)  # "high" learns best at another rate
    with pytest.raises(
        ValueError, match=r"holds a run \('high', seed 2, scale cpu\) with other settings"
    ):
        run_experiment("rated", best, tmp_path, seeds=2)
    more = replace(RATED, trial=lambda settings, seed: {"frechet": 1.0, "new": 2.0})
    more = replace(more, columns={"frechet": ".2f", "new": ".0f"})
    with pytest.raises(ValueError, match="without a column.*ask for more seeds"):
        run_experiment("rated", more, tmp_path, seeds=2)
    runs = run_experiment("rated", best, tmp_path, seeds=3)["runs"]
    assert len(runs) == 6 and {run["settings"].get("rate", 1.0) for run in runs} == {
        1.0,
        runner.RATES[-1],
    }


def test_runs_with_other_settings_are_made_again(tmp_path):
    def told(steps):
        return replace(counting([]), variants=lambda: {"one": {"part": {"a": 1, "steps": steps}}})

    run_experiment("sum", told(300), tmp_path, seeds=2)
    with pytest.raises(ValueError, match="'one', seed 1, scale cpu. with other settings"):
        run_experiment("sum", told(400), tmp_path, seeds=1)
    runs = run_experiment("sum", told(400), tmp_path, seeds=2)["runs"]
    assert [run["settings"]["part"]["steps"] for run in runs] == [400, 400]


def test_what_measures_no_distance_cannot_be_tuned(tmp_path):
    with pytest.raises(ValueError, match="experiment='sum' compares no distances"):
        tuned("sum", counting([]), tmp_path)
    with pytest.raises(ValueError, match="experiment='shared' compares no distances"):
        tuned("shared", replace(RATED, paired=True), tmp_path)


def test_a_page_compares_seed_by_seed_what_shares_a_network(tmp_path, monkeypatch):
    def trial(settings, seed):  # seeds differ far more than variants
        return {"frechet": 10.0**seed * settings["part"]["a"] * (1 + seed / 100)}

    told = replace(counting([]), trial=trial, columns={"frechet": ".2f"}, base="one")
    for paired, word in ((False, "open"), (True, "larger")):
        monkeypatch.setitem(EXPERIMENTS, "told", replace(told, paired=paired))
        assert main(["experiment", "told", "--seeds", "3", "--out", str(tmp_path)]) == 0
        page = (tmp_path / "told.md").read_text()
        assert ("“one”, seed by seed." in page) == paired and f"| {word} |" in page
    path = tmp_path / "told.json"  # as a run leaves it that was killed in its fourth seed
    results = json.loads(path.read_text())
    extra = next(run for run in results["runs"] if run["variant"] == "one") | {"seed": 3}
    path.write_text(json.dumps(results | {"runs": [*results["runs"], extra]}))
    assert main(["experiment", "told", "--seeds", "3", "--out", str(tmp_path)]) == 0
    assert "| 3 |" in (tmp_path / "told.md").read_text()


def test_a_sweep_is_heeded_at_its_own_scale(tmp_path, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "rated", RATED)
    command = ["experiment", "rated", "--out", str(tmp_path)]
    assert main([*command, "--tune"]) == 0
    assert main([*command, "--scale", "smoke"]) == 0
    swept = json.loads((tmp_path / "rated-rates.json").read_text())["runs"]
    assert {run["scale"] for run in swept} == {"cpu"}
    assert (tmp_path / "rated.md").read_text().count("The sweep that found") == 1


def test_a_run_without_a_new_column_is_made_again(tmp_path):
    def trial(settings, seed):
        return {"sum": 1, "more": 2}

    old = Experiment(
        "?", lambda: {"one": {}}, {"cpu": {}}, lambda settings, seed: {"sum": 1}, {"sum": ".0f"}
    )
    run_experiment("x", old, tmp_path)
    new = Experiment("?", lambda: {"one": {}}, {"cpu": {}}, trial, {"sum": ".0f", "more": ".0f"})
    results = run_experiment("x", new, tmp_path)
    assert [run["more"] for run in results["runs"]] == [2] and "| 2 |" in table(results)


def test_an_unknown_scale_is_refused(tmp_path):
    with pytest.raises(ValueError, match="scale='huge'.*smoke"):
        run_experiment("x", counting([]), tmp_path, scale="huge")


def test_merging_joins_parts_and_replaces_the_rest():
    one = {"recipe": {"lr": 1, "steps": 2}, "kept": 3, "replaced": [4]}
    two = {"recipe": {"steps": 5}, "replaced": [6], "new": {"a": 7}}
    assert merge(one, two) == {
        "recipe": {"lr": 1, "steps": 5}, "kept": 3, "replaced": [6], "new": {"a": 7}
    }  # fmt: skip
    assert one["recipe"]["steps"] == 2


def test_mean_and_spread():
    mean, spread = mean_and_spread([1.0, 2.0, 6.0])
    assert mean == 3 and math.isclose(spread, 7**0.5)
    assert mean_and_spread([5.0]) == (5.0, 0.0)


def test_the_table_gives_mean_and_spread():
    run = {"variant": "a", "scale": "cpu", "recognised": 0.5, "frechet": 3.0}
    other = run | {"recognised": 0.7, "frechet": 5.0}
    worse = run | {"variant": "b", "frechet": 1e9}
    small = run | {"variant": "c", "scale": "smoke", "frechet": float("nan")}
    columns = {"recognised": ".1%", "frechet": ".1f"}
    results = {"columns": columns, "runs": [run, other, worse, small]}
    lines = table(results).splitlines()
    assert lines[0] == "| variant | seeds | recognised | frechet |"
    assert lines[2] == "| a | 2 | 60.0% ± 14.1% | 4.0 ± 1.4 |"
    assert lines[3] == "| b | 1 | 50.0% | diverged |"
    assert lines[4] == "| c | 1 | 50.0% | diverged |"
    assert list(rows(results, "cpu")) == ["a", "b"]
    assert len(table(results, "smoke").splitlines()) == 3


def test_a_large_network_has_not_diverged():
    runs = [{"variant": "a", "scale": "cpu", "parameters": 487_386, "frechet": 3.0}]
    columns = {"parameters": ",.0f", "frechet": ".1f"}
    line = table({"columns": columns, "runs": runs}).splitlines()[2]
    assert line == "| a | 1 | 487,386 | 3.0 |"


@pytest.mark.parametrize(
    "content, sentence",
    [
        ('{"runs": [', "x.json is damaged"),
        ("", "x.json is damaged"),
        ("[]", "x.json is damaged: all of it is no dict"),
        ('{"runs": ["no run"]}', r"x.json is damaged: 'runs'\[0\] is no dict"),
        ('{"runs": [{"variant": "a", "seed": 0}]}', "has no 'scale'"),
        ("[" * 100_000, "x.json is damaged: it is no JSON"),
    ],
)
def test_a_damaged_file_is_named_and_kept(content, sentence, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        run_experiment("x", counting([]), tmp_path)
    assert (tmp_path / "x.json").read_text() == content


@pytest.mark.parametrize("seeds", [0, -1])
def test_no_seed_is_refused(seeds, tmp_path):
    with pytest.raises(ValueError, match=f"seeds={seeds} must be at least 1"):
        run_experiment("x", counting([]), tmp_path, seeds=seeds)


# --- the experiments ------------------------------------------------------------------------------


def test_every_experiment_is_well_formed():
    for name, experiment in EXPERIMENTS.items():
        assert experiment.question.endswith("?"), name
        assert {"smoke", "cpu"} <= experiment.scales.keys(), name
        assert pickle.loads(pickle.dumps(experiment)).variants() == experiment.variants()
        for settings in experiment.variants().values():
            json.dumps(settings)
        for form in experiment.columns.values():
            format(1.0, form)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_stored_runs_are_recognised(name, tmp_path):
    """Nothing is trained: asked for what is stored, an experiment finds all of it done."""
    experiment, path = EXPERIMENTS[name], RESULTS / f"{name}.json"
    stored = json.loads(path.read_text())
    copy(path, tmp_path)
    (scale,) = {run["scale"] for run in stored["runs"]}
    seeds = 1 + max(run["seed"] for run in stored["runs"])

    def refuse(settings, seed):
        raise AssertionError("a run is missing")

    frozen = replace(experiment, trial=refuse)
    if (sweep := path.with_name(f"{name}-rates.json")).exists():
        copy(sweep, tmp_path)
        frozen = tuned(name, frozen, tmp_path, scale=scale)
    variants = frozen.variants()
    results = run_experiment(name, frozen, tmp_path, seeds=seeds, scale=scale)
    place = itemgetter("seed", "variant")
    assert sorted(results["runs"], key=place) == sorted(stored["runs"], key=place)
    assert len(results["runs"]) == seeds * len(variants)
    for run in stored["runs"]:
        assert run["trial"] == experiment.trial.__name__
        assert {"revision", "torch", "threads"} <= run.keys()
        assert " " in run["device"]  # the processor's name, and not its kind alone
        settings = merge(variants[run["variant"]], experiment.scales[scale])
        settings, told = json.loads(json.dumps(settings)), run["settings"]
        if settings.get("rate") == 1.0:  # as of a run that names none
            settings, told = ({k: v for k, v in s.items() if k != "rate"} for s in (settings, told))
        assert told == settings
        if "options" in settings.get("sampling", {}):  # what they did, spelled out
            did = run["sampling"]["options"]
            assert settings["sampling"]["options"].items() <= did.items()


def test_experiments_of_others_are_listed_and_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "mine", counting([]))
    assert main(["experiment"]) == 0
    assert "mine: How much? 2 variants" in capsys.readouterr().out.splitlines()
    assert main(["experiment", "mine", "--scale", "smoke", "--out", str(tmp_path)]) == 0


def test_a_block_of_others_joins_the_experiment(monkeypatch):
    monkeypatch.setitem(BLOCKS, "mine", BLOCKS["adaln"])
    assert {"mine", "mine, as many parameters"} <= EXPERIMENTS["dit-blocks"].variants().keys()


def test_importing_the_lab_builds_no_network():
    program = (
        "from torch import nn\n"
        "def refuse(*arguments, **more): raise AssertionError('a network is built')\n"
        "nn.Module.__init__ = refuse\n"
        "import minidit.lab\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_logarithmic_axis_is_for_what_differs_by_factors():
    assert command._wide({"a": [0.5, 0.6], "b": [236.0]})
    assert command._wide({"a": [0.0, math.inf, 1.0], "b": [31.0]})
    assert not command._wide({"a": [0.17, 0.19], "b": [0.32, math.inf]})
    assert not command._wide({"a": [math.nan]})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_scale_leaves_alone_what_variants_vary(name):
    """Else variants would be the same there in what their names tell apart."""
    experiment = EXPERIMENTS[name]
    variants = experiment.variants().values()
    for scale in ("cpu", "gpu"):
        for part, changes in experiment.scales[scale].items():
            for key in changes if isinstance(changes, dict) else ():
                values = [variant.get(part, {}).get(key) for variant in variants]
                assert all(value == values[0] for value in values), (scale, part, key)
