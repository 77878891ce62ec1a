"""Labels in, images out: noise from a seed, guidance and a sampler, put together."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from minidit._validate import check_choice, check_tensor, unwrapped
from minidit.diffusion import Diffusion
from minidit.sampling import SAMPLERS, State, guided
from minidit.training.matmul import fast_matmul
from minidit.training.threads import in_threads, parts_at_a_time

AT_ONCE = 50  # images in a pass on a processor: what is between two layers stays in the cache


def generate(
    model: nn.Module,
    diffusion: Diffusion,
    labels: Tensor,
    *,
    guidance: float = 2.0,
    sampler: str = "ddim",
    steps: int | str = 50,
    seed: int = 0,
    clip: bool = False,
) -> Iterator[State]:
    """Every state of a sampler's run for these labels (b,), texts or layouts, on its device.

    The noise is drawn on the CPU from `seed`, so that it is the same on every device.
    `guidance` 1 is none; `sampler` is a key of `SAMPLERS`, `steps` and `clip` as there.
    """
    check_choice("sampler", sampler, SAMPLERS)
    check_tensor("labels", labels, "(b,)")
    device, inner = next(model.parameters()).device, unwrapped(model)
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn((len(labels), inner.in_channels, *inner.size), generator=rng).to(device)
    network = model if guidance == 1 else guided(model, guidance)

    def denoiser(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        size = min(AT_ONCE, math.ceil(len(x) / parts_at_a_time())) if x.is_cpu else len(x)
        parts = list(zip(*(z.split(max(size, 1)) for z in (x, t, y))))
        with fast_matmul(model):
            return torch.cat(in_threads(network, parts))

    if hasattr(inner.label_embed, "process"):  # known pixels stay as they are
        diffusion = inner.label_embed.process(diffusion, labels.to(device))
    start = denoiser, diffusion, x, labels.to(device)
    return SAMPLERS[sampler](*start, steps=steps, clip=clip, generator=rng)
