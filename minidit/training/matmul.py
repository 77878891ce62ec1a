"""Float32 matrix products on a processor: by the faster of PyTorch's two libraries, if as exact.

Nearly all of a step's time goes into matrix products. PyTorch leaves those of float32 to MKL, which
on AMD's processors uses half the width of the vector units. oneDNN, the library of the
convolutions, uses all of it, but is used only where products may be rounded to bfloat16 on the way
in. What it makes of the permission depends on the processor: with matrix units (AMX) it rounds,
without them it computes in float32 all the same. So it is tried, once: permission is given only
where nothing is rounded.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# More tokens than these are attended to piece by piece, as always: whole tables of n² weights
# would need more memory than they save time.
MOST_TOKENS = 256
ROUNDING = 1e-5  # relative: float32 makes errors of about 3e-7, factors in bfloat16 of 2e-3


@contextmanager
def onednn() -> Iterator[None]:
    """Inside, products of float32 matrices on the CPU are oneDNN's, if they can be."""
    settings = torch.backends.mkldnn.matmul
    before, settings.fp32_precision = settings.fp32_precision, "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@cache
def onednn_is_exact() -> bool:
    """Whether this PyTorch can be told (2.9 and later), and this processor then rounds nothing."""
    if not hasattr(torch.backends.mkldnn, "matmul") or not torch.backends.mkldnn.is_available():
        return False
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=rng)
    exact = a.double() @ b.double()
    with onednn():
        errors = [(a @ b) - exact, (a.t() @ b) - a.t().double() @ b.double()]
    return all((error.norm() / exact.norm()).item() < ROUNDING for error in errors)


@contextmanager
def fast_matmul(model: nn.Module) -> Iterator[None]:
    """Inside, `model` computes with the faster float32 products, where they are as exact.

    Sums are added up in another order: results differ in the last places, as they do between
    processors. On a GPU, on other processors, and where torch's settings of precision were changed,
    nothing happens. Attention is computed in whole products then, since oneDNN is slow at small
    pieces; a network of more than `MOST_TOKENS` patches is left as it is.
    """
    with ExitStack() as stack:
        if _fits(model) and onednn_is_exact() and not _changed():
            stack.enter_context(onednn())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def _fits(model: nn.Module) -> bool:
    """Whether `model` is a network of few patches on the CPU."""
    grid, weight = getattr(model, "grid", None), next(model.parameters(), None)
    if grid is None or weight is None or weight.device.type != "cpu":
        return False
    return math.prod(grid) <= MOST_TOKENS


def _changed() -> bool:
    """Whether someone has chosen another precision, or is inside already."""
    return torch.backends.mkldnn.matmul.fp32_precision not in ("none", "ieee")
