"""DPM-Solver (Lu et al., arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095): few, long steps.

In the variable λ = log(α/σ) the exact solution from node j to node k is linear in x plus an
integral over the prediction d alone, the noise ε (DPM-Solver) or the image x_0 (++):

    x_k = (α_k/α_j)·x - σ_k·(φ1·ε + φ2·ε' + φ3·ε'')      with z =  h,  h = λ_k - λ_j
    x_k = (σ_k/σ_j)·x - α_k·(φ1·x_0 + φ2·x_0' + φ3·x_0'')  with z = -h

    φ1 = e^z - 1,  φ2 = φ1/z - 1,  φ3 = φ2/z - 1/2

where ' is the derivative by λ/h, estimated from predictions at other nodes: inside the step
("singlestep"), or left over from the steps before ("multistep", one evaluation a step).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from numbers import Integral

import torch
from torch import Tensor

from minidit._validate import check_choice
from minidit.diffusion import Diffusion
from minidit.sampling import Denoiser, State, select_steps
from minidit.schedule import Schedule
from minidit.solvers.spacing import between, grid, log_snr, position

METHODS = ("multistep", "singlestep", "fast")


class Walk:
    """Predictions at nodes, and the steps from node to node; `solve`: "x0" or "eps".

    `nodes`: positions on the schedule, (k,) float64, falling; `numbers`: what the network is told
    there. `taylor`: φ2 also where the papers' codes have φ1/2 by default.
    """

    def __init__(
        self,
        model: Denoiser,
        diffusion: Diffusion,
        nodes: Tensor,
        y: Tensor | None,
        solve: str,
        clip: bool | float,
        taylor: bool = False,
    ) -> None:
        check_choice("solve", solve, ("x0", "eps"))
        self.model, self.y, self.clip = model, y, clip
        self.diffusion = replace(diffusion, schedule=between(diffusion.schedule, nodes))
        self.solve, self.taylor = solve, taylor
        schedule = self.diffusion.schedule
        self.lam, self.numbers = log_snr(schedule).tolist(), schedule.steps.tolist()
        tables = schedule.alpha.tolist(), schedule.sigma.tolist()
        self.kept, self.new = tables if solve == "eps" else tables[::-1]  # of x, of the prediction
        self.pred_x0: Tensor | None = None

    def predict(self, x: Tensor, k: int) -> Tensor:
        """The prediction d (b, c, h, w) at node k; the image it stands for goes to `pred_x0`."""
        t = torch.full((x.shape[0],), k, device=x.device)
        number = self.diffusion.schedule.at("steps", t, x).flatten()  # (b,)
        prediction, _ = self.diffusion.split(self.model(x, number, self.y), x)
        self.pred_x0 = self.diffusion.to_x0(x, t, prediction, self.clip)
        if self.solve == "x0":
            return self.pred_x0
        return self.diffusion.to_eps(x, t, self.pred_x0)

    def step(self, x: Tensor, j: int, k: int, *d: Tensor, half: bool = False) -> Tensor:
        """From node j to k with a prediction and its derivatives; `half`: φ1/2 in place of φ2."""
        z = (self.lam[k] - self.lam[j]) * (1 if self.solve == "eps" else -1)
        phi1 = math.expm1(z)
        phi2 = phi1 / z - 1
        factors = phi1, phi1 / 2 if half else phi2, phi2 / z - 0.5
        change = sum(phi * derivative for phi, derivative in zip(factors, d))
        return self.kept[k] / self.kept[j] * x - self.new[k] * change

    def singlestep(self, x: Tensor, j: int, stride: int, d0: Tensor) -> list[Tensor]:
        """Over nodes j … j + stride, the ends by order 1 … stride (DPM-Solver, algorithms 1, 2)."""
        lam = self.lam[j : j + stride + 1]
        r = [(value - lam[0]) / (lam[-1] - lam[0]) for value in lam]
        k = j + stride
        ends = [self.step(x, j, k, d0)]
        if stride == 1:
            return ends
        d1 = self.predict(self.step(x, j, j + 1, d0), j + 1)
        slope1 = (d1 - d0) / r[1]
        ends.append(self.step(x, j, k, d0, slope1, half=not self.taylor))
        if stride == 2:
            return ends
        d2 = self.predict(self.step(x, j, j + 2, d0, slope1 * r[2]), j + 2)
        slope2 = (d2 - d0) / r[2]
        if not self.taylor:
            return [*ends, self.step(x, j, k, d0, slope2)]
        slope = (r[2] * slope1 - r[1] * slope2) / (r[2] - r[1])
        return [*ends, self.step(x, j, k, d0, slope, 2 * (slope2 - slope1) / (r[2] - r[1]))]

    def multistep(self, x: Tensor, k: int, memory: list[tuple[int, Tensor]]) -> Tensor:
        """One step to node k with up to three predictions, the latest last (++, algorithm 2).

        At order 3 the second difference enters once, not twice, as in the papers' code.
        """
        (j, d0), *older = reversed(memory)
        if not older:
            return self.step(x, j, k, d0)
        h = self.lam[k] - self.lam[j]
        r0 = (self.lam[j] - self.lam[older[0][0]]) / h
        slope0 = (d0 - older[0][1]) / r0
        if len(older) == 1:
            return self.step(x, j, k, d0, slope0, half=not self.taylor)
        r1 = (self.lam[older[0][0]] - self.lam[older[1][0]]) / h
        slope1 = (older[0][1] - older[1][1]) / r1
        second = (slope0 - slope1) / (r0 + r1)
        return self.step(x, j, k, d0, slope0 + r0 * second, second)


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
    spacing: str = "logsnr",
    solve: str = "x0",
    taylor: bool = False,
    lower_order_final: bool | None = None,
    denoise: bool = True,
    clip: bool | float = False,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Walk from the noisiest step to the clean image with `steps` evaluations of the network.

    x: (b, c, h, w), pure noise; y: (b,) labels. `order` 1 (DDIM's step), 2 or 3. `method`:
    "multistep", "singlestep" (as many whole steps of `order` evaluations as there is room for), or
    "fast" (which mixes orders to use every evaluation). `spacing` of the nodes: even in λ
    ("logsnr"), in "time" (the papers' codes) or in its root ("quadratic"); or `steps` is a rule for
    `select_steps` like "quad20", or a rising list of positions, the nodes themselves. `solve`: "x0"
    is DPM-Solver++, "eps" DPM-Solver. `taylor`: see `Walk`. `lower_order_final`: whether the last
    multistep step is of order 1 and the one before of order 2 at most, by default with fewer than
    15 steps. `denoise`: the last evaluation, at step 0, gives the clean image; without it, as in
    the papers' codes, the walk has a step more and ends with a trace of noise, σ_0. `clip`: see
    `clip_image`. Nothing is random: `generator` is taken only so that all samplers look alike.
    Raises ValueError for unknown names, and for steps that don't fit or are too long for `solve`.
    """
    nodes, strides = plan(diffusion.schedule, steps, order, method, spacing, denoise)
    walk = Walk(model, diffusion, nodes, y, solve, clip, taylor)
    if solve == "eps":
        _check_lengths(walk.lam, strides)
    if lower_order_final is None:
        lower_order_final = len(strides) + denoise < 15
    at, memory = 0, []
    for left, stride in zip(range(len(strides), 0, -1), strides):
        d, x0 = walk.predict(x, at), walk.pred_x0
        if method == "multistep":
            memory = [*memory, (at, d)][-order:]
            x = walk.multistep(x, at + stride, memory[-left:] if lower_order_final else memory)
        else:
            x = walk.singlestep(x, at, stride, d)[-1]
        yield State(walk.numbers[at], x, x0)
        at += stride
    if denoise:
        walk.predict(x, at)
        yield State(walk.numbers[at], walk.pred_x0, walk.pred_x0)


