"""A training run's checkpoint: all that it takes to go on to the bit, and whose it is."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minidit.train import Loop, finite
from minidit.weights.files import load_archive, locked, replacing

CHANGEABLE = {"steps", "batch_size", "lr", "compiled"}  # where `Loop.changing` says so


def fingerprint(images: Tensor, labels: Tensor | None) -> dict:
    """Enough of a data set, (n, c, h, w) and (n, …), to notice that it is another one."""
    sample = _integers(images[:: max(1, len(images) // 64)])
    order = torch.arange(len(sample), device=images.device) % 1009
    facts = {"shape": list(images.shape), "sum": sample.sum().item(), "labels": None}
    facts["places"] = (sample * order).sum().item()  # which no older checkpoint has
    if labels is not None:
        # of millions, some will do
        values = _integers(labels.flatten()[:: max(1, labels.numel() >> 22)])
        place = torch.arange(len(values), device=labels.device)
        facts |= {"labels": int(values.sum()), "order": int((values * place).sum())}
    return facts


def _integers(z: Tensor) -> Tensor:
    """Values, or the bits of floats, whose sums don't depend on how threads share them: flat."""
    if z.is_floating_point():
        z = z.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[z.itemsize])
    return z.flatten().long()


def identity(run: Loop) -> dict:
    """What makes it this run and no other, as plain values."""
    return run.settings() | {"data": fingerprint(run.images, run.labels)}


def state_of(run: Loop) -> dict:
    """Everything that a resumed run needs, as tensors and plain values."""
    return identity(run) | {
        "done": run.done,
        "model": run.model.state_dict(),
        "ema": run.ema.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "changes": run.changes,
        **run.memory,
    }


def restore(run: Loop, state: dict) -> None:
    """Continue where `state` was taken. Raises ValueError if it is of another run.

    If there is a `changing`, what is `CHANGEABLE` may differ. And the weights that it began with
    may be elsewhere or others by now: the run has no more need of them.
    """
    changed, done = {}, state["done"]
    began = state.get("start", {}).get("sha256")
    if run.changing is not None and began is not None:
        run.start = began
    for part, own in identity(run).items():
        other = {k: v for k, v in state.get(part, {}).items() if own.get(k) != v}
        if run.changing is not None:
            changed |= {k: [other.pop(k), own[k]] for k in list(other) if k in CHANGEABLE}
        if other:
            now = {k: own.get(k) for k in other}
            may = other.keys() <= CHANGEABLE or (part == "start" and began is not None)
            way_out = "use the same settings," + " let them change (`changing`)," * may
            raise ValueError(
                f"the checkpoint is of another run: its {part} has {other}, this run {now}; "
                f"{way_out} or use another folder"
            )
    if changed and run.recipe.steps <= done:
        told = f"steps={run.recipe.steps} leave nothing to do after the {done} that were taken"
        raise ValueError(f"{told}; choose more, or another folder")
    run.model.load_state_dict(state["model"])
    run.ema.model.load_state_dict(state["ema"])
    for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
        # the numbers of the recipe are known; of the rest, the kernels look at no shape
        optimizer.load_state_dict(optimizer.state_dict() | {"state": saved["state"]})
        for weight, memory in optimizer.state.items():
            if {z.shape for z in memory.values() if z.ndim} - {weight.shape}:
                raise KeyError("an optimiser's memory is of another shape than its weight")
    for name, tensor in run.memory.items():
        tensor.copy_(state.get(name, tensor))
    run.done, run.changes = done, state.get("changes", [])
    if not (0 <= done <= run.recipe.steps and finite(state["ema"].values())):
        raise KeyError(f"done={done}, or its average is not finite")
    if changed:
        run.changes = [*run.changes, {"step": done} | changed]
        run.changing(run.changes[-1])


class Checkpoint(NamedTuple):
    """A run's state in a file."""

    path: Path

    def save(self, run: Loop) -> None:
        """Write where the run stands."""
        self.write(state_of(run))

    def write(self, state: dict) -> None:
        """Write a state; a kill at any moment leaves the checkpoint before or this one, whole."""
        with replacing(self.path) as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # of the archive; the system may have said why, before
                raise error.__context__ or error from None

    def read(self) -> dict | None:
        """The state, if there is one; nothing in the file is executed. ValueError if damaged."""
        if not self.path.is_file():
            return None
        try:
            state = load_archive(self.path)
            if not {"done", "recipe", "data", "model", "ema", "optimizers"} <= state.keys():
                raise KeyError(f"{self.path} holds {list(state)}")
            return state
        except Exception as error:  # torch raises many kinds for a damaged file
            told = f"{self.path} is damaged or no checkpoint; remove it to start the run anew"
            raise ValueError(told) from error

    def resume(self, run: Loop) -> None:
        """Go on from the state, if there is one; ValueError if it doesn't fit the run."""
        if (state := self.read()) is None:
            return
        try:
            restore(run, state)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
            told = " ".join(f"({type(error).__name__}: {error})".split())
            told = f"{self.path} doesn't fit this run {told}"
            raise ValueError(f"{told}; remove it to start the run anew") from None


@contextmanager
def checkpoint_in(folder: Path, writes: bool) -> Iterator[Checkpoint]:
    """The checkpoint in a run's folder, into which no other process writes meanwhile."""
    with locked(folder / "run.lock") if writes else nullcontext():
        yield Checkpoint(folder / "checkpoint.pt")
