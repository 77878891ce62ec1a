"""Trials: each part does what it says, and every experiment's own trial at the smallest size."""

import json
import math

import pytest
import torch

from minidit import Diffusion, DiT, KLAutoencoder, Recipe, data, fit, linear, save, straight
from minidit.data import scenes
from minidit.data.captions import describe
from minidit.evaluate.nll import bits_per_dim
from minidit.lab import EXPERIMENTS, architecture, autoencoders, recipes, samplers, trials
from minidit.lab.runner import merge
from minidit.latents import latent
from minidit.train import step_generator
from minidit.training import presets

TINY = {"patch_size": 14, "hidden_size": 8, "depth": 1, "num_heads": 1}
SMALL = {
    "model": {"patch_size": 7, "hidden_size": 8, "depth": 2, "num_heads": 2},
    "recipe": {"steps": 6, "batch_size": 4, "warmup": 0, "lr": 0.01},
    "sampling": {"per_class": 7, "options": {"steps": 2}},
}


def random_images(name, n, shape):
    """A data set of that name, of noise."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, *shape), generator=rng).to(torch.uint8)
    labels = torch.randint(0, 10, (n,), generator=rng)
    return data.Dataset(images, labels, data.DATASETS[name].classes, name, "train")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """MNIST as a few random images; the last 320 are held out."""
    dataset = random_images("mnist", 400, (1, 28, 28))
    monkeypatch.setattr(data, "load", lambda name, split="train": dataset)
    monkeypatch.setattr(trials, "HELD_OUT", 320)
    return dataset


def trained(seed=0, **changes):
    """A run of two steps, measured by 70 samples of two steps each."""
    sampling = {"per_class": 7, "options": {"steps": 2}}
    settings = {"model": TINY, "recipe": {"steps": 2, "lr": 1e-3}, "sampling": sampling}
    return recipes.train_and_measure(merge(settings, changes), seed)


def test_a_training_trial_tells_what_it_did():
    run = trained(recipe={"lr": 1e-9})
    assert run["recipe"]["lr"] == 1e-9 and run["recipe"]["steps"] == 2
    assert run["model"]["hidden_size"] == 8 and run["diffusion"]["predict"] == "x0"
    assert run["evaluations"] == 2 and run["sampling"]["sampler"] == "ddim"
    assert 0 <= run["recognised"] <= 1 and run["frechet"] > run["real"]["frechet"] > 0
    json.dumps(run)


def test_a_training_trial_starts_from_a_preset_that_it_names():
    run = trained(preset="uvit-mnist")
    assert run["network"] == "UViT" and run["recipe"]["cooldown"] == 0.7
    with pytest.raises(ValueError, match="preset='nist' is unknown"):
        trained(preset="nist")


def test_equal_seeds_give_equal_results_and_others_other_ones():
    one, two, other = trained(), trained(), trained(seed=1)
    for run in (one, two, other):
        assert run.pop("training seconds") >= 0 and run.pop("processor seconds") >= 0
    assert one == two
    assert one["frechet"] != other["frechet"] and one["real"] == other["real"]


def test_passes_count_what_guidance_adds_where_it_is_on():
    run = trials.prepare({"model": TINY}, 0)
    model, diffusion = run.model.eval(), run.diffusion

    def passes(guidance):
        sampling = {"guidance": guidance, "per_class": 7, "options": {"steps": [0, 300, 600, 999]}}
        found = trials.draw_and_measure(model, diffusion, sampling, 0)
        assert found["evaluations"] == 4
        return found["passes"]

    assert passes({"scale": 1.0}) == 4
    assert passes({"scale": 2.0}) == 8
    assert passes({"scale": 2.0, "interval": [0, 500]}) == 6
    assert not model._forward_pre_hooks


def test_a_network_that_draws_real_images_is_measured_as_they_are():
    class Cheat(torch.nn.Module):
        """Knows the held-out images of random labels, whatever it is asked."""

        in_channels, size, null_label = 1, (28, 28), 10

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, t, y=None):
            return data.to_unit(data.load("mnist").images[-320:][:70])

    sampling = {"guidance": {"scale": 1.0}, "per_class": 7, "options": {"steps": 3}}
    found = trials.draw_and_measure(Cheat(), Diffusion(straight(), "x0"), sampling, seed=0)
    train = data.load("mnist")
    floor = trials.quality(data.to_unit(train.images[-320:][:70]), train.labels[-320:][:70])
    assert found["evaluations"] == 3
    for key in ("frechet", "precision", "recall", "density", "coverage"):
        assert found[key] == pytest.approx(floor["real"][key], abs=2e-3) == floor[key]


def test_evaluations_are_calls_of_the_network():
    model = DiT(28, 14, 1, 8, 1, 1, num_classes=10, learn_sigma=False)
    run = trials.draw_and_measure(
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
    net = samplers.Folded(model, 2)
    assert net.null_label == 10
    folded = torch.stack([x[:, 0, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1)
    out, plain = net(folded, t, y), model(x, t, y)
    assert out.shape == folded.shape and plain.abs().max() > 0.1
    for k, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert torch.equal(out[:, k], plain[:, 0, i::2, j::2])


def test_folded_guidance_draws_images():
    model = DiT(28, 14, 1, 8, 1, 1, num_classes=10, learn_sigma=False, label_std=1.0)
    torch.manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)

    def drawn(denoiser=None):
        sampling = {"guidance": {"scale": 3.0}, "per_class": 1, "options": {"steps": 3}}
        return trials.draw(model, Diffusion(straight(), "x0"), sampling, 0, denoiser)[0]

    plain, everything = drawn(), drawn(samplers.guide_folded(model, 2, {"scale": 3.0}))
    assert torch.allclose(plain, everything, atol=1e-4), "all channels: as if it weren't folded"
    three = drawn(samplers.guide_folded(model, 2, {"scale": 3.0, "channels": 3}))
    assert (three - plain).abs().max() > 0.01


@pytest.mark.parametrize(
    "name, variant, variance",
    [
        ("guidance", "scale 3, 3 of 4 pixels", None),
        ("strides", "DDPM, even, 100 steps", None),
        ("samplers", "DDPM, small variance, 10 steps", "small"),
    ],
)
def test_shipped_weights_draw_and_are_measured(name, variant, variance):
    experiment = EXPERIMENTS[name]
    small = {"sampling": {"per_class": 7, "options": {"steps": 2}}}
    settings = experiment.variants()[variant]
    settings["sampling"].pop("options")
    run = experiment.trial(
        merge(settings, {"sampling": settings["sampling"] | small["sampling"]}), 0
    )
    assert run["evaluations"] == 2 and run["weights"] == settings["weights"]
    assert run["sampling"].get("variance") == variance
    for column, form in experiment.columns.items():
        format(run[column], form)


def test_a_fixed_variance_takes_the_place_of_a_learned_one():
    model = DiT(28, 14, 1, 8, 1, 1, num_classes=10, label_std=1.0)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.final.proj.weight)
    x, t, y = torch.randn(2, 1, 28, 28), torch.tensor([5, 5]), torch.tensor([3, 4])
    learned = Diffusion(linear(), learn_sigma=True)
    for variance, name in {"large": "large_variance", "small": "posterior_variance"}.items():
        net, fixed = samplers.with_variance(model, learned, variance)
        p = fixed.p_mean_variance(net(x, t, y), x, t)
        q = learned.p_mean_variance(model(x, t, y), x, t)
        assert torch.equal(p.mean, q.mean) and not torch.allclose(p.variance, q.variance)
        assert torch.equal(p.variance, learned.schedule.at(name, t, x).expand_as(x))


# --- networks -------------------------------------------------------------------------------------


def test_an_ablation_trains_a_uvit_and_looks_at_held_out_images():
    experiment = EXPERIMENTS["uvit-skips"]
    name = "x + skip"
    small = {"model": {"hidden_size": 16, "depth": 2, "num_heads": 2}, "recipe": {"steps": 2}}
    sampling = {"per_class": 7, "options": {"steps": 2}}
    settings = merge(merge(experiment.variants()[name], small), {"sampling": sampling})
    run = experiment.trial(settings, 0)
    assert run["network"] == "UViT" and run["model"]["skip"] == "add"
    assert run["validation loss"] > 0 and run["parameters"] > 1000
    assert run["validation loss"] == experiment.trial(settings, 0)["validation loss"]
    for column, form in experiment.columns.items():
        format(run[column], form)


def test_ablations_change_one_argument():
    for name in ("skips", "time", "conv", "patch-embed", "positions"):
        variants = EXPERIMENTS[f"uvit-{name}"].variants().values()
        first, *others = (settings["model"] for settings in variants)
        for model in others:
            changed = {k for k in first.keys() | model.keys() if first.get(k) != model.get(k)}
            assert len(changed - {"mlp_ratio"}) == 1, name
        assert all(settings["network"] == "UViT" for settings in variants)


def tiny(experiment, variant):
    """A variant's settings, cut down so far that only what is named in them remains."""
    settings = merge(EXPERIMENTS[experiment].variants()[variant], SMALL)
    settings["model"].pop("mlp_ratio", None)
    return settings


