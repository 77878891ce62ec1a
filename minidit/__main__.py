"""The command line: python -m minidit demo | train | sample | classifier | experiment."""

import argparse
import sys
import time
from dataclasses import asdict
from pathlib import Path

EXAMPLES = """examples:
  python -m minidit demo
  python -m minidit train --data mnist --out runs/mnist --preset mnist
  python -m minidit sample --weights dit-mnist --per-class 10 --guidance 2 --out digits.png
  python -m minidit sample --weights runs/mnist/weights.safetensors --labels 3,1,4 --out pi.npz
"""


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        "python -m minidit",
        description="The diffusion transformer, built step by step.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_demo, _add_train, _add_sample, _add_classifier, _add_experiment):
        add(commands)
    return top


def _add_demo(commands) -> None:
    p = commands.add_parser("demo", help="train on drawn digits for two minutes, look at samples")
    p.add_argument("--out", default="demo.png", help="the picture (default: %(default)s)")
    p.add_argument("--seconds", type=float, default=100, help="at most so long (%(default)g)")
    p.add_argument("--seed", type=int, default=0, help="of weights and noise (%(default)s)")
    p.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    p.set_defaults(run=_demo)


def _add_train(commands) -> None:
    p = commands.add_parser(
        "train",
        help="train a DiT; the same command again goes on where it stopped",
        description="Train a DiT. The folder --out receives checkpoint.pt, log.csv and, at the "
        "end, weights.safetensors. Stop it when you like: the same command goes on, to the bit.",
    )
    p.add_argument("--data", default="mnist", help="digits, mnist or cifar10 (%(default)s)")
    p.add_argument("--out", required=True, help="folder of the run")
    p.add_argument("--preset", default="mnist", help="demo, mnist or paper (%(default)s)")
    p.add_argument("--steps", type=int, help="instead of the preset's")
    p.add_argument("--batch-size", type=int, help="instead of the preset's")
    p.add_argument("--lr", type=float, help="instead of the preset's")
    p.add_argument("--seed", type=int, default=0, help="of weights and batches (%(default)s)")
    p.add_argument("--save-every", type=int, default=500, help="steps (%(default)s)")
    p.add_argument("--threads", type=int, help="processor threads (default: all)")
    p.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    p.set_defaults(run=_train)


def _add_sample(commands) -> None:
    p = commands.add_parser("sample", help="draw images with trained weights")
    p.add_argument("--weights", default="dit-mnist", help="a shipped name or a file (%(default)s)")
    p.add_argument("--per-class", type=int, default=10, help="images of each class (%(default)s)")
    p.add_argument("--labels", help="these labels instead, e.g. 3,1,4")
    p.add_argument("--guidance", type=float, default=2, help="1 is none (%(default)g)")
    p.add_argument("--sampler", default="ddim", help="ddim or ddpm (%(default)s)")
    p.add_argument("--steps", default="50", help='how many, or a rule like "ddim25" (%(default)s)')
    p.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    p.add_argument("--out", default="samples.png", help="FILE.png or FILE.npz (%(default)s)")
    p.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    p.set_defaults(run=_sample)


def _add_classifier(commands) -> None:
    p = commands.add_parser("classifier", help="train the classifier that judges samples")
    p.add_argument("--data", default="mnist", help="digits, mnist or cifar10 (%(default)s)")
    p.add_argument("--out", required=True, help="FILE.safetensors")
    p.add_argument("--steps", type=int, default=3000, help="of 256 images (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of weights and batches (%(default)s)")
    p.add_argument("--threads", type=int, help="processor threads (default: all)")
    p.set_defaults(run=_classifier)


def _add_experiment(commands) -> None:
    p = commands.add_parser(
        "experiment",
        help="run a named experiment, or go on with it",
        description="Run what is missing of an experiment, store it, and print its table. All "
        "variants get the same processor time; run nothing beside it.",
    )
    p.add_argument("name", nargs="?", help="which one; leave it out for a list")
    p.add_argument("--seeds", type=int, default=1, help="runs of each variant (%(default)s)")
    p.add_argument("--seconds", type=float, help="of training a run, instead of the experiment's")
    p.add_argument("--out", default="data/results", help="folder of NAME.json (%(default)s)")
    p.add_argument("--threads", type=int, default=1, help="processor threads (%(default)s)")
    p.set_defaults(run=_experiment)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors that a user can mend are one sentence, and exit code 2."""
    args = parser().parse_args(arguments)
    try:
        args.run(args)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"minidit {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


def _device(name: str | None):
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device {name} is unknown; choose cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: no GPU is usable here; leave the option out")
    return torch.device(name)


def _bar(steps: int, start: int = 0):
    from tqdm import tqdm

    return tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True, smoothing=0.05)


def _demo(args) -> None:
    from minidit.demo import run_demo

    run_demo(Path(args.out), args.seconds, args.seed, _device(args.device), _bar, print)


def _train(args) -> None:
    import torch

    from minidit import data, presets, weights
    from minidit.train import fit

    if args.threads:
        torch.set_num_threads(args.threads)
    out = Path(args.out)
    train = data.load(args.data)
    model, diffusion, parts = presets.build(
        args.preset, tuple(train.images.shape[1:]), len(train.classes), args.seed
    )
    recipe = presets.recipe_of(
        parts, steps=args.steps, batch_size=args.batch_size, lr=args.lr, seed=args.seed
    )
    log = Log(out / "log.csv", _bar(recipe.steps))
    average = fit(
        model.to(_device(args.device)),
        diffusion,
        train.images,
        train.labels,
        recipe=recipe,
        out=out,
        save_every=args.save_every,
        report=log,
    )
    log.bar.close()
    path = out / "weights.safetensors"
    weights.save(average, path, diffusion, {"data": args.data, "recipe": asdict(recipe)})
    print(f"wrote {path}; look at it: python -m minidit sample --weights {path}")


class Log:
    """The bar, and log.csv: step, mean loss since the last row; a resumed run goes on in it."""

    def __init__(self, path: Path, bar, every: int = 50) -> None:
        self.path, self.bar, self.every = path, bar, every
        self.rows: list[str] = []
        self.losses: list[float] = []
        self.began = False

    def __call__(self, step: int, loss: float) -> None:
        """Take note of a step's loss."""
        if not self.began:
            self._begin(step)
        self.bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self.bar.update(step - self.bar.n)
        self.losses.append(loss)
        if step % self.every == 0:
            with open(self.path, "a") as file:
                file.write(f"{step},{sum(self.losses) / len(self.losses):.5f}\n")
            self.losses.clear()

    def _begin(self, step: int) -> None:
        """Keep the rows before `step`: a run that was killed is resumed at its last checkpoint."""
        self.began = True
        self.bar.reset(total=self.bar.total)
        self.bar.n = self.bar.initial = step - 1
        rows = self.path.read_text().splitlines()[1:] if self.path.exists() else []
        kept = [row for row in rows if int(row.split(",")[0]) < step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join(["step,loss", *kept]) + "\n")


