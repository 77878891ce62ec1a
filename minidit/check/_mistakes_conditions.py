"""Common mistakes about sentences and layouts, as functions; see `_mistakes`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidit.check._mistakes import Mistakes

# --- words ----------------------------------------------------------------------------------------


def _numbers(
    split: Callable[[str], list[str]] = lambda caption: caption.replace(",", " ").split(),
    first: int = 1,
    fill: Callable[[list[int], int], list[int]] = lambda ids, length: (
        ids + [0] * (length - len(ids))
    ),
) -> Callable:
    """A tokenizer: `first` is the number of the first word, `fill` the padding."""

    def numbers(caption: str, words: Sequence[str], length: int) -> Tensor:
        ids = [first + words.index(word) for word in split(caption)]
        return torch.tensor(fill(ids, length))

    return numbers


word_numbers = _numbers()

WORD_NUMBERS: Mistakes = {
    "a comma is part of a word; take it away before you split": _numbers(split=str.split),
    "the first word has number 0, which is kept for padding; count from 1": _numbers(first=0),
    "the zeros stand in front; they come behind the words": (
        _numbers(fill=lambda ids, length: [0] * (length - len(ids)) + ids)
    ),
    "the row ends with its words; fill it up with zeros to `length`": (
        _numbers(fill=lambda ids, length: ids)
    ),
    "one zero too many: `length` counts the words, too": (
        _numbers(fill=lambda ids, length: ids + [0] * length)
    ),
}

# --- boxes ----------------------------------------------------------------------------------------


def _mirror(left: int, right: int, exchanged: bool = True, padding: bool = False) -> Callable:
    """Mirror the columns `left` and `right` of a layout (m, 6)."""

    def mirrored(rows: Tensor) -> Tensor:
        flipped = rows.clone()
        sources = (right, left) if exchanged else (left, right)
        for column, source in zip((left, right), sources):
            flipped[:, column] = 1 - rows[:, source]
        return flipped if padding else flipped * (rows[:, :1] > 0)

    return mirrored


mirrored_layout = _mirror(2, 4)


def _only_left(rows: Tensor) -> Tensor:
    flipped = rows.clone()
    flipped[:, 2] = 1 - rows[:, 4]
    return flipped * (rows[:, :1] > 0)


MIRRORED_LAYOUT: Mistakes = {
    "left is now right of right: the new left edge is 1 minus the old right one": (
        _mirror(2, 4, exchanged=False)
    ),
    "top and bottom are mirrored; left is column 2 and right column 4": _mirror(3, 5),
    "the padding is mirrored, too; a row with kind 0 stays zeros": _mirror(2, 4, padding=True),
    "the padding is mirrored, too, and left is right of right": (
        _mirror(2, 4, exchanged=False, padding=True)
    ),
    "only the left edge moves, so the boxes change their width": _only_left,
}
