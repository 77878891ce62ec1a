"""DPM-Solver and DPM-Solver++: few, long steps; `dpm_steps` has the papers and the formulas."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from minidit._validate import check_choice
from minidit.diffusion import Diffusion
from minidit.sampling import Denoiser, State, select_steps
from minidit.schedule import Schedule
from minidit.solvers.dpm_steps import Walk
from minidit.solvers.spacing import between, log_snr, position

METHODS = ("multistep", "singlestep", "fast")
SPACINGS = ("time", "quadratic", "logsnr")


@torch.no_grad()
def dpm_solver(
    model: Denoiser,
    diffusion: Diffusion,
    x: Tensor,
    y: Tensor | None = None,
    *,
    steps: int | str | Sequence[float] = 20,
    order: int = 2,
    method: str = "multistep",
    spacing: str = "time",
    solve: str = "x0",
    taylor: bool = False,
    denoise: bool = True,
    clip: bool | float = False,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Walk from the noisiest step to the clean image with `steps` evaluations of the network.

    x: (b, c, h, w), pure noise; y: (b,) labels. `order` 1 (DDIM's step), 2 or 3. `method`:
    "multistep", "singlestep" (as many whole steps of `order` evaluations as there is room for), or
    "fast" (singlestep that mixes orders to use every evaluation). `spacing` of the nodes: even in
    "time", in its root ("quadratic") or in λ ("logsnr"); or `steps` is a rule for `select_steps`
    like "quad20", or a rising list of positions, the nodes themselves. `solve`: "x0" is
    DPM-Solver++, "eps" DPM-Solver. `taylor`: φ2 also where the papers' codes have φ1/2 by default.
    `denoise`: the last evaluation, at step 0, gives the clean image; without it, as in the papers'
    codes, the walk has a step more and ends at step 0, with a trace of noise, σ_0. `clip`: see
    `clip_image`. Nothing is random: `generator` is taken only so that all samplers look alike.
    Raises ValueError for unknown names, and for steps that don't fit order and schedule.
    """
    nodes, strides = plan(diffusion.schedule, steps, order, method, spacing, denoise)
    walk = Walk(model, diffusion, nodes, y, solve, clip, taylor)
    at, memory = 0, []
    for stride in strides:
        if method == "multistep":
            memory = [*memory, (at, walk.predict(x, at))][-order:]
            x0, x = walk.pred_x0, walk.multistep(x, at + stride, memory)
        else:
            d = walk.predict(x, at)
            x0, x = walk.pred_x0, walk.singlestep(x, at, stride, d)[-1]
        yield State(walk.number(at), x, x0)
        at += stride
    if denoise:
        walk.predict(x, at)
        yield State(walk.number(at), walk.pred_x0, walk.pred_x0)


def plan(
    schedule: Schedule,
    steps: int | str | Sequence[float],
    order: int = 2,
    method: str = "multistep",
    spacing: str = "time",
    denoise: bool = True,
) -> tuple[Tensor, list[int]]:
    """Falling positions to evaluate at, (k,) float64, and how many of them each step strides."""
    check_choice("method", method, METHODS)
    check_choice("order", order, (1, 2, 3))
    if isinstance(steps, int) or (isinstance(steps, str) and steps.isdecimal()):
        nodes, count = None, int(steps) - denoise
    else:
        nodes = _given(schedule, select_steps(schedule, steps))
        count = len(nodes) - 1
    if method == "singlestep" and nodes is None:
        count //= order
    if not 1 <= count < len(schedule):
        raise ValueError(
            f"steps={steps} is too few or too many for method={method!r}, order={order}, "
            f"denoise={denoise} and a schedule of {len(schedule)} steps"
        )
    if nodes is None:
        nodes = grid(schedule, spacing, count)
    if method == "singlestep":
        return _refine(schedule, nodes, order), [order] * count
    return nodes, fast_orders(count, order) if method == "fast" else [1] * count


def grid(schedule: Schedule, spacing: str, count: int) -> Tensor:
    """The count + 1 ends of `count` steps, falling positions from T-1 to 0."""
    check_choice("spacing", spacing, SPACINGS)
    T = len(schedule)
    if spacing == "time":
        return torch.linspace(T - 1, 0, count + 1, dtype=torch.float64)
    if spacing == "quadratic":  # of the time (position + 1)/T, which is 1 at the noisy end
        root = torch.linspace(1, T**-0.5, count + 1, dtype=torch.float64)
        return (root**2 * T - 1).clamp(0, T - 1)
    clean, noisy = log_snr(schedule)[[0, -1]].tolist()
    return position(schedule, torch.linspace(noisy, clean, count + 1, dtype=torch.float64))


def fast_orders(count: int, order: int) -> list[int]:
    """Orders that add up to `count` evaluations: of the highest as many as possible, low last."""
    check_choice("order", order, (2, 3))
    if order == 3 and count % 3 == 0:
        return [3] * (count // 3 - 1) + [2, 1]
    return [order] * (count // order) + [count % order] * (count % order > 0)


def _given(schedule: Schedule, steps: Sequence[float]) -> Tensor:
    nodes = torch.tensor([float(step) for step in steps], dtype=torch.float64)
    outside = (nodes < 0) | (nodes > len(schedule) - 1)
    if len(nodes) < 2 or outside.any() or (nodes.diff() <= 0).any():
        raise ValueError(
            f"steps={list(steps)} must rise within 0 … {len(schedule) - 1}, two at least"
        )
    return nodes.flip(0)


def _refine(schedule: Schedule, outer: Tensor, order: int) -> Tensor:
    """Nodes inside every step, evenly spaced in λ: (k + 1,) → (order·k + 1,)."""
    lam = log_snr(between(schedule, outer))  # (k + 1,)
    part = torch.arange(order, dtype=torch.float64) / order  # (order,)
    nodes = position(schedule, (lam[:-1, None] + lam.diff()[:, None] * part).flatten())
    nodes[::order] = outer[:-1]
    return torch.cat([nodes, outer[-1:]])
