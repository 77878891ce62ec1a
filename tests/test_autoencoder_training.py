"""Training autoencoders: every term, revived codes, and stopping anywhere."""

import copy

import pytest
import torch
from test_train import equal
from torch.nn import functional as F

from minidit import KLAutoencoder, Recipe, VQAutoencoder
from minidit.evaluate.classifier import Classifier, feature_distance
from minidit.latents.training import AutoencoderRun, Terms, fit_autoencoder
from minidit.train import step_generator
from minidit.weights.checkpoint import Checkpoint

SHORT = {"steps": 7, "batch_size": 4, "warmup": 2}
SMALL = {"in_channels": 1, "latent_channels": 2, "width": 4, "multipliers": (1, 2)}
PLAIN = Terms(feature=0.0)
EVERY_KIND = pytest.mark.parametrize("kind", ["kl", "vq"])


def data(n=12, side=8):
    rng = torch.Generator().manual_seed(4)
    return torch.randint(256, (n, 1, side, side), generator=rng, dtype=torch.uint8)


def fresh(kind):
    torch.manual_seed(7)
    return KLAutoencoder(**SMALL) if "kl" in kind else VQAutoencoder(**SMALL, num_codes=16)


class Stopped(Exception):
    pass


def train(kind, out=None, stop=None, save_every=1, recipe=(), **changes):
    def report(step, loss):
        if step == stop:
            raise Stopped

    options = {"terms": Terms(feature=0.0, patience=2), "flips": True} | changes
    return fit_autoencoder(
        fresh(kind), data(), recipe=Recipe(**SHORT | dict(recipe)), out=out,
        save_every=save_every, report=report, **options,
    )  # fmt: skip


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_it_learns_to_restore_flat_images(kind):
    images = torch.tensor([0, 90, 160, 255], dtype=torch.uint8).reshape(4, 1, 1, 1)
    images = images.expand(4, 1, 8, 8).contiguous()
    recipe = Recipe(steps=150, batch_size=16, lr=1e-2, warmup=5, ema_decay=0.9)
    terms = Terms(feature=0.0, patience=10)
    model = fit_autoencoder(fresh(kind), images, recipe=recipe, terms=terms)
    x = images.float() / 127.5 - 1
    assert (model(x) - x).abs().mean() < 0.1
    assert model.to_latents(x).std(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_the_loss_of_a_kl_autoencoder_is_its_terms():
    classifier = Classifier(1, 3, width=2)
    terms = Terms(pixel="l2", feature=0.3, kl=0.02)
    run = AutoencoderRun(fresh("kl"), data(), Recipe(**SHORT), terms, classifier)
    loss = run.loss(step_generator(0, 0))
    rng = step_generator(0, 0)
    x, _ = run.draw(rng)
    q = run.model.encode(x)
    restored = run.model.decode(q.sample(rng))
    expected = F.mse_loss(restored, x) + 0.3 * feature_distance(run.classifier, restored, x)
    torch.testing.assert_close(loss, expected + 0.02 * q.kl().mean() / 64)


def test_the_classifier_learns_nothing_and_stays_as_it_was():
    classifier = Classifier(1, 3, width=2).train()
    run = AutoencoderRun(fresh("kl"), data(), Recipe(**SHORT), Terms(feature=1.0), classifier)
    before = copy.deepcopy(run.classifier.state_dict())
    run.step()
    assert all(p.grad is None for p in run.classifier.parameters())
    assert all(torch.equal(before[k], v) for k, v in run.classifier.state_dict().items())
    assert classifier.training and all(p.requires_grad for p in classifier.parameters())


def test_the_loss_of_a_vq_autoencoder_is_its_terms():
    run = AutoencoderRun(fresh("vq"), data(), Recipe(**SHORT), Terms(feature=0, codebook=3.0))
    loss = run.loss(step_generator(0, 0))
    x, _ = run.draw(step_generator(0, 0))
    found = run.model.encode(x)
    expected = F.l1_loss(run.model.decode(found.codes), x) + 3.0 * found.loss
    torch.testing.assert_close(loss, expected)


def test_half_of_the_images_are_mirrored():
    ramp = torch.arange(8, dtype=torch.uint8).mul(30).expand(3, 1, 8, 8)
    recipe = Recipe(**SHORT | {"batch_size": 1000})
    run = AutoencoderRun(fresh("kl"), ramp, recipe, PLAIN, flips=True)
    run.loss(step_generator(0, 0))
    mirrored = run.real[:, 0, 0, 0] > run.real[:, 0, 0, -1]
    assert abs(mirrored.float().mean() - 0.5) < 5 * 0.5 / 1000**0.5


def test_dead_codes_revive_while_training():
    run = AutoencoderRun(fresh("vq"), data(), Recipe(**SHORT), Terms(feature=0.0, patience=3))
    with torch.no_grad():
        run.model.quantizer.table[5:] += 50  # nearest to nothing
    for _ in range(2):
        run.step()
    assert (run.idle[5:] == 2).all() and (run.model.quantizer.table[5:] > 40).all()
    run.step()
    table, z = run.model.quantizer.table, run.model.encoded(run.real)
    vectors = z.permute(0, 2, 3, 1).flatten(0, 2)
    for code in table[5:]:
        assert torch.isclose(code, vectors, atol=1e-6).all(dim=1).any()
    assert torch.equal(run.ema.model.quantizer.table[5:], table[5:])
    assert (run.idle[5:] == 0).all()


def test_features_decide_when_they_weigh(tmp_path):
    """With a heavy feature term the classifier sees less difference than without it."""
    torch.manual_seed(1)
    classifier = Classifier(1, 3, width=2).eval().requires_grad_(False)
    x = data().float() / 127.5 - 1
    found = {}
    for weight in (0.0, 20.0):
        recipe = Recipe(**SHORT | {"steps": 60, "lr": 3e-3})
        terms = Terms(feature=weight)
        model = fit_autoencoder(
            fresh("kl"), data(), recipe=recipe, terms=terms, classifier=classifier
        )
        found[weight] = feature_distance(classifier, model(x), x).item()
    assert found[20.0] < 0.9 * found[0.0]


# --- stopping and going on ------------------------------------------------------------------------


@EVERY_KIND
@pytest.mark.parametrize("stops, save_every", [([1], 1), ([4, 6], 3), ([7], 1)])
def test_a_stopped_run_resumes_to_the_bit(kind, stops, save_every, tmp_path):
    whole = train(kind, tmp_path / "whole", save_every=save_every)
    for stop in stops:
        with pytest.raises(Stopped):
            train(kind, tmp_path / "cut", stop, save_every)
    torch.rand(3)  # the global generator has no part in it
    resumed = train(kind, tmp_path / "cut", save_every=save_every)
    states = [Checkpoint(tmp_path / n / "checkpoint.pt").read() for n in ("whole", "cut")]
    assert states[0]["done"] == 7
    assert equal(*states)
    assert equal(whole.state_dict(), resumed.state_dict()) and whole.scale != 1
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"terms": Terms(feature=0.0, kl=1e-3)}, "its loss has .*'kl': 1e-06"),
        ({"flips": False}, "its loss has .*'flips': True"),
        ({"recipe": {"lr": 0.5}}, r"its recipe has \{'lr': 0.001\}, this run \{'lr': 0.5\}"),
        (
            {"terms": Terms(), "classifier": Classifier(1, 3, width=2)},
            "its loss has .*'judge': None",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(changes, words, tmp_path):
    with pytest.raises(Stopped):
        train("kl", tmp_path, stop=4)
    with pytest.raises(ValueError, match=words):
        train("kl", tmp_path, **changes)


def test_another_network_is_another_run(tmp_path):
    train("kl", tmp_path)
    with pytest.raises(ValueError, match="another run: its network"):
        train("vq", tmp_path, terms=Terms(feature=0.0, patience=2))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="smaller lr than 1e"):
        train("kl", recipe={"lr": 1e30, "clip": 1e30, "warmup": 0})


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: Terms(pixel="l3"), ValueError, "pixel='l3' is unknown; choose one of"),
        (lambda: Terms(kl=-1.0), ValueError, "kl=-1.0 must be finite and at least 0"),
        (lambda: Terms(feature=float("inf")), ValueError, "feature=inf must be finite"),
        (lambda: Terms(patience=float("nan")), ValueError, "patience=nan must be"),
        (lambda: Terms(patience=0), ValueError, "patience=0 must be at least 1 step"),
        (lambda: train("kl", terms=Terms()), ValueError, "no classifier to see features"),
        (lambda: train("kl", recipe={"mixed_precision": "always"}), ValueError,
         "mixed_precision='always' is for diffusion models"),
        (lambda: AutoencoderRun(fresh("kl"), data()[:0], Recipe(**SHORT), PLAIN), ValueError,
         "images is empty"),
        (lambda: AutoencoderRun(fresh("kl"), data().long(), Recipe(**SHORT), PLAIN), TypeError,
         "images are torch.int64"),
        (lambda: AutoencoderRun(fresh("kl"), data(side=9), Recipe(**SHORT), PLAIN).step(),
         ValueError, "2 does not divide"),
    ],
)  # fmt: skip
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
