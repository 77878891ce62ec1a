"""Attention against its formula, and the gradients of both halves of a block."""

import math

import pytest
import torch
from torch.nn import functional as F

from minidit import Attention, Mlp


def attention_by_formula(q, k, v, num_heads):
    """softmax(q kᵀ / √k) v, one image and one head after the other."""
    out = torch.zeros_like(q)
    width = q.shape[-1] // num_heads
    for b in range(len(q)):
        for head in range(num_heads):
            own = slice(head * width, (head + 1) * width)
            logits = q[b, :, own] @ k[b, :, own].T / math.sqrt(width)
            weights = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
            out[b, :, own] = weights @ v[b, :, own]
    return out


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_self_attention_is_the_formula(num_heads, awaken):
    attention = awaken(Attention(8, num_heads).double())
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    rows, bias = attention.qkv.weight.split(8), attention.qkv.bias.split(8)  # q, then k, then v
    q, k, v = (x @ w.T + b for w, b in zip(rows, bias))
    expected = attention.proj(attention_by_formula(q, k, v, num_heads))
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_cross_attention_is_the_formula(num_heads, awaken):
    attention = awaken(Attention(8, num_heads, cross=True).double())
    x, context = (torch.randn(2, n, 8, dtype=torch.float64) for n in (5, 3))
    k, v = (attention.kv(context)[..., part] for part in (slice(0, 8), slice(8, 16)))
    expected = attention.proj(attention_by_formula(attention.q(x), k, v, num_heads))
    torch.testing.assert_close(attention(x, context), expected)


@pytest.mark.parametrize("cross", [False, True])
def test_masked_tokens_are_as_if_they_were_not_there(cross, awaken):
    attention = awaken(Attention(8, 2, cross=cross).double())
    x, short, padding = (torch.randn(2, n, 8, dtype=torch.float64) for n in (5, 3, 4))
    long = torch.cat([short, padding], dim=1)
    mask = (torch.arange(7) < 3).expand(2, 7)
    if cross:
        masked, alone = attention(x, long, mask=mask), attention(x, short)
    else:
        masked, alone = attention(long, mask=mask)[:, :3], attention(short)
    torch.testing.assert_close(masked, alone)
    everything = mask.new_ones(mask.shape)
    heard = attention(x, long, mask=everything) if cross else attention(long, mask=everything)
    assert not torch.allclose(heard[:, :3], masked[:, :3])


def test_attention_without_qkv_bias():
    assert Attention(8, 2, qkv_bias=False).qkv.bias is None
    assert Attention(8, 2, qkv_bias=False, cross=True).kv.bias is None


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_mlp_is_two_layers_with_a_gelu(approximate, awaken):
    mlp = awaken(Mlp(8, 3.0, approximate))
    x = torch.randn(2, 5, 8)
    assert mlp.up.weight.shape == (24, 8)
    expected = mlp.down(F.gelu(mlp.up(x), approximate=approximate))
    assert torch.equal(mlp(x), expected)
    assert not torch.equal(awaken(Mlp(8, 3.0, "none"))(x), awaken(Mlp(8, 3.0, "tanh"))(x))


def test_gradient_of_self_attention(awaken):
    attention = awaken(Attention(4, 2).double(), 0.5)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, x)


def test_gradient_of_cross_attention(awaken):
    attention = awaken(Attention(4, 2, cross=True).double(), 0.5)
    x, context = (torch.randn(2, n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 2))
    assert torch.autograd.gradcheck(attention, (x, context))
