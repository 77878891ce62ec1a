"""Parts of a network that PyTorch computes slowly on a processor.

GELU's tanh form, a fifth of a small network's forward pass, in half of the time: by a sigmoid, and
with its own gradient. tanh(z/2) = 2σ(z) - 1, so ½x·(1 + tanh(√(2/π)·(x + 0.044715x³))) = x·σ(z)
with z = x·(A + B·x²). And attention to bfloat16, whose gradient took five times as long as
float32's with PyTorch 2.13: as products of whole matrices, or of many tokens in float32.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidit.attention import Attention, Mlp

A = math.sqrt(8 / math.pi)
B = 0.044715 * A
WHOLE = 128  # tokens; of 200 the tables of n² weights cost as much as they save
SDPA = "scaled_dot_product_attention"


class _BySigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        gate = torch.addcmul(x.new_tensor(A), x, x, value=B).mul_(x).sigmoid_()  # σ(z), as x
        if not ctx.needs_input_grad[0]:
            return gate.mul_(x)
        ctx.save_for_backward(x, gate)
        return x * gate

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        """σ + x·σ·(1 - σ)·dz/dx, times the gradient; dz/dx = A + 3B·x²."""
        x, gate = ctx.saved_tensors
        if torch.is_grad_enabled():  # which itself is to have a gradient
            usual = F.gelu(x, approximate="tanh")
            return torch.autograd.grad(usual, x, grad, create_graph=True)[0]
        slope = torch.addcmul(x.new_tensor(A), x, x, value=3 * B).mul_(x).mul_(gate)
        return torch.addcmul(slope, slope, gate, value=-1).add_(gate).mul_(grad)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """As `F.gelu`, of any shape; quicker for the tanh form of float32 on a processor."""
    quick = approximate == "tanh" and x.is_cpu and x.dtype == torch.float32
    inside = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x)
    if quick and not inside:  # the compiler fuses PyTorch's own; vmap and grad know no other
        return _BySigmoid.apply(x)
    return F.gelu(x, approximate=approximate)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √k) v, each (b, heads, n, k); of bfloat16 on a processor in another way."""
    if not (v.is_cpu and v.dtype == torch.bfloat16):
        return F.scaled_dot_product_attention(q, k, v, mask)
    with torch.autocast("cpu", enabled=False):
        if max(q.shape[2], k.shape[2]) > WHOLE:
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask).to(v.dtype)
        scores = (q * q.shape[3] ** -0.5).to(v.dtype) @ k.to(v.dtype).mT  # (b, heads, n, m)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v


@contextmanager
def quick_parts(model: nn.Module) -> Iterator[None]:
    """Inside, `model` computes with the two functions above; a copy made there keeps them.

    No trace of it is in its weights.
    """
    usual = [(Mlp, "gelu", F.gelu, gelu)]
    usual += [(Attention, SDPA, F.scaled_dot_product_attention, attend)]
    layers = [
        (layer, name, quick)
        for layer in model.modules()
        for kind, name, function, quick in usual
        if isinstance(layer, kind) and getattr(layer, name) is function  # else it is the caller's
    ]
    for layer, name, quick in layers:
        setattr(layer, name, quick)
    try:
        yield
    finally:
        for layer, name, _ in layers:
            vars(layer).pop(name, None)  # the class has the usual one
