"""Half precision: a network of bfloat16 or float16 does what one of float32 does, nearly so.

What is computed around the network stays float32: schedules, states, losses, bits.
"""

import copy
import warnings

import pytest
import torch

from minidit import (
    SAMPLERS,
    Classifier,
    Diffusion,
    KLAutoencoder,
    Recipe,
    SceneDetector,
    UViT,
    VQAutoencoder,
    attention_maps,
    bits_per_dim,
    cosine,
    count,
    ddim,
    ddim_invert,
    dpm_adaptive,
    evaluate,
    fit,
    guided,
    linear,
    sample,
)

# How far results may be from those of float32, as a part of their size: some roundings of 2⁻⁹
# or 2⁻¹², which a sampler's steps and guidance add up.
BOUNDS = {torch.bfloat16: 0.03, torch.float16: 0.004}
DTYPES = list(BOUNDS)
TEXT = {"encoder": "text", "words": ["red", "circle"], "length": 2}
LAYOUT = {"encoder": "layout", "kinds": ["circle"], "colours": ["red", "blue"], "length": 2}
ASKED = {
    "labels": ({}, torch.tensor([0, 1, 3])),
    "text": (dict(num_classes=0, condition=TEXT), torch.tensor([[1, 2], [2, 0], [0, 0]])),
    "layout": (
        dict(num_classes=0, condition=LAYOUT),
        torch.tensor([[[1, 1, 0.1, 0.1, 0.5, 0.5], [0] * 6]] * 3),
    ),
}
T = torch.tensor([5, 400, 900])
Y = torch.tensor([0, 1, 2])


def off(found, exact):
    """The distance, as a part of the size."""
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


def images(c=1, side=8):
    return torch.randn(3, c, side, side).clamp(-1, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("kind", ["DiT", "U-ViT"])
def test_a_network(kind, asked, dtype, tiny_dit, awaken):
    changes, y = ASKED[asked]
    model = tiny_dit(**changes)
    if kind == "U-ViT":
        own = ("block", "learn_sigma", "time_embed")
        parts = {k: v for k, v in model.config.items() if k not in own}
        model = UViT(**parts | {"depth": 3})
    half, x = copy.deepcopy(awaken(model)).to(dtype), images()
    found = half(x.to(dtype), T, y)
    assert found.dtype == dtype and 0 < off(found, model(x, T, y)) < BOUNDS[dtype]
    assert torch.equal(found, half(x.to(dtype).float(), T, y))  # images of float32 will do


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sigma", [False, True])
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_a_loss_and_its_gradient(predict, sigma, dtype, tiny_dit, awaken):
    process, x, noise = Diffusion(linear(), predict, learn_sigma=sigma), images(), images()
    found = []
    for kind in (torch.float32, dtype):
        model = awaken(tiny_dit(learn_sigma=sigma)).to(kind)
        loss = process.loss(model, x.to(kind), T, noise.to(kind), Y)
        assert loss.dtype == torch.float32
        loss.sum().backward()
        found.append((loss.detach(), model.blocks[0].mlp.up.weight.grad))
    for exact, near in zip(*found):
        assert 0 < off(near, exact) < BOUNDS[dtype]


ALL = SAMPLERS | {"inverted": ddim_invert, "adaptive": dpm_adaptive}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", [True, 0.99])
@pytest.mark.parametrize("name", ALL)
def test_a_sampler(name, clip, dtype, tiny_dit, awaken):
    """States are float32 from the first on, wherever the noise comes from."""
    process, x, drawn = Diffusion(linear(), "v", learn_sigma=True), images(), []
    strict = {"rtol": 0.005, "atol": 0.0008}  # else both walk other steps, and differ by those
    steps = {"adaptive": strict, "euler_maruyama": {"steps": 25}}.get(name, {"steps": 4})
    for kind in (torch.float32, dtype):
        model = guided(awaken(tiny_dit(learn_sigma=True)).to(kind), 2.0)
        noise = {} if name == "inverted" else {"generator": torch.Generator().manual_seed(0)}
        states = list(ALL[name](model, process, x.to(kind), Y, clip=clip, **steps, **noise))
        assert {z.dtype for state in states for z in (state.x, state.x0)} == {torch.float32}
        drawn.append(states[-1].x)
    assert 0 < off(*reversed(drawn)) < BOUNDS[dtype] * 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_thresholds_of_a_predicted_image(dtype, tiny_dit, awaken):
    """Quantiles are of float32 only, and the image may be what the network itself says."""
    process, x = Diffusion(cosine(), "x0"), images()
    drawn = [
        sample(ddim(awaken(tiny_dit()).to(kind), process, x.to(kind), Y, steps=3, clip=0.9))
        for kind in (torch.float32, dtype)
    ]
    assert 0 < off(*reversed(drawn)) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits(dtype, tiny_dit, awaken):
    process = Diffusion(linear(), learn_sigma=True).respace([0, 300, 999])
    x, noise = images().to(dtype), [images().to(dtype) for _ in range(3)]
    found = []
    for kind in (torch.float32, dtype):
        model = awaken(tiny_dit(learn_sigma=True)).to(kind)
        found.append(bits_per_dim(model, process, x.to(kind), Y, noise=[z.to(kind) for z in noise]))
    exact, near = found
    assert {z.dtype for z in near} == {torch.float32} and torch.equal(near.prior, exact.prior)
    # squares of errors, over variances that are small near the image
    assert 0 < off(near.total, exact.total) < 6 * BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [KLAutoencoder, VQAutoencoder])