@pytest.mark.parametrize("name", ["dit-blocks", "time-conditioning", "prediction", "claims"])
def test_every_variant_trains_and_is_measured(name):
    experiment, seen = EXPERIMENTS[name], set()
    for variant in experiment.variants():
        run = experiment.trial(tiny(name, variant), 0)
        for column, form in experiment.columns.items():
            format(run[column], form)
        seen.add(json.dumps(run["frechet"]) + json.dumps(run["diffusion"]))
    # the parameter-matched networks lose here what distinguishes them
    twins = 3 if name == "dit-blocks" else 0
    assert len(seen) >= len(experiment.variants()) - twins - 1


def test_surgery_and_the_sequence_loss_change_what_is_trained():
    trial = recipes.train_and_measure
    plain = trial(SMALL, 0)["validation loss"]
    for more in (
        {"surgery": {"unzero": {}}},
        {"surgery": {"aware": {"mask": "corrected"}}},
        {"surgery": {"grow_frequencies": {}}},
        {"sequence_weight": 1.0},
    ):
        run, again, other = (trial(SMALL | more, seed) for seed in (0, 0, 1))
        assert run["validation loss"] != plain, more
        assert run["validation loss"] == again["validation loss"] != other["validation loss"]
    assert trial(SMALL, 0)["validation loss"] == plain