def _sample(args) -> None:
    import torch

    from minidit import weights
    from minidit._validate import check_choice
    from minidit.data import to_uint8
    from minidit.sample import SAMPLERS, guided, space_timesteps

    check_choice("--sampler", args.sampler, SAMPLERS)
    out = Path(args.out)
    if out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out {out} must end in .png or .npz")
    device = _device(args.device)
    model, diffusion = weights.load(args.weights)
    if diffusion is None:
        raise ValueError(f"--weights {args.weights} is no diffusion model; try dit-mnist")
    model.to(device)
    labels = _labels(args, model.config["num_classes"])
    generator = torch.Generator().manual_seed(args.seed)
    shape = (len(labels), model.in_channels, *model.size)
    x = torch.randn(shape, generator=generator).to(device)
    steps = int(args.steps) if args.steps.isdigit() else args.steps
    count = len(space_timesteps(len(diffusion), steps))
    denoiser = guided(model, args.guidance) if args.guidance != 1 else model
    states = SAMPLERS[args.sampler](
        denoiser, diffusion, x, labels.to(device), steps=steps, generator=generator
    )
    began, bar = time.perf_counter(), _bar(count)
    for state in states:  # noqa: B007 (the last one is what counts)
        bar.update()
    bar.close()
    _write_images(out, to_uint8(state.x.cpu()), labels)
    print(f"wrote {out}: {len(labels)} images in {time.perf_counter() - began:.1f} s")


def _labels(args, num_classes: int):
    import torch

    if args.labels is None:
        if args.per_class < 1:
            raise ValueError(f"--per-class {args.per_class} must be at least 1")
        return torch.arange(num_classes).repeat(args.per_class)
    try:
        labels = [int(part) for part in args.labels.split(",")]
    except ValueError:
        raise ValueError(f"--labels {args.labels} must be numbers and commas: 3,1,4") from None
    return torch.tensor(labels)


def _write_images(out: Path, images, labels) -> None:
    """A sheet of images, ten (or as many as there are classes) a row; or the arrays themselves."""
    import os

    import numpy as np

    from minidit import plot

    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.stem + ".part" + out.suffix)
    if out.suffix == ".npz":
        arrays = images.permute(0, 2, 3, 1).squeeze(-1).numpy()  # (n, h, w[, c])
        np.savez_compressed(part, images=arrays, labels=labels.numpy())
    else:
        from matplotlib.image import imsave

        imsave(part, plot.tile(images, min(10, len(images))), cmap="gray", vmin=0, vmax=255)
    os.replace(part, out)


def _classifier(args) -> None:
    import torch

    from minidit import data, evaluate, weights
    from minidit.classifier import train_classifier

    if args.threads:
        torch.set_num_threads(args.threads)
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
    right = evaluate.accuracy(judge, data.to_unit(test.images), test.labels)
    path = Path(args.out)
    facts = {
        "data": args.data,
        "steps": args.steps,
        "seed": args.seed,
        "test accuracy": round(right, 4),
        "command": f"python -m minidit classifier --data {args.data} --steps {args.steps} "
        f"--seed {args.seed} --out {path.name}",
    }
    weights.save(judge, path, info=facts)
    print(f"wrote {path}; it recognises {right:.2%} of the test images")


def _experiment(args) -> None:
    import torch

    from minidit.experiments import EXPERIMENTS, run_experiment, table

    if args.name is None:
        for name, (question, seconds, variants) in EXPERIMENTS.items():
            print(f"{name}: {question} {len(variants)} variants, {seconds:g} s of training each")
        return
    torch.set_num_threads(args.threads)
    print(table(run_experiment(args.name, args.seeds, Path(args.out), print, args.seconds)))


if __name__ == "__main__":
    sys.exit(main())
