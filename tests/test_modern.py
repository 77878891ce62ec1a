"""The modern block: each part against the formula of its paper, written out."""

import copy

import pytest
import torch
from torch.nn import functional as F

from minidit import BLOCKS, Diffusion, DiT, Recipe, ddim, fit, load, sample, save, straight
from minidit.training.modern import PARTS, REGISTERS, RotaryAttention, SwiGLU, modern, rotate

NAMES = [name for name in BLOCKS if name.startswith("modern")]
SMALL = dict(input_size=(8, 12), patch_size=4, in_channels=1, hidden_size=16, depth=3, num_heads=2)
SMALL |= dict(num_classes=3, learn_sigma=False)
GRID, D, HEADS = (2, 3), 16, 2


def inputs():
    return torch.randn(2, 6, D, dtype=torch.float64), torch.randn(2, 2, D, dtype=torch.float64)


def stack(*parts, depth=3):
    return modern(*parts).stack(depth, GRID, D, HEADS).double()


def through(blocks, x, cond):
    for block in blocks:
        x = block(x, cond)
    return x


def test_every_part_has_a_name():
    assert NAMES == ["modern", *(f"modern_{part}" for part in PARTS)]
    with pytest.raises(ValueError, match=r"part='rotary' is unknown.*'rope'"):
        modern("rotary")


def test_without_parts_it_is_adaln_zero(awaken):
    x, cond = inputs()
    ours, plain = awaken(stack()), BLOCKS["adaln_zero"].stack(3, GRID, D, HEADS).double()
    plain.load_state_dict(ours.state_dict())
    torch.testing.assert_close(through(ours, x, cond), through(plain, x, cond))


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_as_the_identity(name):
    x, cond = inputs()
    blocks = BLOCKS[name].stack(3, GRID, D, HEADS).double()
    assert torch.equal(through(blocks, x, cond)[:, -6:], x)


def test_rms_norm(awaken):
    x, cond = inputs()
    (block,) = awaken(stack("rms_norm", depth=1))

    def norm(z):
        return z / (z.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    a1, b1, g1, a2, b2, g2 = (v[:, None] for v in block.adaln(F.silu(cond.sum(1))).chunk(6, 1))
    y = x + g1 * block.attn(norm(x) * (1 + b1) + a1)
    y = y + g2 * block.mlp(norm(y) * (1 + b2) + a2)
    torch.testing.assert_close(block(x, cond), y)


def test_normalised_queries_and_keys(awaken):
    x, _ = inputs()
    attn = awaken(RotaryAttention(D, HEADS, qk_norm=True).double())
    q, k, v = attn.qkv(x).chunk(3, dim=-1)
    outs = []
    for part in (slice(0, 8), slice(8, 16)):  # head by head
        unit = [
            F.normalize(z[..., part], dim=-1, eps=0) * 8**0.5 * norm.weight
            for z, norm in ((q, attn.q_norm), (k, attn.k_norm))
        ]
        outs.append((unit[0] @ unit[1].mT / 8**0.5).softmax(dim=-1) @ v[..., part])
    torch.testing.assert_close(attn(x), attn.proj(torch.cat(outs, -1)), atol=1e-5, rtol=1e-4)


def test_rotary_positions_are_products_of_complex_numbers(awaken):
    x, _ = inputs()
    (block,) = awaken(stack("rope", depth=1))
    q, k, v = block.attn.qkv(x).unflatten(-1, (3, HEADS, 8)).permute(2, 0, 3, 1, 4)
    turned = []
    for z in (q, k):
        pairs = torch.complex(z[..., :4], z[..., 4:])  # (b, heads, n, 4)
        for place in range(6):
            row, column = divmod(place, 3)
            for i, angle in enumerate([column, column / 10, row, row / 10]):
                pairs[:, :, place, i] *= torch.exp(torch.tensor(1j * angle))
        turned.append(torch.cat([pairs.real, pairs.imag], dim=-1))
    scores = turned[0] @ turned[1].mT / 8**0.5
    out = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block.attn(x), block.attn.proj(out), atol=1e-6, rtol=1e-5)


