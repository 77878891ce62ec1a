"""Autoencoders: shapes, the place of quantisation, and the scale of the latents."""

import pytest
import torch
from torch import nn

from minidit import Decoder, Encoder, KLAutoencoder, VQAutoencoder, load, save

SMALL = {"in_channels": 1, "latent_channels": 2, "width": 4}
BOTH = pytest.mark.parametrize("kind", [KLAutoencoder, VQAutoencoder])


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_sizes_halve_with_every_level_but_the_first(levels):
    multipliers = (1, 2, 2, 3)[:levels]
    encoder, decoder = Encoder(3, 5, 4, multipliers), Decoder(5, 3, 4, multipliers)
    images = torch.randn(2, 3, 24, 32)
    z = encoder(images)
    assert encoder.factor == 2 ** (levels - 1)
    assert z.shape == (2, 5, 24 // encoder.factor, 32 // encoder.factor)
    assert decoder(z).shape == images.shape


def test_mnist_becomes_seven_by_seven():
    model = KLAutoencoder(**SMALL)
    images = torch.randn(2, 1, 28, 28)
    assert model.to_latents(images).shape == (2, 2, 7, 7)
    assert model(images).shape == (2, 1, 28, 28)


def test_blocks_add_residual_blocks_and_nothing_mixes_images():
    one, three = (Encoder(1, 2, 4, (1, 2), blocks) for blocks in (1, 3))
    for encoder, blocks in ((one, 1), (three, 3)):
        assert [len(level.block) for level in encoder.down] == [blocks, blocks]
    assert [len(level.block) for level in Decoder(2, 1, 4, (1, 2), 3).up] == [4, 4]
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(three(images)[1:2], three(images[1:2]), atol=1e-5, rtol=1e-4)


def test_every_weight_gets_a_gradient(awaken):
    for kind in (KLAutoencoder, VQAutoencoder):
        model = awaken(kind(**SMALL, multipliers=(1, 3), attention=(1,)))
        found = model.encode(torch.randn(4, 1, 8, 8))
        if isinstance(model, VQAutoencoder):
            loss = found.loss + model.decode(found.codes).square().mean()
        else:
            z = found.sample(torch.Generator().manual_seed(0))
            loss = found.kl().mean() + model.decode(z).square().mean()
        loss.backward()
        for name, p in model.named_parameters():
            assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_kl_latents_are_the_mean_or_a_draw():
    model, images = KLAutoencoder(**SMALL), torch.randn(2, 1, 8, 8)
    q = model.encode(images)
    assert torch.equal(model.latents(images), q.mode)
    drawn = model.latents(images, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, q.sample(torch.Generator().manual_seed(1)))
    assert not torch.equal(drawn, q.mode)


def test_vq_quantises_inside_decode():
    """Diffusion gets the latents before quantisation; whatever it draws, the decoder sees codes."""
    model = VQAutoencoder(**SMALL, num_codes=4)
    model.quantizer.table.data = torch.tensor([[1.0, 1], [-1, 1], [1, -1], [-1, -1]])
    z = torch.tensor([[0.3, 5, -0.2], [2, -0.1, -9]]).reshape(1, 2, 1, 3)
    codes = torch.tensor([[1.0, 1, -1], [1, -1, -1]]).reshape(1, 2, 1, 3)
    assert torch.equal(model.decode(z), model.decoder(model.post_quant_conv(codes)))
    images = torch.ones(1, 1, 8, 8)
    assert torch.equal(model.latents(images), model.quant_conv(model.encoder(images)))


@BOTH
def test_a_fresh_one_is_shallow(kind):
    """Residuals start at zero and the convolutions around the latents at the identity."""
    model, x = kind(**SMALL, multipliers=(1, 1)), torch.randn(2, 4, 8, 8)
    level = model.encoder.down[0]
    assert torch.equal(level(x), x) and torch.equal(model.encoder.mid(x), x)
    z = torch.randn(2, 2, 4, 4)
    assert torch.equal(model.post_quant_conv(z), z)
    if kind is KLAutoencoder:
        assert model.encode(torch.randn(2, 1, 8, 8)).std.max() < 0.2


@BOTH
def test_scale_is_one_over_the_deviation_of_the_latents(kind):
    model, images = kind(**SMALL), torch.randint(256, (30, 1, 8, 8), dtype=torch.uint8)
    scale = model.set_scale(images, batch_size=7)
    z = model.latents(images.float() / 127.5 - 1)
    assert scale == pytest.approx(1 / z.std(unbiased=False).item(), rel=1e-4)
    scaled = model.to_latents(images.float() / 127.5 - 1)
    assert scaled.std(unbiased=False).item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(model.to_images(scaled), model.decode(z), atol=1e-5, rtol=1e-4)
    assert model.set_scale(images.float() / 127.5 - 1) == pytest.approx(scale, rel=1e-5)


@BOTH
def test_weights_there_and_back_with_the_scale(kind, tmp_path):
    model = kind(**SMALL, multipliers=(1, 2), blocks=2).eval()
    model.set_scale(torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8))
    save(model, tmp_path / "small.safetensors")
    again, diffusion = load(tmp_path / "small.safetensors")
    assert diffusion is None and type(again) is kind and again.config == model.config
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(again.scale, model.scale) and again.scale != 1
    assert torch.equal(again.to_latents(images), model.to_latents(images))
    assert torch.equal(again(images), model(images))


def test_groups_are_as_asked_for_and_stay_with_the_weights(tmp_path):
    kept = set()
    for groups in (None, 4):
        model = VQAutoencoder(1, 2, 16, (1, 2), groups=groups)
        found = {norm.num_groups for norm in model.modules() if isinstance(norm, nn.GroupNorm)}
        assert found == ({4} if groups else {16, 32})
        save(model, tmp_path / "a.safetensors")
        images = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
        assert torch.equal(load(tmp_path / "a.safetensors").model(images), model(images))
        kept.add(model.config["groups"])
    assert kept == {None, 4}


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda m: m(torch.zeros(1, 1, 10, 8)), ValueError, r"\(10, 8\) pixels, which 4 does not"),
        (lambda m: m(torch.zeros(1, 3, 8, 8)), ValueError, "3 channels; in_channels is 1"),
        (lambda m: m.to_latents(torch.zeros(1, 8, 8)), ValueError, "expected .b, c, h, w."),
        (lambda m: m.decode(torch.zeros(1, 3, 2, 2)), ValueError, r"expected \(b, 2, h, w\)"),
        (lambda m: m.set_scale(torch.zeros(0, 1, 8, 8)), ValueError, "latents of 0 images"),
        (lambda m: type(m)(width=0), ValueError, "width=0 must be at least 1"),
        (lambda m: type(m)(multipliers=()), ValueError, "multipliers is empty"),
        (lambda m: type(m)(groups=3), ValueError, "groups=3 doesn't divide a layer's 32 channels"),
        (lambda m: type(m)(groups=0), ValueError, "groups=0 must be at least 1"),
        (lambda m: type(m)(multipliers=(1, 0)), ValueError, "multipliers=0 must be at least 1"),
        (lambda m: type(m)(latent_channels=0), ValueError, "latent_channels=0"),
        (lambda m: type(m)(in_channels=1.0), TypeError, "in_channels=1.0 must be an integer"),
        (lambda m: VQAutoencoder(num_codes=0), ValueError, "num_codes=0"),
        (lambda m: VQAutoencoder(beta=-1), ValueError, "beta=-1"),
    ],
)
@BOTH
def test_what_is_refused(call, error, words, kind):
    with pytest.raises(error, match=words):
        call(kind(**SMALL))
