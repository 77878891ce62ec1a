"""The halves of an autoencoder: convolutions that halve the image with every level, and back."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_images, check_positive, check_tensor


def check_latents(latents: Tensor, channels: int) -> None:
    """Raise unless `latents` is a tensor (b, channels, h, w)."""
    check_tensor("latents", latents, "(b, c, h, w)")
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise ValueError(
            f"latents have shape {tuple(latents.shape)}; expected (b, {channels}, h, w)"
        )


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels, eps=1e-6)


class ResBlock(nn.Module):
    """x + two convolutions of x (b, c, h, w), each after a normalisation and a SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (_norm(channels) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        inner = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(inner)))


class _Half(nn.Module):
    """What both ways share: level k is `width`·`multipliers[k]` wide and has `blocks` blocks.

    (b, in_channels, …) → (b, out_channels, …), `factor` times smaller or larger.
    """

    up = False  # whether images grow from level to level, the last level first

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 1,
    ) -> None:
        super().__init__()
        check_positive(width=width, blocks=blocks)
        if not multipliers:
            raise ValueError(
                "multipliers is empty; one for each level, e.g. (1, 2, 4) for a factor 4"
            )
        for multiplier in multipliers:
            check_positive(multipliers=multiplier)
        widths = [width * multiplier for multiplier in multipliers][:: -1 if self.up else 1]
        self.in_channels, self.factor = in_channels, 2 ** (len(widths) - 1)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 3, padding=1)]
        for k, channels in enumerate(widths):
            if k:
                layers += [nn.Upsample(scale_factor=2)] if self.up else []
                layers += [nn.Conv2d(widths[k - 1], channels, 3, 1 if self.up else 2, padding=1)]
            layers += [ResBlock(channels) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.norm = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.conv_out.weight.dtype)
        return self.conv_out(F.silu(self.norm(self.layers(x))))


class Encoder(_Half):
    """Images (b, in_channels, f·h, f·w) → (b, out_channels, h, w), f = 2^(levels - 1)."""

    def forward(self, images: Tensor) -> Tensor:
        """(b, in_channels, f·h, f·w) → (b, out_channels, h, w)."""
        check_images(images, self.in_channels, floats=True)
        if any(side % self.factor for side in images.shape[2:]):
            raise ValueError(
                f"images are {tuple(images.shape[2:])} pixels, which {self.factor} does not "
                "divide; pad or crop them"
            )
        return super().forward(images)


class Decoder(_Half):
    """Latents (b, in_channels, h, w) → images (b, out_channels, f·h, f·w): the way back."""

    up = True

    def forward(self, latents: Tensor) -> Tensor:
        """(b, in_channels, h, w) → (b, out_channels, f·h, f·w)."""
        check_latents(latents, self.in_channels)
        return super().forward(latents)
