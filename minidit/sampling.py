"""From noise to images: DDPM (arXiv 2006.11239), DDIM (2010.02502), guidance (2207.12598).

A sampler is a generator: it yields every state, so the caller owns pictures and progress;
`sample(ddim(…))` runs one to its end.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from minidit._validate import unwrapped
from minidit.diffusion import Diffusion
from minidit.schedule import Schedule

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # model(x, t, y)


class State(NamedTuple):
    """What a sampler yields after the step at `t` (the number that the network was given)."""

    t: float
    x: Tensor  # the less noisy image
    x0: Tensor  # the clean image predicted at t


def walk(schedule: Schedule, x: Tensor) -> Iterator[tuple[float, Tensor, Tensor]]:
    """All steps, falling: the number for the network; and as tensors (b,) the index and the number.

    The first is there to be reported: reading it from the tensor would wait for a GPU to come by.
    """
    for k, step in reversed(list(enumerate(schedule.steps.tolist()))):
        t = torch.full((x.shape[0],), k, device=x.device)
        yield step, t, schedule.at("steps", t, x).flatten()


def draw_noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the shape of x, drawn where the generator lives (or on the CPU)."""
    device = generator.device if generator is not None else "cpu"
    dtype = torch.promote_types(x.dtype, torch.float32)  # the same noise in half precision
    return torch.randn(x.shape, generator=generator, device=device, dtype=dtype).to(x)


def space_timesteps(T: int, counts: int | str | Sequence[int]) -> list[int]:
    """Evenly spaced steps of T, rising, by the rules of DiT's code.

    50 or "50": that many, both ends included. "ddim50": every (T/50)-th, from 0.
    [10, 15, 20] or "10,15,20": the steps are cut into as many equal parts, with a count for each.
    Raises ValueError if that can't be had.
    """
    if isinstance(counts, str) and counts.startswith("ddim"):
        return _ddim_strides(T, _count(counts, counts[4:]))
    if isinstance(counts, str):
        counts = [_count(counts, part) for part in counts.split(",")]
    counts = [int(counts)] if isinstance(counts, Integral) else list(counts)
    steps, start = [], 0
    for i, count in enumerate(counts):
        size = T // len(counts) + (i < T % len(counts))
        if not 1 <= count <= size:
            raise ValueError(f"counts={counts}: {count} steps can't be had from a part of {size}")
        stride, position = (size - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):
            steps.append(start + round(position))
            position += stride  # adding up, as DiT's code does, decides how x.5 is rounded
        start += size
    return steps


def _ddim_strides(T: int, count: int) -> list[int]:
    for stride in range(1, T):
        if len(range(0, T, stride)) == count:
            return list(range(0, T, stride))
    raise ValueError(f"counts='ddim{count}': no whole stride gives {count} of {T} steps")


# Rules by name, whose number of steps follows the name; `minidit.solvers` adds uneven spacings.
SELECTIONS: dict[str, Callable[[Schedule, int], list[int]]] = {}


def select_steps(schedule: Schedule, rule: int | str | Sequence[int]) -> list[int]:
    """Rising steps by a rule: "quad50", "beta50", "logsnr50", one of `space_timesteps`, or a list.

    Raises ValueError for an unknown rule, or for more steps than the schedule has.
    """
    if not isinstance(rule, Integral | str | Iterable):
        raise TypeError(f"steps={rule!r} must be a number of steps, a rule or a list")
    if not isinstance(rule, Integral | str):
        return list(rule)
    rule = str(rule)
    for name, selection in SELECTIONS.items():
        if rule.startswith(name):
            return selection(schedule, _count(rule, rule.removeprefix(name)))
    last = rule.split(",")[-1].strip()
    if last.removeprefix("-").isdecimal():
        check_count(int(last), len(schedule))  # 1 would be the clean end of its part alone
    return space_timesteps(len(schedule), rule)


def check_count(count: int, T: int) -> None:
    """Raise ValueError unless `count` steps can be had of T: 2 … T."""
    if not 2 <= count <= T:
        raise ValueError(f"{count} steps can't be had: choose 2 … {T}, or one itself: [{T - 1}]")


def _count(rule: str, digits: str) -> int:
    if not digits.strip().isdecimal() or len(digits) > 9:
        raise ValueError(
            f"steps={rule!r} is unknown; choose a number, a list, '10,15,20', or one of "
            f"{['ddim', *SELECTIONS]} with a number after it, e.g. 'ddim50'"
        )
    return int(digits)


def guided(
    model: Denoiser,
    scale: float,
    channels: int | str = "all",
    interval: tuple[float, float] | None = None,
) -> Denoiser:
    """Classifier-free guidance, u + scale·(c - u), with both passes in one batch.

    `scale` 1 is the plain conditional network, 0 the unconditional one; the w of U-ViT's code is
    scale - 1. `channels`: how many output channels are guided: "all" those of the prediction, or a
    number; DiT's code guides 3 of its 4. The variance channels are the conditional pass's own.
    `interval`: guide only where low ≤ t ≤ high (arXiv 2404.07724); elsewhere one pass is made (to
    know, a GPU is awaited).
    Raises ValueError if the network has no null label.
    """
    if not hasattr(network := unwrapped(model), "null_label"):
        raise TypeError("model has no attribute null_label: give the network itself, or set it")
    if (null := network.null_label) is None:
        raise ValueError("the network has no null label; train it with class_dropout_prob > 0")
    if not math.isfinite(scale):
        raise ValueError(f"scale={scale} must be finite; 1 is no guidance, 2 to 4 are usual")
    if channels != "all" and not (isinstance(channels, int) and channels > 0):
        raise ValueError(f"channels={channels!r} is not allowed; choose 'all' or a number ≥ 1")
    if interval is not None and not (len(interval) == 2 and interval[0] <= interval[1]):
        raise ValueError(f"interval={interval} must be (low, high) with low ≤ high")

    return partial(_guided, (scale, channels, interval, null), model)  # can be pickled


