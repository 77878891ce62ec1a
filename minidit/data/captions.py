"""Sentences about scenes: describing objects in words, and reading from words what is to be drawn.

The grammar is small: objects ("a small red three") with places ("at the top left"), and one
relation between the first two ("to the left of"). What it says is true of its scene, but sizes,
places and relations are left out at random.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from minidit.data.scenes import COLOURS, KINDS, THRESHOLD

LENGTH = 24  # words of a caption, at most

_PLACES = "at the top left,at the top,at the top right,on the left,in the middle,on the right,"
_PLACES += "at the bottom left,at the bottom,at the bottom right"
# By column (left, middle, right) and row (top, middle, bottom) of an object's middle.
PLACES = {(k % 3, k // 3): words for k, words in enumerate(_PLACES.split(","))}
BETWEEN = (0.4, 0.6)  # where the middle column and row begin and end
RELATIONS = {  # the first wording and a paraphrase
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
SIZES = ("small", "large")
TEMPLATES = {  # by the number of objects; {a}: the first, {at_a}: its place, {rel}: a relation
    1: ("{a}", "{a} {at_a}", "{a} {at_a}", "there is {a} {at_a}"),
    2: ("{a} and {b}", "{a} {rel} {b}", "{a} {rel} {b}", "there is {a} {rel} {b}")
    + ("{a} {at_a} and {b} {at_b}",) * 2,
    3: ("{a} , {b} and {c}", "{a} {rel} {b} and {c}", "{a} {rel} {b} and {c} {at_c}"),
}


_WHERE = {wording: where for where, pair in RELATIONS.items() for wording in pair}
_ALL = " ".join(["a there is and", *SIZES, *COLOURS, *KINDS, *PLACES.values(), *_WHERE])
WORDS = tuple(dict.fromkeys(_ALL.split()))  # all that captions are made of


def describe(objects: Tensor, seed: int) -> tuple[str, ...]:
    """A caption of each scene with objects (n, 3, 6) of `scenes.render`, varied by the seed."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.rand(objects.shape[:2], generator=rng) + 2 * (objects[..., 0] == 0)
    objects = objects.gather(1, order.argsort(1)[..., None].expand_as(objects))
    draws = torch.rand(len(objects), 5, generator=rng).tolist()
    scenes = [[row for row in scene if row[0] > 0] for scene in objects.tolist()]
    return tuple(_sentence(scene, draw) for scene, draw in zip(scenes, draws))


def _sentence(scene: list[list[float]], draw: list[float]) -> str:
    templates, parts = TEMPLATES[len(scene)], {}
    for name, row, u in zip("abc", scene, draw[2:]):
        kind, colour = KINDS[int(row[0]) - 1], list(COLOURS)[int(row[1]) - 1]
        size = [SIZES[is_large(row[2:])]] if u < 0.5 else []
        parts[name] = " ".join(["a", *size, colour, kind])
        parts[f"at_{name}"] = PLACES[place(row[2:])]
    if len(scene) > 1:
        parts["rel"] = RELATIONS[relation(scene[0][2:], scene[1][2:])][draw[1] < 0.5]
    sentence = templates[int(draw[0] * len(templates))].format_map(parts)
    return sentence.replace(" ,", ",")


def is_large(box: list[float]) -> bool:
    """Whether a box x0, y0, x1, y1 in 0..1 is that of a large object."""
    return max(box[2] - box[0], box[3] - box[1]) > THRESHOLD


def place(box: list[float]) -> tuple[int, int]:
    """The column and row, 0, 1 or 2, of a box's middle: a key of `PLACES`."""
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return tuple(sum(m > edge for edge in BETWEEN) for m in middle)


def relation(a: list[float], b: list[float]) -> str:
    """Where box a lies from b, by the larger of the distances across and along."""
    dx, dy = (a[k] + a[k + 2] - b[k] - b[k + 2] for k in (0, 1))
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


class Described(NamedTuple):
    """An object that a caption asks for; `size` and `place` are None where it doesn't say."""

    kind: str
    colour: str
    size: str | None
    place: tuple[int, int] | None


class Request(NamedTuple):
    """What a caption asks for: objects, and relations (i, where, k): object i lies where from k."""

    objects: tuple[Described, ...]
    relations: tuple[tuple[int, str, int], ...]


def _any(words) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_AT = {words: key for key, words in PLACES.items()}
_OBJECT = rf"a (?:({_any(SIZES)}) )?({_any(COLOURS)}) ({_any(KINDS)})"
_PHRASE = re.compile(rf"\b(?:{_OBJECT}|({_any(_AT)})|({_any(_WHERE)}))\b")


def read(caption: str) -> Request:
    """What a caption of this grammar asks for; raises ValueError where it asks for no object."""
    objects: list[Described] = []
    relations, pending = [], None
    for size, colour, kind, at, where in _PHRASE.findall(caption.lower()):
        if kind:
            if pending is not None:
                relations.append((len(objects) - 1, pending, len(objects)))
            objects.append(Described(kind, colour, size or None, None))
            pending = None
        elif at and objects:
            objects[-1] = objects[-1]._replace(place=_AT[at])
        elif where and objects:
            pending = _WHERE[where]
    if not objects:
        told = f"caption={caption!r} names no object"
        raise ValueError(f"{told}; write e.g. 'a red three left of a small blue seven'")
    return Request(tuple(objects), tuple(relations))
