"""Embeddings of times, places and labels."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minidit import LabelEmbedder, TimestepEmbedder, sincos_2d, timestep_embedding


def timestep_embedding_by_loops(t, dim, max_period):
    half = dim // 2
    rows = []
    for time in t:
        omegas = [max_period ** (-k / half) for k in range(half)]
        row = [math.cos(time * o) for o in omegas] + [math.sin(time * o) for o in omegas]
        rows.append(row + [0.0] * (dim % 2))
    return torch.tensor(rows)


@given(
    st.lists(st.floats(0, 1000, width=32), min_size=1, max_size=4),
    st.integers(2, 33),
    st.sampled_from([100.0, 10_000.0]),
)
def test_timestep_embedding_is_what_loops_say(t, dim, max_period):
    embedding = timestep_embedding(torch.tensor(t), dim, max_period)
    assert embedding.shape == (len(t), dim) and embedding.dtype == torch.float32
    expected = timestep_embedding_by_loops(t, dim, max_period)
    torch.testing.assert_close(embedding, expected, atol=3e-4, rtol=0)  # float32 angles up to 1000


def test_integer_times_are_embedded_like_floats():
    t = torch.tensor([0, 7, 999])
    assert torch.equal(timestep_embedding(t, 16), timestep_embedding(t.float(), 16))


def test_times_in_zero_to_one_look_nearly_alike():
    ends = timestep_embedding(torch.tensor([0.0, 1.0, 1000.0]), 256)
    within_one, within_thousand = (ends[0] - ends[1]).abs(), (ends[0] - ends[2]).abs()
    assert (within_one < 0.1).float().mean() > 0.75
    assert (within_thousand < 0.1).float().mean() < 0.2


def test_all_of_a_thousand_steps_are_told_apart():
    embedding = timestep_embedding(torch.arange(1000), 256)
    distance = torch.cdist(embedding, embedding) + 10 * torch.eye(1000)
    assert distance.min() > 0.5


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (16, 2), (1, 7)])
def test_positions_are_distinct(grid):
    table = sincos_2d(16, grid)
    assert table.shape == (grid[0] * grid[1], 16) and table.dtype == torch.float64
    distance = torch.cdist(table, table) + 10 * torch.eye(len(table))
    assert distance.min() > 0.05


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_first_half_of_a_position_is_its_column_second_its_row(grid):
    table = sincos_2d(16, grid).unflatten(0, grid)  # (h, w, dim)
    column, row = table[..., :8], table[..., 8:]
    assert torch.equal(column, column[:1].expand_as(column))
    assert torch.equal(row, row[:, :1].expand_as(row))
    assert not torch.equal(column[:, 0], column[:, 1]) and not torch.equal(row[0], row[1])


def test_positions_by_hand():
    place = sincos_2d(8, (4, 6)).unflatten(0, (4, 6))[2, 5]  # row 2, column 5; ω = 1 and 1/100
    expected = [f(pos * o) for pos in (5, 2) for f in (math.sin, math.cos) for o in (1, 0.01)]
    torch.testing.assert_close(place, torch.tensor(expected, dtype=torch.float64))


def test_one_number_is_a_square_grid():
    assert torch.equal(sincos_2d(8, 3), sincos_2d(8, (3, 3)))


def test_timestep_embedder_is_sinusoids_and_an_mlp():
    embed = TimestepEmbedder(12, frequencies=32)
    t = torch.tensor([3, 500])
    up, _, down = embed.mlp
    hidden = timestep_embedding(t, 32) @ up.weight.T + up.bias
    expected = hidden * hidden.sigmoid() @ down.weight.T + down.bias
    torch.testing.assert_close(embed(t), expected)
    assert TimestepEmbedder(256).mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_timestep_embedder_answers_in_the_precision_of_its_weights():
    assert TimestepEmbedder(8).double()(torch.tensor([5])).dtype == torch.float64


def test_label_table_has_a_null_row_only_with_dropout():
    with_null, without = LabelEmbedder(10, 4, dropout=0.1), LabelEmbedder(10, 4)
    assert (with_null.null_label, len(with_null.table.weight)) == (10, 11)
    assert (without.null_label, len(without.table.weight)) == (None, 10)
    y = torch.tensor([0, 10, 3])
    assert torch.equal(with_null(y), with_null.table.weight[y])


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_label_table_starts_with_the_std_asked_for(std):
    weight = LabelEmbedder(100, 64, std=std).table.weight
    assert weight.std().item() == pytest.approx(std, rel=0.05)


def test_labels_are_dropped_at_the_rate_asked_for():
    embed = LabelEmbedder(10, 4, dropout=0.15)
    y = torch.arange(10).repeat(2000)
    dropped = embed.drop(y, torch.Generator().manual_seed(0))
    gone = dropped == embed.null_label
    assert abs(gone.float().mean() - 0.15) < 4 * (0.15 * 0.85 / len(y)) ** 0.5
    assert torch.equal(dropped[~gone], y[~gone])
    assert not torch.equal(gone[:10], gone[10:20])  # every label of the batch has its own draw
    again = embed.drop(y, torch.Generator().manual_seed(0))
    assert torch.equal(dropped, again)


def test_without_dropout_every_label_stays():
    y = torch.arange(10)
    assert torch.equal(LabelEmbedder(10, 4).drop(y), y)
