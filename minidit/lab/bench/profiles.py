"""Where the time of a training step goes: torch's profiler, operation by operation.

A profile of both contestants (see `contest`), on one thread; what it found is a dict of plain
values, and `page` makes a Markdown page of it.
"""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from minidit._validate import check_positive
from minidit.lab.bench import where
from minidit.lab.bench.contest import Contest

ROWS = 16  # of the table


def profiles(
    size: str | dict = "small",
    network: str = "DiT",
    *,
    steps: int = 10,
    batch: int | None = None,
    device: torch.device | str = "cpu",
) -> dict:
    """Milliseconds of each operation in a training step, plain and package."""
    check_positive(steps=steps)
    contest = Contest(size, network, batch=batch, device=device)
    found = {}
    for who, step in contest.contestants("training step").items():
        for _ in range(2):
            step()
        found[who] = _profile(step, steps, contest.device)
    names = {"size": size, "network": network, "batch": contest.batch}
    return names | {"operations": found} | where(contest.device)


def _profile(step: Callable[[], object], steps: int, device: torch.device) -> dict:
    """{operation: [ms a step, calls a step]}, the time of the operations that it calls left out."""
    activities, key = [ProfilerActivity.CPU], "self_cpu_time_total"
    if device.type == "cuda":
        activities, key = [*activities, ProfilerActivity.CUDA], "self_device_time_total"
    with profile(activities=activities) as recorded:
        for _ in range(steps):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    events = recorded.key_averages()
    return {
        event.key: [round(getattr(event, key) / 1e3 / steps, 4), event.count / steps]
        for event in sorted(events, key=lambda event: -getattr(event, key))
    }


def page(results: dict) -> str:
    """What was found as a Markdown page."""
    text = (
        f"# Where does the time of a training step go?\n\n{results['network']}, size "
        f"{results['size']}, batches of {results['batch']}, on {results['device']} "
        f"({results['vectors']}), {results['threads']} threads, torch {results['torch']}, revision "
        f"{results['revision']}. Times are those of an operation without the ones it calls, and "
        "a profiled step is somewhat slower than another.\n"
    )
    for who, operations in results["operations"].items():
        total = sum(spent for spent, _ in operations.values())
        text += f"\n## {who}: {total:.1f} ms\n\n| operation | ms a step | share | calls a step |\n"
        text += "|---|---|---|---|\n"
        for name, (spent, calls) in list(operations.items())[:ROWS]:
            text += f"| `{name}` | {spent:.2f} | {spent / total:.1%} | {calls:g} |\n"
        rest = sum(spent for spent, _ in list(operations.values())[ROWS:])
        text += f"| all others | {rest:.2f} | {rest / total:.1%} | |\n"
    return text
