"""What the command line does to draw images: weights, labels and a sampler become pixels."""

import time
from argparse import Namespace
from collections.abc import Iterator

import torch
from torch import Tensor

from minidit import data, weights
from minidit._validate import check_choice
from minidit.cli import scenes as scene_commands
from minidit.cli.terminal import bar, device_of, writable, write_frames, write_images
from minidit.conditions.encoders import ConditionEncoder
from minidit.diffusion import Diffusion
from minidit.latents import latent
from minidit.sampling import SAMPLERS, State, select_steps
from minidit.training.generate import generate


def sample(args: Namespace) -> None:
    """Draw images with trained weights."""
    out = writable(args.out, ".png", ".npz")
    film = args.film and writable(args.film, ".png", option="--film")
    strip = args.strip and writable(args.strip, ".png", option="--strip")
    model, diffusion = denoiser(args)
    stage = first_stage(args)
    labels = _labels(args, model)
    steps, count = states(args, model, diffusion, labels)
    began = time.perf_counter()
    frames = []
    with bar(count) as progress:
        for state in steps:
            progress.update()
            if film or strip:
                frames.append(state.x.cpu())
    columns = min(10, len(labels))
    if isinstance(model.label_embed, ConditionEncoder):
        columns = args.per_class
    elif args.labels is None:
        columns = model.config["num_classes"]
    images = pixels(stage, state.x.cpu())
    write_images(out, data.to_uint8(images), labels, columns)
    print(f"wrote {out}: {len(labels)} images in {time.perf_counter() - began:.1f} s")
    if film or strip:
        write_frames([data.to_uint8(pixels(stage, x)) for x in frames], columns, film, strip)


def denoiser(args: Namespace) -> weights.Loaded:
    """The network that --weights names, on --device, and its process."""
    check_choice("--sampler", args.sampler, SAMPLERS)
    device = device_of(args.device)
    model, diffusion = weights.load(args.weights)
    if diffusion is None:
        raise ValueError(f"--weights {args.weights} is no diffusion model; try dit-mnist")
    return weights.Loaded(model.to(device), diffusion)


def first_stage(args: Namespace) -> latent.FirstStage | None:
    """The autoencoder whose latents the weights draw, if they do."""
    stage = latent.first_stage_of(args.weights, args.autoencoder)
    if stage is not None and args.clip:
        raise ValueError("--clip is for pixels; these weights draw latents, so leave it out")
    return stage


def pixels(stage: latent.FirstStage | None, drawn: Tensor) -> Tensor:
    """What was drawn, (n, c, h, w), decoded if it is latents."""
    return drawn if stage is None else latent.decode(stage.model, drawn)


def states(
    args: Namespace,
    model: torch.nn.Module,
    diffusion: Diffusion,
    labels: Tensor,
    guidance: float | None = None,
    seed: int | None = None,
) -> tuple[Iterator[State], int]:
    """A sampler's states, and their number; `guidance`, `seed`: in place of the options."""
    steps = int(args.steps) if args.steps.isdecimal() else args.steps
    count = len(select_steps(diffusion.schedule, steps))
    drawn = generate(
        model,
        diffusion,
        labels,
        guidance=args.guidance if guidance is None else guidance,
        sampler=args.sampler,
        steps=steps,
        seed=args.seed if seed is None else seed,
        clip=args.clip,
    )
    return drawn, count


def _labels(args: Namespace, model: torch.nn.Module) -> Tensor:
    if args.per_class < 1:
        raise ValueError(f"--per-class {args.per_class} must be at least 1")
    num_classes = model.config["num_classes"]
    if isinstance(model.label_embed, ConditionEncoder):
        if args.labels is not None:
            raise ValueError("--labels is for weights with classes; use --prompt or --boxes")
        y = scene_commands.read_request(model.label_embed, args.prompt, args.boxes)
        return y.repeat_interleave(args.per_class, dim=0)
    if args.prompt or args.boxes:
        raise ValueError("--prompt and --boxes are for weights of scenes; these take --labels")
    if args.labels is None:
        return torch.arange(num_classes).repeat(args.per_class)
    try:
        labels = [int(part) for part in args.labels.split(",")]
    except ValueError:
        raise ValueError(f"--labels {args.labels} must be numbers and commas: 3,1,4") from None
    if not all(0 <= label < num_classes for label in labels):
        raise ValueError(f"--labels {args.labels}: these weights know 0 … {num_classes - 1}")
    return torch.tensor(labels)
