"""Training a diffusion model: a batch, times, noise; a step; an average (DiT, section 4).

Every step has a random generator of its own, seeded by the run's seed and the step's number. So
nothing random has to be stored: a resumed run draws what the uninterrupted one would have drawn.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from minidit._validate import check_choice, check_images, check_labels, check_positive, unwrapped
from minidit.diffusion import Diffusion
from minidit.patches import as_unit

TIMES = ("uniform", "logit_normal", "half")


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training run; a resumed run must have the same.

    `optimizer`: "adamw", or "muon" for the blocks' matrices at `muon_lr`, with AdamW for the rest.
    `cooldown`: see `learning_rate`. `clip`: the largest norm of the gradient. `times`: see
    `draw_times`. `mixed_precision` of a diffusion model: bfloat16 where it is exact enough, on a
    GPU; "always": on a processor too, faster if that has AVX512_BF16 or AMX, else slower.
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
    mixed_precision: bool | str = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, batch_size=self.batch_size)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("times", self.times, TIMES)
        rules = {  # by name: whether it is so, and what is allowed
            "lr": (0 < self.lr < math.inf, "above 0 and finite, e.g. 1e-3"),
            "muon_lr": (0 < self.muon_lr < math.inf, "above 0 and finite, e.g. 0.02"),
            "betas": ([0 <= b < 1 for b in self.betas] == [True, True], "two in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0 and finite"),
            "warmup": (0 <= self.warmup < math.inf, "a number of steps, 0 for none"),
            "cooldown": (0 <= self.cooldown <= 1, "the part of the run to cool: 0 … 1"),
            "ema_decay": (0 <= self.ema_decay < 1, "in [0, 1), e.g. 0.999"),
            "clip": (self.clip > 0, "above 0; math.inf leaves gradients alone"),
            "mixed_precision": (
                type(self.mixed_precision) in (bool, str)
                and self.mixed_precision in (True, False, "always"),
                "True (on a GPU), False or 'always'",
            ),
            "seed": (isinstance(self.seed, int) and abs(self.seed) < 2**43, "an integer below 2⁴³"),
        }
        for name, (fine, allowed) in rules.items():
            if not fine:
                raise ValueError(f"{name}={getattr(self, name)!r} must be {allowed}")


def draw_times(kind: str, T: int, n: int, generator: torch.Generator) -> Tensor:
    """n training times, (n,) int64 in 0 … T-1: "uniform", or "logit_normal" (arXiv 2403.03206).

    The logit-normal prefers the middle, where neither the image nor the noise is plain to see. It
    hardly visits the last steps and the first, where a learned variance has most to learn: "half"
    draws half of the times from it and the other half uniformly.
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
    if step < warmup:  # which may be a part of a step, where time is the limit
        return peak * min(1.0, (step + 1) / warmup)
    length = cooldown * (steps - warmup)
    left = steps - step
    return peak if left >= length else peak * 0.5 * (1 - math.cos(math.pi * left / length))


def adamw(model: nn.Module, recipe: Recipe, without: frozenset[str] = frozenset()) -> list:
    """AdamW for all weights that are trained, but for those named in `without`."""
    weights = [p for name, p in model.named_parameters() if p.requires_grad and name not in without]
    decay = recipe.weight_decay
    return [torch.optim.AdamW(weights, recipe.lr, recipe.betas, weight_decay=decay, fused=True)]


# By name: (network, recipe) → the optimisers of its weights; `minidit.training` adds Muon.
OPTIMIZERS: dict[str, Callable[[nn.Module, Recipe], list[torch.optim.Optimizer]]] = {"adamw": adamw}


# In what a network's steps are taken; `minidit.training` puts faster matrix products here.
matmul_backend: Callable[[nn.Module], AbstractContextManager] = nullcontext

# (folder, whether this process writes) → the run's checkpoint, held for it: its `path`,
# `resume(run)`, if there is one, and `save(run)`; `minidit.weights` puts files here.
checkpoint_in: Callable[[Path, bool], AbstractContextManager] = nullcontext


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
        if [p.shape for p in self.model.parameters()] != [p.shape for p in model.parameters()]:
            raise ValueError("model isn't the network that is averaged; EMA(model) begins anew")
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - keep)
        for average, now in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(now)  # counts and running means are averages already


