"""Parts that claims speak of: neutral settings change nothing, the others what they say."""

import copy
import math
from functools import partial

import pytest
import torch

from minidit import Diffusion, DiT, data, linear, patchify, straight
from minidit.lab.architecture import as_large_as
from minidit.lab.claims import (
    SURGERY,
    AwareAttention,
    Awareness,
    Objective,
    SequencePrior,
    grow_frequencies,
    make_aware,
    sequence_loss,
    unzero,
)

PROCESS = Diffusion(linear(), "x0")
T = torch.tensor([0, 400, 999])


def network(block="adaln_zero", seed=0):
    """A small DiT of 4×4 patches whose output is not zero."""
    torch.manual_seed(seed)
    model = DiT(8, 2, 1, 16, 2, 2, num_classes=10, learn_sigma=False, block=block, label_std=1.0)
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.3)
    return model.eval()


def changed(**arguments):
    """The same network before and after `make_aware`, and inputs."""
    plain = network()
    aware = copy.deepcopy(plain)
    make_aware(aware, PROCESS, **arguments)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return plain, aware, (x, T, torch.tensor([1, 2, 10]))


def test_temperature_one_and_an_open_mask_are_the_plain_network():
    plain, aware, inputs = changed()
    assert all(isinstance(block.attn, AwareAttention) for block in aware.blocks)
    assert torch.allclose(aware(*inputs), plain(*inputs), atol=1e-5)
    assert plain(*inputs).abs().max() > 0.1


def test_an_open_window_and_gate_are_the_plain_network_too():
    plain, aware, inputs = changed(mask="stated")
    torch.nn.init.zeros_(aware.awareness.gate[-1].weight)
    torch.nn.init.constant_(aware.awareness.gate[-1].bias, 50.0)  # σ(50) = 1
    same = (aware(*inputs) - plain(*inputs)).abs().amax(dim=(1, 2, 3)) < 1e-5
    # at t = 0 the window holds all 16 tokens, at t = 999 it is narrow
    assert same.tolist() == [True, False, False]


def test_a_wide_corrected_window_is_the_plain_network():
    plain, aware, inputs = changed(mask="corrected")
    same = (aware(*inputs) - plain(*inputs)).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert same.tolist() == [False, True, True], "global where noise is much, local where little"


@pytest.mark.parametrize("temperature, sign", [("stated", 1), ("summary", -1)])
def test_the_temperatures_are_opposites(temperature, sign):
    awareness = Awareness(PROCESS, (4, 4), 8, 16, temperature)
    factor, window = awareness(T)
    beta = PROCESS.schedule.betas[T].float()
    expected = (8 * beta).sqrt() if sign > 0 else 1 / beta.sqrt()
    assert window is None and torch.allclose(factor.flatten(), expected)
    assert (factor.flatten().diff() * sign > 0).all()


@pytest.mark.parametrize("temperature", ["stated", "summary"])
def test_a_centred_temperature_follows_t_and_leaves_the_whole_alone(temperature):
    every = torch.arange(1000)
    plain, _ = Awareness(PROCESS, (4, 4), 8, 16, temperature)(every)
    centred, _ = Awareness(PROCESS, (4, 4), 8, 16, temperature, centred=True)(every)
    assert plain.log().mean().abs() > 0.5 and centred.log().mean().abs() < 1e-5
    assert torch.allclose(plain / centred, (plain / centred)[0], rtol=1e-5), "but for one factor"


def test_the_stated_mask_is_a_band_in_raster_order():
    awareness = Awareness(PROCESS, (4, 4), 8, 16, mask="stated")
    factor, window = awareness(T)
    assert window is None and factor.shape == (3, 1, 16, 16)
    for k, t in enumerate(T.tolist()):
        reach = math.ceil(PROCESS.schedule.alphas_cumprod[t].sqrt() * 16)
        i = torch.arange(16)
        inside = (i[:, None] - i).abs() < reach
        assert ((factor[k, 0] > 0) == inside).all(), f"t = {t}: k(t) = {reach}"
        gate = factor[k, 0][inside]
        assert 0 < gate.min() and gate.max() < 1 and torch.allclose(gate, gate[0])
    assert torch.equal(factor[2, 0] > 0, torch.eye(16, dtype=torch.bool)), "k(999) = 1: itself"


