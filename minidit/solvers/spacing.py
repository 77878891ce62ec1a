"""Uneven spacings of timesteps, what lies between two steps, and time that has no steps.

Every selection is a rising list of steps with both ends in it, so that they can be compared.
Continuous solvers visit positions between two steps: 3.5 is halfway from 3 to 4. A process in
continuous time (arXiv 2011.13456) has log α as a function, between the steps, too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit._validate import check_choice, check_positive
from minidit.sampling import check_count
from minidit.schedule import Schedule

SPACINGS = ("time", "quadratic", "logsnr")  # of `grid`


def logsnr_steps(schedule: Schedule, count: int) -> list[int]:
    """Strides of equal change in the log of the signal-to-noise ratio (arXiv 2206.00927, 3.4)."""
    return distinct(even_log_snr(schedule, count), schedule)


def even_log_snr(schedule: Schedule, count: int) -> Tensor:
    """(count,) rising positions from end to end, evenly spaced in λ = log(α/σ)."""
    clean, noisy = ends(schedule)
    return position(schedule, torch.linspace(clean, noisy, count, dtype=torch.float64))


def ends(schedule: Schedule) -> tuple[float, float]:
    """λ at the first and at the last step. Raises ValueError where the last has no signal left."""
    if not schedule.alpha[-1] > 0:
        raise ValueError(
            "the schedule ends with no signal (alpha 0), where λ = log(α/σ) is -∞ and can't be "
            "walked from; use ddim or ddpm with even steps"
        )
    return tuple(log_snr(schedule)[[0, -1]].tolist())


def log_snr(schedule: Schedule) -> Tensor:
    """(T,) λ = log(α/σ), half the log of the signal-to-noise ratio; falls from step to step."""
    return schedule.alpha.log() - schedule.sigma.log()


def between(schedule: Schedule, positions: Tensor) -> Schedule:
    """The schedule at any positions 0 … T-1, a float64 tensor (k,).

    Exact in continuous time; else log α is interpolated, or on the straight line α and σ.
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
        return crossings(-schedule.alpha, -lam.sigmoid())
    log_alpha = -0.5 * torch.nn.functional.softplus(-2 * lam)
    if schedule.log_alpha is None:
        return crossings(-schedule.alpha.log(), -log_alpha)
    low, high = torch.zeros_like(lam), torch.ones_like(lam)  # of u, by bisection
    for _ in range(60):
        middle = (low + high) / 2
        clean = schedule.log_alpha(middle) > log_alpha
        low, high = torch.where(clean, middle, low), torch.where(clean, high, middle)
    return high * len(schedule) - 1


def grid(schedule: Schedule, spacing: str, count: int) -> Tensor:
    """The count + 1 ends of `count` steps, falling positions from T-1 to 0."""
    check_choice("spacing", spacing, SPACINGS)
    T = len(schedule)
    if spacing == "time":
        return torch.linspace(T - 1, 0, count + 1, dtype=torch.float64)
    if spacing == "quadratic":  # of the time (position + 1)/T, which is 1 at the noisy end
        root = torch.linspace(1, T**-0.5, count + 1, dtype=torch.float64)
        return (root**2 * T - 1).clamp(0, T - 1)
    nodes = even_log_snr(schedule, count + 1).flip(0)
    nodes[0], nodes[-1] = T - 1, 0  # but for rounding
    return nodes


def quadratic_steps(schedule: Schedule, count: int) -> list[int]:
    """Steps k²-spaced, dense near the image (DDIM, arXiv 2010.02502, appendix D.2)."""
    return distinct(torch.linspace(0, (len(schedule) - 1) ** 0.5, count).double() ** 2, schedule)


def beta_steps(schedule: Schedule, count: int) -> list[int]:
    """Strides in proportion to β_t: small near the image, where little noise is added."""
    visits = torch.cat([torch.zeros(1), (1 / schedule.betas[1:]).cumsum(dim=0)])  # (T,), rising
    even = torch.linspace(0, 1, count, dtype=torch.float64) * visits[-1]
    return distinct(crossings(visits, even), schedule)


def crossings(rising: Tensor, values: Tensor) -> Tensor:
    """Where a rising table (T,) passes the values (k,), between steps by a straight line."""
    right = torch.searchsorted(rising, values).clamp(1, len(rising) - 1)  # (k,)
    low, high = rising[right - 1], rising[right]
    return (right - 1 + (values - low) / (high - low)).clamp(0, len(rising) - 1)


def distinct(positions: Tensor, schedule: Schedule) -> list[int]:
    """The whole steps nearest to positions (k,), moved up, or at the end down, to be distinct."""
    check_count(len(positions), len(schedule))
    steps, last = [], len(schedule) - 1
    for k, position in enumerate(positions.tolist()):
        lowest = steps[-1] + 1 if steps else 0
        highest = last - (len(positions) - 1 - k)
        steps.append(min(max(round(position), lowest), highest))
    return steps


def continuous(
    log_alpha: Callable[[Tensor], Tensor], T: int = 1000, name: str = "custom"
) -> Schedule:
    """A variance-preserving process from its log α(u), (T,) → (T,), which falls from 0 at u = 0.

    The tables are T moments, u = 1/T … 1, and the network is told 999·u. To be pickled it needs a
    function that was defined with def at module level.
    """
    check_positive(T=T)
    u = torch.arange(1, T + 1, dtype=torch.float64) / T
    alpha, sigma = on_circle(log_alpha(u))
    return Schedule(alpha, sigma, 999 * u, "variance_preserving", name, log_alpha)


def on_circle(log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ of the shape of log α, α² + σ² = 1; σ doesn't cancel where α is nearly 1."""
    return log_alpha.exp(), (-(2 * log_alpha).expm1()).sqrt()


def vp_sde(T: int = 1000) -> Schedule:
    """The VP process in continuous time (arXiv 2011.13456, appendix C): β(u) = 0.1 + 19.9·u.

    log α = -½·∫β. U-ViT trains on CIFAR-10 with it.
    """
    return continuous(_vp_log_alpha, T, "vp_sde")


def _vp_log_alpha(u: Tensor) -> Tensor:
    return -0.1 / 2 * u - 19.9 / 4 * u**2
