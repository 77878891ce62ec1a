"""Which steps to visit, when there is time for fewer than the schedule has; and between them.

Every selection is a rising list of step numbers with both ends in it (but for the "ddim" strides,
which start at 0 and end early), so that selections can be exchanged and compared. Solvers that
think in continuous time also visit positions between two steps: 3.5 is halfway from 3 to 4.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minidit.schedule import Schedule, on_circle

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # model(x, t, y)


class State(NamedTuple):
    """What a sampler yields after the step at `t` (the number that the network was given)."""

    t: float
    x: Tensor  # the less noisy image
    x0: Tensor  # the clean image foreseen at t


def walk(schedule: Schedule, x: Tensor) -> Iterator[tuple[float, Tensor, Tensor]]:
    """All steps, falling: the number for the network; and as tensors (b,) the index and the number.

    The first is there to be reported: reading it from the tensor would wait for a GPU to come by.
    """
    for k, step in reversed(list(enumerate(schedule.steps.tolist()))):
        t = torch.full((x.shape[0],), k, device=x.device)
        yield step, t, schedule.at("steps", t, t)


def draw_noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of the shape of x, drawn where the generator lives (or on the CPU)."""
    device = generator.device if generator is not None else "cpu"
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)


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
    counts = [counts] if isinstance(counts, int) else list(counts)
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


def quadratic_steps(schedule: Schedule, count: int) -> list[int]:
    """Steps k²-spaced, dense near the image (DDIM, arXiv 2010.02502, appendix D.3)."""
    _check_count(count, len(schedule))
    return _distinct(torch.linspace(0, (len(schedule) - 1) ** 0.5, count).double() ** 2, schedule)


def beta_steps(schedule: Schedule, count: int) -> list[int]:
    """Strides in proportion to β_t: small near the image, where little noise is added."""
    _check_count(count, len(schedule))
    visits = torch.cat([torch.zeros(1), (1 / schedule.betas[1:]).cumsum(dim=0)])  # (T,), rising
    even = torch.linspace(0, 1, count, dtype=torch.float64) * visits[-1]
    return _distinct(_crossings(visits, even), schedule)


def logsnr_steps(schedule: Schedule, count: int) -> list[int]:
    """Strides of equal change in the log of the signal-to-noise ratio (arXiv 2206.00927, 3.4)."""
    _check_count(count, len(schedule))
    clean, noisy = log_snr(schedule)[[0, -1]].tolist()
    even = torch.linspace(clean, noisy, count, dtype=torch.float64)
    return _distinct(position(schedule, even), schedule)


SELECTIONS: dict[str, Callable[[Schedule, int], list[int]]] = {
    "quad": quadratic_steps,
    "beta": beta_steps,
    "logsnr": logsnr_steps,
}


def select_steps(schedule: Schedule, rule: int | str | Sequence[int]) -> list[int]:
    """Rising steps by a rule: "quad50", "beta50", "logsnr50", one of `space_timesteps`, or a list.

    Raises ValueError for an unknown rule, or for more steps than the schedule has.
    """
    if not isinstance(rule, int | str):
        return list(rule)
    if isinstance(rule, int):
        _check_count(rule, len(schedule))  # 1 would be the clean end alone
    for name, selection in SELECTIONS.items():
        if isinstance(rule, str) and rule.startswith(name):
            return selection(schedule, _count(rule, rule.removeprefix(name)))
    return space_timesteps(len(schedule), rule)


def log_snr(schedule: Schedule) -> Tensor:
    """(T,) λ = log(α/σ), half the log of the signal-to-noise ratio; falls from step to step."""
    return schedule.alpha.log() - schedule.sigma.log()


def between(schedule: Schedule, positions: Tensor) -> Schedule:
    """The schedule at any positions 0 … T-1, a float64 tensor (k,).

    Exact in continuous time. Else, where α² + σ² = 1, log α is interpolated, as in DPM-Solver's
    code; on the straight line α and σ.
    """
    left = positions.floor().long().clamp(0, len(schedule) - 2)
    part = positions - left

    def lerp(table: Tensor) -> Tensor:
        return table[left] + part * (table[left + 1] - table[left])

    if schedule.path == "straight":
        alpha, sigma = lerp(schedule.alpha), lerp(schedule.sigma)
    elif schedule.log_alpha is not None:
        alpha, sigma = on_circle(schedule.log_alpha((positions + 1) / len(schedule)))
    else:
        alpha, sigma = on_circle(lerp(schedule.alpha.log()))
    return Schedule(alpha, sigma, lerp(schedule.steps.double()), schedule.path)


def position(schedule: Schedule, lam: Tensor) -> Tensor:
    """Where λ = log(α/σ) has the values `lam` (k,): the inverse of `between`, (k,) float64."""
    if schedule.path == "straight":
        return _crossings(-schedule.alpha, -lam.sigmoid())
    log_alpha = -0.5 * torch.nn.functional.softplus(-2 * lam)
    if schedule.log_alpha is None:
        return _crossings(-schedule.alpha.log(), -log_alpha)
    low, high = torch.zeros_like(lam), torch.ones_like(lam)  # of u, by bisection
    for _ in range(60):
        middle = (low + high) / 2
        clean = schedule.log_alpha(middle) > log_alpha
        low, high = torch.where(clean, middle, low), torch.where(clean, high, middle)
    return high * len(schedule) - 1


def _crossings(rising: Tensor, values: Tensor) -> Tensor:
    """Where a rising table (T,) passes the values (k,), between steps by a straight line."""
    right = torch.searchsorted(rising, values).clamp(1, len(rising) - 1)  # (k,)
    low, high = rising[right - 1], rising[right]
    return (right - 1 + (values - low) / (high - low)).clamp(0, len(rising) - 1)


def _distinct(positions: Tensor, schedule: Schedule) -> list[int]:
    """The nearest whole steps, moved up, or at the end down, where two would be the same."""
    steps, last = [], len(schedule) - 1
    for k, position in enumerate(positions.tolist()):
        lowest = steps[-1] + 1 if steps else 0
        highest = last - (len(positions) - 1 - k)
        steps.append(min(max(round(position), lowest), highest))
    return steps


def _check_count(count: int, T: int) -> None:
    if not 2 <= count <= T:
        raise ValueError(f"{count} steps can't be had: choose 2 … {T}, the schedule's length")


def _count(rule: str, digits: str) -> int:
    if not digits.strip().isdecimal():
        raise ValueError(
            f"steps={rule!r} is unknown; choose a number, a list, '10,15,20', or one of "
            f"{['ddim', *SELECTIONS]} with a number after it, e.g. 'ddim50'"
        )
    return int(digits)
