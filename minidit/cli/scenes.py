"""What the command line does with scenes: prompts and boxes are read, and obedience is judged."""

import math
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minidit import data, weights
from minidit._validate import check_choice
from minidit.cli.terminal import bar, command_of
from minidit.conditions.encoders import ConditionEncoder, LayoutEncoder, TextEncoder
from minidit.evaluate import prompt_alignment as obedience

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
    y = data.condition_of(test, encoder)
    if not 1 <= each <= int(test.held_out.sum()):
        raise ValueError(f"{each} scenes of each half can't be had: 1 … {int(test.held_out.sum())}")
    for name, rows in (("seen pairs", ~test.held_out), ("held-out pairs", test.held_out)):
        rows = rows.nonzero().flatten()[:each]
        told = [test.captions[k] for k in rows.tolist()]
        yield Part(name, data.to_unit(test.images[rows]), test.objects[rows], told, y[rows])


def judged(judge: nn.Module, encoder: ConditionEncoder, images: Tensor, part: Part) -> dict:
    """The obedience of images (n, 3, h, w) to what a part asks for, as the encoder is told it."""
    if isinstance(encoder, TextEncoder):
        found = obedience.caption_alignment(judge, images, part.captions)
    else:
        found = obedience.layout_alignment(judge, images, part.objects)
    return {name: round(value, 4) for name, value in found.items() if not math.isnan(value)}


def train_detector(args: Namespace, path: Path) -> None:
    """Train the judge of scenes, and store it with what it finds in the test images."""
    progress = bar(args.steps)
    judge = obedience.make_detector(
        args.steps, seed=args.seed, report=lambda step, loss: progress.update()
    )
    progress.close()
    test = data.load("scenes", "test")
    right = obedience.layout_alignment(judge, data.to_unit(test.images), test.objects)
    facts = {
        "data": args.data,
        "steps": args.steps,
        "seed": args.seed,
        "test": {name: round(value, 4) for name, value in right.items()},
        "command": command_of(args, "data steps seed threads out"),
    }
    weights.save(judge, path, info=facts)
    print(f"wrote {path}; it finds all objects of {right['scenes']:.2%} of the test images")


def evaluate(
    args: Namespace, encoder: ConditionEncoder, draw: Callable[[Tensor, float], Tensor]
) -> None:
    """Obedience to test scenes of seen and of held-out pairs, with and without guidance.

    `draw(y, guidance)` gives the images.
    """
    judge = obedience.scene_detector()
    settings = {key: getattr(args, key) for key in ("sampler", "steps", "seed", "clip")}
    for part in parts(encoder, args.per_class):
        images = {"real": part.images}
        for scale in dict.fromkeys([1.0, args.guidance]):
            images[f"guidance {scale:g}"] = draw(part.y, scale)
        found = {k: judged(judge, encoder, x, part) for k, x in images.items()}
        for name, values in found.items():
            figures = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
            print(f"{part.name:>14}, {name + ':':<12} {figures}")
        if args.store:
            entry = {"scenes": part.name, "samples": args.per_class, **settings, **found}
            weights.add_info(args.weights, "evaluations", entry)
