"""The numbers of the official codes, file by file; see golden/__init__.py for the tolerances."""

import pytest
import torch
from golden import NETWORK, networks, processes
from golden.differences import GROUPS

from minidit import embed


@pytest.mark.parametrize("group", GROUPS)
def test_equal_to_the_official_numbers(group):
    comparisons = list(GROUPS[group]())
    assert comparisons
    wrong = [f"{c.file} {c.what}: {c.difference:.1e}" for c in comparisons]
    wrong = [line for line, c in zip(wrong, comparisons) if not c.difference <= c.allowed]
    assert wrong == []


# --- would these tests notice? --------------------------------------------------------------------


def exact_gelu(model):
    for block in model.blocks:
        block.mlp.approximate = "none"


def wider_epsilon(model):
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5


def swapped_rows_and_columns(model):
    side = model.grid[0]
    table = model.pos_embed.data.unflatten(0, (side, side))
    model.pos_embed.data = table.transpose(0, 1).flatten(0, 1)


def keys_before_queries(model):
    for block in model.blocks:
        q, k, v = block.attn.qkv.weight.data.chunk(3)
        block.attn.qkv.weight.data = torch.cat([k, q, v])


def gate_first(model):
    for block in model.blocks:
        block.adaln.weight.data = (
            block.adaln.weight.data.unflatten(0, (6, -1)).roll(1, 0).flatten(0, 1)
        )


@pytest.mark.parametrize(
    "mistake",
    [exact_gelu, wider_epsilon, swapped_rows_and_columns, keys_before_queries, gate_first],
)
@pytest.mark.parametrize("name", ["dit_p2_c4_sigma", "dit_small_tokens"])
def test_a_mistake_shows_above_the_tolerance(mistake, name):
    model, golden = networks.read(name)
    mistake(model)
    with torch.no_grad():
        ours = model(golden["in/x"], golden["in/t"], golden["in/y"])
    assert (ours - golden["out/y"]).abs().max() > 3 * NETWORK


def test_steps_are_added_up_before_they_are_rounded():
    """The eighth of 15 steps of the second hundred is at 149.5; added up it lies just below."""
    steps = processes.space_timesteps(300, [10, 15, 20])
    assert 149 in steps and 150 not in steps


@pytest.mark.parametrize("half", [4, 24, 96, 128])
def test_frequencies_are_the_official_ones_but_for_the_last_place(half):
    """On the processor that made the files they are equal; the networks are compared with those."""
    ours, official = embed.frequencies(half), networks.official_frequencies()[half]
    places = (ours.view(torch.int32) - official.view(torch.int32)).abs()
    assert places.max() <= 1
    exact = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    assert torch.allclose(ours.double(), exact, rtol=1e-6, atol=0)
