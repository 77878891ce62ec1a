"""A process in continuous time (arXiv 2011.13456): log α as a function, between the steps, too."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minidit._validate import check_positive
from minidit.schedule import Schedule


@dataclass(frozen=True)
class LogAlpha:
    """log α(u), float64 → float64 of one shape; one that can't be pickled says so when it is."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, u: Tensor) -> Tensor:
        return self.function(u)

    def __deepcopy__(self, memo: dict) -> "LogAlpha":
        return self

    def __reduce__(self) -> tuple:
        if "<" in getattr(self.function, "__qualname__", ""):  # <lambda> or <locals>
            told = f"log_alpha={self.function!r} can't be pickled"
            raise TypeError(f"{told}; define it with def at module level")
        return LogAlpha, (self.function,)


def continuous(
    log_alpha: Callable[[Tensor], Tensor], T: int = 1000, name: str = "custom"
) -> Schedule:
    """A variance-preserving process from its log α(u), (T,) → (T,), which falls from 0 at u = 0.

    The tables are T moments, u = 1/T … 1, and the network is told 999·u.
    """
    check_positive(T=T)
    u = torch.arange(1, T + 1, dtype=torch.float64) / T
    alpha, sigma = on_circle(log_alpha(u))
    return Schedule(alpha, sigma, 999 * u, "variance_preserving", name, LogAlpha(log_alpha))


def on_circle(log_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ of the shape of log α, α² + σ² = 1; σ doesn't cancel where α is nearly 1."""
    return log_alpha.exp(), (-(2 * log_alpha).expm1()).sqrt()


def vp_sde(T: int = 1000) -> Schedule:
    """The VP process in continuous time (arXiv 2011.13456, appendix C): β(u) = 0.1 + 19.9·u.

    log α = -½·∫β. U-ViT trains on CIFAR-10 with it.
    """
    return continuous(_vp_log_alpha, T, "vp_sde")


def _vp_log_alpha(u: Tensor) -> Tensor:
    return -0.1 / 2 * u - 19.9 / 4 * u**2