def _guided(how: tuple, model: Denoiser, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    scale, channels, interval, null = how
    if not isinstance(y, Tensor):
        raise ValueError(f"y={y!r} can't be guided: guidance leads to labels, a tensor (b,)")
    inside = None if interval is None else (t >= interval[0]) & (t <= interval[1])  # (b,)
    if scale == 1 or (inside is not None and not inside.any()):
        return model(x, t, y)
    both = torch.cat([y, torch.full_like(y, null)])
    cond, uncond = model(torch.cat([x, x]), torch.cat([t, t]), both).to(x.dtype).chunk(2)
    n = x.shape[1] if channels == "all" else channels
    if n > x.shape[1] != cond.shape[1]:  # the variance's channels would be guided, too
        raise ValueError(f"channels={channels}: the prediction has {x.shape[1]}, or use 'all'")
    mixed = uncond[:, :n] + scale * (cond[:, :n] - uncond[:, :n])
    if inside is not None:
        mixed = torch.where(inside.reshape(-1, 1, 1, 1), mixed, cond[:, :n])
    return torch.cat([mixed, cond[:, n:]], dim=1)


def prepared(
    diffusion: Diffusion,
    x: Tensor,
    steps: int | str | Sequence[int] | None,
    noise: Sequence[Tensor] | None = None,
) -> Diffusion:
    """The process over the chosen steps, with a draw of noise (b, c, h, w) for each, if any."""
    if steps is not None:
        diffusion = diffusion.respace(select_steps(diffusion.schedule, steps))
    shapes = {tuple(x.shape)} if noise is None else {tuple(z.shape) for z in noise}
    if noise is not None and (len(noise) < len(diffusion) or shapes != {tuple(x.shape)}):
        raise ValueError(
            f"noise holds {len(noise)} draws of {sorted(shapes)}; this run needs "
            f"{len(diffusion)} of {tuple(x.shape)}, one for each step, the noisiest first"
        )
    return diffusion


@torch.no_grad()
def ddpm(
    model: Denoiser,
    diffusion: Diffusion,
    x: Tensor,
    y: Tensor | None = None,
    *,
    steps: int | str | Sequence[int] | None = None,
    clip: bool | float = False,
    generator: torch.Generator | None = None,
    noise: Sequence[Tensor] | None = None,
) -> Iterator[State]:
    """Ancestral sampling: x_s = μ(x_t) + Σ^½·z (DDPM, algorithm 2).

    x: (b, c, h, w), pure noise; y: (b,) labels. `steps`: a rule for `select_steps`, or
    the very steps as a rising list; by default all. `clip`: see `clip_image`. z comes
    from `generator`, or from recorded `noise`, one tensor a step, the noisiest first.
    """
    diffusion = prepared(diffusion, x, steps, noise)
    last = len(diffusion) - 1
    for k, (step, t, number) in enumerate(walk(diffusion.schedule, x)):
        p = diffusion.p_mean_variance(model(x, number, y), x, t, clip)
        z = draw_noise(x, generator) if noise is None else noise[k]
        x = p.mean + (0.5 * p.log_variance).exp() * z if k < last else p.mean
        yield State(step, x, p.x0)


@torch.no_grad()
def ddim(
    model: Denoiser,
    diffusion: Diffusion,
    x: Tensor,
    y: Tensor | None = None,
    *,
    steps: int | str | Sequence[int] | None = None,
    eta: float = 0.0,
    clip: bool | float = False,
    generator: torch.Generator | None = None,
    noise: Sequence[Tensor] | None = None,
) -> Iterator[State]:
    """x_s = α_s·x̂_0 + √(σ_s² - η²β̃)·ε̂ + η·√β̃·z (DDIM, equation 12); η = 0 draws nothing.

    On the straight line of flow matching this with η = 0 is Euler's step along the velocity.
    Arguments as for `ddpm`.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} is out of range: 0 (deterministic) … 1 (as random as DDPM)")
    diffusion = prepared(diffusion, x, steps, noise)
    for k, (step, t, number) in enumerate(walk(diffusion.schedule, x)):
        x0, eps = diffusion.pred_x0_eps(model(x, number, y), x, t, clip)
        alpha, sigma, variance = diffusion.schedule.at(
            "alpha_prev sigma_prev posterior_variance", t, x
        )
        variance = eta**2 * variance
        x = alpha * x0 + (sigma**2 - variance).sqrt() * eps
        if eta > 0:
            z = draw_noise(x, generator) if noise is None else noise[k]
            x = x + variance.sqrt() * z
        yield State(step, x, x0)


# `minidit.solvers` adds those that look at more than one prediction, or between the steps.
SAMPLERS: dict[str, Callable[..., Iterator[State]]] = {"ddpm": ddpm, "ddim": ddim}


def sample(states: Iterable[State]) -> Tensor:
    """Run a sampler to its end: the last x, (b, c, h, w)."""
    last = deque(states, maxlen=1)
    if not last:
        raise ValueError("the sampler yielded no state; give it at least one step")
    return last[0].x
