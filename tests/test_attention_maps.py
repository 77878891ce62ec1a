"""Attention weights, computed a second time, are those that the layers have used."""

import pytest
import torch
from einops import rearrange

from minidit import Attention, DiT, KLAutoencoder, UViT, guided
from minidit.evaluate.attention import attention_maps, attention_weights

SMALL = dict(input_size=8, patch_size=2, in_channels=1, hidden_size=16, depth=3, num_heads=2)
TEXT = dict(encoder="text", words=["a", "red", "three"], length=5)


def text_network(**changes):
    return DiT(
        **SMALL | {"learn_sigma": False, "num_classes": 0, "block": "cross_attention"} | changes,
        condition=TEXT,
    )


def inputs(*y):
    return torch.randn(2, 1, 8, 8), torch.tensor([10, 500]), *y


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_weights_times_values_are_the_output(cross, masked, awaken):
    attention = awaken(Attention(8, 2, cross=cross).double())
    x, context = (torch.randn(2, n, 8, dtype=torch.float64) for n in (5, 3))
    named = {"context": context} if cross else {}
    keys = context if cross else x
    if masked:
        named["mask"] = torch.arange(keys.shape[1]) < torch.tensor([[1], [2]])
    weights = attention_weights(attention, x, **named)
    v = (attention.kv if cross else attention.qkv)(keys)[..., -8:]  # (b, m, heads·k)
    v = rearrange(v, "b m (heads k) -> b heads m k", heads=2)
    by_weights = attention.proj(rearrange(weights @ v, "b heads n k -> b n (heads k)"))
    torch.testing.assert_close(by_weights, attention(x, **named))


def test_maps_of_a_text_leave_the_padding_out(awaken):
    model = awaken(text_network())
    y = torch.tensor([[1, 2, 3, 0, 0], [0, 0, 0, 0, 0]])
    maps = attention_maps(model, *inputs(y))
    assert maps.shape == (3, 2, 2, 16, 7)  # blocks, images, heads, patches, time + whole + words
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(3, 2, 2, 16))
    there = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]], dtype=torch.bool)
    assert ((maps > 0) == there[None, :, None, None]).all()


def test_maps_follow_the_blocks(awaken):
    model = awaken(text_network())
    y = torch.tensor([[1, 2, 3, 0, 0], [2, 3, 0, 0, 0]])
    x, t, y = inputs(y)
    before = attention_maps(model, x, t, y)
    with torch.no_grad():
        model.blocks[1].cross.q.weight.mul_(-1)
    after = attention_maps(model, x, t, y)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


@pytest.mark.parametrize(
    ("network", "tokens"),
    [
        (lambda: DiT(**SMALL, num_classes=3, block="adaln_zero"), 16),
        (lambda: DiT(**SMALL, num_classes=3, block="in_context"), 18),
        (lambda: UViT(**SMALL | {"depth": 2}, num_classes=3), 18),
    ],
)
def test_without_cross_attention_it_is_the_sequence_itself(network, tokens, awaken):
    maps = attention_maps(awaken(network()), *inputs(torch.tensor([0, 2])))
    assert maps.shape == (3, 2, 2, tokens, tokens)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(maps.shape[:-1]))


def test_nothing_stays_behind():
    model = text_network()
    attention_maps(model, *inputs(torch.tensor([[1, 0], [2, 3]])))
    with pytest.raises(ValueError, match="y contains"):
        attention_maps(model, *inputs(torch.tensor([[1, 0], [2, 9]])))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "network",
    [lambda: KLAutoencoder(), lambda: guided(text_network(), 2.0), lambda: torch.nn.Identity()],
)
def test_a_network_without_blocks_is_refused(network):
    with pytest.raises(TypeError, match="no transformer blocks"):
        attention_maps(network(), *inputs())