def test_a_masked_logit_is_zero_as_stated_and_forbidden_as_corrected():
    attention = AwareAttention(16, 2)
    x = torch.randn(1, 16, 16)
    only_itself = torch.eye(16)[None, None]
    attention.factor, attention.window = only_itself, None
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    as_stated = attention(x)
    attention.factor, attention.window = torch.ones(1, 1, 1, 1), only_itself.bool()
    corrected = attention(x)
    assert torch.allclose(corrected, attention.proj(v), atol=1e-6), "a token sees itself alone"
    assert not torch.allclose(as_stated, corrected, atol=1e-3), "the others keep their share"


def test_the_corrected_distance_is_that_of_the_image():
    distance = Awareness(PROCESS, (2, 3), 8, 16, mask="corrected").distance(torch.device("cpu"))
    assert distance.tolist()[0] == [0, 1, 2, 1, 1, 2], "raster order would say 0 1 2 3 4 5"
    assert torch.equal(distance, distance.T)


def test_the_gate_learns():
    _, aware, (x, t, y) = changed(mask="stated")
    aware(x, t, y).square().sum().backward()
    assert aware.awareness.gate[0].weight.grad.abs().max() > 0


def test_extra_tokens_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="in_context"):
        make_aware(network("in_context"), PROCESS)
    with pytest.raises(ValueError, match="temperature='hot'.*stated"):
        make_aware(network(), PROCESS, temperature="hot")
    with pytest.raises(ValueError, match="mask='on'.*corrected"):
        make_aware(network(), PROCESS, mask="on")
    attention = AwareAttention(16, 2)
    with pytest.raises(ValueError, match="context"):
        attention(torch.randn(1, 4, 16), mask=torch.ones(1, 4, dtype=torch.bool))


# --- the other parts ------------------------------------------------------------------------------


def test_growing_frequencies_are_exact_and_forget_what_is_near():
    model = network()
    weights = copy.deepcopy(model.time_embed.state_dict())
    falling = model.time_embed(torch.tensor([500, 501])).diff(dim=0).norm()
    grow_frequencies(model, PROCESS)
    assert all(torch.equal(weights[k], v) for k, v in model.time_embed.state_dict().items())
    assert model.time_embed(torch.tensor([500, 501])).diff(dim=0).norm() > 3 * falling
    torch.nn.init.eye_(model.time_embed.mlp[0].weight)
    angle = 3.0 * 10 ** (4 * 127 / 128)
    seen = []
    hook = model.time_embed.mlp[0].register_forward_hook(lambda m, i, o: seen.append(i[0]))
    model.time_embed(torch.tensor([3]))
    hook.remove()
    assert seen[0][0, [0, 127, 128, 255]].tolist() == pytest.approx(
        [math.cos(3), math.cos(angle), math.sin(3), math.sin(angle)], abs=1e-5
    )


def test_without_its_zero_a_block_is_no_identity_and_the_rest_is_untouched():
    torch.manual_seed(0)
    model = DiT(8, 2, 1, 16, 2, 2, num_classes=10, learn_sigma=False)
    before = copy.deepcopy(model.state_dict())
    x, cond = torch.randn(1, 16, 16), torch.randn(1, 2, 16)
    assert torch.equal(model.blocks[0](x, cond), x)
    unzero(model, PROCESS)
    assert not torch.allclose(model.blocks[0](x, cond), x, atol=1e-2)
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert moved == ["blocks.0.adaln.weight", "blocks.1.adaln.weight"]
    plain = DiT(8, 2, 1, 16, 1, 2, num_classes=10, learn_sigma=False, block="in_context")
    with pytest.raises(ValueError, match="adaptive"):
        unzero(plain, PROCESS)


def test_every_surgery_leaves_a_network_that_trains():
    for name, change in SURGERY.items():
        model = network()
        change(model, PROCESS)
        x = torch.randn(3, 1, 8, 8)
        loss = PROCESS.loss(model, x, T, torch.randn_like(x), torch.tensor([1, 2, 3]))
        loss.mean().backward()
        assert loss.isfinite().all(), name


