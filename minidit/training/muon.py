"""Muon: momentum whose matrices are made orthogonal before they are applied (K. Jordan, 2024).

Adam scales every number of a matrix by itself; Muon treats the matrix as one thing and steps by
the same amount in all its directions. In short runs it learns more per step.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from minidit.train import Recipe, adamw

ITERATIONS = 5  # of `orthogonalize`
# So many numbers of the square matrices stay in a processor's cache while they are multiplied.
CACHED = 100_000


def orthogonalize(batches: Sequence[Tensor]) -> list[Tensor]:
    """U·Vᵀ of each matrix U·S·Vᵀ, roughly: all singular values are brought near 1.

    Shape of each batch: (k, rows, columns). Each iteration maps a singular value s to 3.4445·s -
    4.775·s³ + 2.0315·s⁵, steep at 0, so that small ones grow soonest. That is a product p(X·Xᵀ)·X:
    `_iterated` multiplies up the factors in the smaller of the two dimensions, for batches of all
    shapes that have it in common, and X is touched only at the beginning and at the end.
    """
    batches = [x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7) for x in batches]
    tall = [x.shape[1] > x.shape[2] for x in batches]
    grams = [x.mT @ x if high else x @ x.mT for x, high in zip(batches, tall)]  # (k, m, m)
    together: dict[int, list[int]] = defaultdict(list)
    for i, gram in enumerate(grams):
        together[gram.shape[1]].append(i)
    for m, places in together.items():
        joined = torch.cat([grams[i] for i in places])
        at_once = max(1, CACHED // m**2) if joined.is_cpu else len(joined)
        factors = torch.cat([_iterated(part) for part in joined.split(at_once)])
        for i, factor in zip(places, factors.split([len(grams[i]) for i in places])):
            batches[i] = batches[i] @ factor if tall[i] else factor @ batches[i]
    return batches


def _iterated(grams: Tensor) -> Tensor:
    """The product of all iterations' polynomials of X·Xᵀ, (k, m, m), symmetric: all commute."""
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
            ahead = []
            for weights in shapes.values():
                for p in weights:
                    if not self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                grads, memory = zip(*((p.grad, self.state[p]["momentum"]) for p in weights))
                torch._foreach_lerp_(memory, grads, 1 - group["momentum"])
                ahead.append(torch.stack(torch._foreach_lerp(grads, memory, group["momentum"])))
            for (shape, weights), update in zip(shapes.items(), orthogonalize(ahead)):
                if group["weight_decay"]:
                    torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_add_(weights, list(update.unbind()), alpha=-group["lr"] * scale)


def muon_and_adamw(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for matrices of blocks and skips, AdamW for all other weights."""
    inside = ("blocks.", "skips.", "label_embed.blocks.")
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim == 2}
    matrices = {name: p for name, p in weights.items() if name.startswith(inside)}
    if not matrices:
        raise ValueError(
            "optimizer='muon' is for matrices of blocks and skips, and this network has none; "
            "use optimizer='adamw'"
        )
    muon = Muon(matrices.values(), recipe.muon_lr, weight_decay=recipe.weight_decay)
    return [muon, *adamw(model, recipe, without=frozenset(matrices))]
