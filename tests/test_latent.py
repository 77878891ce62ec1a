"""Latent diffusion: encoded once, trained on by any network, decoded; and a cache to be trusted."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from minidit import (
    Diffusion,
    KLAutoencoder,
    Recipe,
    UViT,
    VQAutoencoder,
    ddim,
    fit,
    sample,
    save,
    straight,
    weights,
)
from minidit.data.cache import kept
from minidit.latents import latent

SMALL = {"in_channels": 1, "latent_channels": 2, "width": 4, "multipliers": (1, 2)}
BOTH = pytest.mark.parametrize("kind", [KLAutoencoder, VQAutoencoder])


def images(n=7, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 1, 8, 8), generator=rng, dtype=torch.uint8)


@pytest.fixture
def stage(tmp_path):
    return stored(tmp_path / "auto.safetensors")


def stored(path, kind=KLAutoencoder, seed=1):
    torch.manual_seed(seed)
    model = kind(**SMALL)
    model.set_scale(images())
    save(model, path)
    return latent.first_stage(path)


# --- there and back -------------------------------------------------------------------------------


@BOTH
def test_half_precision_goes_there_and_back(kind, tmp_path):
    model = stored(tmp_path / "a.safetensors", kind).model
    z = latent.encode(model, images())
    half = model.bfloat16()
    coarse = latent.encode(half, images())
    assert coarse.dtype == torch.float32 and (coarse - z).abs().max() < 0.05
    assert latent.decode(half, z).dtype == torch.float32


@BOTH
def test_encoding_is_to_latents_in_batches(kind, tmp_path):
    model, reported = stored(tmp_path / "a.safetensors", kind).model, []
    z = latent.encode(model, images(), batch_size=3, report=reported.append)
    assert reported == [3, 6, 7]
    expected = model.to_latents(images().float() / 127.5 - 1)
    torch.testing.assert_close(z, expected.detach(), atol=1e-5, rtol=1e-4)
    assert z.shape == (7, 2, 4, 4) and not z.requires_grad
    assert z.std(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    floats = latent.encode(model, images().float() / 127.5 - 1)
    torch.testing.assert_close(floats, z, atol=1e-5, rtol=1e-4)


def test_mirrored_images_come_after_the_others(stage):
    z = latent.encode(stage.model, images(), flips=True)
    assert z.shape == (14, 2, 4, 4)
    assert torch.equal(z[:7], latent.encode(stage.model, images()))
    assert torch.equal(z[7:], latent.encode(stage.model, images().flip(3)))


def test_decoding_is_to_images_in_batches(stage):
    z = 3 * torch.randn(5, 2, 4, 4)
    out = latent.decode(stage.model, z, batch_size=2)
    assert out.shape == (5, 1, 8, 8) and out.abs().max() <= 1 and not out.requires_grad
    expected = stage.model.to_images(z).clamp(-1, 1).detach()
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("network", ["DiT", "UViT"])
def test_any_network_trains_on_latents_and_its_samples_become_pixels(network, stage, tiny_dit):
    z = latent.encode(stage.model, images(), flips=True)
    labels = (torch.arange(7) % 3).repeat(2)
    size = {"input_size": 4, "patch_size": 2, "in_channels": 2}
    other = {"hidden_size": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = tiny_dit(**size) if network == "DiT" else UViT(**size, **other)
    process = Diffusion(straight(50), "v")
    recipe = Recipe(steps=3, batch_size=4, warmup=1)
    average = fit(model, process, z, labels, recipe=recipe)
    noise, y = torch.randn(2, 2, 4, 4), torch.tensor([0, 2])
    drawn = sample(ddim(average, process, noise, y, steps=3))
    assert latent.decode(stage.model, drawn).shape == (2, 1, 8, 8)


# --- which autoencoder ----------------------------------------------------------------------------


def test_weights_know_their_autoencoder(stage, tmp_path, tiny_dit):
    path = tmp_path / "net.safetensors"
    save(tiny_dit(in_channels=2), path, Diffusion(straight()), autoencoder=stage.link)
    assert weights.autoencoder_of(path) == {"name": stage.name, "sha256": stage.sha256}
    found = latent.first_stage_of(path)
    assert found.sha256 == stage.sha256 and torch.equal(found.model.scale, stage.model.scale)
    moved = tmp_path / "elsewhere.safetensors"
    (tmp_path / "auto.safetensors").rename(moved)
    (tmp_path / "auto.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(ValueError, match=r"auto\.safetensors', which isn't there; say where it is"):
        latent.first_stage_of(path)
    assert latent.first_stage_of(path, moved).sha256 == stage.sha256


def test_another_autoencoder_is_refused(stage, tmp_path, tiny_dit):
    path = tmp_path / "net.safetensors"
    save(tiny_dit(in_channels=2), path, Diffusion(straight()), autoencoder=stage.link)
    other = stored(tmp_path / "other.safetensors", seed=2)
    with pytest.raises(ValueError, match=r"another one than the latents belong to: its sha256"):
        latent.first_stage_of(path, other.name)
    stored(tmp_path / "auto.safetensors", seed=3)  # trained anew, under the old name
    with pytest.raises(ValueError, match="get back that file, or train on the new latents"):
        latent.first_stage_of(path)


def test_weights_that_draw_pixels_have_none(stage, tmp_path, tiny_dit):
    path = tmp_path / "net.safetensors"
    save(tiny_dit(), path, Diffusion(straight()))
    assert latent.first_stage_of(path) is None
    with pytest.raises(ValueError, match="draw pixels; leave the autoencoder out"):
        latent.first_stage_of(path, stage.name)
    with pytest.raises(ValueError, match="are a DiT, no autoencoder"):
        latent.first_stage(path)


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def cache(stage, tmp_path, monkeypatch):
    """A call of `cached`, and how many images were encoded in it."""
    path, counted = tmp_path / "cache" / "latents.safetensors", []
    real = latent.encode

    def counting(model, images, **options):
        counted.append(len(images))
        return real(model, images, **options)

    monkeypatch.setattr(latent, "encode", counting)

    def call(stage=stage, pictures=None, **options):
        counted.clear()
        pictures = images() if pictures is None else pictures
        return latent.cached(path, stage, pictures, **options), sum(counted)

    call.path, call.counted = path, counted
    return call


def test_what_is_stored_is_not_encoded_again(cache, stage):
    first, encoded = cache()
    assert encoded == 7
    second, encoded = cache()
    assert encoded == 0 and torch.equal(first, second)
    assert torch.equal(first, latent.encode(stage.model, images()))
    assert [p.name for p in cache.path.parent.iterdir()] == ["latents.safetensors"]


def test_other_weights_other_images_or_flips_are_encoded_anew(cache, stage, tmp_path):
    cache()
    other = stored(tmp_path / "other.safetensors", seed=2)
    one_pixel = images()
    one_pixel[3, 0, 2, 2] += 1
    for change in (
        {"stage": other},
        {"pictures": one_pixel},
        {"pictures": images()[:6]},
        {"pictures": images().float()},
        {"flips": True},
    ):
        latents, encoded = cache(**change)
        assert encoded > 0
        assert cache(**change)[1] == 0
        own = change.get("stage", stage).model
        pictures = change.get("pictures", images())
        assert torch.equal(latents, latent.encode(own, pictures, flips="flips" in change))


@pytest.mark.parametrize("damage", ["cut", "empty", "byte", "content", "stranger", "no note"])
def test_a_damaged_cache_is_replaced(cache, damage):
    good, _ = cache()
    content = bytearray(cache.path.read_bytes())
    if damage == "cut":
        cache.path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        cache.path.write_bytes(b"")
    elif damage == "byte":
        content[-5] ^= 1
        cache.path.write_bytes(content)
    elif damage == "content":
        content[3] ^= 0x80  # the length of the header
        cache.path.write_bytes(content)
    elif damage == "stranger":
        save_file({"latents": load_file(cache.path)["latents"]}, cache.path, {"minidit": "[1]"})
    else:
        save_file({"other": torch.zeros(3)}, cache.path)
    latents, encoded = cache()
    assert encoded == 7 and torch.equal(latents, good)
    assert cache()[1] == 0


def test_a_kill_while_writing_leaves_the_old_cache(cache, monkeypatch):
    good, _ = cache()
    before = cache.path.read_bytes()

    def die(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        cache(flips=True)
    assert cache.path.read_bytes() == before
    assert cache()[1] == 0


def test_a_file_that_cannot_be_written_is_told_before_the_work(cache):
    cache.path.parent.write_text("no folder")
    with pytest.raises(OSError):
        cache()
    assert cache.counted == []


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda s: latent.cached("x.bin", s, images()), r"x\.bin' must end in \.safetensors"),
        (lambda s: latent.encode(s.model, torch.zeros(2, 3, 8, 8)), "3 channels; in_channels is 1"),
        (lambda s: latent.decode(s.model, torch.zeros(2, 3, 4, 4)), r"expected \(b, 2, h, w\)"),
        (lambda s: latent.first_stage("kl-mars"), "'kl-mars' are unknown; shipped are"),
    ],
)
def test_what_is_refused(call, words, stage):
    with pytest.raises(ValueError, match=words):
        call(stage)


@pytest.mark.parametrize(("old", "new"), [(b"[2,3,4]", b"[3,2,4]"), (b"labels", b"babels")])
def test_a_cache_knows_names_and_shapes(old, new, tmp_path):
    """The sha256 of the numbers alone is the same for another shape or name."""
    path, made = tmp_path / "cache.safetensors", []

    def make():
        made.append(True)
        return {"labels": torch.arange(24.0).reshape(2, 3, 4)}

    kept(path, {}, make)
    path.write_bytes(path.read_bytes().replace(old, new))
    assert kept(path, {}, make)["labels"].shape == (2, 3, 4)
    assert len(made) == 2


def test_integers_that_may_be_pixels_are_refused(tmp_path):
    autoencoder = KLAutoencoder(in_channels=1, latent_channels=2, width=4, multipliers=(1, 2))
    with pytest.raises(TypeError, match=r"images are torch\.int64; give uint8, or floats"):
        latent.encode(autoencoder, torch.full((1, 1, 8, 8), 200))
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        latent.encode(autoencoder, torch.zeros(1, 1, 8, 8), batch_size=0)
