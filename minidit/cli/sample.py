"""What the command line does to draw images: weights, labels and a sampler become pixels."""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidit import data, plot
from minidit._validate import check_choice
from minidit.cli import images
from minidit.cli.terminal import alone, bar, command, writable, write_images
from minidit.conditions.encoders import ConditionEncoder, LayoutEncoder, TextEncoder
from minidit.conditions.images import ImageEncoder
from minidit.latents import latent
from minidit.sampling import SAMPLERS, State, select_steps
from minidit.sampling import sample as last
from minidit.training.generate import generate
from minidit.weights import official
from minidit.weights.files import replacing

HOW = ("guidance", "sampler", "steps", "seed", "clip")  # options of how to sample, and its record
AT_ONCE = 1000  # samples that are drawn to be measured
TEXT = '"a red three left of a small blue seven"'
LAYOUT = '"red three 0.1 0.2 0.4 0.7; blue seven 0.6 0.3 0.9 0.6"'


def add(subparsers) -> None:
    """The options of `sample`."""
    option = command(subparsers, sample, "draw images with trained weights", "device")
    many = dict(nargs="+", action="extend")
    add_sampling(option, None, "images of each class or prompt (10)")
    option("--labels", help="these labels instead, e.g. 3,1,4")
    option("--prompt", help=f"texts, e.g. {TEXT}", **many)
    option("--boxes", help=f"layouts, e.g. {LAYOUT}", **many)
    option("--image", help="FILE: a picture to be completed, or to be enlarged 4 times")
    option("--mask", help="FILE: a picture, white where --image is to be drawn anew")
    option("--out", default="samples.png", help="FILE.png or FILE.npz (%(default)s)")
    option("--film", help="FILE.png: all steps as an animated PNG, too")
    option("--strip", help="FILE.png: a row for each image, time to the right, too")


def add_sampling(option: Callable, count: int | None, each: str) -> None:
    """The options of what to sample and how, which `evaluate` has, too."""
    names = "ddim, ddpm, dpm_solver or euler_maruyama (%(default)s)"
    option("--weights", default="dit-mnist", help="a name, a file, a run's folder (%(default)s)")
    option("--per-class", type=int, default=count, help=each)
    option("--guidance", type=float, default=2, help="1 is none (%(default)g)")
    option("--sampler", default="ddim", help=names)
    option("--steps", default="50", help='how many, or a rule like "quad25" (%(default)s)')
    option("--seed", type=int, default=0, help="of the noise (%(default)s)")
    kept = "keep predicted images in range (noise-predicting weights)"
    option("--clip", action="store_true", help=kept)
    option("--autoencoder", help="of weights that draw latents, if it was moved: a file")


class Painter:
    """The weights of --weights on --device, and whatever else turns conditions into images."""

    def __init__(self, args: Namespace) -> None:
        check_choice("--sampler", args.sampler, SAMPLERS)
        self.model, self.diffusion = official.open_weights(args.weights)
        if self.diffusion is None:
            raise ValueError(f"--weights {args.weights} is no diffusion model; try dit-mnist")
        pixels = official.is_official(args.weights) and self.model.in_channels != 4
        self.stage = None if pixels else latent.first_stage_of(args.weights, args.autoencoder)
        mine, its = self.model.in_channels, self.stage and self.stage.model.latent_channels
        if its not in (None, mine):
            told = f"--autoencoder {self.stage.name} has {its} channels"
            raise ValueError(f"{told}, and --weights {args.weights} draw {mine}; choose another")
        if official.is_official(args.weights):
            self._settle(args.device)
        self.model.to(args.device)
        if self.stage is not None and args.clip:
            raise ValueError("--clip is for pixels; these weights draw latents, so leave it out")
        self.channels = self.stage.model.in_channels if self.stage else mine  # of what is drawn
        self.how = {key: getattr(args, key) for key in HOW}

    def _settle(self, device: torch.device) -> None:
        """Official networks are large: half precision where it is fast, and their size is told."""
        self.model.to(torch.bfloat16 if device.type == "cuda" else torch.float32)
        if self.stage is not None:
            self.stage.model.float().to(device)
        count = sum(p.numel() for p in self.model.parameters())
        size = sum(p.numel() * p.element_size() for p in self.model.parameters())
        print(f"{count / 1e6:,.0f} million weights, {size / 1e9:.1f} GB of memory", end="")
        side = self.stage and self.stage.model.factor * max(self.model.size)
        print(f"; images of {side}×{side} pixels" if side else "")

    def states(self, y: Tensor, how: dict | None = None) -> Iterator[State]:
        """A sampler's states for conditions y (n, …); `how` in place of the options."""
        return generate(self.model, self.diffusion, y, **(how or self.how))

    def pixels(self, x: Tensor) -> Tensor:
        """What was drawn, (n, c, h, w), decoded if it is latents; on the CPU."""
        if not x.isfinite().all():
            told = f"the samples are not finite with --guidance {self.how['guidance']:g}"
            raise FloatingPointError(f"{told}; try one nearer to 1, or other weights")
        return x.cpu() if self.stage is None else latent.decode(self.stage.model, x.cpu())

    def draw(self, y: Tensor, guidance: float) -> Tensor:
        """Images (n, c, h, w) of conditions y (n, …), some at once."""
        drawn, how = [], self.how | {"guidance": guidance}
        for part in y.split(AT_ONCE):
            drawn.append(self.pixels(last(self.states(part, how))))
            how["seed"] += 1
        return torch.cat(drawn)


