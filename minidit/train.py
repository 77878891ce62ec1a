"""Training a diffusion model: a batch, times, noise; a step; an average (DiT, section 4)."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from minidit._validate import check_labels
from minidit.condition import ConditionEncoder
from minidit.diffusion import Diffusion
from minidit.loop import EMA, Loop, check_training_images, step_generator
from minidit.recipe import Recipe, draw_times

__all__ = ["EMA", "Recipe", "Run", "fit", "step_generator"]


class Run(Loop):
    """A training run of a network that predicts what `diffusion` asks of it."""

    def __init__(
        self,
        model: nn.Module,
        diffusion: Diffusion,
        images: Tensor,
        labels: Tensor | None,
        recipe: Recipe,
    ) -> None:
        _check_data(images, labels, model)
        super().__init__(model, recipe, images, labels)
        self.diffusion = diffusion
        self.network: nn.Module = model  # what is called: the model, or the model wrapped

    def batch(self, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Images in [-1, 1] or latents, and labels, some of them dropped."""
        x0, rows = self.draw(rng)
        if self.labels is None:
            return x0, None
        return x0, self.model.label_embed.drop(self.labels[rows], rng)

    def inputs(self, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """All that is random in a step: images, times, noise and labels of a batch."""
        x0, y = self.batch(rng)
        t = draw_times(self.recipe.times, len(self.diffusion), len(x0), rng)
        return x0, t, torch.randn(x0.shape, generator=rng, device=self.device), y

    def mean_loss(self, x0: Tensor, t: Tensor, noise: Tensor, y: Tensor | None) -> Tensor:
        """The mean of the images' losses, on a GPU in mixed precision if the recipe says so."""
        half = self.recipe.mixed_precision and self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if half else nullcontext():
            return self.diffusion.loss(self.network, x0, t, noise, y).mean()

    def loss(self, rng: torch.Generator) -> Tensor:
        """The mean of a batch's losses."""
        return self.mean_loss(*self.inputs(rng))

    def settings(self) -> dict:
        """What makes it this run and no other, as plain values."""
        return super().settings() | {"diffusion": self.diffusion.config}


def _check_data(images: Tensor, labels: Tensor | None, model: nn.Module) -> None:
    check_training_images(images)
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

    images: (n, c, h, w), uint8, or floats: in [-1, 1], or latents; labels: (n,), or texts (n, m),
    or layouts (n, m, 6), see `condition`. The whole data set moves to the model's device. With a
    folder `out`, a checkpoint is written there every `save_every` steps, and a run that finds one
    goes on from it, to the bit. `report(step, loss)` hears of progress: after every step on the
    CPU, every 20 steps (their mean) on a GPU. `seconds` is a limit for slow machines: the learning
    rate runs through its whole course in this time at the latest. Such a run can't be repeated to
    the bit, so it goes with no `out`.
    Raises FloatingPointError when the loss is not finite; the last good checkpoint stays.
    """
    return Run(model, diffusion, images, labels, recipe).go(out, save_every, seconds, report)
