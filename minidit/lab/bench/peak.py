"""How much memory a training step needs at its peak: weights, optimiser, average, activations.

On a GPU, what torch's tensors hold. On the CPU, by how much a process of its own grows: what an
earlier step has left behind would otherwise be used again, unseen.
"""

import json
import multiprocessing
import re
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from minidit.lab.bench.contest import Contest

STEPS = 3  # from the second on, the optimiser has its memory
_PROGRAM = (
    "import sys; from minidit.lab.bench.peak import answers; sys.stdout.write(answers(sys.argv[1]))"
)
_STATUS = Path("/proc/self/status")  # Linux
_FIRST = dict(input_size=8, patch_size=4, in_channels=1, hidden_size=16, depth=2, num_heads=2)


def peaks(questions: list[dict], device: torch.device) -> list[float | None]:
    """MiB that a training step needs, for each question, or None where that can't be told.

    A question: {"only": "plain" or "package"}, and the other arguments of `Contest`.
    """
    if device.type == "cuda":
        return [_on_gpu(question | {"device": str(device)}) for question in questions]
    if not _STATUS.exists():
        return [None for _ in questions]
    asked = json.dumps({"threads": torch.get_num_threads(), "questions": questions})
    done = subprocess.run([sys.executable, "-c", _PROGRAM, asked], capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"measuring memory failed:\n{done.stderr}")
    return json.loads(done.stdout)


def answers(asked: str) -> str:
    """The other process: one more for each question, a copy of this one before its first product.

    So torch is loaded once, and no question finds what another has left.
    """
    asked, found = json.loads(asked), []
    context = multiprocessing.get_context("fork")
    for question in asked["questions"]:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_answer, args=(question, asked["threads"], theirs))
        process.start()
        theirs.close()
        found.append(ours.recv())  # EOFError, if it died
        process.join()
    return json.dumps(found)


def _answer(question: dict, threads: int, to: Connection) -> None:
    torch.set_num_threads(threads)
    first = {"model": _FIRST | {"num_classes": 2}, "batch": (2, 2)}
    _steps({"size": first, "only": question["only"]})  # libraries are loaded now
    before = _status("VmRSS")
    _steps(question)
    to.send(round(_status("VmHWM") - before, 1))


def _steps(question: dict) -> None:
    """A contestant's first steps, without the other one in memory."""
    step = Contest(**question).contestants("training step")[question["only"]]
    for _ in range(STEPS):
        step()


def _on_gpu(question: dict) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _steps(question)
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def _status(key: str) -> float:
    """A line of Linux's report on this process, in MiB."""
    return int(re.search(rf"{key}:\s+(\d+) kB", _STATUS.read_text()).group(1)) / 2**10
