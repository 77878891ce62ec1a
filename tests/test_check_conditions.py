"""Checks of layouts: right ones pass, and every hint is given for its mistake."""

import students
import torch

from minidit import check

# --- right, written in other ways than the package's ----------------------------------------------


def row_by_row(rows):
    out = []
    for kind, colour, left, top, right, bottom in rows.tolist():
        box = [kind, colour, 1 - right, top, 1 - left, bottom]
        out.append(box if kind > 0 else [0.0] * 6)
    return torch.tensor(out)


RIGHT = [("mirrored_layout", row_by_row)]


def test_a_layout_that_is_changed_in_place_is_named():
    def in_place(rows):
        rows[:, [2, 4]] = 1 - rows[:, [4, 2]]
        return rows

    assert "changes its input in place" in repr(check.mirrored_layout(in_place))


# --- wrong, each with the words that its hint must hold -------------------------------------------


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
test_each_mistake_gets_its_hint, test_every_hint_has_its_student = students.wrong(
    {"mirrored_layout": MIRRORED_LAYOUT}
)
