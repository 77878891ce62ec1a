"""Seconds that can be compared: contestants take turns, beside what the machine can do at best."""

import math
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from minidit.training.matmul import onednn, onednn_is_exact


def large_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """A large matrix product, by the fastest library, and its operations."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    exact = device.type == "cpu" and dtype == torch.float32 and onednn_is_exact()

    def multiply() -> Tensor:
        with onednn() if exact else nullcontext():
            return a @ b

    return multiply, 2 * side**3


def take_turns(
    contestants: dict[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    seconds: float = 0.2,
) -> dict[str, list[float]]:
    """Seconds of each contestant's call, `repeats` times, one after the other: A, B, A, B, …

    Each turn is as many calls as fill `seconds`. The first calls, which also load and tune
    libraries, are not counted. A GPU works behind the program's back, so it is awaited.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None

    def timed(call: Callable[[], object], calls: int = 1) -> float:
        wait(device)
        began = time.perf_counter()
        for _ in range(calls):
            call()
        wait(device)
        return (time.perf_counter() - began) / calls

    calls, found = {}, {name: [] for name in contestants}
    for name, call in contestants.items():
        call()
        calls[name] = max(1, math.ceil(seconds / timed(call)))
    for _ in range(repeats):
        for name, call in contestants.items():
            found[name].append(timed(call, calls[name]))
    return found


def median_and_quartiles(values: list[float]) -> tuple[float, float, float]:
    """The median, and between which two values half of all lie."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high
