"""Parameters and multiply-accumulates, against the paper's and against counting by hand."""

import pytest
import torch
from torch import nn

from minidit import DIT_SIZES, DiT
from minidit.attention import Attention
from minidit.evaluate.flops import count, table

# Parameters and billions of multiply-accumulates of the official networks.
OFFICIAL = {
    "S/2": (32_963_360, 6.056),
    "S/4": (32_945_024, 1.413),
    "S/8": (33_148_160, 0.358),
    "B/2": (130_512_416, 23.005),
    "B/4": (130_475_648, 5.565),
    "B/8": (130_881_536, 1.418),
    "L/2": (458_102_816, 80.698),
    "L/4": (458_053_760, 19.696),
    "L/8": (458_594_816, 5.011),
    "XL/2": (675_129_632, 118.621),
    "XL/4": (675_074_432, 29.044),
    "XL/8": (675_683_072, 7.392),
}


def test_every_preset_has_the_official_size_and_cost():
    rows = {row["size"]: row for row in table(blocks=["adaln_zero"])}
    found = {s: (r["parameters"], round(r["macs"] / 1e9, 3)) for s, r in rows.items()}
    assert found == OFFICIAL


def test_the_four_blocks_have_the_papers_sizes():
    rows = {row["block"]: row for row in table(sizes=["XL/2"])}
    millions = {block: row["parameters"] // 10**6 for block, row in rows.items()}
    assert millions == {"in_context": 449, "cross_attention": 598, "adaln": 600, "adaln_zero": 675}
    gmacs = {block: row["macs"] / 1e9 for block, row in rows.items()}
    assert gmacs["cross_attention"] == pytest.approx(137.6, abs=0.1)
    assert gmacs["adaln"] < gmacs["adaln_zero"] < gmacs["in_context"] < gmacs["cross_attention"]


def test_a_table_row_is_the_count_of_the_whole_network():
    with torch.device("meta"):
        counts = count(DiT(**DIT_SIZES["S/8"] | {"block": "cross_attention"}))
    (row,) = table(["S/8"], ["cross_attention"])
    assert (row["parameters"], row["macs"]) == (counts.parameters, counts.macs)


def by_hand(b, n, d, depth, inner, p, c, c_out):
    """The formula for adaLN-Zero, term by term."""
    block = 4 * n * d * d + 2 * n * d * inner + 2 * n * n * d + 6 * d * d
    ends = n * p * p * c * d + n * d * p * p * c_out + 2 * d * d + 256 * d + d * d
    return b * (depth * block + ends)


def test_the_formula_and_a_batch():
    model = DiT(
        (12, 8),
        patch_size=2,
        in_channels=3,
        hidden_size=24,
        depth=3,
        num_heads=2,
        num_classes=5,
        mlp_ratio=2.5,
        learn_sigma=False,
    )
    inputs = torch.zeros(4, 3, 12, 8), torch.zeros(4), torch.zeros(4, dtype=torch.int64)
    counts = count(model, inputs)
    assert counts.macs == by_hand(4, 24, 24, 3, 60, 2, 3, 3) == 4 * count(model).macs
    assert counts.parameters == sum(p.numel() for p in model.parameters())
    assert counts.macs == sum(counts.parts.values())
    assert {"patch_embed.proj", "blocks.2.attn", "final.adaln"} <= counts.parts.keys()


def test_counting_leaves_the_network_as_it_was():
    model = DiT(**DIT_SIZES["S/8"] | {"depth": 1, "num_classes": 0, "class_dropout_prob": 0.0})
    before = {name: p.clone() for name, p in model.named_parameters()}
    count(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_cross_attention_and_convolutions():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.attn = nn.Conv2d(2, 8, 3, padding=1), Attention(8, 2, cross=True)

        def forward(self, x, context):
            return self.attn(self.conv(x).flatten(2).transpose(1, 2), context)

    counts = count(Both(), (torch.zeros(1, 2, 5, 5), torch.zeros(1, 3, 8)))
    assert counts.parts["conv"] == 25 * 8 * 2 * 9
    assert counts.parts["attn"] == 2 * 25 * 3 * 8
    assert counts.parts["attn.kv"] == 3 * 8 * 16


def test_other_networks_need_inputs():
    with pytest.raises(TypeError, match="model is a Linear; pass inputs"):
        count(nn.Linear(2, 2))
