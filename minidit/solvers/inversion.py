"""From an image to the noise that draws it: DDIM backwards (arXiv 2010.02502, section 4.3)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from minidit.diffusion import Diffusion
from minidit.sampling import Denoiser, State, prepared, walk


@torch.no_grad()
def ddim_invert(
    model: Denoiser,
    diffusion: Diffusion,
    x: Tensor,
    y: Tensor | None = None,
    *,
    steps: int | str | Sequence[int] | None = None,
    clip: bool | float = False,
) -> Iterator[State]:
    """DDIM backwards: from images x (b, c, h, w) to the noise that `ddim` turns into them.

    The clean image is taken for the state of the first step, and each prediction carries it one
    step up, to the last one, where `ddim` begins. More steps make the return more exact. Arguments
    as for `ddpm`. Raises ValueError for a single step, which leads nowhere.
    """
    diffusion = prepared(diffusion, x, steps)
    if len(diffusion) < 2:
        raise ValueError("one step can't be walked up; give at least two, from 0 to the last")
    for step, t, number in list(walk(diffusion.schedule, x))[:0:-1]:
        x0, eps = diffusion.pred_x0_eps(model(x, number, y), x, t, clip)
        alpha, sigma = diffusion.schedule.at("alpha sigma", t + 1, x)
        x = alpha * x0 + sigma * eps
        yield State(step, x, x0)
