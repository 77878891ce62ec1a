"""What the commands of the command line do; each takes the parsed options."""

import os
import re
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minidit import data, obedience, plot, presets, scene_commands, weights
from minidit import evaluate as judging
from minidit._validate import check_choice, check_positive
from minidit.classifier import train_classifier
from minidit.condition import ConditionEncoder
from minidit.demo import run_demo
from minidit.diffusion import Diffusion
from minidit.experiments import EXPERIMENTS
from minidit.generate import generate
from minidit.runner import measures, run_experiment, table
from minidit.sample import SAMPLERS
from minidit.sample import sample as last
from minidit.steps import State, select_steps
from minidit.train import fit


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"--device {name} is unknown; choose cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: no GPU is usable here; leave the option out")
    return torch.device(name)


def _set_threads(count: int | None) -> None:
    if count is not None and count < 1:
        raise ValueError(f"--threads {count} must be at least 1")
    if count is not None:
        torch.set_num_threads(count)


def _writable(out: str, *suffixes: str) -> Path:
    """The path of a file to be written; what is wrong with it is said before the work begins."""
    path = Path(out)
    if path.suffix not in suffixes:
        raise ValueError(f"--out {out} must end in {' or '.join(suffixes)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _bar(steps: int, start: int = 0) -> tqdm:
    return tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True, smoothing=0.05)


def demo(args: Namespace) -> None:
    """Train on drawn digits, and write a picture."""
    run_demo(
        _writable(args.out, ".png"), args.seconds, args.seed, _device(args.device), _bar, print
    )


def train(args: Namespace) -> None:
    """Train a preset on a data set, or go on where it stopped."""
    _set_threads(args.threads)
    out = Path(args.out)
    train = data.load(args.data)
    model, diffusion, parts = presets.build(
        args.preset, tuple(train.images.shape[1:]), len(train.classes), args.seed
    )
    recipe = presets.recipe_of(
        parts, steps=args.steps, batch_size=args.batch_size, lr=args.lr, seed=args.seed
    )
    with Log(out / "log.csv", recipe.steps) as log:
        average = fit(
            model.to(_device(args.device)),
            diffusion,
            train.images,
            data.asked(train, model.label_embed),
            recipe=recipe,
            out=out,
            save_every=args.save_every,
            report=log,
        )
    if log.bar is None:
        print(f"all {recipe.steps} steps were taken before")
    path = out / "weights.safetensors"
    command = _command(args, "data preset steps batch-size lr seed threads out")
    facts = {"data": args.data, "recipe": asdict(recipe), "command": command}
    weights.save(average, path, diffusion, facts)
    print(f"wrote {path}; look at it: python -m minidit sample --weights {path}")


def _command(args: Namespace, options: str) -> str:
    """The command that these arguments are, for the record."""
    given = {option: getattr(args, option.replace("-", "_")) for option in options.split()}
    words = [f"--{option} {value}" for option, value in given.items() if value is not None]
    return " ".join(["python -m minidit", args.run, *words])


class Log:
    """The bar, and log.csv with a row for every loss; a resumed run goes on in the same file."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps
        self.bar: tqdm | None = None

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, step: int, loss: float) -> None:
        """Take note of a step's loss."""
        if self.bar is None:
            self._begin(step)
        self.bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self.bar.update(step - self.bar.n)
        with open(self.path, "a") as file:
            file.write(f"{step},{loss:.5f}\n")

    def _begin(self, step: int) -> None:
        """Drop the rows from `step` on: a run that was killed resumes at its last checkpoint."""
        self.bar = _bar(self.steps, step - 1)
        rows = self.path.read_text().splitlines()[1:] if self.path.exists() else []
        kept = [row for row in rows if int(row.split(",")[0]) < step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join(["step,loss", *kept]) + "\n")


def sample(args: Namespace) -> None:
    """Draw images with trained weights."""
    out = _writable(args.out, ".png", ".npz")
    model, diffusion = _denoiser(args)
    labels = _labels(args, model)
    states, count = _states(args, model, diffusion, labels)
    began = time.perf_counter()
    with _bar(count) as bar:
        for state in states:  # noqa: B007 (the last one is what counts)
            bar.update()
    columns = min(10, len(labels))
    if isinstance(model.label_embed, ConditionEncoder):
        columns = args.per_class
    elif args.labels is None:
        columns = model.config["num_classes"]
    _write_images(out, data.to_uint8(state.x.cpu()), labels, columns)
    print(f"wrote {out}: {len(labels)} images in {time.perf_counter() - began:.1f} s")


def _denoiser(args: Namespace) -> weights.Loaded:
    check_choice("--sampler", args.sampler, SAMPLERS)
    device = _device(args.device)
    model, diffusion = weights.load(args.weights)
    if diffusion is None:
        raise ValueError(f"--weights {args.weights} is no diffusion model; try dit-mnist")
    return weights.Loaded(model.to(device), diffusion)


def _states(
    args: Namespace, model: torch.nn.Module, diffusion: Diffusion, labels: Tensor
) -> tuple[Iterator[State], int]:
    """A sampler's states, and how many there will be."""
    steps = int(args.steps) if args.steps.isdecimal() else args.steps
    count = len(select_steps(diffusion.schedule, steps))
    states = generate(
        model,
        diffusion,
        labels,
        guidance=args.guidance,
        sampler=args.sampler,
        steps=steps,
        seed=args.seed,
        clip=args.clip,
    )
    return states, count


def _labels(args: Namespace, model: torch.nn.Module) -> Tensor:
    if args.per_class < 1:
        raise ValueError(f"--per-class {args.per_class} must be at least 1")
    num_classes = model.config["num_classes"]
    if isinstance(model.label_embed, ConditionEncoder):
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