def test_surgery_leaves_the_global_state():
    before = torch.random.get_rng_state()
    trials.prepare(SMALL | {"surgery": {"unzero": {}}}, 0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_blocks_matched_in_parameters_are():
    sizes = {}
    for variant, settings in EXPERIMENTS["dit-blocks"].variants().items():
        model = trials.prepare(settings, 0).model
        sizes[variant] = sum(p.numel() for p in model.parameters())
    zero = sizes.pop("adaLN-Zero")
    assert sizes.pop("adaLN-Zero without its zero") == zero
    for variant, size in sizes.items():
        if "as many parameters" in variant:
            assert abs(size / zero - 1) < 1e-3, variant
        else:
            assert size < 0.95 * zero, variant


def test_scaling_counts_what_a_network_costs():
    run = recipes.train_and_measure({**SMALL, "sampling": {"per_class": 7}}, 0)
    assert run["tokens"] == 16 and run["steps"] == 6 and run["MMACs"] > 0
    json.dumps(run)


def test_a_budget_is_spent_by_every_size():
    experiment = EXPERIMENTS["dit-scaling-compute"]
    spent, budget = {}, 10.0
    for variant, settings in experiment.variants().items():
        settings = merge(settings, {"recipe": {"batch_size": 4}}) | {"budget": budget}
        run = trials.prepare(settings, 0)
        assert run.recipe.steps > 1
        spent[variant] = run.recipe.steps * 4 * trials.count(run.model).macs / 1e9
    assert len(spent) == 10 and all(abs(s / budget - 1) < 0.2 for s in spent.values()), spent


def test_speedrun_undoes_its_recipe_part_by_part():
    experiment = EXPERIMENTS["speedrun"]

    def prepared(name):
        run = trials.prepare(experiment.variants()[name], 0)
        return trials.configuration(run)

    base = prepared("the recipe")
    steps = base["recipe"].pop("steps")
    for name in experiment.variants():
        found = prepared(name)
        ratio = found["recipe"].pop("steps") / steps
        if name in ("the recipe", "half the steps", "twice the steps"):
            assert found == base
        else:
            assert found != base, name
        if name.startswith("paper's recipe"):
            told = dict(reversed(part.split(" × ")) for part in name.split(", ")[1:])
            assert ratio == int(told.get("the steps", 1))
            assert found["recipe"]["lr"] == pytest.approx(1e-4 * int(told.get("its rate", 1)))
            assert found["diffusion"]["predict"] == "eps"
    settings = merge(experiment.variants()["twice the steps"], SMALL)
    run = experiment.trial(settings, 0)
    assert all(format(run[column], form) for column, form in experiment.columns.items())


# --- captions -------------------------------------------------------------------------------------


class Oracle(torch.nn.Module):
    """Answers the image whose number it is given, at a distance that `deafness` sets."""

    def __init__(self, images, deafness):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.images, self.deafness = images, deafness

    def forward(self, x, t, y):
        own = self.images[y]
        return own + self.deafness * (self.images.mean(dim=0) - own)


@pytest.mark.parametrize("deafness, response", [(1.0, False), (0.5, True)])
def test_surplus(deafness, response):
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model, y = Oracle(images, deafness), torch.arange(20)
    found = architecture.surplus(model, Diffusion(straight(), "x0"), images, y, t=900)
    if not response:
        assert found == pytest.approx(0, abs=1e-5)
    else:
        mean = images.mean(dim=0)
        right = (0.5 * (images - mean)).square().mean()
        wrong = (0.5 * (images.roll(1, 0) + mean) - images).square().mean()
        assert found == pytest.approx((wrong / right - 1).item(), rel=1e-4) and found > 1


def test_every_way_to_use_a_caption_is_trained_and_measured(monkeypatch):
    images, objects, held_out = scenes.render(40, seed=0)
    captions = describe(objects, seed=0)
    few = data.Dataset(
        images, torch.zeros(40).long(), ("", "", ""), "scenes", "train", objects, captions, held_out
    )
    monkeypatch.setattr(data, "load", lambda name: few)
    monkeypatch.setattr(architecture, "SCENES_HELD_OUT", 8)
    experiment, found = EXPERIMENTS["caption-blocks"], {}
    small = {"model": {"hidden_size": 16, "depth": 1, "num_heads": 2, "patch_size": 8}}
    small["recipe"] = {"steps": 12, "batch_size": 8, "warmup": 0, "lr": 0.03}
    for variant, settings in experiment.variants().items():
        run = experiment.trial(merge(settings, small), 0)
        assert run["surplus by t"].keys() == {"600", "750", "850", "950"}
        found[variant] = tuple(run["surplus by t"].values())
    assert len(set(found.values())) == 3, found
    assert experiment.trial(merge(settings, small), 0)["surplus"] == run["surplus"]


# --- latents or pixels ----------------------------------------------------------------------------


@pytest.fixture
def photographs(monkeypatch, tmp_path):
    """CIFAR-10 as a few random images, and an untrained autoencoder for them."""
    dataset = random_images("cifar10", 400, (3, 32, 32))
    monkeypatch.setattr(data, "load", lambda name: dataset)
    monkeypatch.setattr(data, "data_root", lambda: tmp_path)
    auto = KLAutoencoder(3, latent_channels=2, width=4, multipliers=(1, 2))
    auto.set_scale(dataset.images[:20])
    save(auto, tmp_path / "auto.safetensors")
    return dataset, str(tmp_path / "auto.safetensors")


def test_photographs_are_trained_on_mirrored_too_without_what_is_held_out(photographs):
    dataset, name = photographs
    images, labels = autoencoders.photographs()
    assert torch.equal(images, torch.cat([dataset.images[:80], dataset.images[:80].flip(3)]))
    assert torch.equal(labels, dataset.labels[:80].repeat(2))
    latents, labels = autoencoders.photographs(name)
    stage = latent.first_stage(name)
    expected = latent.encode(stage.model, dataset.images[:80], flips=True)
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(labels, dataset.labels[:80].repeat(2))


def test_a_budget_buys_steps_and_samples_of_latents_are_measured_as_pixels(photographs):
    _, name = photographs
    common = {
        "data": "cifar10",
        "model": {"hidden_size": 8, "depth": 1, "num_heads": 1, "patch_size": 8},
        "recipe": {"batch_size": 2},
        "budget": 1e-3,
        "sampling": {"per_class": 7, "options": {"steps": 2}},
    }
    pixels = autoencoders.train_on_photographs(common, seed=0)
    latents = autoencoders.train_on_photographs(common | {"autoencoder": name}, seed=0)
    for run, tokens in ((pixels, 16), (latents, 4)):
        assert run["tokens"] == tokens and run["recipe"]["steps"] == run["steps"]
        assert abs(run["steps"] * run["MACs"] * 2 - 1e6) <= run["MACs"] * 2 / 2
        assert run["evaluations"] == 2 and 0 <= run["recognised"] <= 1
        json.dumps(run)
    assert latents["steps"] > 2 * pixels["steps"]
    assert latents["model"]["in_channels"] == 2 and pixels["model"]["in_channels"] == 3
    assert latents["real"] == pixels["real"], "both are held to the same photographs"


# --- during training ------------------------------------------------------------------------------


def watched(seed=0, **changes):
    settings = {
        "model": TINY,
        "looks": [2, 4],
        "sampling": {"per_class": 7, "options": {"steps": 2}},
    }
    return recipes.watch_training(merge(settings, changes), seed)


def test_looking_does_not_change_the_run(few):
    """At the last step the averaged weights are those of `fit`, which never stopped to look."""
    run = watched()
    preset = presets.PRESETS["demo"] | {"model": presets.PRESETS["demo"]["model"] | TINY}
    model, diffusion, parts = presets.build(preset, (1, 28, 28), 10, seed=0)
    recipe = Recipe(**(parts | {"steps": 4}))
    average = fit(model, diffusion, few.images[:-320], few.labels[:-320], recipe=recipe)
    for network, loss in {average: run["loss"], model: run["raw"]["loss"][-1]}.items():
        assert loss == pytest.approx(
            trials.held_out_loss(network, diffusion, 320).mean().item(), abs=1e-4
        )
    assert run["raw"]["loss"] != run["average"]["loss"]


def test_every_look_is_noted_for_both_sets_of_weights():
    run = watched()
    assert run["looks"] == [2, 4] and run["recipe"]["steps"] == 4
    assert len(run["training loss"]) == 1, "a mean of every ten steps"
    for name in ("raw", "average"):
        assert {key: len(values) for key, values in run[name].items()} == {
            "loss": 2, "loss by tenth of t": 2, "recognised": 2, "frechet": 2
        }  # fmt: skip
        for mean, parts in zip(run[name]["loss"], run[name]["loss by tenth of t"]):
            assert sum(parts) / 10 == pytest.approx(mean, abs=1e-4)
    for key in ("loss", "recognised", "frechet"):
        assert run[key] == run["average"][key][-1]
    json.dumps(run)


def test_settings_reach_the_run():
    run = watched(recipe={"times": "uniform"}, diffusion={"schedule": "linear", "predict": "eps"})
    assert run["recipe"]["times"] == "uniform" and run["diffusion"]["schedule"] == "linear"
    assert run["sampling"] == {"per_class": 7, "options": {"steps": 2}}
    assert watched(seed=1)["loss"] != watched(seed=0)["loss"] == watched(seed=0)["loss"]


def test_any_network_can_be_watched():
    run = watched(network="UViT")
    assert run["network"] == "UViT" and run["model"]["skip"] == "concat"
    with pytest.raises(ValueError, match="network='Dit' is unknown; choose one of"):
        watched(network="Dit")


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

    loss = trials.held_out_loss(Knowing(), Diffusion(straight(), "x0"))
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
    model, process, x0, y = sigma
    found = samplers.bits_by_variance(model, process, x0, y, seed=5)
    for name, bits in found.items():
        net, same = model, process
        if name != "learned":
            same = Diffusion(process.schedule, variance=name)
            net = lambda x, t, y: model(x, t, y)[:, :1]  # noqa: E731
        direct = bits_per_dim(net, same, x0, y, generator=step_generator(5, 0))
        torch.testing.assert_close(bits, direct)
    totals = [bits.total for bits in found.values()]
    assert not any(torch.equal(totals[i], totals[i - 1]) for i in range(3))


def test_batches_are_put_together_in_order(sigma):
    model, process, x0, y = sigma
    found = samplers.bits_by_variance(model, process, x0, y, seed=0, batch=2)["learned"]
    assert found.total.shape == (3,) and found.terms.shape == (3, 20)
    torch.testing.assert_close(found.total, found.prior + found.terms.sum(dim=1))
    first = samplers.bits_by_variance(model, process, x0[:2], y[:2], seed=0, batch=2)["learned"]
    torch.testing.assert_close(found.total[:2], first.total)


def test_bits_are_counted_for_other_images_with_another_seed(tmp_path, awaken):
    preset = presets.PRESETS["mnist-sigma"]
    model, diffusion, _ = presets.build(preset | {"model": TINY}, (1, 28, 28), 10)
    save(awaken(model, 0.05), tmp_path / "w.safetensors", diffusion)
    settings = {"weights": tmp_path / "w.safetensors", "steps": 25, "images": 4}
    run, other = samplers.count_bits(settings, 0), samplers.count_bits(settings, 1)
    assert run["images"] == 4 and run["prior"] < 1e-3
    assert run["shown"][0] == 0 and run["shown"][-1] == 999
    for name in ("learned", "large", "small"):
        assert math.isfinite(run[name]) and len(run["terms"][name]) == len(run["shown"])
        assert run[name] > sum(run["terms"][name]) > 0 and run[name] != other[name]
    assert run["learned"] == samplers.count_bits(settings, 0)["learned"]
    json.dumps(run)


# --- autoencoders ---------------------------------------------------------------------------------

LITTLE = {"model": {"width": 8}, "recipe": {"steps": 2, "batch_size": 4}}


@pytest.fixture
def few_photographs(monkeypatch):
    """CIFAR-10 as a few random images, of which the last 80 are held out."""
    dataset = random_images("cifar10", 100, (3, 32, 32))
    monkeypatch.setattr(data, "load", lambda name: dataset)
    monkeypatch.setattr(trials, "HELD_OUT", 80)


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
    settings = merge(experiment.variants()[variant], LITTLE) | {"images": 70}
    run = experiment.trial(settings, 0)
    assert run["numbers"] == (4 * 4 * 4 if "f = 8" in variant else 8 * 8 * 4)
    assert run["model"]["width"] == 8 and run["recipe"]["steps"] == 2
    assert 5 < run["psnr"] < 20 and run["bits per pixel"] > 0 and run["frechet"] > 0
    for column, form in experiment.columns.items():
        format(run[column], form)
    again, other = (experiment.trial(settings, seed) for seed in (0, 1))
    assert run["psnr"] == again["psnr"] != other["psnr"]
    faster = experiment.trial(settings | {"rate": 3.0}, 0)
    assert faster["recipe"]["lr"] == 3 * run["recipe"]["lr"] and faster["psnr"] != run["psnr"]


def test_an_autoencoder_is_measured_on_images_that_it_never_saw(few_photographs, monkeypatch):
    seen = {}

    class Run(autoencoders.AutoencoderRun):
        def __init__(self, model, images, *others, **options):
            seen["training"] = images
            super().__init__(model, images, *others, **options)

    def restore(classifier, model, images, labels):
        seen["measured"] = images
        return original(classifier, model, images, labels)

    original = autoencoders.evaluate.reconstruction
    monkeypatch.setattr(autoencoders, "AutoencoderRun", Run)
    monkeypatch.setattr(autoencoders.evaluate, "reconstruction", restore)
    settings = EXPERIMENTS["autoencoder-shapes"].variants()["f = 8, c = 4"]
    for n in (70, 80):
        autoencoders.train_and_restore(merge(settings, LITTLE) | {"images": n}, 0)
        images = data.load("cifar10").images
        assert torch.equal(seen["training"], images[:20])
        assert torch.equal(seen["measured"], data.to_unit(images[20 : 20 + n]))


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
    model = autoencoders.NETWORKS["KLAutoencoder"](1, 1, width=4, multipliers=(1, 2))
    model.encoder, model.quant_conv = Told(mean, logvar), torch.nn.Identity()
    images = torch.tensor([1.0, -1.0]).repeat(5000).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    found = autoencoders.latent_rate(model, images)
    assert found["bits per pixel"] == pytest.approx(bits, abs=1e-3) and found["alive"] == alive
    assert found["off N(0, 1)"] == pytest.approx(away, abs=1e-3)
    assert found["latent std"] == pytest.approx(mean, abs=1e-3)


def test_the_rate_of_a_codebook_counts_the_codes_in_use():
    model = autoencoders.NETWORKS["VQAutoencoder"](1, 1, width=4, multipliers=(1, 2), num_codes=16)
    with torch.no_grad():
        model.quantizer.table.copy_(torch.arange(16.0).reshape(16, 1))
    model.encoder, model.quant_conv = torch.nn.AvgPool2d(2), torch.nn.Identity()
    images = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    found = autoencoders.latent_rate(model, images)
    assert found["codes used"] == 4 and found["numbers"] == 4
    assert found["bits per pixel"] == 4 * 2 / 16  # four places of two bits, sixteen pixels
