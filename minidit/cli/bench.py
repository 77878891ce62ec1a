"""What the command line does to measure speed: a file, a page, a picture."""

import json
import os
from argparse import Namespace
from pathlib import Path

import torch

from minidit._validate import check_choice, check_positive
from minidit.cli.terminal import add_shared, writable

DEFAULTS = {"bench": "bench.json", "growth": "growth.json", "profile": "profile.json"}


def add(subparsers) -> None:
    """The options of `bench`."""
    p = subparsers.add_parser(
        "bench",
        help="how fast it is, against a plain version of it and against the machine",
        description="Time forward pass, training step and sampling of DiT and U-ViT, in turns "
        "with a plain reading of the papers that computes the same; store what was found and "
        "print the table.",
    )
    p.add_argument(
        "--sizes",
        nargs="+",
        default=["small", "tokens"],
        help="small, tokens, S/2, B/2 (%(default)s)",
    )
    p.add_argument(
        "--networks", nargs="+", default=["DiT", "U-ViT"], help="DiT, U-ViT (%(default)s)"
    )
    p.add_argument("--repeats", type=int, default=9, help="turns of each (%(default)s)")
    p.add_argument("--seconds", type=float, default=0.2, help="of a turn, at least (%(default)g)")
    p.add_argument("--batch", type=int, help="instead of the sizes' own")
    add_shared(p, "compile")
    kind = p.add_mutually_exclusive_group()
    kind.add_argument("--growth", action="store_true", help="instead: how time and memory grow")
    kind.add_argument("--profile", action="store_true", help="instead: where a step's time goes")
    p.add_argument("--page", action="store_true", help="only make the page again, from the file")
    p.add_argument(
        "--out",
        help="FILE.json; FILE.md lies beside it (data/results/bench.json, or growth, profile)",
    )
    add_shared(p, "threads", "device")
    p.set_defaults(run=bench)


def bench(args: Namespace) -> None:
    """Measure, or make the page again from a file that holds what was measured."""
    from minidit.lab import bench as racing
    from minidit.lab.bench import growth, profiles

    kind = "growth" if args.growth else "profile" if args.profile else "bench"
    out = writable(args.out or f"data/results/{DEFAULTS[kind]}", ".json")
    if not args.page:
        _store(_measured(kind, args), out)
    results = _read(out, kind)
    home = {"bench": racing, "growth": growth, "profile": profiles}[kind]
    page = home.page(results)
    out.with_suffix(".md").write_text(page)
    if kind == "growth":
        growth.draw(results, out.with_suffix(".png"))
    print(page)


def _measured(kind: str, args: Namespace) -> dict:
    """What one of the three measurements finds."""
    from minidit.lab import bench as racing
    from minidit.lab.bench import growth, profiles
    from minidit.lab.bench.contest import NETWORKS, SIZES

    for size in args.sizes:
        check_choice("--sizes", size, SIZES)
    for network in args.networks:
        check_choice("--networks", network, NETWORKS)
    if not args.seconds > 0:
        raise ValueError(f"--seconds {args.seconds:g} must be above 0, e.g. 0.2")
    if args.batch is not None:
        check_positive(batch=args.batch)
    if args.compile is not None and kind != "bench":
        raise ValueError(f"--compile doesn't go with --{kind}; leave one of the two out")
    if kind == "profile" and args.threads is None:
        torch.set_num_threads(1)
    if kind == "growth":
        return growth.growth(
            repeats=args.repeats, device=args.device, seconds=args.seconds, report=print
        )
    if kind == "profile":
        size, network = args.sizes[0], args.networks[0]
        return profiles.profiles(size, network, batch=args.batch, device=args.device)
    return racing.bench(
        args.sizes,
        networks=args.networks,
        repeats=args.repeats,
        seconds=args.seconds,
        batch=args.batch,
        device=args.device,
        compiled=args.compile,
        report=print,
    )


def _store(results: dict, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    os.replace(part, path)


def _read(path: Path, kind: str) -> dict:
    """What a file holds. Raises ValueError if it isn't one of this kind."""
    key = {"bench": "rows", "growth": "axes", "profile": "operations"}[kind]
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); measure again, without --page") from None
    if not isinstance(results, dict) or key not in results:
        raise ValueError(f"{path} holds no {key}; measure again, without --page")
    return results
