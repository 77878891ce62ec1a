"""Checks of diffusion and conditioning: right ones pass, and mistakes get their hints.

As in test_check.py, the students' versions are written out as a student would.
"""

import students
import torch
from torch import nn

from minidit import check
from minidit.blocks import BLOCKS

# --- right, written in other ways than the package's ----------------------------------------------


def back_on_the_line(x_t, v, u):
    eps = x_t + (1 - u[:, None]) * v
    return eps - v


def parameters(block, d):
    count = 3 * d * d + 3 * d + d * d + d + 4 * d * d + 4 * d + 4 * d * d + d
    if block == "in_context":
        return count + 2 * 2 * d
    if block == "cross_attention":
        return count + 4 * (d * d + d) + 3 * 2 * d
    return count + {"adaln": 4, "adaln_zero": 6}[block] * (d * d + d)


def one_sentence_at_a_time(q, k, there):
    shares = torch.zeros(len(q), q.shape[1], k.shape[1])
    for i, kept in enumerate(there):
        scores = q[i] @ k[i, kept].T / q.shape[-1] ** 0.5
        shares[i][:, kept] = scores.softmax(-1)
    return shares


def counted(block, d):
    return sum(p.numel() for p in BLOCKS[block](d, 1).parameters())


def row_by_row(rows):
    out = []
    for kind, colour, left, top, right, bottom in rows.tolist():
        box = [kind, colour, 1 - right, top, 1 - left, bottom]
        out.append(box if kind > 0 else [0.0] * 6)
    return torch.tensor(out)


RIGHT = [
    ("mirrored_layout", row_by_row),
    ("block_parameters", counted),
    ("key_mask", one_sentence_at_a_time),
    ("x0_from_v", back_on_the_line),
    ("block_parameters", parameters),
]


def test_a_layout_that_is_changed_in_place_is_named():
    def in_place(rows):
        rows[:, [2, 4]] = 1 - rows[:, [4, 2]]
        return rows

    assert "changes its input in place" in repr(check.mirrored_layout(in_place))


# --- wrong, each with the words that its hint must hold -------------------------------------------


def with_layers(block, d, bias=True, affine=True):
    layers = [nn.Linear(d, 3 * d, bias), nn.Linear(d, d, bias)]
    layers += [nn.Linear(d, 4 * d, bias), nn.Linear(4 * d, d, bias)]
    if block == "cross_attention":
        layers += [nn.Linear(d, d, bias), nn.Linear(d, 2 * d, bias), nn.Linear(d, d, bias)]
    if "adaln" in block:
        layers.append(nn.Linear(d, (6 if "zero" in block else 4) * d, bias))
    if affine:
        layers += [nn.LayerNorm(d) for _ in range(3 if block == "cross_attention" else 2)]
    return sum(p.numel() for layer in layers for p in layer.parameters())


BLOCK_PARAMETERS = {
    "the biases, and": lambda block, d: with_layers(block, d, bias=False, affine=False),
    "without adaLN": lambda block, d: with_layers(block, d, affine=False),
    "with adaLN": with_layers,
}


def boxes(change):
    """The rows that aren't padding changed: left, top, right, bottom → the same."""

    def fn(rows):
        out = [[*row[:2], *change(*row[2:])] if row[0] else [0.0] * 6 for row in rows.tolist()]
        return torch.tensor(out)

    return fn


MIRRORED_LAYOUT = {
    "left is now right of right": boxes(lambda x1, y1, x2, y2: (1 - x1, y1, 1 - x2, y2)),
    "top and bottom": boxes(lambda x1, y1, x2, y2: (x1, 1 - y2, x2, 1 - y1)),
    "stays zeros": lambda rows: torch.cat(
        [rows[:, :2], 1 - rows[:, 4:5], rows[:, 3:4], 1 - rows[:, 2:3], rows[:, 5:]], dim=1
    ),
    "too, and left": lambda rows: torch.cat(
        [rows[:, :2], 1 - rows[:, 2:3], rows[:, 3:4], 1 - rows[:, 4:5], rows[:, 5:]], dim=1
    ),
    "1 minus itself": boxes(lambda x1, y1, x2, y2: (x2, y1, x1, y2)),
    "had changed before": boxes(lambda x1, y1, x2, y2: (1 - x2, y1, 1 - (1 - x2), y2)),
}

test_right_ones_pass = students.right(RIGHT)
test_each_mistake_gets_its_hint = students.wrong(
    {"block_parameters": BLOCK_PARAMETERS, "mirrored_layout": MIRRORED_LAYOUT}
)


def test_a_wrong_number_is_shown_beside_the_right_one():
    verdict = check.block_parameters(lambda block, d: parameters(block, d) + 1)
    assert "it gives 873 instead of 872" in repr(verdict), verdict
    assert "likeliest" not in repr(verdict)
