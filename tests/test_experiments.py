"""The runner resumes and stores each run as it ends; trials train, sample and judge."""

import json
import math
import platform

import pytest
import torch

from minidit import Diffusion, DiT, KLAutoencoder, data, linear, save, straight
from minidit.__main__ import main
from minidit.cli import experiment as command
from minidit.lab import EXPERIMENTS, ablations, budgets, rates, trials, watching
from minidit.lab import machine as _machine
from minidit.lab.runner import (
    Experiment,
    mean_and_spread,
    measures,
    merge,
    rows,
    run_experiment,
    table,
)
from minidit.latents import latent


def counting(calls):
    """An experiment whose trial notes its calls and measures the sum of its settings."""

    def trial(settings, seed):
        calls.append((settings, seed))
        return {"sum": settings["part"]["a"] + settings["part"]["b"] + seed}

    return Experiment(
        "How much?",
        {"one": {"part": {"a": 1}}, "ten": {"part": {"a": 10}}},
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
        ("processor : 0\nmodel name\t: Lovelace 9\n\nmodel name\t: other\n", "Lovelace 9"),
        ("model name :\nHardware : board\n", None),
        (None, None),
    ],
    ids=["named", "not named", "no Linux"],
)
def test_results_name_the_processor(told, name, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    if told is not None:
        path.write_text(told)
    monkeypatch.setattr(_machine, "_CPUINFO", path)
    assert _machine.processor() == (name or platform.processor() or platform.machine())


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
    experiment = Experiment("?", variants, {"cpu": {}}, trial, {"sum": "d"})
    with pytest.raises(KeyboardInterrupt):
        run_experiment("x", experiment, tmp_path)
    stored = json.loads((tmp_path / "x.json").read_text())
    assert [run["variant"] for run in stored["runs"]] == ["fine"]


def test_two_processes_keep_each_other_s_runs(tmp_path):
    def trial(settings, seed):
        if settings["a"] == 1:  # while this run is under way, another process ends its own
            run_experiment("x", Experiment("?", {"two": {"a": 2}}, *rest), tmp_path)
        return {"sum": settings["a"]}

    rest = {"cpu": {}}, trial, {"sum": "d"}
    results = run_experiment("x", Experiment("?", {"one": {"a": 1}}, *rest), tmp_path)
    assert sorted(run["variant"] for run in results["runs"]) == ["one", "two"]


def test_a_baseline_that_another_experiment_has_run_is_not_run_again(tmp_path):
    calls = []
    first = counting(calls)
    run_experiment("x", first, tmp_path, seeds=2)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"rows": []}')
    variants = {"as before": {"part": {"a": 10}}, "new": {"part": {"a": 5}}}
    second = Experiment("?", variants, first.scales, first.trial, first.columns)
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
    monkeypatch.setattr(command, "EXPERIMENTS", {"x": counting([])})
    assert main(["experiment", "x", "--seeds", "2", "--out", str(tmp_path)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.md", "x.png"]
    assert "| ten | 2 | 110.5 ± 0.7 |" in (tmp_path / "x.md").read_text()
    assert "one, seed 0: sum 101.0" in capsys.readouterr().out
    assert main(["experiment", "y"]) == 2 and "x" in capsys.readouterr().err


def test_a_run_without_a_new_column_is_made_again(tmp_path):
    def trial(settings, seed):
        return {"sum": 1, "more": 2}

    old = Experiment(
        "?", {"one": {}}, {"cpu": {}}, lambda settings, seed: {"sum": 1}, {"sum": ".0f"}
    )
    run_experiment("x", old, tmp_path)
    new = Experiment("?", {"one": {}}, {"cpu": {}}, trial, {"sum": ".0f", "more": ".0f"})
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
        ("[]", "x.json holds no runs"),
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


# --- trials ---------------------------------------------------------------------------------------

TINY = {"model": {"patch_size": 14, "hidden_size": 8, "depth": 1, "num_heads": 1}}


def random_images(name, n, shape):
    """A data set of that name, of noise."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, *shape), generator=rng).to(torch.uint8)
    labels = torch.randint(0, 10, (n,), generator=rng)
    return data.Dataset(images, labels, data.DATASETS[name].classes, name, "train")


@pytest.fixture
def few(monkeypatch):
    """MNIST as a few random images."""
    dataset = random_images("mnist", 400, (1, 28, 28))
    monkeypatch.setattr(trials.data, "load", lambda name: dataset)
    monkeypatch.setattr(trials, "HELD_OUT", 320)


def trained(seed=0, **changes):
    """A run of two steps, judged by 70 samples of two steps each."""
    sampling = {"per_class": 7, "options": {"steps": 2}}
    settings = TINY | {"recipe": {"steps": 2, "lr": 1e-3}, "sampling": sampling}
    return trials.train_and_judge(merge(settings, changes), seed)


def test_a_training_trial_tells_what_it_did(few):
    run = trained(recipe={"lr": 1e-9})
    assert run["recipe"]["lr"] == 1e-9 and run["recipe"]["steps"] == 2
    assert run["model"]["hidden_size"] == 8 and run["diffusion"]["predict"] == "x0"
    assert run["evaluations"] == 2 and run["sampling"]["sampler"] == "ddim"
    assert 0 <= run["recognised"] <= 1 and run["frechet"] > run["real"]["frechet"] > 0
    json.dumps(run)


def test_a_training_trial_starts_from_a_preset_that_it_names(few):
    run = trained(preset="uvit-mnist")
    assert run["network"] == "UViT" and run["recipe"]["cooldown"] == 0.7
    with pytest.raises(ValueError, match="preset='nist' is unknown"):
        trained(preset="nist")


def test_equal_seeds_give_equal_results_and_others_other_ones(few):
    one, two, other = trained(), trained(), trained(seed=1)
    for run in (one, two, other):
        assert run.pop("training seconds") >= 0 and run.pop("processor seconds") >= 0
    assert one == two
    assert one["frechet"] != other["frechet"] and one["real"] == other["real"]


def test_passes_count_what_guidance_adds_where_it_is_on(few):
    model, diffusion = trials.prepare(TINY, 0)[:2]

    def passes(guidance):
        sampling = {"guidance": guidance, "per_class": 7, "options": {"steps": [0, 300, 600, 999]}}
        found = trials.judge_samples(model, diffusion, sampling, 0)
        assert found["evaluations"] == 4
        return found["passes"]

    assert passes({"scale": 1.0}) == 4
    assert passes({"scale": 2.0}) == 8
    assert passes({"scale": 2.0, "interval": [0, 500]}) == 6
    assert not model._forward_pre_hooks


def test_a_network_that_draws_real_images_is_judged_as_they_are(few):
    class Cheat(torch.nn.Module):
        """Knows the held-out images of random labels, whatever it is asked."""

        in_channels, size, null_label = 1, (28, 28), None

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, t, y=None):
            return data.to_unit(data.load("mnist").images[-320:][:70])

    sampling = {"guidance": {"scale": 1.0}, "per_class": 7, "options": {"steps": 3}}
    found = trials.judge_samples(Cheat(), Diffusion(straight(), "x0"), sampling, seed=0)
    floor = trials.judge(data.to_unit(data.load("mnist").images[-320:][:70]), torch.zeros(70))
    assert found["evaluations"] == 3
    for key in ("frechet", "precision", "recall", "density", "coverage"):
        assert found[key] == pytest.approx(floor["real"][key], abs=2e-3) == floor[key]


def test_evaluations_are_calls_of_the_network(few):
    model = DiT(28, 14, 1, 8, 1, 1, num_classes=10, learn_sigma=False)
    run = trials.judge_samples(
        model,
        Diffusion(straight(), "x0"),
        {"sampler": "dpm_solver", "options": {"steps": 7, "order": 2}, "per_class": 7},
        seed=0,
    )
    assert run["evaluations"] == 7


def test_a_folded_network_computes_the_same():
    model = DiT(28, 14, 1, 8, 1, 1, num_classes=10, learn_sigma=False)
    torch.nn.init.normal_(model.final.proj.weight)
    x, t, y = torch.randn(2, 1, 28, 28), torch.tensor([5, 900]), torch.tensor([3, 10])
    net = trials.Folded(model, 2)
    assert net.null_label == 10 and net.in_channels == 4 and net.size == (14, 14)
    folded = torch.stack([x[:, 0, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1)
    out, plain = net(folded, t, y), model(x, t, y)
    assert out.shape == folded.shape and plain.abs().max() > 0.1
    for k, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert torch.equal(out[:, k], plain[:, 0, i::2, j::2])


def test_folded_samples_are_judged_as_images(few, monkeypatch):
    images = []

    def seen(samples, asked, name):
        images.append(samples)
        return {}

    monkeypatch.setattr(trials, "judge", seen)
    model = DiT(28, 14, 1, 8, 1, 1, num_classes=10, learn_sigma=False, label_std=1.0)
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)

    def drawn(**sampling):
        settings = {"per_class": 1, "options": {"steps": 3}} | sampling
        found = trials.judge_samples(model, Diffusion(straight(), "x0"), settings, seed=0)
        assert found["sampling"]["fold"] == sampling.get("fold", 1)
        return images.pop()

    plain = drawn(guidance={"scale": 3.0})
    everything = drawn(guidance={"scale": 3.0}, fold=2)
    assert torch.allclose(plain, everything, atol=1e-4), "all channels: as if it weren't folded"
    three = drawn(guidance={"scale": 3.0, "channels": 3}, fold=2)
    assert (three - plain).abs().max() > 0.01


def test_a_fixed_variance_takes_the_place_of_a_learned_one():
    model = DiT(28, 14, 1, 8, 1, 1, num_classes=10, label_std=1.0)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.final.proj.weight)
    x, t, y = torch.randn(2, 1, 28, 28), torch.tensor([5, 5]), torch.tensor([3, 4])
    learned = Diffusion(linear(), learn_sigma=True)
    for variance, name in {"large": "large_variance", "small": "posterior_variance"}.items():
        net, fixed = trials.with_variance(model, learned, variance)
        p = fixed.p_mean_variance(net(x, t, y), x, t)
        q = learned.p_mean_variance(model(x, t, y), x, t)
        assert torch.equal(p.mean, q.mean) and not torch.allclose(p.variance, q.variance)
        assert torch.equal(p.variance, learned.schedule.at(name, t, x).expand_as(x))


def test_every_experiment_is_well_formed():
    for name, experiment in EXPERIMENTS.items():
        assert experiment.question.endswith("?"), name
        assert {"smoke", "cpu"} <= experiment.scales.keys(), name
        for settings in experiment.variants.values():
            json.dumps(settings)
        for form in experiment.columns.values():
            format(1.0, form)


def test_an_ablation_trains_a_uvit_and_looks_at_held_out_images(few, monkeypatch):
    monkeypatch.setattr(watching, "HELD_OUT", 320)
    experiment = ablations.UVIT_ABLATIONS["uvit-skips"]
    name = "x + skip"
    small = {"model": {"hidden_size": 16, "depth": 2, "num_heads": 2}, "recipe": {"steps": 2}}
    sampling = {"per_class": 7, "options": {"steps": 2}}
    settings = merge(merge(experiment.variants[name], small), {"sampling": sampling})
    run = experiment.trial(settings, 0)
    assert run["network"] == "UViT" and run["model"]["skip"] == "add"
    assert run["validation loss"] > 0 and run["parameters"] > 1000
    assert run["validation loss"] == experiment.trial(settings, 0)["validation loss"]
    for column, form in experiment.columns.items():
        format(run[column], form)


def test_ablations_change_one_argument():
    for name, experiment in ablations.UVIT_ABLATIONS.items():
        first, *others = (settings["model"] for settings in experiment.variants.values())
        for model in others:
            changed = {k for k in first.keys() | model.keys() if first.get(k) != model.get(k)}
            assert len(changed - {"mlp_ratio"}) == 1, name
        assert all(settings["network"] == "UViT" for settings in experiment.variants.values())


# --- latents or pixels ----------------------------------------------------------------------------


@pytest.fixture
def photographs(monkeypatch, tmp_path):
    """CIFAR-10 as a few random images, and an untrained autoencoder for them."""
    dataset = random_images("cifar10", 400, (3, 32, 32))
    monkeypatch.setattr(trials.data, "load", lambda name: dataset)
    monkeypatch.setattr(trials.data, "data_root", lambda: tmp_path)
    monkeypatch.setattr(trials, "HELD_OUT", 320)
    auto = KLAutoencoder(3, latent_channels=2, width=4, multipliers=(1, 2))
    auto.set_scale(dataset.images[:20])
    save(auto, tmp_path / "auto.safetensors")
    return dataset, str(tmp_path / "auto.safetensors")


def test_photographs_are_trained_on_mirrored_too_without_what_is_held_out(photographs):
    dataset, name = photographs
    images, labels = trials.training_part("cifar10")
    assert torch.equal(images, torch.cat([dataset.images[:80], dataset.images[:80].flip(3)]))
    assert torch.equal(labels, dataset.labels[:80].repeat(2))
    latents, labels = trials.training_part("cifar10", name)
    stage = latent.first_stage(name)
    expected = latent.encode(stage.model, dataset.images[:80], flips=True)
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(labels, dataset.labels[:80].repeat(2))


def test_a_budget_buys_steps_and_samples_of_latents_are_judged_as_pixels(photographs):
    _, name = photographs
    common = {
        "data": "cifar10",
        "model": {"hidden_size": 8, "depth": 1, "num_heads": 1, "patch_size": 8},
        "recipe": {"batch_size": 2},
        "budget": 1e-3,
        "sampling": {"per_class": 7, "options": {"steps": 2}},
    }
    pixels = budgets.spend_and_judge(common, seed=0)
    latents = budgets.spend_and_judge(common | {"autoencoder": name}, seed=0)
    for run, tokens in ((pixels, 16), (latents, 4)):
        assert run["tokens"] == tokens and run["recipe"]["steps"] == run["steps"]
        assert abs(run["steps"] * run["MACs"] * 2 - 1e6) <= run["MACs"] * 2 / 2
        assert run["evaluations"] == 2 and 0 <= run["recognised"] <= 1
        json.dumps(run)
    assert latents["steps"] > 2 * pixels["steps"]
    assert latents["model"]["in_channels"] == 2 and pixels["model"]["in_channels"] == 3
    assert latents["real"] == pixels["real"], "both are held to the same photographs"


# --- autoencoders ---------------------------------------------------------------------------------

LITTLE = {"model": {"width": 8}, "recipe": {"steps": 2, "batch_size": 4}}


@pytest.fixture
def few_photographs(monkeypatch):
    """CIFAR-10 as a few random images, of which the last 80 are held out."""
    dataset = random_images("cifar10", 100, (3, 32, 32))
    monkeypatch.setattr(rates.data, "load", lambda name: dataset)
    monkeypatch.setattr(rates, "HELD_OUT", 80)


@pytest.mark.parametrize(
    "name, variant",
    [
        ("autoencoder-shapes", "f = 8, c = 4"),
        ("autoencoder-shapes", "f = 4, c = 4, 64 codes"),
        ("autoencoder-kl", "KL weight 0.01"),
    ],
)
def test_an_autoencoder_is_trained_and_measured(name, variant, few_photographs):
    experiment = EXPERIMENTS[name]
    settings = merge(experiment.variants[variant], LITTLE) | {"images": 70}
    run = experiment.trial(settings, 0)
    assert run["numbers"] == (4 * 4 * 4 if "f = 8" in variant else 8 * 8 * 4)
    assert run["model"]["width"] == 8 and run["recipe"]["steps"] == 2
    assert 5 < run["psnr"] < 20 and run["bits per pixel"] > 0 and run["frechet"] > 0
    for column, form in experiment.columns.items():
        format(run[column], form)
    again, other = (experiment.trial(settings, seed) for seed in (0, 1))
    assert run["psnr"] == again["psnr"] != other["psnr"]


def test_an_autoencoder_is_judged_on_images_that_it_never_saw(few_photographs, monkeypatch):
    seen = {}

    class Run(rates.AutoencoderRun):
        def __init__(self, model, images, *others, **options):
            seen["training"] = images
            super().__init__(model, images, *others, **options)

    def restore(judge, model, images, labels):
        seen["judged"] = images
        return original(judge, model, images, labels)

    original = rates.evaluate.reconstruction
    monkeypatch.setattr(rates, "AutoencoderRun", Run)
    monkeypatch.setattr(rates.evaluate, "reconstruction", restore)
    settings = EXPERIMENTS["autoencoder-shapes"].variants["f = 8, c = 4"]
    for n in (70, 80):
        rates.train_and_restore(merge(settings, LITTLE) | {"images": n}, 0)
        images = data.load("cifar10").images
        assert torch.equal(seen["training"], images[:20])
        assert torch.equal(seen["judged"], data.to_unit(images[20 : 20 + n]))


class Told(torch.nn.Module):
    """An encoder that answers the same whatever it sees, but for a number that the image tells."""

    def __init__(self, mean, logvar):
        super().__init__()
        self.mean, self.logvar = mean, logvar

    def forward(self, images):
        first = images[:, :1, :2, :2]  # (n, 1, 2, 2), the latents' size
        mean = self.mean * first.sign() if self.mean else torch.zeros_like(first)
        return torch.cat([mean, torch.full_like(mean, self.logvar)], dim=1)


@pytest.mark.parametrize(
    "mean, logvar, bits, alive, away",
    [
        (0.0, 0.0, 0.0, 0.0, 0.0),  # collapsed: N(0, 1) whatever the image
        (2.0, 0.0, 4 * 2 / math.log(2) / 16, 1.0, 2 - 0.5 * math.log(5)),
        (0.6, math.log(0.64), 4 * -0.5 * math.log(0.64) / math.log(2) / 16, 1.0, 0.0),
    ],
)
def test_the_rate_is_the_divergence(mean, logvar, bits, alive, away):
    model = rates.NETWORKS["KLAutoencoder"](1, 1, width=4, multipliers=(1, 2))
    model.encoder = Told(mean, logvar)
    images = torch.tensor([1.0, -1.0]).repeat(5000).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    found = rates.latent_rate(model, images)
    assert found["bits per pixel"] == pytest.approx(bits, abs=1e-3) and found["alive"] == alive
    assert found["off N(0, 1)"] == pytest.approx(away, abs=1e-3)
    assert found["latent std"] == pytest.approx(mean, abs=1e-3)


def test_the_rate_of_a_codebook_counts_the_codes_in_use():
    model = rates.NETWORKS["VQAutoencoder"](1, 1, width=4, multipliers=(1, 2), num_codes=16)
    with torch.no_grad():
        model.quantizer.table.copy_(torch.arange(16.0).reshape(16, 1))
    model.encoder = torch.nn.AvgPool2d(2)
    images = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    found = rates.latent_rate(model, images)
    assert found["codes used"] == 4 and found["numbers"] == 4
    assert found["bits per pixel"] == 4 * 2 / 16  # four places of two bits, sixteen pixels


def test_the_two_experiments_share_their_baseline():
    shapes, kl = rates.AUTOENCODER_EXPERIMENTS.values()
    shared = [s for s in kl.variants.values() if s in shapes.variants.values()]
    assert shared == [shapes.variants["f = 4, c = 4"]] and shapes.trial == kl.trial


def test_a_logarithmic_axis_is_for_what_differs_by_factors():
    assert command._wide({"a": [0.5, 0.6], "b": [236.0]})
    assert command._wide({"a": [0.0, math.inf, 1.0], "b": [31.0]})
    assert not command._wide({"a": [0.17, 0.19], "b": [0.32, math.inf]})
    assert not command._wide({"a": [math.nan]})


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_scale_leaves_alone_what_variants_vary(name):
    """Else variants would be the same there in what their names tell apart."""
    experiment = EXPERIMENTS[name]
    for scale in ("cpu", "gpu"):
        for part, changes in experiment.scales[scale].items():
            for key in changes if isinstance(changes, dict) else ():
                values = [
                    variant.get(part, {}).get(key) for variant in experiment.variants.values()
                ]
                assert all(value == values[0] for value in values), (scale, part, key)
