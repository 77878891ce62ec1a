"""What a KL autoencoder encodes an image as (VAE, arXiv 1312.6114; LDM, arXiv 2112.10752)."""

import torch
from torch import Tensor

from minidit.diffusion import normal_kl


class DiagonalGaussian:
    """N(mean, e^logvar), independent in every number, from an encoder's output (b, 2c, h, w).

    The first c channels are the mean, the others the log-variance, clamped to [-30, 20].
    """

    def __init__(self, parameters: Tensor) -> None:
        if parameters.ndim < 2 or parameters.shape[1] % 2:
            told = f"parameters have shape {tuple(parameters.shape)}"
            raise ValueError(f"{told}; expected (b, 2c, …), the means and then the log-variances")
        self.mean, logvar = parameters.chunk(2, dim=1)  # (b, c, …) each, as all that follows
        self.mode = self.mean  # the likeliest value
        self.logvar = logvar.clamp(-30, 20)
        self.std, self.var = (0.5 * self.logvar).exp(), self.logvar.exp()

    def sample(
        self, generator: torch.Generator | None = None, *, noise: Tensor | None = None
    ) -> Tensor:
        """mean + std·ε, (b, c, …), ε from `generator`, or `noise` itself."""
        if noise is None:
            like = dict(device=self.mean.device, dtype=self.mean.dtype)
            noise = torch.randn(self.mean.shape, generator=generator, **like)
        if noise.shape != self.mean.shape:
            told = f"noise has shape {tuple(noise.shape)}"
            raise ValueError(f"{told}; the mean has {tuple(self.mean.shape)}")
        return self.mean + self.std * noise

    def kl(self, other: "DiagonalGaussian | None" = None) -> Tensor:
        """KL divergence from `other`, or from N(0, 1), in nats: summed for each image, (b,)."""
        zero = torch.zeros_like(self.mean)
        mean, logvar = (zero, zero) if other is None else (other.mean, other.logvar)
        if mean.shape != self.mean.shape:  # (1, …) would broadcast silently
            told = f"other has shape {tuple(mean.shape)}"
            raise ValueError(f"{told}, this one {tuple(self.mean.shape)}")
        return normal_kl(self.mean, self.logvar, mean, logvar).flatten(1).sum(dim=1)