def _check_lengths(lam: list[float], strides: list[int]) -> None:
    """Raise ValueError where e^h, the factor of errors in ε, is too large for a singlestep."""
    ends = [0, *accumulate(strides)]
    h = max((lam[k] - lam[j] for j, k in pairwise(ends) if k - j > 1), default=0.0)
    if h > 6:
        raise ValueError(
            f"solve='eps' runs away in a step of {h:.3g} in λ, and above 6 is too long: take more "
            "steps, spacing='logsnr', method='multistep' or solve='x0'"
        )


def plan(
    schedule: Schedule,
    steps: int | str | Sequence[float],
    order: int = 2,
    method: str = "multistep",
    spacing: str = "logsnr",
    denoise: bool = True,
) -> tuple[Tensor, list[int]]:
    """Falling positions to evaluate at, (k,) float64, and how many of them each step strides."""
    check_choice("method", method, METHODS)
    check_choice("order", order, (1, 2, 3))
    if isinstance(steps, Integral) or (isinstance(steps, str) and steps.isdecimal()):
        nodes = None
        count = (int(steps) - denoise) // (order if method == "singlestep" else 1)
    else:
        chosen = list(select_steps(schedule, steps))
        nodes, count = torch.tensor(chosen[::-1], dtype=torch.float64), len(chosen) - 1
        outside = (nodes < 0) | (nodes > len(schedule) - 1)
        if count < 1 - denoise or outside.any() or (nodes.diff() >= 0).any():
            within = f"within 0 … {len(schedule) - 1}"
            raise ValueError(f"steps={chosen} must rise {within}, {2 - denoise} at least")
        if count == 0:  # the clean image, from the single step
            return nodes, []
    if not 1 <= count < len(schedule):
        told = f"steps={steps} is too few or too many for method={method!r}, order={order}"
        raise ValueError(f"{told}, denoise={denoise} and a schedule of {len(schedule)} steps")
    if nodes is None:
        nodes = grid(schedule, spacing, count)
    if method == "singlestep":
        return _refine(schedule, nodes, order), [order] * count
    return nodes, fast_orders(count, order) if method == "fast" else [1] * count


def fast_orders(count: int, order: int) -> list[int]:
    """Orders that add up to `count` evaluations: of the highest as many as possible, low last."""
    check_choice("order", order, (2, 3))
    if order == 3 and count % 3 == 0:
        return [3] * (count // 3 - 1) + [2, 1]
    return [order] * (count // order) + [count % order] * (count % order > 0)


def _refine(schedule: Schedule, outer: Tensor, order: int) -> Tensor:
    """Nodes inside every step, evenly spaced in λ: (k + 1,) → (order·k + 1,)."""
    lam = log_snr(between(schedule, outer))  # (k + 1,)
    part = torch.arange(order, dtype=torch.float64) / order  # (order,)
    nodes = position(schedule, (lam[:-1, None] + lam.diff()[:, None] * part).flatten())
    nodes[::order] = outer[:-1]
    return torch.cat([nodes, outer[-1:]])
