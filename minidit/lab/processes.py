"""Calls side by side, in processes of their own."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, wait

import torch


def side_by_side(
    call: Callable[[dict], dict], tasks: Iterable[tuple[str, dict]], jobs: int
) -> Iterator[dict]:
    """call(task) for each of the tasks, which have names, as it ends; `jobs` of them at a time.

    A single job computes here. More are processes that import `call`, which must be a function of a
    module; each has as many threads as this one, and none outlives the iterator. Raises
    ChildProcessError that names the task that failed.
    """
    if jobs == 1:
        yield from (call(task) for _, task in tasks)
        return
    tasks, busy, processes = iter(tasks), {}, {}
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
    try:
        for name, task in islice(tasks, jobs):
            pipe, theirs = context.Pipe()
            serving = theirs, call, torch.get_num_threads()
            processes[pipe] = context.Process(target=_serve, args=serving, daemon=True)
            processes[pipe].start()
            theirs.close()  # so that the pipe ends with the process
            pipe.send(task)
            busy[pipe] = name
        while busy:
            for pipe in wait(list(busy)):
                name = busy.pop(pipe)
                try:
                    found = pipe.recv()
                except EOFError:
                    processes[pipe].join()
                    found = f"its process ended with {processes[pipe].exitcode}"
                if not isinstance(found, dict):
                    raise ChildProcessError(f"{name}: {found}; what was measured before is kept")
                if (following := next(tasks, None)) is not None:
                    busy[pipe], task = following
                    pipe.send(task)
                yield found
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _serve(pipe: Connection, call: Callable[[dict], dict], threads: int) -> None:
    """Answer every task, with a sentence if it fails, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's affair
    torch.set_num_threads(threads)
    with suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            try:
                found = call(task)
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            pipe.send(found)
