"""Muon: momentum whose matrices are made orthogonal before they are applied (K. Jordan, 2024).

Adam scales every number of a matrix by itself; Muon treats the matrix as one thing and steps by
the same amount in all its directions. In short runs it learns more per step.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

ITERATIONS = 5  # of `orthogonalize`


def orthogonalize(matrices: Tensor) -> Tensor:
    """U·Vᵀ of each matrix U·S·Vᵀ, roughly: all singular values are brought near 1.

    Shape: (k, rows, columns). Each iteration maps a singular value s to 3.4445·s - 4.775·s³ +
    2.0315·s⁵, whose slope at 0 is steep, so that small ones grow soonest. That is a product
    p(X·Xᵀ)·X, so all of it happens in the smaller of the two dimensions: the factors are
    multiplied up in `left`, and X is touched only at the beginning and at the end.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # (k, m, n) with m ≤ n
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT  # (k, m, m)
    left = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    for i in range(ITERATIONS):
        p = b * gram + c * gram @ gram
        p.diagonal(dim1=1, dim2=2).add_(a)
        left = p @ left if i else p
        if i < ITERATIONS - 1:
            gram = p @ (p @ gram)  # p and gram commute
    x = left @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For the matrices inside a network's blocks; those of one shape are handled as one batch."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(
                        f"Muon is for matrices; got a weight of shape {tuple(p.shape)}"
                    )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of Nesterov momentum, orthogonalised; rows and columns set the scale."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for shape, weights in shapes.items():
                grads = [p.grad for p in weights]
                memory = [self._memory(p) for p in weights]
                torch._foreach_lerp_(memory, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, memory, group["momentum"])
                update = orthogonalize(torch.stack(ahead))
                if group["weight_decay"]:
                    torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_add_(weights, list(update.unbind()), alpha=-group["lr"] * scale)

    def _memory(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        return state["momentum"]
