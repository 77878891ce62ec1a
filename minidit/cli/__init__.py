"""The command line: python -m minidit COMMAND. A file for each command or two: what `add` adds are
its options. What takes long to import, such as `lab`, is imported by the command that needs it.
"""

import argparse
import os
import sys

from minidit import __version__
from minidit.cli import autoencoder, demo, evaluate, fetch, lab, sample, train
from minidit.cli.terminal import settle, typed

EXAMPLES = """examples:
  python -m minidit demo
  python -m minidit train --data mnist --out runs/mnist --preset mnist
  python -m minidit sample --weights dit-mnist --per-class 10 --guidance 2 --out digits.png
  python -m minidit train --preset dit-cifar10 --out runs/cifar10
  python -m minidit train --data scenes --preset scenes-text --out runs/text
  python -m minidit sample --weights runs/text/weights.safetensors \\
      --prompt "a red three left of a small blue seven"
  python -m minidit sample --weights runs/inpaint/weights.safetensors --image digit.png \\
      --mask hole.png
  python -m minidit sample --weights runs/mnist/weights.safetensors --labels 3,1,4 --out pi.npz
"""


def parser() -> argparse.ArgumentParser:
    """All commands and their options; `run` is the function that a command is."""
    top = argparse.ArgumentParser(
        "python -m minidit",
        description="The diffusion transformer, built step by step.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"minidit {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for home in (demo, train, sample, evaluate, autoencoder, lab, fetch):
        home.add(subparsers)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors that a user can mend are one sentence, and exit code 2."""
    for name in ("stdin", "stdout", "stderr"):  # one that is closed leads to nowhere, not to a file
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))
    for stream in (sys.stdout, sys.stderr):  # what a terminal can't show becomes a question mark
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    args = parser().parse_args(arguments)
    try:
        settle(args)
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"minidit {args.command}: {typed(str(error), args)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if "C++ compiler" in str(error):
            told = "--compile wants a C++ compiler, and finds none; install one, or leave it out"
        elif isinstance(error, MemoryError) or "memory" in str(error):
            way_out = "e.g. by a smaller --batch-size, --batch or --per-class"
            told = f"not enough memory; ask for less at once, {way_out}"
        else:
            raise
        print(f"minidit {args.command}: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; a training run goes on from its last checkpoint", file=sys.stderr)
        return 130
    return 0
