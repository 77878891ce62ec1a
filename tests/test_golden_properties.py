"""What holds for the golden files holds for other sizes, seeds and weights.

Here the network and the process are written once more, plainly and differently, in float64.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from minidit import (
    Diffusion,
    DiT,
    cosine,
    ddim,
    ddpm,
    export_official,
    linear,
    load_official,
    sample,
)
from minidit.sampling import select_steps

close = torch.testing.assert_close


def plain_dit(sd, x, t, y, heads):
    """The official network from the official tensors, one image and one head at a time."""
    w = {name: tensor.double() for name, tensor in sd.items()}

    def layer(name, z):
        return z @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(z):
        centred = z - z.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    def attend(name, z):
        q, k, v = layer(f"{name}.qkv", z).chunk(3, dim=-1)
        size = q.shape[-1] // heads
        out = []
        for i in range(heads):
            part = slice(i * size, (i + 1) * size)
            weights = (q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(dim=-1)
            out.append(weights @ v[:, part])
        return layer(f"{name}.proj", torch.cat(out, dim=-1))

    images = []
    for image, time, label in zip(x.double(), t, y):
        angles = time.float() * (-math.log(10000) * torch.arange(128) / 128).exp()
        c = torch.cat([angles.cos(), angles.sin()]).double()
        c = layer("t_embedder.mlp.2", F.silu(layer("t_embedder.mlp.0", c)))
        c = F.silu(c + w["y_embedder.embedding_table.weight"][label])
        conv, p = w["x_embedder.proj.weight"], sd["x_embedder.proj.weight"].shape[-1]
        z = F.conv2d(image[None], conv, w["x_embedder.proj.bias"], stride=p)[0]
        rows = z.shape[1]
        z = z.flatten(1).T + w["pos_embed"][0]
        for i in range(sum(name.endswith("attn.qkv.weight") for name in sd)):
            b = f"blocks.{i}"
            m = layer(f"{b}.adaLN_modulation.1", c).chunk(6)
            z = z + m[2] * attend(f"{b}.attn", norm(z) * (1 + m[1]) + m[0])
            inner = layer(f"{b}.mlp.fc1", norm(z) * (1 + m[4]) + m[3])
            inner = (
                inner / 2 * (1 + (math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)).tanh())
            )
            z = z + m[5] * layer(f"{b}.mlp.fc2", inner)
        shift, scale = layer("final_layer.adaLN_modulation.1", c).chunk(2)
        z = layer("final_layer.linear", norm(z) * (1 + scale) + shift)
        channels = z.shape[1] // p**2
        out = torch.zeros(channels, rows * p, rows * p, dtype=torch.float64)
        for n, token in enumerate(z):
            r, s = n // rows * p, n % rows * p
            out[:, r : r + p, s : s + p] = token.reshape(p, p, channels).permute(2, 0, 1)
        images.append(out)
    return torch.stack(images)


@settings(max_examples=8)
@given(st.data())
def test_any_network_equals_the_plain_one(data):
    draw = data.draw
    p, heads, channels = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    width = 4 * heads * draw(st.integers(1, 4))
    side, classes = p * draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))

    def filled(tensor):
        return torch.randn(tensor.shape, generator=rng) / max(1, tensor.shape[-1]) ** 0.5

    model = DiT(
        side, p, channels, width, draw(st.integers(1, 2)), heads, draw(st.sampled_from([1.5, 4.0])),
        classes, draw(st.sampled_from([0.0, 0.1])), draw(st.booleans()),
    )  # fmt: skip
    table = model.pos_embed.detach().clone()
    sd = {
        k: table[None] if k == "pos_embed" else filled(z) for k, z in export_official(model).items()
    }
    again = load_official(sd, heads, null_label=model.null_label is not None)
    x, t = torch.randn(2, channels, side, side, generator=rng), torch.tensor([0.25, 977.0])
    y = torch.randint(0, classes, (2,), generator=rng)
    with torch.no_grad():
        single, double = again(x, t, y), again.double()(x.double(), t, y)
    expected = plain_dit(sd, x, t, y, heads)
    close(double, expected, atol=1e-11, rtol=0)
    close(single.double(), expected, atol=2e-5, rtol=1e-5)


def plain_betas(betas, steps):
    """β of the process that visits only `steps`, as products of (1 - β) between them."""
    found, before = [], -1
    for step in steps:
        found.append(1 - np.prod(1 - betas[before + 1 : step + 1]))
        before = step
    return np.array(found)


def plain_walk(betas, steps, model, x, noise, eta, learned):
    """DDPM (eta None) or DDIM, from β alone, by the formulas of the two papers."""
    betas = plain_betas(betas, steps)
    for k in reversed(range(len(betas))):
        cumprod = np.prod(1 - betas[: k + 1])
        before = np.prod(1 - betas[:k])
        out = model(x, torch.full((len(x),), float(steps[k]), dtype=torch.float64), None)
        eps, v = out.chunk(2, dim=1) if learned else (out, None)
        x0 = (x - math.sqrt(1 - cumprod) * eps) / math.sqrt(cumprod)
        z = noise[len(betas) - 1 - k] if k else torch.zeros_like(x)
        posterior = betas[k] * (1 - before) / (1 - cumprod)
        if eta is None:
            mean = (x - betas[k] / math.sqrt(1 - cumprod) * eps) / math.sqrt(1 - betas[k])
            log_variance = torch.tensor(math.log(max(betas[k], 1e-300)))
            if learned and k:
                log_variance = v * math.log(betas[k] / posterior) / 2
                log_variance = log_variance + math.log(betas[k] * posterior) / 2
            x = mean + (log_variance / 2).exp() * z
        else:
            spread = eta * math.sqrt(posterior)
            x = math.sqrt(before) * x0 + math.sqrt(1 - before - spread**2) * eps + spread * z
    return x


@settings(max_examples=12)
@given(st.data())
def test_any_walk_equals_the_plain_one(data):
    draw = data.draw
    T = draw(st.integers(200, 1200))
    schedule = draw(st.sampled_from([linear, cosine]))(T)
    count = draw(st.integers(2, 20))
    steps = select_steps(
        schedule, draw(st.sampled_from(["", "quad", "beta", "logsnr"])) + str(count)
    )
    learned, eta = draw(st.booleans()), draw(st.sampled_from([None, 0.0, 0.6, 1.0]))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    noise = torch.randn(count, 2, 1, 3, 3, generator=rng, dtype=torch.float64)
    start = torch.randn(2, 1, 3, 3, generator=rng, dtype=torch.float64)

    def model(x, t, y):
        t = t.double().reshape(-1, 1, 1, 1) / T
        eps = x * t.sqrt() + 0.1 * (3 * x).sin()
        return torch.cat([eps, (5 * x).cos() - t], dim=1) if learned else eps

    diffusion = Diffusion(schedule, learn_sigma=learned)
    sampler, more = (ddpm, {}) if eta is None else (ddim, {"eta": eta})
    ours = sample(sampler(model, diffusion, start, steps=steps, noise=noise, **more))
    betas = schedule.betas.numpy()
    plain = plain_walk(betas, steps, model, start, noise, eta, learned)
    close(ours, plain, atol=1e-6, rtol=1e-6)  # 1 - ᾱ of a product loses digits, amplified by 1/√ᾱ


@pytest.mark.parametrize("scale", [0.05, 1.0, 1000.0])
def test_the_scale_of_the_bound_is_a_factor_of_its_gradient(scale):
    rng = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 2, 4, 4, generator=rng, dtype=torch.float64).clamp(-1, 1)
    output = torch.randn(3, 4, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0, 300, 999])

    def gradient(**how):
        diffusion = Diffusion(linear(), learn_sigma=True, **how)
        loss = diffusion.loss(lambda x, t, y: output, x0, t, noise).sum()
        return torch.autograd.grad(loss, output)[0]

    one, scaled = gradient(), gradient(bound_scale=scale)
    close(scaled[:, :2], one[:, :2])  # the squared error's part
    close(scaled[:, 2:], scale * one[:, 2:])
    whole = gradient(weight="bound", bound_scale=scale)
    close(whole[:, 2:], scaled[:, 2:])
    assert (whole[:, :2] != 0).any() and not torch.equal(whole[:, :2], one[:, :2])
