"""DPM-Solver with steps as long as a tolerance allows (arXiv 2206.00927, appendix C)."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minidit._validate import check_choice
from minidit.diffusion import Diffusion
from minidit.sampling import Denoiser, State
from minidit.solvers.dpm import Walk
from minidit.solvers.spacing import ends, position


@torch.no_grad()
def dpm_adaptive(
    model: Denoiser,
    diffusion: Diffusion,
    x: Tensor,
    y: Tensor | None = None,
    *,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    first: float = 0.05,
    solve: str = "x0",
    denoise: bool = True,
    clip: bool | float = False,
    generator: torch.Generator | None = None,
) -> Iterator[State]:
    """Walk from the noisiest step to the clean image; no number of steps is given.

    Each step of `order` 2 or 3 is compared with the one of an order less that the same predictions
    give. E is the root mean square of their difference over max(atol, rtol·|x|), of the worst image
    in the batch; the step counts if E ≤ 1, and the next one is 0.9·E^(-1/order) times as long.
    x: (b, c, h, w), pure noise; y: (b,) labels. The default tolerances are the papers' (`atol` a
    grey level, 2/256); 3e-3 for both is safer. `first`: the first step in λ = log(α/σ). The rest as
    for `dpm_solver`. Raises ValueError for unknown names, and for what isn't positive;
    FloatingPointError when the network's answer isn't finite: no step would be short enough.
    """
    check_choice("order", order, (2, 3))
    if not (rtol >= 0 and atol > 0 and first > 0):
        raise ValueError(f"rtol={rtol}, atol={atol}, first={first}: atol, first > 0 and rtol ≥ 0")
    schedule = diffusion.schedule
    end, lam = ends(schedule)
    h, before = min(first, end - lam), x
    known = None  # the prediction at this x, kept if a step fails
    parts = torch.arange(order + 1, dtype=torch.float64) / order  # even in λ
    while end - lam > 1e-9:
        nodes = position(schedule, lam + h * parts)
        walk = Walk(model, diffusion, nodes, y, solve, clip)
        if known is None:
            known, x0 = walk.predict(x, 0), walk.pred_x0
        low, high = walk.singlestep(x, 0, order, known)[-2:]
        allowed = (rtol * torch.maximum(low.abs(), before.abs())).clamp(min=atol)
        errors = ((high - low) / allowed).square().flatten(1).mean(dim=1).sqrt()  # (b,)
        E = errors.max().item() if len(x) else 0.0
        if not math.isfinite(E):
            raise FloatingPointError(
                f"the error of the step from t = {walk.numbers[0]:.4g} is {E}: the network's "
                "answer isn't finite; try clip=True, or float32 in place of half precision"
            )
        if E <= 1:
            yield State(walk.numbers[0], high, x0)
            x, before, known, lam = high, low, None, lam + h
        h = min(h * growth(E, order), end - lam)
    if denoise:
        walk = Walk(model, diffusion, torch.zeros(1, dtype=torch.float64), y, solve, clip)
        walk.predict(x, 0)
        yield State(walk.numbers[0], walk.pred_x0, walk.pred_x0)


def growth(E: float, order: int) -> float:
    """How much longer the next step is, after one with the error E, of which 1 is allowed."""
    return 0.9 * max(E, 1e-12) ** (-1 / order)
