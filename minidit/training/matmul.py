"""Float32 matrix products on a processor: by the faster of PyTorch's two libraries, if as exact.

Nearly all of a step's time goes into matrix products. PyTorch leaves those of float32 to MKL, which
on some of AMD's processors uses half the width of vector units of 512 bits (AVX-512). oneDNN, the
library of the convolutions, uses all of it, but only where factors may be rounded to bfloat16: with
matrix units (AMX) it then does, without them it doesn't. Both are tried, once, and oneDNN's
products are permitted if nothing is rounded and they are much faster: attention is slower then.
"""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minidit._validate import unwrapped
from minidit.training.quick import quick_parts

# More tokens than these are attended to piece by piece, as always: whole tables of n² weights
# would need more memory than they save time.
MOST_TOKENS = 256
ROUNDING = 1e-5  # relative: float32 makes errors of about 3e-7, factors in bfloat16 of 2e-3
FASTER = 1.25  # times: half the width makes 1.5 and more, chance and a busy machine up to 1.1


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


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN's products take less time, by a factor of `FASTER` and more."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False  # both libraries use the whole width
    a, b = torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
    spent: dict[str, list[float]] = {"MKL": [], "oneDNN": []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # whose processor time is the same on a busy machine
    for name, products in [("MKL", nullcontext), ("oneDNN", onednn)] * 10:
        with products():
            began = time.thread_time()
            a @ b
            spent[name].append(time.thread_time() - began)
    torch.set_num_threads(threads)
    return min(spent["MKL"]) > FASTER * min(spent["oneDNN"])


@contextmanager
def fast_matmul(model: nn.Module) -> Iterator[None]:
    """Inside, `model` computes with the faster float32 products, and `quick_parts`.

    Sums are added up in another order: results differ in the last places, as between processors.
    On a GPU nothing happens; where torch's precision was changed (or one is inside already), and on
    other processors, products stay as they are. Attention is computed in whole products with
    oneDNN's, since it is slow at small pieces, and a network of more than `MOST_TOKENS` patches
    keeps its own.
    """
    grid, weight = getattr(unwrapped(model), "grid", None), next(model.parameters(), None)
    fits = grid is not None and math.prod(grid) <= MOST_TOKENS
    fits = fits and weight is not None and weight.is_cpu
    fits = fits and onednn_is_exact() and onednn_is_faster()
    with ExitStack() as stack:
        stack.enter_context(quick_parts(model))
        if fits and torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee"):
            stack.enter_context(onednn())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
