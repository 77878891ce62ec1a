"""What `experiment` does: list the experiments, or run what is missing of one."""

import math
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from minidit import plot
from minidit._validate import check_choice
from minidit.cli.terminal import alone, writable
from minidit.weights.files import replacing


def add(subparsers) -> None:
    """The options of `experiment`."""
    p = subparsers.add_parser(
        "experiment",
        help="run a named experiment, or go on with it",
        description="Run what is missing of an experiment, store each run as it ends, and print "
        "the table.",
    )
    p.add_argument("name", nargs="?", help="which one; leave it out for a list")
    p.add_argument("--scale", help="smoke, cpu or gpu (cpu)")
    p.add_argument("--seeds", type=int, help="runs of each variant (1)")
    p.add_argument("--out", help="folder of NAME.json (runs)")
    p.add_argument("--jobs", type=int, help="runs at a time, each in its own process (1)")
    p.add_argument("--threads", type=int, default=1, help="processor threads of each (%(default)s)")
    p.set_defaults(run=experiment)


def experiment(args: Namespace) -> None:
    """List the experiments, or run one."""
    from minidit.lab import EXPERIMENTS, verdicts
    from minidit.lab.runner import measures, optimisers, rows, run_experiment, table

    if args.name is None:
        alone(args, "the list of experiments", "scale", "seeds", "out", "jobs")
        for name, entry in EXPERIMENTS.items():
            print(f"{name}: {entry.question} {len(entry.variants())} variants")
        return
    check_choice("experiment", args.name, EXPERIMENTS)
    args.scale, args.out = args.scale or "cpu", args.out or "runs"
    for suffix in (".json", ".md", ".png"):
        path = writable(Path(args.out) / f"{args.name}{suffix}", suffix)
    results = run_experiment(
        args.name,
        EXPERIMENTS[args.name],
        Path(args.out),
        seeds=1 if args.seeds is None else args.seeds,
        scale=args.scale,
        jobs=1 if args.jobs is None else args.jobs,
        report=print,
    )
    page = f"# {results['question']}\n"
    for scale in dict.fromkeys(run["scale"] for run in results["runs"]):
        page += f"\nScale: {scale}{optimisers(results, scale)}\n\n{table(results, scale)}\n"
        base, runs = EXPERIMENTS[args.name].base, rows(results, scale)
        if base is not None and min(map(len, runs.values())) > 1:
            base = base or next(iter(runs))
            pairs = {name: (name, base) for name in runs if name != base}
            found = verdicts.verdicts(results, pairs=pairs, scale=scale)
            page += f"\nFréchet distance against “{base}”. {verdicts.RULE}\n\n"
            page += f"{verdicts.table(found)}\n"
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
