"""What the command line does with scenes: prompts and boxes are read, and obedience is judged."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minidit import data, obedience
from minidit._validate import check_choice
from minidit.condition import ConditionEncoder, LayoutEncoder, TextEncoder

EXAMPLES = {
    "prompt": '--prompt "a red three left of a small blue seven"',
    "boxes": '--boxes "red three 0.1 0.2 0.4 0.7; blue seven 0.6 0.3 0.9 0.6"',
}


def read_request(encoder: nn.Module, prompt: list[str] | None, boxes: list[str] | None) -> Tensor:
    """What --prompt or --boxes ask of a network with this encoder: y of as many images."""
    needed = "prompt" if isinstance(encoder, TextEncoder) else "boxes"
    given = {"prompt": prompt, "boxes": boxes}
    if given[needed] is None:
        raise ValueError(f"these weights are told what to draw: {EXAMPLES[needed]}")
    if None not in given.values():
        raise ValueError(f"--prompt and --boxes are both given; these weights take --{needed}")
    if isinstance(encoder, TextEncoder):
        return encoder.tokenizer.encode(prompt)
    return torch.stack([_layout(encoder, text) for text in boxes])


def _layout(encoder: LayoutEncoder, text: str) -> Tensor:
    """ "red three 0.1 0.2 0.4 0.7; …" → (length, 6)."""
    rows = [_box(encoder, part) for part in text.split(";") if part.strip()]
    if len(rows) > encoder.length:
        raise ValueError(f"--boxes has {len(rows)} boxes; these weights take {encoder.length}")
    layout = torch.zeros(encoder.length, 6)
    layout[: len(rows)] = torch.tensor(rows).reshape(-1, 6)
    encoder.check(layout[None])
    return layout


def _box(encoder: LayoutEncoder, text: str) -> list[float]:
    try:
        colour, kind, *numbers = text.split()
        x0, y0, x1, y1 = map(float, numbers)
    except ValueError:
        raise ValueError(
            f"--boxes: {text.strip()!r} isn't a colour, a kind, and left, top, right, bottom in "
            f"0 … 1; write e.g. {EXAMPLES['boxes']}"
        ) from None
    check_choice("--boxes: colour", colour, encoder.colours)
    check_choice("--boxes: kind", kind, encoder.kinds)
    return [1 + encoder.kinds.index(kind), 1 + encoder.colours.index(colour), x0, y0, x1, y1]


class Part(NamedTuple):
    """Test scenes of one sort: those that a network could know, or those with held-out pairs."""

    name: str
    images: Tensor
    objects: Tensor
    captions: list[str]
    y: Tensor


def parts(encoder: ConditionEncoder, each: int) -> Iterator[Part]:
    """The first test scenes with none but seen pairs, and with a held-out pair, `each` of both."""
    test = data.load("scenes", "test")
    y = data.asked(test, encoder)
    if not 1 <= each <= int(test.held_out.sum()):
        raise ValueError(f"{each} scenes of each half can't be had: 1 … {int(test.held_out.sum())}")
    for name, rows in (("seen pairs", ~test.held_out), ("held-out pairs", test.held_out)):
        rows = rows.nonzero().flatten()[:each]
        told = [test.captions[k] for k in rows.tolist()]
        yield Part(name, data.to_unit(test.images[rows]), test.objects[rows], told, y[rows])


def judged(judge: nn.Module, encoder: ConditionEncoder, images: Tensor, part: Part) -> dict:
    """The obedience of images to what a part asks for, as the encoder is told it."""
    if isinstance(encoder, TextEncoder):
        found = obedience.caption_obedience(judge, images, part.captions)
    else:
        found = obedience.layout_obedience(judge, images, part.objects)
    return {name: round(value, 4) for name, value in found.items() if not math.isnan(value)}
