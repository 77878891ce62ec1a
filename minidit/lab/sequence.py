"""The "sequence loss" that a note on DiT asks for, in one reading, to be tested.

The note wants the KL divergence between p_θ(z_ij | z_<ij) and an autoregressive prior
q(z_ij | z_<ij), patches in raster order, and defines neither. Here q is the Gaussian whose mean is
linear in all patches before, fitted to clean patches; p_θ is a Gaussian around the image that the
network foresees. Their divergence is, up to what doesn't depend on the network,
½ (z - μ(z_<))ᵀ Σ⁻¹ (z - μ(z_<)), z being the predicted patches.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from minidit.diffusion import Diffusion
from minidit.lab.trials import recorded
from minidit.patches import patchify
from minidit.sampling import Denoiser


class SequencePrior:
    """q: each patch given those before it, fitted to images (n, c, h, w) in [-1, 1].

    Patches in raster order, of side `patch_size`. `floor`: a variance added to every pixel's, for
    some never change. The conditionals of a joint Gaussian are the rows of its Cholesky factor's
    inverse: L⁻¹(z - mean) are all residuals, each divided by the deviation that the past leaves.
    """

    def __init__(self, images: Tensor, patch_size: int, floor: float = 0.05) -> None:
        if floor <= 0:
            raise ValueError(f"floor={floor} must be above 0: some pixels never change")
        self.patch_size = patch_size
        z = patchify(images, patch_size).flatten(1).double()  # (images, n·p·p·c)
        self.mean = z.mean(dim=0)
        covariance = z.T.cov() + floor * torch.eye(z.shape[1], dtype=torch.float64)
        factor = torch.linalg.cholesky(covariance)  # (n·p·p·c, n·p·p·c)
        identity = torch.eye(len(factor), dtype=torch.float64)
        self.whiten = torch.linalg.solve_triangular(factor, identity, upper=False)

    def terms(self, images: Tensor) -> Tensor:
        """½ of the mean squared residual of each patch given the past: (b, c, h, w) → (b, n)."""
        patches = patchify(images, self.patch_size)  # (b, n, p·p·c)
        mean, whiten = (table.to(patches) for table in (self.mean, self.whiten))
        residuals = (patches.flatten(1) - mean) @ whiten.T  # (b, n·p·p·c)
        return 0.5 * residuals.reshape(patches.shape).square().mean(dim=-1)


@dataclass(frozen=True, eq=False)
class SequenceDiffusion(Diffusion):
    """A process whose training loss has `sequence_weight` times the mean of the prior's terms."""

    _: KW_ONLY
    prior: SequencePrior
    sequence_weight: float

    @property
    def config(self) -> dict:
        """As of a plain process, and the weight; the prior is fitted to the training images."""
        return super().config | {"sequence_weight": self.sequence_weight}

    def loss(
        self,
        model: Denoiser,
        x0: Tensor,
        t: Tensor,
        noise: Tensor,
        y: Tensor | None = None,
    ) -> Tensor:
        """The training loss of every image, (b,)."""
        answers: list[Tensor] = []
        plain = super().loss(recorded(model, answers), x0, t, noise, y)  # (b,)
        x_t = self.q_sample(x0, t, noise)
        prediction, _ = self.split(answers[0].to(x0.dtype), x_t)
        pred_x0 = self.to_x0(x_t, t, prediction)  # (b, c, h, w)
        return plain + self.sequence_weight * self.prior.terms(pred_x0).mean(dim=1)
