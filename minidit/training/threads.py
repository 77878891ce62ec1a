"""Parts of a batch side by side, each with threads of its own.

Small networks are made of small operations, on which many threads wait for each other more than
they work. Where each has a part of the batch, they never wait until the end.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
MOST = 4  # parts at a time: Python itself runs in one thread only


def parts_at_a_time() -> int:
    """How many parts of a batch this machine computes side by side."""
    return min(MOST, torch.get_num_threads())


def _settle(threads: int) -> None:
    torch.get_num_threads()  # a new thread's first question resets its number: ask before it is set
    torch.set_num_threads(threads)


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Threads that stay: their memory is used again."""
    return ThreadPoolExecutor(workers, "minidit", _settle, (threads,))


def in_threads(call: Callable[..., Result], parts: Sequence[tuple[Tensor, ...]]) -> list[Result]:
    """[call(*part) for part in parts], on a processor some of them at a time; a part: (b, …) each.

    What `call` reads must stay as it is. Threads have this one's gradient mode and autocast; where
    a mode hears every operation, as that of a counter of FLOPs, all are in this thread, and so they
    are inside torch.func's transforms.
    """
    threads, workers = torch.get_num_threads(), parts_at_a_time()
    modes = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()
    heard = modes > 0 or torch._C._functorch.peek_interpreter_stack() is not None
    if workers == 1 or len(parts) == 1 or not parts[0][0].is_cpu or heard:
        return [call(*part) for part in parts]
    learning, inferring = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    mixed, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def work(part: tuple[Tensor, ...]) -> Result:
        with torch.inference_mode(inferring), torch.set_grad_enabled(learning):
            with torch.autocast("cpu", dtype, enabled=mixed):
                return call(*part)

    try:
        return list(_pool(workers, threads // workers).map(work, parts))
    finally:
        torch.set_num_threads(threads)  # else the workers' number is what a new thread gets