def _write_images(out: Path, images: Tensor, labels: Tensor, columns: int) -> None:
    """A sheet of images (*.png), or the arrays themselves (*.npz)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.stem + ".part" + out.suffix)
    if out.suffix == ".npz":
        arrays = images.permute(0, 2, 3, 1).squeeze(-1).numpy()  # (n, h, w[, c])
        np.savez_compressed(part, images=arrays, labels=labels.numpy())
    else:
        from matplotlib.image import imsave

        imsave(part, plot.tile(images, columns), cmap="gray", vmin=0, vmax=255)
    os.replace(part, out)


def classifier(args: Namespace) -> None:
    """Train a judge of samples."""
    _set_threads(args.threads)
    path = _writable(args.out, ".safetensors")
    check_positive(steps=args.steps)
    if args.data == "scenes":
        return _scene_judge(args, path)
    train, test = data.load(args.data), data.load(args.data, "test")
    bar = _bar(args.steps)
    judge = train_classifier(
        train.images,
        train.labels,
        steps=args.steps,
        seed=args.seed,
        report=lambda step, loss: bar.update(),
    )
    bar.close()
    right = judging.accuracy(judge, data.to_unit(test.images), test.labels)
    facts = {
        "data": args.data,
        "steps": args.steps,
        "seed": args.seed,
        "test accuracy": round(right, 4),
        "command": _command(args, "data steps seed threads out"),
    }
    weights.save(judge, path, info=facts)
    print(f"wrote {path}; it recognises {right:.2%} of the test images")


def _scene_judge(args: Namespace, path: Path) -> None:
    bar = _bar(args.steps)
    judge = obedience.make_judge(args.steps, seed=args.seed, report=lambda step, loss: bar.update())
    bar.close()
    test = data.load("scenes", "test")
    right = obedience.layout_obedience(judge, data.to_unit(test.images), test.objects)
    facts = {
        "data": args.data,
        "steps": args.steps,
        "seed": args.seed,
        "test": {name: round(value, 4) for name, value in right.items()},
        "command": _command(args, "data steps seed threads out"),
    }
    weights.save(judge, path, info=facts)
    print(f"wrote {path}; it finds all objects of {right['scenes']:.2%} of the test images")


def _evaluate_scenes(args: Namespace, model: torch.nn.Module, diffusion: Diffusion) -> None:
    """Obedience to test scenes of seen and of held-out pairs, with and without guidance."""
    judge, encoder = obedience.scene_judge(), model.label_embed
    scales = list(dict.fromkeys([1.0, args.guidance]))
    settings = {key: getattr(args, key) for key in ("sampler", "steps", "seed", "clip")}
    for part in scene_commands.parts(encoder, args.per_class):
        images = {"real": part.images}
        for args.guidance in scales:
            drawn = last(_states(args, model, diffusion, part.y)[0])
            images[f"guidance {args.guidance:g}"] = drawn.cpu()
        found = {k: scene_commands.judged(judge, encoder, x, part) for k, x in images.items()}
        for name, values in found.items():
            figures = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
            print(f"{part.name:>14}, {name + ':':<12} {figures}")
        if args.store:
            entry = {"scenes": part.name, "samples": args.per_class, **settings, **found}
            weights.add_info(args.weights, "evaluations", entry)


def evaluate(args: Namespace) -> None:
    """Judge samples of some weights, beside as many real images."""
    model, diffusion = _denoiser(args)
    if isinstance(model.label_embed, ConditionEncoder):
        return _evaluate_scenes(args, model, diffusion)
    judge = judging.classifier(args.data)
    if args.per_class * model.config["num_classes"] <= 64:
        raise ValueError(f"--per-class {args.per_class} is too few to judge; try 100")
    labels = torch.arange(model.config["num_classes"]).repeat(args.per_class)
    began = time.perf_counter()
    images = last(_states(args, model, diffusion, labels)[0]).cpu()
    spent = time.perf_counter() - began
    real = data.load(args.data, "test")
    real_images = data.to_unit(real.images[: len(images)])
    found = {
        "samples": len(images),
        "guidance": args.guidance,
        "sampler": args.sampler,
        "steps": args.steps,
        "seed": args.seed,
        "clip": args.clip,
        "recognised": round(judging.accuracy(judge, images, labels), 4),
        "frechet": round(judging.frechet_to_real(judge, images), 3),
        "real recognised": round(
            judging.accuracy(judge, real_images, real.labels[: len(images)]), 4
        ),
        "real frechet": round(judging.frechet_to_real(judge, real_images), 3),
    }
    for name, value in found.items():
        print(f"{name:>16}: {value}")
    print(f"{'seconds':>16}: {spent:.1f}")
    if args.store:
        weights.add_info(args.weights, "evaluations", found)


def experiment(args: Namespace) -> None:
    """List the experiments, or run one."""
    if args.name is None:
        for name, entry in EXPERIMENTS.items():
            print(f"{name}: {entry.question} {len(entry.variants)} variants")
        return
    check_choice("experiment", args.name, EXPERIMENTS)
    _set_threads(args.threads)
    results = run_experiment(
        args.name,
        EXPERIMENTS[args.name],
        Path(args.out),
        seeds=args.seeds,
        scale=args.scale,
        report=print,
    )
    path = Path(args.out) / f"{args.name}.md"
    page = f"# {results['question']}\n"
    for scale in dict.fromkeys(run["scale"] for run in results["runs"]):
        page += f"\nScale: {scale}\n\n{table(results, scale)}\n"
    path.write_text(page)
    panels = dict(list(measures(results, args.scale).items())[:3])  # more would be too narrow
    plot.dots(panels, title=results["question"], out=path.with_suffix(".png"))
    print(page)
