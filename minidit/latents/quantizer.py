"""Vector quantisation by a learned codebook (VQ-VAE, arXiv 1711.00937, section 3)."""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_choice, check_positive
from minidit.latents.encoder import check_latents


class Quantized(NamedTuple):
    """What quantising (b, c, h, w) gives."""

    codes: Tensor  # (b, c, h, w): the nearest codes, with the gradient of what they replace
    loss: Tensor  # a scalar: codebook and commitment term
    indices: Tensor  # (b, h, w) int64: which codes


class Usage(NamedTuple):
    """How many codes a set of indices needs."""

    share: float  # of the codebook, how much occurs at all, 0 … 1
    perplexity: float  # e^entropy: as many codes, equally often used, carry as much


class Quantizer(nn.Module):
    """The codebook: `num_codes` vectors of c numbers.

    The loss is ‖sg(z) - code‖² + β·‖z - sg(code)‖², means over all numbers: the first term moves
    the code to what it replaces, the second commits the encoder to it. That is the paper's and
    convention "fixed"; in "legacy", the default of latent diffusion's code, β is on the first term.
    """

    def __init__(
        self, num_codes: int, channels: int, beta: float = 0.25, convention: str = "fixed"
    ) -> None:
        super().__init__()
        check_positive(num_codes=num_codes, channels=channels)
        check_choice("convention", convention, ["fixed", "legacy"])
        if not beta >= 0:
            raise ValueError(f"beta={beta} must not be negative; the papers use 0.25")
        self.beta, self.convention = beta, convention
        self.table = nn.Parameter(torch.empty(num_codes, channels))
        nn.init.uniform_(self.table, -1 / num_codes, 1 / num_codes)

    def nearest(self, z: Tensor) -> Tensor:
        """(b, c, h, w) → the indices of the nearest codes, (b, h, w)."""
        check_latents(z, self.table.shape[1])
        points = rearrange(z, "b c h w -> b h w c")
        # ‖z - code‖² = ‖z‖² - 2·z·code + ‖code‖², and ‖z‖² is the same for all codes
        return (self.table.square().sum(dim=1) - 2 * points @ self.table.T).argmin(dim=-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """Indices (b, h, w) → codes (b, c, h, w)."""
        if indices.ndim != 3 or indices.is_floating_point():
            told = f"indices are {indices.dtype} of shape {tuple(indices.shape)}"
            raise ValueError(f"{told}; expected integers (b, h, w)")
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < len(self.table):
            fault = f"indices run from {int(indices.min())} to {int(indices.max())}"
            raise ValueError(f"{fault}; the codebook has 0 … {len(self.table) - 1}")
        return rearrange(self.table[indices], "b h w c -> b c h w")

    def forward(self, z: Tensor) -> Quantized:
        """(b, c, h, w) → codes, loss and indices."""
        indices = self.nearest(z)
        codes = rearrange(F.embedding(indices, self.table), "b h w c -> b c h w")
        to_code, to_latent = F.mse_loss(codes, z.detach()), F.mse_loss(z, codes.detach())
        if self.convention == "fixed":
            loss = to_code + self.beta * to_latent
        else:
            loss = self.beta * to_code + to_latent
        # straight through: forwards the code, backwards as if z had been left alone
        return Quantized(z + (codes - z).detach(), loss, indices)

    def usage(self, indices: Tensor) -> Usage:
        """How much of the codebook these indices, of any shape, use."""
        counts = indices.flatten().bincount(minlength=len(self.table))
        p = counts.double() / counts.sum()
        perplexity = torch.special.entr(p).sum().exp().item()
        return Usage((counts > 0).double().mean().item(), perplexity)

    @torch.no_grad()
    def revive(self, dead: Tensor, z: Tensor, generator: torch.Generator | None = None) -> int:
        """Move `dead` codes (num_codes,), which get no gradient, to vectors of z; their number."""
        points = rearrange(z, "b c h w -> (b h w) c")
        rows = dead.nonzero().flatten()
        chosen = torch.randint(len(points), rows.shape, generator=generator, device=z.device)
        self.table[rows] = points[chosen].to(self.table.dtype)
        return len(rows)