def test_an_autoencoder(kind, dtype, awaken):
    codes = {"num_codes": 8} if kind is VQAutoencoder else {}
    model = awaken(kind(in_channels=1, width=4, multipliers=(1, 2), attention=(1,), **codes))
    half, x = copy.deepcopy(model).to(dtype), images(side=28)
    z = model.to_latents(x)
    assert off(half.to_latents(x.to(dtype)), z) < BOUNDS[dtype]
    assert off(half.to_images(z.to(dtype)), model.to_images(z)) < BOUNDS[dtype]
    assert abs(half.set_scale(x) / model.set_scale(x) - 1) < BOUNDS[dtype]
    losses = []
    for net in (model, half):
        found = net.encode(x.to(net.scale.dtype))
        losses.append(found.loss if codes else found.kl().mean())
        losses[-1].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert off(*reversed(losses)) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_evaluation(dtype, tiny_dit, awaken):
    model, x = awaken(Classifier(width=4)), torch.randn(80, 1, 28, 28)
    half = copy.deepcopy(model).to(dtype)
    exact = evaluate.features(model, x)
    assert off(evaluate.features(half, x.to(dtype)), exact) < BOUNDS[dtype]
    far = [evaluate.frechet_to_real(net, x) for net in (model, half)]
    assert abs(far[1] / far[0] - 1) < BOUNDS[dtype]
    network = awaken(tiny_dit())
    maps = [attention_maps(copy.deepcopy(network).to(k), images(), T, Y) for k in (None, dtype)]
    assert maps[1].dtype == dtype and maps[0].shape == maps[1].shape
    assert count(copy.deepcopy(network).to(dtype)) == count(network)
    boxes = awaken(SceneDetector(3, 3, 8)).to(dtype).find(torch.rand(2, 3, 32, 32))
    assert boxes.dtype == dtype and boxes.isfinite().all()


def test_autocast_gives_half_precision_and_leaves_the_loss_alone(tiny_dit, awaken):
    model, process = awaken(tiny_dit(learn_sigma=True)), Diffusion(linear(), learn_sigma=True)
    x, noise = images(), images()
    plain = process.loss(model, x, T, noise, Y)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x, T, Y).dtype == torch.bfloat16
        mixed = process.loss(model, x, T, noise, Y)
    assert mixed.dtype == torch.float32
    assert 0 < off(mixed, plain) < BOUNDS[torch.bfloat16]


@pytest.mark.parametrize("block", ["adaln_zero", "modern"])
def test_training_in_mixed_precision_on_a_processor(tiny_dit, block):
    def losses(mixed):
        torch.manual_seed(0)
        told, recipe = [], Recipe(steps=6, batch_size=8, lr=1e-2, mixed_precision=mixed)
        model = tiny_dit(block=block)
        fit(
            model,
            Diffusion(linear()),
            images(),
            Y,
            report=lambda step, loss: told.append(loss),
            recipe=recipe,
        )
        assert all(p.dtype == torch.float32 for p in model.parameters())
        return torch.tensor(told)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact, half = losses(True), losses("always")
    assert torch.equal(exact, losses(False))  # True means on a GPU
    assert 0 < off(half, exact) < BOUNDS[torch.bfloat16]
    with torch.autocast("cpu", torch.bfloat16):  # the recipe says it, not the caller's context
        assert torch.equal(exact, losses(True)) and torch.equal(half, losses("always"))


@pytest.mark.parametrize("mixed", ["cpu", None, 1, torch.ones(2)])
def test_what_is_no_mixed_precision(mixed):
    with pytest.raises(ValueError, match=r"mixed_precision=.* must be True .*, False or 'always'"):
        Recipe(steps=1, mixed_precision=mixed)
