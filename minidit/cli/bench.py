"""What the command line does to measure speed: a file, a page, a picture."""

import json
import os
from argparse import Namespace
from pathlib import Path

from minidit._validate import check_choice, check_positive
from minidit.cli.terminal import add_compile, check_compile, device_of, set_threads, writable
from minidit.lab import bench as racing
from minidit.lab.bench import growth, profiles
from minidit.lab.bench.contest import NETWORKS, SIZES

DEFAULTS = {"bench": "bench.json", "growth": "growth.json", "profile": "profile.json"}


def add_bench(subparsers) -> None:
    """The options of `bench`, for the command line's parser."""
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
    p.add_argument("--networks", nargs="+", default=list(NETWORKS), help="DiT, U-ViT (%(default)s)")
    p.add_argument("--repeats", type=int, default=9, help="turns of each (%(default)s)")
    p.add_argument("--seconds", type=float, default=0.2, help="of a turn, at least (%(default)g)")
    p.add_argument("--batch", type=int, help="instead of the sizes' own")
    add_compile(p)
    kind = p.add_mutually_exclusive_group()
    kind.add_argument("--growth", action="store_true", help="instead: how time and memory grow")
    kind.add_argument("--profile", action="store_true", help="instead: where a step's time goes")
    p.add_argument("--page", action="store_true", help="only make the page again, from the file")
    p.add_argument(
        "--out",
        help="FILE.json; FILE.md lies beside it (data/results/bench.json, or growth, profile)",
    )
    p.add_argument("--threads", type=int, help="processor threads (default: all)")
    p.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    p.set_defaults(run="bench")


def bench(args: Namespace) -> None:
    """Measure, or make the page again from a file that holds what was measured."""
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
    for size in args.sizes:
        check_choice("--sizes", size, SIZES)
    for network in args.networks:
        check_choice("--networks", network, NETWORKS)
    if not args.seconds > 0:
        raise ValueError(f"--seconds {args.seconds:g} must be above 0, e.g. 0.2")
    if args.batch is not None:
        check_positive(batch=args.batch)
    check_compile(args.compile)
    if args.compile is not None and kind != "bench":
        raise ValueError(f"--compile doesn't go with --{kind}; leave one of the two out")
    device = device_of(args.device)
    set_threads(1 if kind == "profile" and args.threads is None else args.threads)
    if kind == "growth":
        return growth.growth(
            repeats=args.repeats, device=device, seconds=args.seconds, report=print
        )
    if kind == "profile":
        size, network = args.sizes[0], args.networks[0]
        return profiles.profiles(size, network, batch=args.batch, device=device)
    return racing.bench(
        args.sizes,
        networks=args.networks,
        repeats=args.repeats,
        seconds=args.seconds,
        batch=args.batch,
        device=device,
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
