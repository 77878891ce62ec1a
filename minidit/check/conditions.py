"""Labels and layouts: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check.verdict import Verdict, against, alike, difference, outcome, unwritten


def label_dropout(fn: Callable[[Tensor, int, float], Tensor]) -> Verdict:
    """Check `fn(y, null_label, probability)`: (b,) → (b,), labels dropped at random.

    Nothing random is left to chance: torch's generator is seeded here, and put back afterwards.
    """
    name, null, probability, rounds = "label_dropout", 12, 0.25, 40  # not 10, as in the text
    y = torch.arange(1000) % null
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [outcome(fn, (y, null, p)) for p in (*[probability] * rounds, 0.0, 1.0)]
    for got in drawn:
        if isinstance(got, NotImplementedError):
            return unwritten(name, got)
        if not isinstance(got, Tensor) or got.shape != y.shape:
            problem = f"it {difference(got, y, alike)}"
            break
    else:
        problem = _dropout_problem(torch.stack(drawn[:-2]), *drawn[-2:], y, null, probability)
    if problem:
        return Verdict(False, f"✗ {name} is not right yet: {problem}.")
    return Verdict(
        True,
        f"✓ {name} is right: in {rounds} draws of {len(y)} labels a share of {probability} becomes "
        "the null label, each label on its own; with probability 0 none does, with 1 all do.",
    )


def _dropout_problem(
    drawn: Tensor, never: Tensor, always: Tensor, y: Tensor, null: int, probability: float
) -> str | None:
    """The first thing wrong with label dropout, or None. drawn: (rounds, n); the others: (n,)."""
    if drawn.is_floating_point():
        return "the labels became floats; a table has whole rows only"
    changed = drawn != y  # (rounds, n)
    share = changed.float().mean().item()
    if not changed.any():
        return "no label is ever dropped"
    wrong = drawn[changed & (drawn != null)]
    if len(wrong):
        what = "a class of its own" if 0 <= wrong[0] < null else "no class"
        return (
            f"dropped labels become {int(wrong[0])}, which is {what}; the classes are "
            f"0 … {null - 1}, so the null label is {null}, one past the last"
        )
    if abs(share - (1 - probability)) < 0.02:
        return f"a share of {share:.2f} is dropped: you keep with probability {probability}"
    if (changed.all(dim=1) | ~changed.any(dim=1)).all():
        return "the whole batch is dropped or kept at once; draw one number for each label"
    if (changed == changed[0]).all():
        return "every call drops the same places; draw anew at each call"
    if abs(share - probability) > 0.02:
        return f"a share of {share:.2f} is dropped instead of {probability}"
    if (never != y).any() or (always != null).any():
        return "with probability 0 every label must stay, and with 1 none"
    return None


def _moved(rows: Tensor, columns: list[int], mirrored: list[int]) -> Tensor:
    """Rows with their columns in another order, some of them 1 minus themselves; padding, too."""
    moved = rows[:, columns]
    moved[:, mirrored] = 1 - moved[:, mirrored]
    return moved


_BOX, _OTHER = [4.0, 1, 0.1, 0.2, 0.4, 0.7], [12.0, 3, 0.5, 0.1, 0.9, 0.5]
_SAME, _SWAPPED = [0, 1, 2, 3, 4, 5], [0, 1, 4, 3, 2, 5]  # left and right are columns 2 and 4


@against(
    {
        "two boxes and a row of padding": (torch.tensor([_BOX, _OTHER, [0.0] * 6]),),
        "one box": (torch.tensor([_OTHER]),),
        "nothing but padding": (torch.zeros(2, 6),),
    },
    "left is now right of right: the new left edge is 1 minus the old right one",
    lambda rows: _moved(rows, _SAME, [2, 4]) * (rows[:, :1] > 0),
    "top and bottom are mirrored; left is column 2 and right column 4",
    lambda rows: _moved(rows, [0, 1, 2, 5, 4, 3], [3, 5]) * (rows[:, :1] > 0),
    "the padding is mirrored, too; a row with kind 0 stays zeros",
    lambda rows: _moved(rows, _SWAPPED, [2, 4]),
    "the padding is mirrored, too, and left is right of right",
    lambda rows: _moved(rows, _SAME, [2, 4]),
    "left and right have changed places, but each must also become 1 minus itself",
    lambda rows: _moved(rows, _SWAPPED, []),
    "the right edges are the old ones, or made of left edges that had changed before",
    lambda rows: _moved(rows, [0, 1, 4, 3, 4, 5], [2]) * (rows[:, :1] > 0),
)
def mirrored_layout(rows: Tensor) -> Tensor:
    """(m, 6), kind, colour, left, top, right, bottom → the same mirrored.

    Edges are shares of the image's sides; a row of kind 0 is padding, all zeros.
    """
    return _moved(rows, _SWAPPED, [2, 4]) * (rows[:, :1] > 0)
