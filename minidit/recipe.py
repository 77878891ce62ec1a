"""The numbers of a training run: which times, which learning rate, which optimiser."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minidit._validate import check_choice, check_positive
from minidit.muon import Muon

TIMES = ("uniform", "logit_normal", "half")


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training run; a resumed run must have the same.

    `optimizer`: "adamw", or "muon" for the blocks' matrices at `muon_lr`, with AdamW for the rest.
    `cooldown`: see `learning_rate`. `clip`: the largest norm of the gradient. `times`: see
    `draw_times`. `mixed_precision`: bfloat16 where it is exact enough, on a GPU only.
    """

    steps: int
    batch_size: int = 128
    lr: float = 1e-3
    optimizer: str = "adamw"
    muon_lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 100
    cooldown: float = 1.0
    clip: float = 1.0
    ema_decay: float = 0.999
    times: str = "uniform"
    mixed_precision: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, batch_size=self.batch_size)
        check_choice("optimizer", self.optimizer, ("adamw", "muon"))
        check_choice("times", self.times, TIMES)
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr} must be above 0, e.g. 1e-3")
        if not self.clip > 0:
            raise ValueError(f"clip={self.clip} must be above 0; math.inf leaves gradients alone")
        if self.warmup < 0:
            raise ValueError(f"warmup={self.warmup} must be a number of steps, 0 for none")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"cooldown={self.cooldown} is the part of the run to cool: 0 … 1")


def draw_times(kind: str, T: int, n: int, generator: torch.Generator) -> Tensor:
    """n training times, (n,) int64 in 0 … T-1: "uniform", or "logit_normal" (arXiv 2403.03206).

    The logit-normal prefers the middle, where neither the image nor the noise is plain to see. It
    hardly visits the first and last steps, where a learned variance has most to learn: "half" draws
    half of the times from it and the other half uniformly.
    """
    check_choice("times", kind, TIMES)
    if kind == "uniform":
        return torch.randint(T, (n,), generator=generator, device=generator.device)
    if kind == "half":
        kinds = [("logit_normal", n - n // 2), ("uniform", n // 2)]
        return torch.cat([draw_times(kind, T, size, generator) for kind, size in kinds])
    u = torch.randn(n, generator=generator, device=generator.device).sigmoid()
    return (u * T).long().clamp(max=T - 1)


def learning_rate(step: float, steps: int, peak: float, warmup: int, cooldown: float) -> float:
    """The rate at a step: linear warm-up, then `peak`, then a cosine to zero over the last part.

    `cooldown` is the part of the run that the cosine takes: 1 for all after the warm-up, 0 for a
    constant rate, as in the papers.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    length = cooldown * (steps - warmup)
    left = steps - step
    return peak if left >= length else peak * 0.5 * (1 - math.cos(math.pi * left / length))


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for all weights, or Muon for matrices of blocks and skips and AdamW for the rest."""
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = []
    if recipe.optimizer == "muon":
        inside = ("blocks.", "skips.", "label_embed.blocks.")
        matrices = [n for n, p in weights.items() if n.startswith(inside) and p.ndim == 2]
        if not matrices:
            raise ValueError(
                "optimizer='muon' is for matrices of blocks and skips, and this network has none; "
                "use optimizer='adamw'"
            )
    rest = [p for name, p in weights.items() if name not in set(matrices)]
    adamw = torch.optim.AdamW(
        rest, recipe.lr, recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )
    if not matrices:
        return [adamw]
    muon = Muon([weights[n] for n in matrices], recipe.muon_lr, weight_decay=recipe.weight_decay)
    return [muon, adamw]
