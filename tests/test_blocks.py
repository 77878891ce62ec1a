"""The four blocks: how they start, what they treat alike, and their gradients."""

import pytest
import torch
from torch.func import functional_call

from minidit import BLOCKS, FinalLayer, modulate

EVERY_BLOCK = pytest.mark.parametrize("kind", BLOCKS)


def tokens(b=2, n=5, m=2, d=8):
    return torch.randn(b, n, d, dtype=torch.float64), torch.randn(b, m, d, dtype=torch.float64)


def test_modulate_by_hand():
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    out = modulate(x, shift=torch.tensor([[10.0, 20.0]]), scale=torch.tensor([[1.0, -1.0]]))
    assert out.tolist() == [[[12.0, 20.0], [16.0, 20.0]]]


@EVERY_BLOCK
def test_shape_stays(kind, awaken):
    x, cond = tokens()
    assert awaken(BLOCKS[kind](8, 2).double())(x, cond).shape == x.shape


def test_adaln_zero_starts_as_the_identity():
    x, cond = tokens()
    block = BLOCKS["adaln_zero"](8, 2).double()
    assert torch.equal(block(x, cond), x)


@pytest.mark.parametrize("kind", ["in_context", "cross_attention", "adaln"])
def test_the_other_blocks_start_awake(kind):
    x, cond = tokens()
    assert (BLOCKS[kind](8, 2).double()(x, cond) - x).abs().mean() > 0.05


@pytest.mark.parametrize("kind", ["adaln", "adaln_zero"])
def test_adaln_starts_deaf_to_its_condition(kind):
    x, cond = tokens()
    block = BLOCKS[kind](8, 2).double()
    assert torch.equal(block(x, cond), block(x, cond + 1))


def test_adaln_starts_as_a_plain_block():
    x, cond = tokens()
    plain, adaptive = BLOCKS["in_context"](8, 2).double(), BLOCKS["adaln"](8, 2).double()
    for part in ("attn", "mlp"):
        getattr(plain, part).load_state_dict(getattr(adaptive, part).state_dict())
    torch.testing.assert_close(plain(x, cond), adaptive(x, cond))


def test_adaln_zero_with_open_gates_is_adaln(awaken):
    x, cond = tokens()
    zero, adaptive = BLOCKS["adaln_zero"](8, 2).double(), BLOCKS["adaln"](8, 2).double()
    awaken(zero)
    with torch.no_grad():
        weight, bias = zero.adaln.weight.split(8), zero.adaln.bias.split(8)
        for gate in (2, 5):
            weight[gate].zero_()
            bias[gate].fill_(1.0)
        keep = [0, 1, 3, 4]
        adaptive.adaln.weight.copy_(torch.cat([weight[i] for i in keep]))
        adaptive.adaln.bias.copy_(torch.cat([bias[i] for i in keep]))
    adaptive.attn.load_state_dict(zero.attn.state_dict())
    adaptive.mlp.load_state_dict(zero.mlp.state_dict())
    torch.testing.assert_close(zero(x, cond), adaptive(x, cond))


@pytest.mark.parametrize("kind", ["cross_attention", "adaln", "adaln_zero"])
def test_awake_blocks_hear_their_condition(kind, awaken):
    x, cond = tokens()
    block = awaken(BLOCKS[kind](8, 2).double())
    assert not torch.allclose(block(x, cond), block(x, cond.flip(0)))


@EVERY_BLOCK
def test_blocks_do_not_know_the_order_of_tokens(kind, awaken):
    x, cond = tokens()
    block, order = awaken(BLOCKS[kind](8, 2).double()), torch.randperm(5)
    torch.testing.assert_close(block(x[:, order], cond), block(x, cond)[:, order])
    assert not torch.allclose(block(x[:, [1, 0, 2, 3, 4]], cond), block(x, cond))


@EVERY_BLOCK
def test_blocks_do_not_know_the_order_of_the_condition(kind, awaken):
    x, cond = tokens(m=3)
    block = awaken(BLOCKS[kind](8, 2).double())
    torch.testing.assert_close(block(x, cond[:, [2, 0, 1]]), block(x, cond))


def test_padding_changes_nothing_in_blocks_that_attend_to_the_condition(awaken):
    x, cond = tokens(m=6)
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    cross, inside = (awaken(BLOCKS[k](8, 2).double()) for k in ("cross_attention", "in_context"))
    whole = cross(x, cond, mask)
    torch.testing.assert_close(whole[:1], cross(x[:1], cond[:1]))
    torch.testing.assert_close(whole[1:], cross(x[1:], cond[1:, :2]))
    whole = inside(torch.cat([cond, x], dim=1), cond, mask)[:, 6:]
    torch.testing.assert_close(whole[:1], inside(torch.cat([cond, x], dim=1)[:1], cond)[:, 6:])
    short = torch.cat([cond[1:, :2], x[1:]], dim=1)
    torch.testing.assert_close(whole[1:], inside(short, cond)[:, 2:])


@EVERY_BLOCK
def test_gradients(kind, awaken):
    block = awaken(BLOCKS[kind](4, 2, mlp_ratio=1.0).double(), 0.4)
    x, cond = (z.requires_grad_() for z in tokens(b=2, n=3, m=2, d=4))
    names, weights = zip(*block.named_parameters())

    def run(x, cond, *weights):
        return functional_call(block, dict(zip(names, weights)), (x, cond))

    assert torch.autograd.gradcheck(run, (x, cond, *weights), fast_mode=True)
    assert torch.autograd.gradcheck(lambda x, c: run(x, c, *weights), (x, cond))


@pytest.mark.parametrize("adaptive", [True, False])
def test_final_layer_starts_at_zero_and_its_gradients_are_right(adaptive, awaken):
    layer = FinalLayer(4, 6, adaptive).double()
    x, cond = (z.requires_grad_() for z in tokens(n=3, d=4))
    assert torch.equal(layer(x, cond), torch.zeros(2, 3, 6, dtype=torch.float64))
    awaken(layer, 0.4)
    assert (layer(x, cond) != layer(x, cond + 1)).any() == adaptive
    assert torch.autograd.gradcheck(layer, (x, cond))


@pytest.mark.parametrize("kind", ["adaln", "adaln_zero"])
def test_norms_have_no_affine_part_where_the_condition_gives_it(kind):
    names = [name for name, _ in BLOCKS[kind](8, 2).named_parameters()]
    assert not [name for name in names if "norm" in name]
