"""The two halves of an autoencoder: convolutions that halve the image with every level but the
first, and the way back (LDM, arXiv 2112.10752, section 3.1 and appendix G).
"""

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_images, check_latents, check_positive


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels, eps=1e-6)


class ResBlock(nn.Module):
    """x + two convolutions of x, each after a normalisation and a SiLU; the size stays."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        inner = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(inner)))


class Encoder(nn.Module):
    """Images (b, in_channels, f·h, f·w) → (b, out_channels, h, w), f = 2^(levels - 1).

    Level k is `width`·`multipliers[k]` channels wide and has `blocks` residual blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 1,
    ) -> None:
        super().__init__()
        widths = _widths(width, multipliers, blocks)
        self.in_channels, self.factor = in_channels, 2 ** (len(widths) - 1)
        self.layers = _levels(in_channels, widths, blocks, _halve)
        self.norm = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(b, in_channels, f·h, f·w) → (b, out_channels, h, w)."""
        check_images(images, self.in_channels)
        if any(side % self.factor for side in images.shape[2:]):
            raise ValueError(
                f"images are {tuple(images.shape[2:])} pixels, which {self.factor} does not "
                "divide; pad or crop them"
            )
        return self.conv_out(F.silu(self.norm(self.layers(images))))


class Decoder(nn.Module):
    """Latents (b, latent_channels, h, w) → images (b, out_channels, f·h, f·w): the way back."""

    def __init__(
        self,
        latent_channels: int,
        out_channels: int,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 1,
    ) -> None:
        super().__init__()
        widths = _widths(width, multipliers, blocks)[::-1]
        self.latent_channels = latent_channels
        self.layers = _levels(latent_channels, widths, blocks, _double)
        self.norm = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """(b, latent_channels, h, w) → (b, out_channels, f·h, f·w)."""
        check_latents(latents, self.latent_channels)
        return self.conv_out(F.silu(self.norm(self.layers(latents))))


def _halve(before: int, channels: int) -> list[nn.Module]:
    return [nn.Conv2d(before, channels, 3, stride=2, padding=1)]


def _double(before: int, channels: int) -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(before, channels, 3, padding=1)]


def _levels(c_in: int, widths: list[int], blocks: int, resize: Callable) -> nn.Sequential:
    """Residual blocks of the first width, then `resize` and blocks of the next, and so on."""
    layers: list[nn.Module] = [nn.Conv2d(c_in, widths[0], 3, padding=1)]
    for k, channels in enumerate(widths):
        layers += resize(widths[k - 1], channels) if k else []
        layers += [ResBlock(channels) for _ in range(blocks)]
    return nn.Sequential(*layers)


def _widths(width: int, multipliers: tuple[int, ...], blocks: int) -> list[int]:
    check_positive(width=width, blocks=blocks)
    if not multipliers:
        raise ValueError("multipliers is empty; one for each level, e.g. (1, 2, 4) for a factor 4")
    for multiplier in multipliers:
        check_positive(multipliers=multiplier)
    return [width * multiplier for multiplier in multipliers]