def sample(args: Namespace) -> None:
    """Draw images with trained weights."""
    out = writable(args.out, ".png", ".npz")
    film = args.film and writable(args.film, ".png", option="--film")
    strip = args.strip and writable(args.strip, ".png", option="--strip")
    painter = Painter(args)
    if (film or strip or out.suffix == ".png") and painter.channels not in (1, 3):
        told = f"--weights {args.weights} draw {painter.channels} channels, pictures have 1 or 3"
        raise ValueError(f"{told}; write --out FILE.npz, without --film and --strip")
    y, columns = _conditions(args, painter.model)
    began, frames = time.perf_counter(), []
    with bar(len(select_steps(painter.diffusion.schedule, painter.how["steps"]))) as progress:
        for state in painter.states(y):
            progress.update()
            if film or strip:
                frames.append(state.x.cpu())
    write_images(out, data.to_uint8(painter.pixels(state.x)), columns, y)
    print(f"wrote {out}: {len(y)} images in {time.perf_counter() - began:.1f} s")
    frames = [data.to_uint8(painter.pixels(x)) for x in frames]
    if film:
        with replacing(film) as file:
            file.write(plot.film([plot.tile(frame, columns) for frame in frames], scale=2))
        print(f"wrote {film}: {len(frames)} steps, animated")
    if strip:
        rows, picked = plot.evenly(frames, 9)
        write_images(strip, rows.flatten(0, 1), len(picked))
        print(f"wrote {strip}: {len(picked)} of the steps")


def _conditions(args: Namespace, model: torch.nn.Module) -> tuple[Tensor, int]:
    """The labels (n,), texts or boxes that are to be drawn, and in how many columns."""
    each = 10 if args.per_class is None else args.per_class
    if each < 1:
        raise ValueError(f"--per-class {each} must be at least 1")
    num_classes = model.config["num_classes"]
    if isinstance(model.label_embed, ImageEncoder):
        alone(args, f"--weights {args.weights}", "labels", "prompt", "boxes")
        y = images.read_request(model.label_embed, args.image, args.mask)
        return y.repeat_interleave(each, dim=0), min(10, each)
    alone(args, f"--weights {args.weights}", "image", "mask")
    if isinstance(model.label_embed, ConditionEncoder):
        if args.labels is not None:
            raise ValueError("--labels is for weights with classes; use --prompt or --boxes")
        y = read_request(model.label_embed, args.prompt, args.boxes)
        return y.repeat_interleave(each, dim=0), each
    if args.prompt or args.boxes:
        raise ValueError("--prompt and --boxes are for weights of scenes; these take --labels")
    if num_classes == 0:
        raise ValueError(f"--weights {args.weights} have no labels to draw; minidit.ddim samples")
    if args.labels is None:
        return torch.arange(num_classes).repeat(each), num_classes
    alone(args, "--labels", "per_class")
    names = data.imagenet_classes() if num_classes == 1000 else ()
    parts = [part.strip() for part in args.labels.split(",")]
    try:
        labels = [names.index(part) if part in names else int(part) for part in parts]
    except ValueError:
        raise ValueError(f"--labels {args.labels} must be numbers and commas: 3,1,4") from None
    if not all(0 <= label < num_classes for label in labels):
        raise ValueError(f"--labels {args.labels}: these weights know 0 … {num_classes - 1}")
    if names:
        print("; ".join(f"{label} {names[label]}" for label in labels))
    return torch.tensor(labels), min(10, len(labels))


def read_request(
    encoder: ConditionEncoder, prompt: list[str] | None, boxes: list[str] | None
) -> Tensor:
    """What --prompt or --boxes ask of a network with this encoder: y of as many images."""
    texts = isinstance(encoder, TextEncoder)
    needed, given, example = ("prompt", prompt, TEXT) if texts else ("boxes", boxes, LAYOUT)
    if given is None:
        raise ValueError(f"these weights are told what to draw: --{needed} {example}")
    if None not in (prompt, boxes):
        raise ValueError(f"--prompt and --boxes are both given; these weights take --{needed}")
    if texts:
        return encoder.encode(prompt)
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
        told = f"--boxes: {text.strip()!r} isn't a colour, a kind, and left, top"
        raise ValueError(f"{told}, right, bottom in 0 … 1; write e.g. --boxes {LAYOUT}") from None
    check_choice("--boxes: colour", colour, encoder.colours)
    check_choice("--boxes: kind", kind, encoder.kinds)
    return [1 + encoder.kinds.index(kind), 1 + encoder.colours.index(colour), x0, y0, x1, y1]
