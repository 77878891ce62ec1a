"""What the command line does to measure speed: a file, and a page of it."""

from argparse import Namespace

from minidit._validate import check_choice, check_positive
from minidit.cli.terminal import add_shared, writable
from minidit.weights.files import read_json, replacing, write_json


def add(subparsers) -> None:
    """The options of `bench`."""
    p = subparsers.add_parser(
        "bench",
        help="how fast it is, against a plain version of it and against the machine",
        description="Time forward pass, training step and sampling of DiT and U-ViT, in turns "
        "with a plain reading of the papers that computes the same; store what was found and "
        "print the table.",
    )
    option, sizes, both = p.add_argument, ["small", "tokens"], ["DiT", "U-ViT"]
    option("--sizes", nargs="+", default=sizes, help="small, tokens, S/2, B/2 (%(default)s)")
    option("--networks", nargs="+", default=both, help="DiT, U-ViT (%(default)s)")
    option("--repeats", type=int, default=9, help="turns of each (%(default)s)")
    option("--seconds", type=float, default=0.2, help="of a turn, at least (%(default)g)")
    option("--batch", type=int, help="instead of the sizes' own")
    add_shared(p, "compile")
    option("--growth", action="store_true", help="instead: how time and memory grow")
    option("--page", action="store_true", help="only make the page again, from the file")
    file = "FILE.json; FILE.md lies beside it (runs/bench.json, or growth.json)"
    option("--out", help=file)
    add_shared(p, "threads", "device")
    p.set_defaults(run=bench)


def bench(args: Namespace) -> None:
    """Measure, or make the page again from a file that holds what was measured."""
    from minidit.lab.bench import page

    name = "growth" if args.growth else "bench"
    out = writable(args.out or f"runs/{name}.json", ".json")
    writable(out.with_suffix(".md"), ".md")
    if not args.page:
        write_json(out, _measured(args))
    way_out = "measure again, without --page"
    results = read_json(out, {"rows": [dict]}, way_out)
    try:
        text = page(results)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        told = f"{out} has not what a measurement leaves ({type(error).__name__}: {error})"
        raise ValueError(f"{told}; {way_out}") from None
    with replacing(out.with_suffix(".md")) as file:
        file.write(text.encode())
    print(text)


def _measured(args: Namespace) -> dict:
    """What one of the two measurements finds."""
    from minidit.lab import bench as racing

    for size in args.sizes:
        check_choice("--sizes", size, racing.SIZES)
    for network in args.networks:
        check_choice("--networks", network, racing.NETWORKS)
    if not args.seconds > 0:
        raise ValueError(f"--seconds {args.seconds:g} must be above 0, e.g. 0.2")
    if args.batch is not None:
        check_positive(batch=args.batch)
    if args.growth and (args.compile, args.batch) != (None, None):
        raise ValueError("--compile and --batch don't go with --growth; leave it or them out")
    return racing.bench(
        args.sizes,
        args.networks,
        growth=args.growth,
        repeats=args.repeats,
        batch=args.batch,
        device=args.device,
        compiled=args.compile,
        seconds=args.seconds,
        report=print,
    )