class Loop:
    """A training run: the network, its average, the optimisers' memory, step after step.

    What is to be learned says `loss`, which subclasses define.
    """

    writes = True  # checkpoints; of several processes that share a run, only one does

    def __init__(
        self, model: nn.Module, recipe: Recipe, images: Tensor, labels: Tensor | None = None
    ) -> None:
        self.model, self.recipe = model, recipe = unwrapped(model).train(), recipe
        self.device = (weight := next(model.parameters())).device
        if weight.dtype.itemsize < 4:
            raise ValueError(f"weights are {weight.dtype}, where small steps get lost; use float32")
        if weight.is_inference():
            raise ValueError("model was made in inference_mode and can't learn; make it outside")
        self.images = images.to(self.device)  # all of it: no loader, no copies in the loop
        self.labels = labels.to(self.device) if labels is not None else None
        self.ema = EMA(model, recipe.ema_decay)
        self.optimizers = OPTIMIZERS[recipe.optimizer](model, recipe)
        self.peaks = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.done = 0  # steps taken
        self.changing: Callable[[dict], None] | None = None  # hears what a resumed run changes
        self.changes: list[dict] = []  # {"step": the last of the older plan, name: [old, new], …}
        self.memory: dict[str, Tensor] = {}  # what else a resumed run needs, by name

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
        n, shape = len(self.images), (self.recipe.batch_size,)
        rows = torch.randint(n, shape, generator=rng, device=self.device)
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
        return matmul_backend(self.model)

    def settings(self) -> dict:
        """What makes it this run and no other, as plain values."""
        return {
            "recipe": asdict(self.recipe) | {"betas": list(self.recipe.betas)},
            "network": {"kind": type(self.model).__name__} | getattr(self.model, "config", {}),
        }

    def go(
        self,
        out: str | Path | None = None,
        save_every: int = 500,
        seconds: float | None = None,
        report: Callable[[int, float], None] | None = None,
    ) -> nn.Module:
        """Take all steps that are left and return the average; the arguments are those of `fit`."""
        check_positive(save_every=save_every)
        if out == "":
            raise ValueError("out='' names no folder; give one, or None to keep no checkpoint")
        if seconds is not None and (out is not None or not seconds > 0):
            raise ValueError(f"seconds={seconds} must be above 0, and without a folder out")
        kept = checkpoint_in(Path(out), self.writes) if out is not None else nullcontext()
        # A caller's autocast would go on with its copies of the first weights.
        known = self.device.type in ("cpu", "cuda")
        own = torch.autocast(self.device.type, enabled=False) if known else nullcontext()
        with kept as checkpoint, own:
            if checkpoint is not None:
                checkpoint.resume(self)
                if self.changing is not None and self.done and self.writes:
                    checkpoint.save(self)  # with what was changed: there is no way back
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
                saves = self.writes and checkpoint and (self.done % save_every == 0 or ends)
                if saves or self.done % every == 0 or ends:
                    weights = self.model.state_dict().values() if saves or ends else ()
                    mean = _finite_mean(losses, weights, self.done, self.recipe, checkpoint)
                    losses.clear()
                    if report is not None:
                        report(self.done, mean)
                if saves:
                    checkpoint.save(self)
        return self.ema.model


def check_training_images(images: Tensor) -> None:
    """Raise unless there is something to train on: (n, c, h, w), bytes or floats, n at least 1."""
    check_images(images)
    if len(images) == 0:
        raise ValueError("images is empty; give at least one image to train on")
    if images.dtype == torch.uint8:
        return
    low, high = as_unit(images).aminmax()
    if 0 <= low < high:  # neither pixels in [-1, 1] nor latents are like that
        raise ValueError(
            f"images are floats in {low:g} … {high:g}, none of them negative; "
            "networks see [-1, 1]: give uint8 in 0 … 255, or move floats there, e.g. 2 * images - 1"
        )
    if not -100 < low <= high < 100:
        raise ValueError(f"images are floats in {low:g} … {high:g}; networks see about [-1, 1]")


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers of all tensors are finite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _finite_mean(
    losses: list[Tensor], weights: Iterable[Tensor], done: int, recipe: Recipe, checkpoint: object
) -> float:
    values = torch.stack(losses).tolist()
    steps = range(done - len(values) + 1, done + 1)
    faults = [f"loss is {v} at step {k}" for k, v in zip(steps, values) if not math.isfinite(v)]
    if faults or not finite(weights):
        there = checkpoint is not None and checkpoint.path.is_file()
        kept = f" The last good checkpoint is {checkpoint.path}." if there else ""
        raise FloatingPointError(
            f"the {[*faults, f'weights are not finite after step {done}'][0]}; try a smaller lr "
            f"than {recipe.lr}, a longer warmup than {recipe.warmup} or a smaller clip than "
            f"{recipe.clip}.{kept}"
        )
    return sum(values) / len(values)


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

    def inputs(self, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """All that is random in a step: images, times, noise and labels, some of them dropped."""
        x0, rows = self.draw(rng)
        y = None if self.labels is None else self.model.label_embed.drop(self.labels[rows], rng)
        t = draw_times(self.recipe.times, len(self.diffusion), len(x0), rng)
        return x0, t, torch.randn(x0.shape, generator=rng, device=self.device), y

    def mean_loss(self, x0: Tensor, t: Tensor, noise: Tensor, y: Tensor | None) -> Tensor:
        """The mean of the images' losses, in mixed precision where the recipe says so."""
        kind, mixed = self.device.type, self.recipe.mixed_precision
        half = mixed == "always" or (mixed and kind == "cuda")
        # Threads would share a cache of narrow weights, and sums depend on which of them is late.
        with torch.autocast(kind, torch.bfloat16, cache_enabled=False) if half else nullcontext():
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
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels are a {type(labels).__name__}; torch.as_tensor makes a tensor")
    encoder = getattr(unwrapped(model), "label_embed", None)
    if encoder is None:
        raise ValueError(
            "labels given, but there is no label_embed (num_classes=0); leave them out"
        )
    limit = getattr(encoder, "num_classes", None)  # a text or a layout has none
    if labels.shape[: None if limit else 1] != images.shape[:1]:
        shape = tuple(labels.shape)
        raise ValueError(f"labels have shape {shape} for {len(images)} images; one label an image")
    # On a GPU the network itself doesn't look at every label, so all are looked at once, here.
    if limit:
        check_labels(labels.cpu(), len(labels), limit)
    else:
        encoder.check(labels.cpu())


@torch.inference_mode(False)  # and with gradients, whatever the caller's mode is
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
