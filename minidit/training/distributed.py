"""One run in several shares: on many GPUs or machines, or one after another on a small one.

`torchrun` starts the processes, torch's DistributedDataParallel averages their gradients (arXiv
2006.15704). Each draws the whole batch, as a single process would, and computes its share: the same
run, but for the order of additions.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from minidit._validate import check_choice
from minidit.diffusion import Diffusion
from minidit.train import Recipe, Run
from minidit.training.quick import quick_parts
from minidit.training.threads import in_threads, parts_at_a_time

MODES = ("default", "reduce-overhead")  # of torch.compile


def join(device: torch.device) -> torch.device:
    """Join the processes that `torchrun` started, if it did; the device, on GPUs the rank's own."""
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def leave() -> None:
    """Wait for the others and part with them, if there are any."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 for the one that writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def first_process_first() -> Iterator[None]:
    """What is inside is done by process 0, then by the others, who find what it has downloaded."""
    if rank() > 0:
        dist.barrier()
    yield
    if dist.is_initialized() and rank() == 0:
        dist.barrier()


class DistributedRun(Run):
    """A run whose batch is computed in world_size · `accumulate` equal shares, one in memory.

    The gradient is that of the whole batch. `compiled`: let torch.compile fuse the network's small
    operations, which takes a minute before it pays, in one of its `MODES`: "reduce-overhead" has a
    GPU replay the passes as CUDA graphs, where starting operations takes longer than they do.
    Raises ValueError if the batch doesn't divide into so many, or if the two can't go together.
    """

    start: str | None = None  # the sha256 of the weights that it began with, if any

    def __init__(
        self,
        model: nn.Module,
        diffusion: Diffusion,
        images: Tensor,
        labels: Tensor | None,
        recipe: Recipe,
        accumulate: int = 1,
        compiled: str | None = None,
    ) -> None:
        shares = world_size() * accumulate
        if accumulate < 1 or recipe.batch_size % shares:
            raise ValueError(
                f"accumulate={accumulate} on {world_size()} processes makes {shares} shares of "
                f"batch_size={recipe.batch_size}; choose a batch that divides into as many"
            )
        if compiled is not None:
            check_choice("compiled", compiled, MODES)
        if compiled == "reduce-overhead" and accumulate > 1:
            # A replay writes its gradients where those of the share before are kept, so that they
            # are lost without a word (github.com/pytorch/pytorch/issues/169545).
            told = f"compiled='reduce-overhead' loses gradients with accumulate={accumulate}"
            raise ValueError(f"{told}; choose compiled='default', or accumulate=1")
        super().__init__(model, diffusion, images, labels, recipe)
        self.accumulate, self.writes = accumulate, rank() == 0
        if dist.is_initialized():
            on_gpu = self.device.type == "cuda"
            self.network = DistributedDataParallel(model, [self.device] if on_gpu else None)
        self.waiting = getattr(self.network, "no_sync", nullcontext)  # without averaging gradients
        self.compiled = compiled
        alone = self.device.type == "cpu" and compiled is None and not dist.is_initialized()
        self.parts = parts_at_a_time() if alone else 1
        if compiled is not None:
            self.network = torch.compile(self.network, mode=compiled)

    def settings(self) -> dict:
        """What makes it this run and no other, as plain values."""
        own = {"start": {"sha256": self.start}, "compiler": {"compiled": self.compiled}}
        return super().settings() | own

    def products(self) -> AbstractContextManager:
        """A compiled network's products are the compiler's own."""
        return quick_parts(self.model) if self.compiled is not None else super().products()

    def _learn(self, drawn: list[Tensor | None]) -> Tensor:
        """Add the gradient of a share's loss, its part of the batch's, to the weights'; the loss.

        On a processor the share's own parts are computed side by side, and added in their order.
        """
        if self.parts == 1:
            loss = self.mean_loss(*drawn) / self.accumulate
            loss.backward()
            return loss.detach()
        size, weights = len(drawn[0]), [p for p in self.model.parameters() if p.requires_grad]

        def learn(x0: Tensor, *others: Tensor | None) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            loss = self.mean_loss(x0, *others) * (len(x0) / size / self.accumulate)
            return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

        split = ([None] * self.parts if z is None else z.chunk(self.parts) for z in drawn)
        losses, gradients = zip(*in_threads(learn, list(zip(*split))))
        for weight, *own in zip(weights, *gradients):
            for gradient in (g for g in own if g is not None):
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
        return torch.stack(losses).sum()

    def backward(self, rng: torch.Generator) -> Tensor:
        """The gradient of the whole batch's mean loss, share by share; the mean."""
        drawn = self.inputs(rng)
        size = self.recipe.batch_size // (world_size() * self.accumulate)
        first, mean = rank() * self.accumulate, torch.zeros((), device=self.device)
        for k in range(self.accumulate):
            rows = slice((first + k) * size, (first + k + 1) * size)
            share = [z[rows] if z is not None else None for z in drawn]
            last = k == self.accumulate - 1
            with nullcontext() if last else self.waiting():
                mean += self._learn(share)
        if dist.is_initialized():
            dist.all_reduce(mean)
        return mean / world_size()
