"""Diffusion as a stochastic differential equation (Song et al., arXiv 2011.13456).

Forward: dx = -½·β(u)·x·du + √β(u)·dw (equation 11). Backward, with the score -ε/σ and any η:

    dx = (-½·β·x + ½·(1 + η²)·β·ε/σ)·du + η·√β·dw̄

has the same distribution at every u; η = 1 is equation 6, η = 0 the ordinary equation 13.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from minidit.diffusion import Diffusion
from minidit.sampling import Denoiser, State, draw_noise
from minidit.schedule import Schedule
from minidit.solvers.dpm import Walk, plan


def rate(schedule: Schedule, positions: Tensor) -> Tensor:
    """β = -2·d(log α)/du at positions (k,), u = (position + 1)/T; between a table's by a line."""
    T = len(schedule)
    if schedule.log_alpha is None:
        table = -2 * T * (schedule.alpha / schedule.alpha_prev).log()  # (T,)
        low, high = (table[end.long()] for end in (positions.floor(), positions.ceil()))
        return low.lerp(high, positions.double().frac())
    with torch.inference_mode(False), torch.enable_grad():
        u = ((positions + 1) / T).requires_grad_()
        (slope,) = torch.autograd.grad(schedule.log_alpha(u).sum(), u)
    return -2 * slope


def _way_out(schedule: Schedule) -> str:
    """More steps, or if a single one is too long, as the last of `cosine`, those before it."""
    every = rate(schedule, torch.arange(len(schedule), dtype=torch.float64)) / len(schedule)
    short = (every <= 4).sum().item()
    if short == len(schedule):
        return "take more steps"
    return f"more steps don't help, so leave out the noisiest: steps=list(range({short}))"


@torch.no_grad()
def euler_maruyama(
    model: Denoiser,
    diffusion: Diffusion,
    x: Tensor,
    y: Tensor | None = None,
    *,
    steps: int | str | Sequence[float] | None = None,
    eta: float = 1.0,
    clip: bool | float = False,
    generator: torch.Generator | None = None,
    noise: Sequence[Tensor] | None = None,
) -> Iterator[State]:
    """The backward equation by the method of Euler and Maruyama, as U-ViT samples CIFAR-10.

    x: (b, c, h, w), pure noise; y: (b,) labels. `steps`: as for `dpm_solver`, even in time; by
    default all. `eta`: 1 is the stochastic equation, 0 the ordinary one, which draws nothing.
    `clip`: see `clip_image`. Noise comes from `generator`, or from recorded `noise`, one tensor a
    step but the last. Raises ValueError where α² + σ² ≠ 1, and for steps that are too long.
    """
    schedule = diffusion.schedule
    if schedule.path != "variance_preserving":
        raise ValueError("euler_maruyama needs α² + σ² = 1; on the straight line take ddim(eta=…)")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} is out of range: 0 (deterministic) … 1 (the full noise)")
    steps = len(schedule) if steps is None else steps
    nodes, _ = plan(schedule, steps, order=1, spacing="time")  # falling, (k,)
    last, T = len(nodes) - 1, len(schedule)
    if noise is not None and (len(noise) < last or any(z.shape != x.shape for z in noise)):
        raise ValueError(f"noise must hold {last} draws of {tuple(x.shape)}, the noisiest first")
    length = -torch.cat([nodes, -torch.ones(1, dtype=torch.float64)]).diff() / T  # Δu, to u = 0
    shares = (rate(schedule, nodes) * length).tolist()  # β·Δu
    if max(shares) > 4:
        worst = shares.index(max(shares))
        told = f"the step from {nodes[worst]:.4g} has β·Δu = {max(shares):.3g}"
        raise ValueError(f"{told}, and above 4 the method runs away; {_way_out(schedule)}")
    walk = Walk(model, diffusion, nodes, y, "eps", clip)
    sigma = walk.diffusion.schedule.sigma.tolist()
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # small steps get lost in half precision
    for k, share in enumerate(shares):
        eps = walk.predict(x, k)
        x = x + 0.5 * share * (x - (1 + eta**2) / sigma[k] * eps)
        if eta > 0 and k < last:
            z = draw_noise(x, generator) if noise is None else noise[k]
            x = x + eta * share**0.5 * z
        yield State(walk.numbers[k], x, walk.pred_x0)
