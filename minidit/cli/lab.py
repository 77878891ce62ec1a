"""What the command line does with experiments and measurements of speed: files, and their pages."""

import math
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from minidit import plot
from minidit._validate import check_choice
from minidit.cli.terminal import alone, command, writable
from minidit.weights.files import read_json, replacing, write_json

GIVEN = ("sizes", "networks", "repeats", "seconds", "batch", "bfloat16")  # or the measurement's own


def add(subparsers) -> None:
    """The options of `experiment` and of `bench`."""
    option = command(
        subparsers,
        experiment,
        "run a named experiment, or go on with it",
        description="Run what is missing of an experiment, store each run as it ends, and print "
        "the table.",
    )
    option("name", nargs="?", help="which one; leave it out for a list")
    option("--scale", help="smoke, cpu or gpu (cpu)")
    option("--seeds", type=int, help="runs of each variant (1)")
    option("--out", help="folder of NAME.json (runs)")
    option(
        "--tune",
        action="store_true",
        default=None,
        help="first find each variant's best learning rate",
    )
    option("--jobs", type=int, help="runs at a time, each in its own process (1)")
    option("--threads", type=int, default=1, help="processor threads of each (%(default)s)")

    option = command(
        subparsers,
        bench,
        "how fast it is, against a plain version of it, others and the machine",
        *("compile", "threads", "device"),
        description="Time forward pass, training step and sampling of DiT and U-ViT, in turns "
        "with a plain reading of the papers that computes the same, and with the DiT of diffusers "
        "where that is installed; store what was found and print the table.",
    )
    option("--sizes", nargs="+", help="small, tokens, S/2, B/2 (small tokens), or of --growth")
    option("--networks", nargs="+", help="DiT, U-ViT (both)")
    option("--repeats", type=int, help="turns of each (9)")
    option("--seconds", type=float, help="of a turn, at least (0.2)")
    option("--batch", type=int, help="instead of the sizes' own")
    told = "all but the plain version in bfloat16 on a processor, too"
    option("--bfloat16", action="store_true", default=None, help=told)
    peer = "NAME=module:function that makes another network, see find_peers in minidit.lab.bench"
    option("--peer", nargs="+", metavar="PEER", help=peer)
    option("--growth", action="store_true", help="instead: how the time of a training step grows")
    option("--page", action="store_true", help="only make the page again, from the file")
    option("--out", help="FILE.json; FILE.md lies beside it (runs/bench.json, or growth.json)")


def experiment(args: Namespace) -> None:
    """List the experiments, or run one."""
    from minidit.lab import EXPERIMENTS, verdicts
    from minidit.lab.runner import measures, optimisers, rows, run_experiment, stored, table, tuned

    if args.name is None:
        alone(args, "the list of experiments", "scale", "seeds", "out", "tune", "jobs")
        for name, entry in EXPERIMENTS.items():
            print(f"{name}: {entry.question} {len(entry.variants())} variants")
        return
    check_choice("experiment", args.name, EXPERIMENTS)
    args.scale, args.out = args.scale or "cpu", args.out or "runs"
    for suffix in (".json", ".md", ".png"):
        path = writable(Path(args.out) / f"{args.name}{suffix}", suffix)
    entry, seeds = EXPERIMENTS[args.name], 1 if args.seeds is None else args.seeds
    jobs = 1 if args.jobs is None else args.jobs
    how = {"scale": args.scale, "jobs": jobs, "report": print}
    sweep = path.with_name(f"{args.name}-rates.json")
    if args.tune or rows(stored(sweep), args.scale):
        entry = tuned(args.name, entry, path.parent, **how)
    results = run_experiment(args.name, entry, path.parent, seeds=seeds, **how)
    page = f"# {results['question']}\n"
    for scale in dict.fromkeys(run["scale"] for run in results["runs"]):
        page += f"\nScale: {scale}{optimisers(results, scale)}\n\n{table(results, scale)}\n"
        base, runs = entry.base, rows(results, scale)
        common = set.intersection(*({run["seed"] for run in of} for of in runs.values()))
        if base is not None and len(common) > 1:
            base = base or next(iter(runs))
            pairs = {name: (name, base) for name in runs if name != base}
            found = verdicts.verdicts(results, pairs=pairs, scale=scale, paired=entry.paired)
            how = ", seed by seed" * entry.paired
            page += f"\nFréchet distance against “{base}”{how}. {verdicts.RULE}\n\n"
            page += f"{verdicts.table(found)}\n"
        if rows(tried := stored(sweep), scale):
            page += "\nThe sweep that found each variant's rate, with seeds of its own:\n\n"
            page += f"{table(tried, scale)}\n"
    with replacing(path.with_suffix(".md")) as file:
        file.write(page.encode())
    panels = dict(list(measures(results, args.scale).items())[:4])  # more would be too narrow
    log = [key for key in ("frechet",) if key in panels and _wide(panels[key])]
    if panels:  # costs have none
        plot.dots(panels, log=log, title=results["question"], out=path)
    print(page)


def _wide(groups: dict[str, Sequence[float]]) -> bool:
    """Whether the largest of the values {name: values} are far more than the smallest."""
    values = [v for group in groups.values() for v in group if v > 0 and math.isfinite(v)]
    return max(values, default=1.0) > 30 * min(values, default=1.0)


def bench(args: Namespace) -> None:
    """Measure, or make the page again from a file that holds what was measured."""
    from minidit.lab import bench as measurement

    name = "growth" if args.growth else "bench"
    out = writable(args.out or f"runs/{name}.json", ".json")
    writable(out.with_suffix(".md"), ".md")
    if args.page:
        alone(args, "--page", *GIVEN, "compile", "peer")
    else:
        given = {name: value for name in GIVEN if (value := getattr(args, name)) is not None}
        if args.growth:
            alone(args, "--growth", "sizes", "networks", "batch", "compile")
            given |= dict(sizes=measurement.GROWTH, networks=["DiT"], tasks=["training step"])
        peers = measurement.find_peers(args.peer or ())
        more = {"peers": peers, "device": args.device, "compiled": args.compile}
        write_json(out, measurement.bench(**given, **more, report=print))
    way_out = "measure again, without --page"
    results = read_json(out, {"rows": [dict]}, way_out)
    try:
        text = measurement.page(results)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        told = f"{out} has not what a measurement leaves ({type(error).__name__}: {error})"
        raise ValueError(f"{told}; {way_out}") from None
    with replacing(out.with_suffix(".md")) as file:
        file.write(text.encode())
    print(text)
