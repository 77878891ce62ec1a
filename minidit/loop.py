"""The loop that all training shares: steps, their random numbers, an average, checkpoints.

Every step has a random generator of its own, seeded by the run's seed and the step's number. So
nothing random has to be stored: a resumed run draws what the uninterrupted one would have drawn.
"""

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from minidit._pixels import as_unit
from minidit._validate import check_images, check_positive
from minidit.checkpoint import fingerprint, read_checkpoint, write_checkpoint
from minidit.products import quick_products
from minidit.recipe import Recipe, learning_rate, make_optimizers


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random numbers of one step: the same for the same seed and step, whatever went before."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


class EMA:
    """The exponential moving average of a network's weights: `ema.model` is what samples.

    The average forgets faster in the beginning, min(decay, (1 + step)/(10 + step)), so that it
    doesn't drag random weights along in a short run.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} is out of range; it is in [0, 1), e.g. 0.9999")
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move every averaged weight towards the model's; `step` counts from 0."""
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - keep)


class Loop:
    """A training run: the network, its average, the optimisers' memory, step after step.

    What is to be learned says `loss`, which subclasses define.
    """

    writes = True  # checkpoints; of several processes that share a run, only one does

    def __init__(
        self, model: nn.Module, recipe: Recipe, images: Tensor, labels: Tensor | None = None
    ) -> None:
        self.model, self.recipe = model.train(), recipe
        self.device = next(model.parameters()).device
        self.images = images.to(self.device)  # all of it: no loader, no copies in the loop
        self.labels = labels.to(self.device) if labels is not None else None
        self.ema = EMA(model, recipe.ema_decay)
        self.optimizers = make_optimizers(model, recipe)
        self.peaks = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.done = 0  # steps taken

    def loss(self, rng: torch.Generator) -> Tensor:
        """The loss of the next step, a scalar; all that is random in it comes from `rng`."""
        raise NotImplementedError

    def backward(self, rng: torch.Generator) -> Tensor:
        """Leave the gradient of the next step's loss in the weights; the loss, without a graph."""
        loss = self.loss(rng)
        loss.backward()
        return loss.detach()

    def after(self, rng: torch.Generator) -> None:
        """What else a step does, once the weights have moved; `rng` goes on after `loss`."""

    def draw(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch with replacement: images (b, c, h, w), bytes as [-1, 1], and their rows (b,)."""
        rows = torch.randint(
            len(self.images), (self.recipe.batch_size,), generator=rng, device=self.device
        )
        return as_unit(self.images[rows]), rows

    def step(self, position: float | None = None) -> Tensor:
        """Take the next step; its loss, a tensor: reading it is what waits for the device.

        `position`: where in the learning rate's course, in steps; by default, the steps taken.
        """
        position = self.done if position is None else position
        recipe, rng = self.recipe, step_generator(self.recipe.seed, self.done, self.device)
        loss = self.backward(rng)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            rate = learning_rate(position, recipe.steps, peak, recipe.warmup, recipe.cooldown)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        self.ema.update(self.model, self.done)
        self.after(rng)
        self.done += 1
        return loss + 0 * norm  # not finite if the gradient isn't

    def products(self) -> AbstractContextManager:
        """In what the steps are taken: the network's matrix products, by the faster library."""
        return quick_products(self.model)

    def settings(self) -> dict:
        """What makes it this run and no other, as plain values."""
        return {
            "recipe": asdict(self.recipe) | {"betas": list(self.recipe.betas)},
            "data": fingerprint(self.images, self.labels),
            "network": {"kind": type(self.model).__name__} | getattr(self.model, "config", {}),
        }

    def state(self) -> dict:
        """Everything that a resumed run needs, as tensors and plain values."""
        return self.settings() | {
            "done": self.done,
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict) -> None:
        """Continue where `state` was taken. Raises ValueError if it is of another run."""
        for part, own in self.settings().items():
            other = {k: v for k, v in state.get(part, {}).items() if own.get(k) != v}
            if other:
                now = {k: own.get(k) for k in other}
                raise ValueError(
                    f"the checkpoint is of another run: its {part} has {other}, this run {now}; "
                    "use the same settings, or another folder"
                )
        self.model.load_state_dict(state["model"])
        self.ema.model.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.done = state["done"]

    def go(
        self,
        out: str | Path | None = None,
        save_every: int = 500,
        seconds: float | None = None,
        report: Callable[[int, float], None] | None = None,
    ) -> nn.Module:
        """Take all steps that are left and return the average; the arguments are those of `fit`."""
        check_positive(save_every=save_every)
        if seconds is not None and (out is not None or seconds <= 0):
            raise ValueError(f"seconds={seconds} must be above 0, and can't go with out={out}")
        path = Path(out) / "checkpoint.pt" if out is not None else None
        if path is not None and path.exists():
            self.restore(read_checkpoint(path))
        every, began = 1 if self.device.type == "cpu" else 20, time.perf_counter()
        losses: list[Tensor] = []
        position: float = self.done
        while position < self.recipe.steps:
            with self.products():
                losses.append(self.step(position))
            position = self.done
            if seconds is not None:
                passed = (time.perf_counter() - began) / seconds
                position = max(position, self.recipe.steps * passed)
            ends = position >= self.recipe.steps
            saves = self.writes and path is not None and (self.done % save_every == 0 or ends)
            if saves or self.done % every == 0 or ends:
                mean = _finite_mean(losses, self.done, self.recipe, path)
                losses.clear()
                if report is not None:
                    report(self.done, mean)
            if saves:
                write_checkpoint(self.state(), path)
        return self.ema.model


def check_training_images(images: Tensor) -> None:
    """Raise unless there is something to train on: (n, c, h, w), bytes or floats, n at least 1."""
    check_images(images)
    if len(images) == 0:
        raise ValueError("images is empty; give at least one image to train on")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}; give uint8, or floats in [-1, 1]")


def _finite_mean(losses: list[Tensor], done: int, recipe: Recipe, path: Path | None) -> float:
    values = torch.stack(losses).tolist()
    for step, value in enumerate(values, done - len(values) + 1):
        if not math.isfinite(value):
            kept = f" The last good checkpoint is {path}." if path and path.exists() else ""
            raise FloatingPointError(
                f"the loss is {value} at step {step}; try a smaller lr than {recipe.lr}, a longer "
                f"warmup than {recipe.warmup} or a smaller clip than {recipe.clip}.{kept}"
            )
    return sum(values) / len(values)
