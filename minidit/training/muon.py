"""Muon: momentum whose matrices are made orthogonal before they are applied (K. Jordan, 2024).

Adam scales every number of a matrix by itself; Muon treats the matrix as one thing and steps by
the same amount in all its directions. In short runs it learns more per step.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from minidit.train import Recipe, adamw

ITERATIONS = 5  # of `orthogonalize`
# So many numbers of the square matrices stay in a processor's cache while they are multiplied.
CACHED = 100_000


def orthogonalize(x: Tensor) -> Tensor:
    """U·Vᵀ of each matrix U·S·Vᵀ, (k, rows, columns), roughly: all singular values come near 1.

    Each iteration maps a singular value s to 3.4445·s - 4.775·s³ + 2.0315·s⁵, steep at 0, so that
    small ones grow soonest. That is a product p(X·Xᵀ)·X, and the p of all iterations commute: their
    product is made in the smaller of the two dimensions, X touched at the beginning and at the end.
    """
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    grams = x.mT @ x if tall else x @ x.mT  # (k, m, m)
    at_once = max(1, CACHED // grams.shape[1] ** 2) if x.is_cpu else len(x)
    factor = torch.cat([_iterated(part) for part in grams.split(at_once)])
    return x @ factor if tall else factor @ x


def _iterated(grams: Tensor) -> Tensor:
    """The product of all iterations' polynomials of X·Xᵀ, (k, m, m), symmetric."""
    a, b, c = 3.4445, -4.7750, 2.0315
    factor = None
    for i in range(ITERATIONS):
        p = torch.baddbmm(grams, grams, grams, beta=b, alpha=c)
        p.diagonal(dim1=1, dim2=2).add_(a)
        factor = p if factor is None else p @ factor
        if i < ITERATIONS - 1:
            grams = p @ (p @ grams)
    return factor


class Muon(torch.optim.Optimizer):
    """For the matrices inside a network's blocks; those of one shape are one batch."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        others = [p for group in self.param_groups for p in group["params"] if p.ndim != 2]
        if others:
            shape = tuple(others[0].shape)
            raise ValueError(f"Muon is for matrices; got a weight of shape {shape}")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of Nesterov momentum, orthogonalised; rows and columns set the scale."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for shape, weights in shapes.items():
                for p in weights:
                    if not self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                grads, memory = zip(*((p.grad, self.state[p]["momentum"]) for p in weights))
                torch._foreach_lerp_(memory, grads, 1 - group["momentum"])
                ahead = torch.stack(torch._foreach_lerp(grads, memory, group["momentum"]))
                if group["weight_decay"]:
                    torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                update = list(orthogonalize(ahead).unbind())
                torch._foreach_add_(weights, update, alpha=-group["lr"] * scale)


def muon_and_adamw(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for matrices of blocks and skips, AdamW for all other weights."""
    inside = ("blocks.", "skips.", "label_embed.blocks.")
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim == 2}
    matrices = {name: p for name, p in weights.items() if name.startswith(inside)}
    if not matrices:
        told = "optimizer='muon' is for matrices of blocks and skips, and this network has none"
        raise ValueError(f"{told}; use optimizer='adamw'")
    muon = Muon(matrices.values(), recipe.muon_lr, weight_decay=recipe.weight_decay)
    return [muon, *adamw(model, recipe, without=frozenset(matrices))]