def test_rotated_products_know_only_the_distance():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    angles = torch.rand(3, 1, 4, dtype=torch.float64)
    near = [(rotate(q, angles[0] + by) * rotate(k, angles[1] + by)).sum() for by in (0, angles[2])]
    torch.testing.assert_close(*near)
    with pytest.raises(ValueError, match="heads are 6 wide"):
        modern("rope").stack(1, GRID, 12, 2)


def test_swiglu():
    layer, x = SwiGLU(D, 4.0).double(), inputs()[0]
    assert layer.down.in_features == 43  # two thirds of 64: as many weights as an MLP, roughly
    gate, value = (x @ w.T for w in layer.up.weight.chunk(2))
    expected = (gate / (1 + (-gate).exp()) * value) @ layer.down.weight.T
    torch.testing.assert_close(layer(x), expected)


def test_one_adaptive_layer_is_shared(awaken):
    x, cond = inputs()
    blocks = awaken(stack("shared_adaln"))
    assert [name for name, _ in blocks.named_parameters() if "adaln" in name] == [
        "0.adaln.weight",
        "0.adaln.bias",
    ]
    common = blocks[0].adaln(F.silu(cond.sum(dim=1)))  # (b, 6·d)
    for block in blocks:
        expected = (common + block.own.flatten()).chunk(6, dim=1)
        torch.testing.assert_close(block.modulation(cond), expected)
    again = copy.deepcopy(blocks)
    with torch.no_grad():
        again[0].adaln.bias += 1
    assert not torch.allclose(again[2](x, cond), blocks[2](x, cond))  # its own first block's


def test_registers_are_tokens_that_leave(awaken):
    x, cond = inputs()
    blocks = awaken(stack("registers"))
    whole = torch.cat([blocks[0].registers.expand(2, -1, -1), x], dim=1)
    plain = BLOCKS["adaln_zero"].stack(3, GRID, D, HEADS).double()
    plain.load_state_dict({k: v for k, v in blocks.state_dict().items() if "registers" not in k})
    out = through(blocks, x, cond)
    assert out.shape[1] == 6 + REGISTERS
    torch.testing.assert_close(out, through(plain, whole, cond))
    assert not torch.allclose(out[:, -6:], through(plain, x, cond))


def test_registers_stand_nowhere(awaken):
    x, cond = inputs()
    blocks = awaken(stack("rope", "registers"))
    before = through(blocks, x, cond)[:, -6:]
    with torch.no_grad():
        blocks[0].registers.copy_(blocks[0].registers[:, [2, 0, 1, 3]])
    torch.testing.assert_close(through(blocks, x, cond)[:, -6:], before)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_them_trains_samples_saves_and_loads(name, checkpointing, tmp_path):
    model = DiT(**SMALL, block=name)
    model.checkpointing = checkpointing
    start = copy.deepcopy(model.state_dict())
    images, labels = torch.zeros(6, 1, 8, 12, dtype=torch.uint8), torch.arange(6) % 3
    process, recipe = Diffusion(straight(), "x0"), Recipe(steps=3, batch_size=4, optimizer="muon")
    average = fit(model, process, images, labels, recipe=recipe)
    trained = [k for k, p in model.named_parameters() if p.requires_grad]
    assert all((model.state_dict()[k] != start[k]).any() for k in trained if "label" not in k)
    save(average, tmp_path / "w.safetensors", process)
    x, y = torch.randn(2, 1, 8, 12), torch.tensor([0, 3])
    again = load(tmp_path / "w.safetensors").model
    drawn = [sample(ddim(net, process, x, y, steps=3)) for net in (average, again)]
    assert torch.equal(*drawn) and drawn[0].isfinite().all()
