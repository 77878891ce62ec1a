"""Labels, words and layouts: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check.verdict import Verdict, against, alike, difference, outcome, unwritten, waves


def label_dropout(fn: Callable[[Tensor, int, float], Tensor]) -> Verdict:
    """Check `fn(y, null_label, probability)`: (b,) → (b,), labels dropped at random.

    Nothing random is left to chance: torch's generator is seeded here, and put back afterwards.
    """
    null, share, rounds = 12, 0.25, 40  # not 10, as in the text
    y = torch.arange(1000) % null
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [outcome(fn, (y, null, p)) for p in (*[share] * rounds, 0.0, 1.0)]
    odd = [got for got in drawn if not isinstance(got, Tensor) or got.shape != y.shape]
    if odd and isinstance(odd[0], NotImplementedError):
        return unwritten("label_dropout", odd[0])
    problem = f"it {difference(odd[0], y, alike)}" if odd else _problem(drawn, y, null, share)
    if problem:
        return Verdict(False, f"✗ label_dropout is not right yet: {problem}.")
    return Verdict(
        True,
        f"✓ label_dropout is right: in {rounds} draws of {len(y)} labels a share of {share} becomes"
        " the null label, each label on its own; with probability 0 none does, with 1 all do.",
    )


def _problem(drawn: list[Tensor], y: Tensor, null: int, share: float) -> str:
    """What is wrong with labels dropped with the probability `share`, then 0 and 1; or ""."""
    *rounds, never, always = drawn
    drawn = torch.stack(rounds)  # (rounds, n)
    changed = drawn != y
    found, wrong = changed.float().mean().item(), drawn[changed & (drawn != null)].long().tolist()
    what = "a class of its own" if wrong and 0 <= wrong[0] < null else "no class"
    problems = {
        "the labels became floats; a table has whole rows only": drawn.is_floating_point(),
        "no label is ever dropped": not changed.any(),
        f"dropped labels become {wrong[0] if wrong else null}, which is {what}; the classes are "
        f"0 … {null - 1}, so the null label is {null}, one past the last": wrong,
        f"a share of {found:.2f} is dropped: you keep with probability {share}": (
            abs(found - (1 - share)) < 0.02
        ),
        "the whole batch is dropped or kept at once; draw one number for each label": (
            (changed.all(dim=1) | ~changed.any(dim=1)).all()
        ),
        "every call drops the same places; draw anew at each call": (changed == changed[0]).all(),
        f"a share of {found:.2f} is dropped instead of {share}": abs(found - share) > 0.02,
        "with probability 0 every label must stay, and with 1 none": (
            (never != y).any() or (always != null).any()
        ),
    }
    return next((problem for problem, is_so in problems.items() if is_so), "")


_THERE = torch.tensor([[True, True, False, False], [True, False, True, True]])
_QUERIES, _KEYS = waves(2, 3, 5), waves(2, 4, 5, start=30)


@against(
    ("two sentences of four words at most", _QUERIES, _KEYS, _THERE),
    ("as many queries as keys", waves(2, 4, 5), _KEYS, _THERE),
    ("no padding", _QUERIES, _KEYS, _THERE | True),
    "the shares are masked after the softmax and no longer sum to one; mask the scores, with -∞",
    {"masked.softmax(dim=-1)": "scores.softmax(dim=-1) * there[:, None]"},
    "a masked score becomes 0, and e^0 is a share like others; it must become -∞",
    {"-torch.inf": "0"},
    "the mask is the wrong way round: True are the keys that are there",
    {"~there": "there"},
    "the mask hides queries; it belongs to the keys, the last axis: there[:, None]",
    {"there[:, None]": "there[..., None]"},
    "nothing is masked",
    {"masked.softmax": "scores.softmax"},
    "the softmax runs over the queries; the shares of the keys sum to one, the last axis",
    {"dim=-1": "dim=1"},
    "the scores are not divided by √d",
    {" / q.shape[-1] ** 0.5": ""},
)
def key_mask(q: Tensor, k: Tensor, there: Tensor) -> Tensor:
    """Shares of attention: (b, n, d), (b, m, d), bools (b, m) → (b, n, m).

    Keys that are not there get a share of 0, and the others sum to one.
    """
    scores = q @ k.mT / q.shape[-1] ** 0.5
    masked = scores.masked_fill(~there[:, None], -torch.inf)
    return masked.softmax(dim=-1)


_BOX, _OTHER = [4.0, 1, 0.1, 0.2, 0.4, 0.7], [12.0, 3, 0.5, 0.1, 0.9, 0.5]


@against(
    ("two boxes and a row of padding", torch.tensor([_BOX, _OTHER, [0.0] * 6])),
    ("one box", torch.tensor([_OTHER])),
    ("nothing but padding", torch.zeros(2, 6)),
    "left is now right of right: the new left edge is 1 minus the old right one",
    {"1 - right, top, 1 - left": "1 - left, top, 1 - right"},
    "top and bottom are mirrored; left is column 2 and right column 4",
    {"1 - right, top, 1 - left, bottom": "left, 1 - bottom, right, 1 - top"},
    "the padding is mirrored, too; a row with kind 0 stays zeros",
    {"* (kind > 0)": ""},
    "the padding is mirrored, too, and left is right of right",
    {"1 - right, top, 1 - left": "1 - left, top, 1 - right", "* (kind > 0)": ""},
    "left and right have changed places, but each must also become 1 minus itself",
    {"1 - right, top, 1 - left": "right, top, left"},
    "the right edges are the old ones, or made of left edges that had changed before",
    {"1 - left": "right"},
)
def mirrored_layout(rows: Tensor) -> Tensor:
    """(m, 6), kind, colour, left, top, right, bottom → the same mirrored.

    Edges are shares of the image's sides; a row of kind 0 is padding, all zeros.
    """
    kind, colour, left, top, right, bottom = rows.T
    moved = torch.stack([kind, colour, 1 - right, top, 1 - left, bottom]) * (kind > 0)
    return moved.T
