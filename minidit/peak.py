"""How much memory a training step needs at its peak: weights, optimiser, average, activations.

On a GPU, what torch's tensors hold. On the CPU, by how much a process of its own grows: what an
earlier step has left behind would otherwise be used again, unseen.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from minidit.contest import Contest

STEPS = 3  # from the second on, the optimiser has its memory
_PROGRAM = "import sys; from minidit.peak import answer; sys.stdout.write(answer(sys.argv[1]))"
_STATUS = Path("/proc/self/status")  # Linux
_FIRST = dict(input_size=8, patch_size=4, in_channels=1, hidden_size=16, depth=2, num_heads=2)


def peak(question: dict, device: torch.device) -> float | None:
    """MiB that a contestant's training step needs, or None where that can't be told.

    `question`: {"who": "plain" or "package"}, and the arguments of `Contest`.
    """
    if device.type == "cuda":
        return _on_gpu(question | {"device": str(device)})
    if not _STATUS.exists():
        return None
    question = question | {"threads": torch.get_num_threads()}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(question)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise OSError(f"measuring memory failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def answer(question: str) -> str:
    """What the process of its own says: MiB, as JSON."""
    asked = json.loads(question)
    torch.set_num_threads(asked.pop("threads"))
    first = {"model": _FIRST | {"num_classes": 2}, "batch": (2, 2)}
    _steps({"size": first, "who": asked["who"]})()  # libraries are loaded now
    before = _status("VmRSS")
    _steps(asked)()
    return json.dumps(round(_status("VmHWM") - before, 1))


def _steps(question: dict) -> Callable[[], None]:
    """A contestant's first steps, with nothing else in memory."""
    asked = dict(question)
    who = asked.pop("who")
    contest = Contest(**asked, only=who)
    step = contest.contestants("training step")[who]

    def take() -> None:
        for _ in range(STEPS):
            step()

    return take


def _on_gpu(question: dict) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _steps(question)()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def _status(key: str) -> float:
    """A line of Linux's report on this process, in MiB."""
    return int(re.search(rf"{key}:\s+(\d+) kB", _STATUS.read_text()).group(1)) / 2**10
