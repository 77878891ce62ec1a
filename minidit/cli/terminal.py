"""What commands share: options, files to be written, the bar, the log of a run."""

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minidit import plot
from minidit._validate import check_choice
from minidit.train import replacing
from minidit.training.distributed import MODES

SHARED = {
    "threads": dict(type=int, help="processor threads (default: all)"),
    "device": dict(help="cpu or cuda (default: cuda if there is one)"),
    "compile": dict(
        nargs="?",
        const="default",
        metavar="MODE",
        help="torch.compile the network; with the mode reduce-overhead a GPU replays CUDA graphs, "
        "which helps small networks",
    ),
    "store": dict(action="store_true", help="add the figures to the weights' JSON file"),
}


def add_shared(parser: ArgumentParser, *names: str) -> None:
    """Add options that several commands have."""
    for name in names:
        parser.add_argument(f"--{name}", **SHARED[name])


def settle(args: Namespace) -> None:
    """Set the threads, check --compile, and make --device the device that it names."""
    threads, mode = getattr(args, "threads", None), getattr(args, "compile", None)
    if threads is not None and threads < 1:
        raise ValueError(f"--threads {threads} must be at least 1")
    if threads is not None:
        torch.set_num_threads(threads)
    if mode is not None:
        check_choice("--compile", mode, MODES)
    if "device" in args:
        args.device = _device(args.device)


def _device(name: str | None) -> torch.device:
    """The device that --device names; without it, a GPU if there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"--device {name} is unknown; choose cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: no GPU is usable here; leave the option out")
    return torch.device(name)


def writable(out: str, *suffixes: str, option: str = "--out") -> Path:
    """The path of a file to be written; what is wrong with it is said before the work begins."""
    path = Path(out)
    if path.suffix not in suffixes:
        raise ValueError(f"{option} {out} must end in {' or '.join(suffixes)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def command_of(args: Namespace, options: str) -> str:
    """The command that these arguments are, for the record."""
    given = {option: getattr(args, option.replace("-", "_")) for option in options.split()}
    words = [f"--{option} {value}" for option, value in given.items() if value is not None]
    return " ".join(["python -m minidit", args.command, *words])


def bar(steps: int, start: int = 0, unit: str = "step") -> tqdm:
    """A progress bar."""
    return tqdm(total=steps, initial=start, unit=unit, dynamic_ncols=True, smoothing=0.05)


class Log:
    """The bar, and log.csv with a row for every loss; a resumed run goes on in the same file."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps
        self.bar: tqdm | None = None

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif kind is None:
            print(f"all {self.steps} steps were taken before")

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
        self.bar = bar(self.steps, step - 1)
        rows = self.path.read_text().splitlines()[1:] if self.path.exists() else []
        kept = [row for row in rows if int(row.split(",")[0]) < step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join(["step,loss", *kept]) + "\n")


def write_images(out: Path, images: Tensor, columns: int, y: Tensor | None = None) -> None:
    """Images (n, c, h, w) as a sheet (*.png), or with conditions y as the arrays (*.npz)."""
    with replacing(out) as file:
        if out.suffix == ".npz":
            arrays = images.permute(0, 2, 3, 1).squeeze(-1).numpy()  # (n, h, w[, c])
            np.savez_compressed(file, images=arrays, labels=y.numpy())
        else:
            from matplotlib.image import imsave

            imsave(file, plot.tile(images, columns), cmap="gray", vmin=0, vmax=255, format="png")


def write_film(out: Path, frames: list[Tensor], columns: int) -> None:
    """Every state of a sampler's run, (n, c, h, w) each, as an animated PNG."""
    with replacing(out) as file:
        file.write(plot.film([plot.tile(frame, columns) for frame in frames], scale=2))
