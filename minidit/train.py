"""The training loop: a batch, times, noise; a step; an average of the weights (DiT, section 4).

Every step has a random generator of its own, seeded by the run's seed and the step's number. So
nothing random has to be stored: a resumed run draws what the uninterrupted one would have drawn.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from minidit._validate import check_images, check_labels, check_positive
from minidit.checkpoint import fingerprint, read_checkpoint, write_checkpoint
from minidit.condition import ConditionEncoder
from minidit.diffusion import Diffusion
from minidit.recipe import Recipe, draw_times, learning_rate, make_optimizers


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


class Run:
    """A training run: the network, its average, the optimisers' memory, step after step."""

    def __init__(
        self,
        model: nn.Module,
        diffusion: Diffusion,
        images: Tensor,
        labels: Tensor | None,
        recipe: Recipe,
    ) -> None:
        _check_data(images, labels, model)
        self.model, self.diffusion, self.recipe = model.train(), diffusion, recipe
        self.device = next(model.parameters()).device
        self.images = images.to(self.device)  # all of it: no loader, no copies in the loop
        self.labels = labels.to(self.device) if labels is not None else None
        self.ema = EMA(model, recipe.ema_decay)
        self.optimizers = make_optimizers(model, recipe)
        self.peaks = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.done = 0  # steps taken

    def batch(self, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Images in [-1, 1] and labels, some of them dropped, drawn with replacement."""
        rows = torch.randint(
            len(self.images), (self.recipe.batch_size,), generator=rng, device=self.device
        )
        x0 = self.images[rows]  # (b, c, h, w)
        if x0.dtype == torch.uint8:
            x0 = x0.float() / 127.5 - 1
        if self.labels is None:
            return x0, None
        return x0, self.model.label_embed.drop(self.labels[rows], rng)

    def step(self, position: float | None = None) -> Tensor:
        """Take the next step; its loss, a tensor: reading it is what waits for the device.

        `position`: where in the learning rate's course, in steps; by default, the steps taken.
        """
        position = self.done if position is None else position
        recipe, rng = self.recipe, step_generator(self.recipe.seed, self.done, self.device)
        x0, y = self.batch(rng)
        t = draw_times(recipe.times, len(self.diffusion), len(x0), rng)
        noise = torch.randn(x0.shape, generator=rng, device=self.device)
        half = recipe.mixed_precision and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            loss = self.diffusion.loss(self.model, x0, t, noise, y).mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            rate = learning_rate(position, recipe.steps, peak, recipe.warmup, recipe.cooldown)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        self.ema.update(self.model, self.done)
        self.done += 1
        return loss.detach() + 0 * norm  # not finite if the gradient isn't

    def state(self) -> dict:
        """Everything that a resumed run needs, as tensors and plain values."""
        return {
            "done": self.done,
            "recipe": asdict(self.recipe) | {"betas": list(self.recipe.betas)},
            "data": fingerprint(self.images, self.labels),
            "network": getattr(self.model, "config", {}),
            "diffusion": self.diffusion.config,
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict) -> None:
        """Continue where `state` was taken. Raises ValueError if it is of another run."""
        own = self.state()
        for part in ("recipe", "data", "network", "diffusion"):
            other = {k: v for k, v in state.get(part, {}).items() if own[part].get(k) != v}
            if other:
                now = {k: own[part].get(k) for k in other}
                raise ValueError(
                    f"the checkpoint is of another run: its {part} has {other}, this run {now}; "
                    "use the same settings, or another folder"
                )
        self.model.load_state_dict(state["model"])
        self.ema.model.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.done = state["done"]


def _check_data(images: Tensor, labels: Tensor | None, model: nn.Module) -> None:
    check_images(images)
    if len(images) == 0:
        raise ValueError("images is empty; give at least one image to train on")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}; give uint8, or floats in [-1, 1]")
    if labels is None:
        return
    encoder = getattr(model, "label_embed", None)
    if encoder is None:
        raise ValueError("labels given, but this network has none (num_classes=0); leave them out")
    text_or_layout = isinstance(encoder, ConditionEncoder)
    if labels.shape[: 1 if text_or_layout else None] != images.shape[:1]:
        shape = tuple(labels.shape)
        raise ValueError(f"labels have shape {shape} for {len(images)} images; one label an image")
    # On a GPU the network itself doesn't look at every label, so all are looked at once, here.
    if text_or_layout:
        encoder.check(labels.cpu())
    else:
        check_labels(labels.cpu(), len(labels), encoder.num_classes)


def fit(
    model: nn.Module,
    diffusion: Diffusion,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    recipe: Recipe,
    out: str | Path | None = None,
    save_every: int = 500,
    seconds: float | None = None,
    report: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Train `model` in place and return the average of its weights, which is what samples best.

    images: (n, c, h, w), uint8 or floats in [-1, 1]; labels: (n,), or texts (n, m), or layouts
    (n, m, 6), see `condition`. The whole data set moves to the model's device. With a folder
    `out`, a checkpoint is written there every `save_every` steps, and a run that finds one goes on
    from it, to the bit. `report(step, loss)` hears of progress: after every step on the CPU, every
    20 steps (their mean) on a GPU. `seconds` is a limit for slow machines: the learning rate runs
    through its whole course in this time at the latest. Such a run can't be repeated to the bit,
    so it goes with no `out`.
    Raises FloatingPointError when the loss is not finite; the last good checkpoint stays.
    """
    check_positive(save_every=save_every)
    if seconds is not None and (out is not None or seconds <= 0):
        raise ValueError(f"seconds={seconds} must be above 0, and can't go with out={out}")
    run = Run(model, diffusion, images, labels, recipe)
    path = Path(out) / "checkpoint.pt" if out is not None else None
    if path is not None and path.exists():
        run.restore(read_checkpoint(path))
    every, began = 1 if run.device.type == "cpu" else 20, time.perf_counter()
    losses: list[Tensor] = []
    position: float = run.done
    while position < recipe.steps:
        losses.append(run.step(position))
        position = run.done
        if seconds is not None:
            position = max(position, recipe.steps * (time.perf_counter() - began) / seconds)
        ends = position >= recipe.steps
        saves = path is not None and (run.done % save_every == 0 or ends)
        if saves or run.done % every == 0 or ends:
            mean = _finite_mean(losses, run.done, recipe, path)
            losses.clear()
            if report is not None:
                report(run.done, mean)
        if saves:
            write_checkpoint(run.state(), path)
    return run.ema.model


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
