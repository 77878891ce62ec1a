"""What the command line does to measure speed: a file, and a page of it."""

from argparse import Namespace

from minidit.cli.terminal import add_shared, alone, writable
from minidit.weights.files import read_json, replacing, write_json

GIVEN = ("sizes", "networks", "repeats", "seconds", "batch")  # or the measurement's own


def add(subparsers) -> None:
    """The options of `bench`."""
    p = subparsers.add_parser(
        "bench",
        help="how fast it is, against a plain version of it, others and the machine",
        description="Time forward pass, training step and sampling of DiT and U-ViT, in turns "
        "with a plain reading of the papers that computes the same, and with the DiT of diffusers "
        "where that is installed; store what was found and print the table.",
    )
    option = p.add_argument
    option("--sizes", nargs="+", help="small, tokens, S/2, B/2 (small tokens), or of --growth")
    option("--networks", nargs="+", help="DiT, U-ViT (both)")
    option("--repeats", type=int, help="turns of each (9)")
    option("--seconds", type=float, help="of a turn, at least (0.2)")
    option("--batch", type=int, help="instead of the sizes' own")
    add_shared(p, "compile")
    peer = "NAME=module:function that makes another network, see find_peers in minidit.lab.bench"
    option("--peer", nargs="+", metavar="PEER", help=peer)
    option("--growth", action="store_true", help="instead: how the time of a training step grows")
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
    if args.page:
        alone(args, "--page", *GIVEN, "compile", "peer")
    else:
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

    given = {name: value for name in GIVEN if (value := getattr(args, name)) is not None}
    if args.growth:
        alone(args, "--growth", "sizes", "networks", "batch", "compile")
        given |= dict(sizes=racing.GROWTH, networks=["DiT"], tasks=["training step"])
    peers = racing.find_peers(args.peer or ())
    more = {"peers": peers, "device": args.device, "compiled": args.compile}
    return racing.bench(**given, **more, report=print)
