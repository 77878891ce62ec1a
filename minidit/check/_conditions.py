"""Checks of a student's own sentences and layouts, offered by `check` with all the others."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidit.check import _mistakes_conditions as mistakes
from minidit.check._verdict import Verdict, judge


def word_numbers(fn: Callable[[str, Sequence[str], int], Tensor]) -> Verdict:
    """Check `fn(caption, words, length)` → (length,): numbers from 1, zeros behind; commas go."""
    words = ["a", "red", "three", "seven", "left", "of"]
    cases = {
        "four words": ("seven left of three", words, 6),
        "a comma": ("a red three, a red seven", words, 8),
        "no words": ("", words, 3),
        "no room for zeros": ("a red three", words, 3),
    }
    return judge("word_numbers", fn, mistakes.word_numbers, cases, mistakes.WORD_NUMBERS)


def mirrored_layout(fn: Callable[[Tensor], Tensor]) -> Verdict:
    """Check `fn(rows)`: (m, 6), kind, colour, left, top, right, bottom → the same mirrored.

    Edges are shares of the image's sides; a row of kind 0 is padding, all zeros.
    """
    box, other = [4.0, 1, 0.1, 0.2, 0.4, 0.7], [12.0, 3, 0.5, 0.1, 0.9, 0.5]
    cases = {
        "two boxes and a row of padding": (torch.tensor([box, other, [0.0] * 6]),),
        "one box": (torch.tensor([other]),),
        "nothing but padding": (torch.zeros(2, 6),),
    }
    right, wrong = mistakes.mirrored_layout, mistakes.MIRRORED_LAYOUT
    return judge("mirrored_layout", fn, right, cases, wrong, tolerance=1e-5)