@pytest.mark.parametrize("block", ["in_context", "cross_attention", "adaln"])
def test_as_many_parameters(block):
    config = dict(input_size=28, patch_size=7, in_channels=1, hidden_size=32, depth=3, num_heads=2)
    config |= dict(num_classes=10, learn_sigma=False)
    sizes = [
        sum(p.numel() for p in DiT(**c).parameters())
        for c in (config, as_large_as(config | {"block": block}, config))
    ]
    assert abs(sizes[0] - sizes[1]) <= 3 * (2 * 32 + 1) / 2


# --- the sequence loss ----------------------------------------------------------------------------


def test_the_prior_is_autoregressive():
    images = data.to_unit(data.load("digits").images[:500])
    prior = SequencePrior(images, 7)
    terms = prior.terms(images)
    assert terms.shape == (500, 16)
    later = images.clone()
    later[:, :, 14:] = 0.3  # patches 8 … 15
    assert torch.allclose(prior.terms(later)[:, :8], terms[:, :8], atol=1e-5), "the past is blind"
    assert (prior.terms(later)[:, 8:] - terms[:, 8:]).abs().max() > 0.1


def test_the_prior_predicts_a_patch_from_the_past_as_regression_does():
    rng = torch.Generator().manual_seed(0)
    first = torch.randn(4000, 1, 1, 1, generator=rng)
    second = 0.8 * first + 0.1 * torch.randn(4000, 1, 1, 1, generator=rng)
    images = torch.cat([first, second], dim=3)  # two patches of one pixel: (4000, 1, 1, 2)
    prior = SequencePrior(images, 1, floor=1e-6)
    terms = prior.terms(torch.tensor([[[[1.0, 0.8]]], [[[1.0, 0.9]]]]))
    assert terms[0].tolist() == pytest.approx([0.5, 0.0], abs=0.03)
    assert terms[1].tolist() == pytest.approx([0.5, 0.5], abs=0.05), "0.1 off, deviation 0.1"
    assert prior.terms(images).mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_the_sum_of_the_terms_is_the_joint_gaussian_s():
    images = data.to_unit(data.load("digits").images[:500])
    prior = SequencePrior(images, 14)
    z = patchify(images, 14).flatten(1).double()
    covariance = z.T.cov() + 0.05 * torch.eye(z.shape[1], dtype=torch.float64)
    centred = z - z.mean(dim=0)
    joint = 0.5 * (centred @ torch.linalg.inv(covariance) * centred).mean(dim=1)
    assert torch.allclose(prior.terms(images).mean(dim=1).double(), joint, rtol=1e-3)
    with pytest.raises(ValueError, match="floor=0"):
        SequencePrior(images, 14, floor=0)


@pytest.mark.parametrize("predict, schedule", [("x0", straight), ("eps", linear)])
def test_the_sequence_loss_is_added(predict, schedule):
    images = data.to_unit(data.load("digits").images[:300])
    plain = Diffusion(schedule(), predict)
    prior = SequencePrior(images, 14)
    more = partial(sequence_loss, prior=prior, weight=0.25)
    added = Objective(**vars(plain), objective=more)
    torch.manual_seed(0)
    model = DiT(28, 14, 1, 16, 1, 2, num_classes=10, learn_sigma=False)
    torch.nn.init.normal_(model.final.proj.weight, std=0.1)
    x0, t, y = images[:3], torch.tensor([0, 300, 700]), torch.tensor([1, 2, 3])
    noise = torch.randn_like(x0)
    x_t = plain.q_sample(x0, t, noise)
    pred_x0 = plain.to_x0(x_t, t, model(x_t, t, y))
    expected = plain.loss(model, x0, t, noise, y) + 0.25 * prior.terms(pred_x0).mean(dim=1)
    assert torch.allclose(added.loss(model, x0, t, noise, y), expected, rtol=1e-5)
    assert added.config == plain.config
    assert len(added.respace([0, 500])) == 2
