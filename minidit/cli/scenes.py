"""What the command line does with scenes: prompts and boxes are read, and alignment is measured."""

import math
from argparse import Namespace
from collections.abc import Callable

import torch
from torch import Tensor, nn

from minidit import data, weights
from minidit._validate import check_choice
from minidit.conditions.encoders import ConditionEncoder, LayoutEncoder, TextEncoder
from minidit.evaluate import prompt_alignment as alignment

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


def evaluate(
    args: Namespace, encoder: ConditionEncoder, draw: Callable[[Tensor, float], Tensor]
) -> None:
    """How well test scenes are drawn, with and without guidance; `draw(y, guidance)` gives images.

    Scenes with none but pairs of kind and colour that training showed, and with held-out ones.
    """
    detector, test = alignment.scene_detector(), data.load("scenes", "test")
    each, most, y = args.per_class, int(test.held_out.sum()), data.condition_of(test, encoder)
    if not 1 <= each <= most:
        raise ValueError(f"{each} scenes of each half can't be had: 1 … {most}")
    settings = {key: getattr(args, key) for key in ("sampler", "steps", "seed", "clip")}
    for name, chosen in (("seen pairs", ~test.held_out), ("held-out pairs", test.held_out)):
        rows = chosen.nonzero().flatten()[:each]
        images = {"real": data.to_unit(test.images[rows])}
        for scale in dict.fromkeys([1.0, args.guidance]):
            images[f"guidance {scale:g}"] = draw(y[rows], scale)
        found = {}
        for kind, x in images.items():
            if isinstance(encoder, TextEncoder):  # images are held to what the encoder was told
                told = [test.captions[row] for row in rows.tolist()]
                values = alignment.caption_alignment(detector, x, told)
            else:
                values = alignment.layout_alignment(detector, x, test.objects[rows])
            found[kind] = {k: round(v, 4) for k, v in values.items() if not math.isnan(v)}
            figures = "  ".join(f"{key} {value:.3f}" for key, value in found[kind].items())
            print(f"{name:>14}, {kind + ':':<12} {figures}")
        if args.store:
            entry = {"scenes": name, "samples": each, **settings, **found}
            weights.add_info(args.weights, "evaluations", entry)
