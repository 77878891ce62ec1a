"""What commands share: options, files to be written, the bar, the log of a run."""

import ctypes
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minidit import data, plot, weights
from minidit._validate import check_choice
from minidit.training.distributed import MODES
from minidit.weights.files import check_plain, replacing

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
UNTYPED = {
    r", or one itself: \[\d+\]| a list,": "",
    r"so leave out the noisiest: steps=.*|on the straight .*": "choose another --sampler",
    r"train it with class_dropout.*": "draw with --guidance 1",
    "counts=": "steps=",
    r"('mixed_precision'.*use the same settings)": r"\1, --bfloat16 too",
    r"let them change \(`changing`\)": "--change",
    "compiled=": "compile=",
}
HEAD = "step,loss"  # of a run's log
PATHS = "weights autoencoder start inception image mask out film strip".split()  # or names
RECORDED = (
    "data preset autoencoder start steps batch_size lr bfloat16 compile seed threads out"
).split()


def command(
    subparsers: Any, run: Callable, told: str, *shared: str, description: str | None = None
) -> Callable[..., Any]:
    """Add the command named like the function `run`, with options of `SHARED`; it adds others."""
    p = subparsers.add_parser(run.__name__, help=told, description=description)
    p.set_defaults(run=run)
    for name in shared:
        p.add_argument(f"--{name}", **SHARED[name])
    return p.add_argument


def keep_memory() -> None:
    """Let the C library keep what a step frees, where it is glibc.

    Else it gives it back, and the next step's first touch of each page takes the system's time: of
    a step in bfloat16 a fourteenth.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: free bytes that stay, the most it takes
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: larger blocks come and go, the most it takes


def settle(args: Namespace) -> None:
    """Check every option, set memory and threads, make --device the device that it names."""
    keep_memory()
    for name, value in vars(args).items():
        option = f"--{name.replace('_', '-')}"
        if value in ("", []):  # the second is argparse's for --option=--
            raise ValueError(f"{option} is empty; give a value, or leave the option out")
        most = 10**6 if name in ("batch_size", "batch") else 2**31 - 1  # what memory is asked for
        if isinstance(value, int | float) and not -(2**31) < value <= most:
            raise ValueError(f"{option} {value} must be a number of at most {most}")
        if name in PATHS and isinstance(value, str):
            if "\0" in value:
                raise ValueError(f"{option} {value!r} has the character NUL, which no path can")
            try:
                setattr(args, name, str(Path(value).expanduser()))
            except RuntimeError:  # of another user, whom nobody knows
                raise ValueError(f"{option} {value}: there is no such home") from None
    given = [path for name in ("out", "film", "strip") if (path := getattr(args, name, None))]
    if len({os.path.realpath(path) for path in given}) < len(given):
        raise ValueError(f"--out, --film and --strip {given} must be different files")
    if getattr(args, "store", False):
        writable(weights.find(args.weights).with_suffix(".json"), ".json", option="--store")
    if getattr(args, "data", None) is not None:
        data.find(args.data, argument="--data")
    threads, mode = getattr(args, "threads", None), getattr(args, "compile", None)
    if threads is not None:
        most = max(64, os.cpu_count() or 1)
        if not 1 <= threads <= most:
            raise ValueError(f"--threads {threads} must be at least 1, and at most {most}")
        torch.set_num_threads(threads)
    if mode is not None:
        check_choice("--compile", mode, MODES)
    if "device" in args:
        there = torch.cuda.is_available()
        name = args.device or ("cuda" if there else "cpu")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise ValueError(f"--device {name} is unknown; choose cpu or cuda")
        if name.startswith("cuda") and not there:
            raise ValueError(f"--device {name}: no GPU is usable here; leave the option out")
        args.device = torch.device(name)


def typed(told: str, args: Namespace) -> str:
    """A sentence of the package, where arguments are options and lists of steps aren't typed."""
    for python, shell in UNTYPED.items():
        told = re.sub(python, shell, told)
    names = "|".join(vars(args).keys() - {"name", "command", "run"})
    pattern = rf"(?<![\w.-])({names})="
    return re.sub(pattern, lambda found: f"--{found[1].replace('_', '-')} ", told)


def alone(args: Namespace, option: str, *names: str) -> None:
    """Raise ValueError if one of the options `names` is given, which `option` makes vain."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{' and '.join(given)} can't go with {option}; leave one side out")


def writable(out: str | Path, *suffixes: str, option: str = "--out") -> Path:
    """The path of a file to be written; what is wrong with it is said before the work begins."""
    path = Path(out)
    if path.suffix not in suffixes:
        raise ValueError(f"{option} {out} must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise ValueError(f"{option} {out} is a folder; give a file in it")
    try:
        with TemporaryFile(dir=next(p for p in path.parents if os.path.lexists(p))) as file:
            file.write(b"written")
    except OSError as error:
        told = f"{option} {out} can't be written ({error.strerror})"
        raise OSError(f"{told}; choose another folder") from None
    return path


def command_of(args: Namespace) -> str:
    """The command that these arguments are, for the record of what it made."""
    given = {f"--{name.replace('_', '-')}": getattr(args, name, None) for name in RECORDED}
    given = {name: value for name, value in given.items() if value is not None}
    words = [name if v is True else f"{name} {quote(str(v))}" for name, v in given.items()]
    return " ".join(["python -m minidit", args.command, *words])


def bar(steps: int, start: int = 0, unit: str = "step") -> tqdm:
    """A progress bar; where it is no terminal that shows it, a line now and then."""
    pause = 0.1 if sys.stderr.isatty() else 30  # seconds
    how = dict(dynamic_ncols=True, smoothing=0.05, mininterval=pause)
    return tqdm(total=steps, initial=start, unit=unit, **how)


@contextmanager
def log(path: Path, steps: int) -> Iterator[Callable[[int, float], None]]:
    """What takes note of a step's loss: the bar, and a CSV file with a row for each.

    A run that was killed goes on at its last checkpoint: later rows are dropped.
    """
    progress, _ = None, _rows(path)  # a file that is no log is told before the work

    def report(step: int, loss: float) -> None:
        nonlocal progress
        if progress is None:
            progress = bar(steps, step - 1)
            kept = [row for row in _rows(path) if int(row.split(",")[0]) < step]
            path.write_text("\n".join([HEAD, *kept]) + "\n", "utf-8")
        progress.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        progress.update(step - progress.n)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{step},{loss:.5f}\n")

    try:
        yield report
        if progress is None:
            print(f"all {steps} steps were taken before")
    finally:
        if progress is not None:
            progress.close()


def _rows(path: Path) -> list[str]:
    """The whole rows of a log, none if there is none yet."""
    check_plain(path)
    found = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    if found[:1] not in ([], [HEAD]):
        raise ValueError(f"{path} is no log of a run; move it away, or choose another folder")
    return [row for row in found if re.fullmatch(r"\d+,-?\d+\.\d{5}", row)]


def write_images(out: Path, images: Tensor, columns: int, y: Tensor | None = None) -> None:
    """Images (n, c, h, w) as a sheet (*.png), or with conditions y as the arrays (*.npz)."""
    with replacing(out) as file:
        if out.suffix == ".npz":
            arrays = images.permute(0, 2, 3, 1).squeeze(-1).numpy()  # (n, h, w[, c])
            np.savez_compressed(file, images=arrays, labels=y.numpy())
        else:
            from matplotlib.image import imsave

            imsave(file, plot.tile(images, columns), cmap="gray", vmin=0, vmax=255, format="png")
