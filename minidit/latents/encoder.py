"""The halves of an autoencoder: latent diffusion's encoder and decoder (LDM, arXiv 2112.10752).

Layers and their names are those of the official code (appendix G), so that its weights load.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_images, check_positive, check_tensor


def check_latents(latents: Tensor, channels: int) -> None:
    """Raise unless `latents` is a tensor (b, channels, h, w)."""
    check_tensor("latents", latents, "(b, c, h, w)")
    if latents.ndim != 4 or latents.shape[1] != channels:
        told = f"latents have shape {tuple(latents.shape)}"
        raise ValueError(f"{told}; expected (b, {channels}, h, w)")


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)  # 32 groups where they divide


def _conv(channels: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(channels, outputs, 3, padding=1)


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    """A residual's last layer starts at zero, so that a deep autoencoder learns from step 1 on."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class ResBlock(nn.Module):
    """x + two convolutions of x, each after a normalisation and a SiLU; it may change the width."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), _conv(channels, outputs)
        self.norm2, self.conv2 = _norm(outputs), _zero(_conv(outputs, outputs))
        change = channels != outputs
        self.nin_shortcut = nn.Conv2d(channels, outputs, 1) if change else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) → (b, outputs, h, w)."""
        inner = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(inner)))


class PixelAttention(nn.Module):
    """x + attention among all places of x: one head, as wide as there are channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        _zero(self.proj_out)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        inner = self.norm(x)
        q, k, v = (f(inner).flatten(2).mT[:, None] for f in (self.q, self.k, self.v))
        found = F.scaled_dot_product_attention(q, k, v)  # (b, 1, h·w, c)
        return x + self.proj_out(found[:, 0].mT.reshape(x.shape))


class Downsample(nn.Module):
    """Half as high and wide; the border that a stride of 2 needs is added right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, 2·h, 2·w) → (b, c, h, w)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice as high and wide: every number four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, 2·h, 2·w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0))


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention if the level has it."""

    def __init__(self, channels: int, outputs: int, blocks: int, attention: bool) -> None:
        super().__init__()
        widths = [channels] + [outputs] * blocks
        self.block = nn.ModuleList(ResBlock(*pair) for pair in zip(widths, widths[1:]))
        self.attn = nn.ModuleList(PixelAttention(outputs) for _ in range(blocks * attention))

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, h, w) → (b, outputs, h, w)."""
        for k, block in enumerate(self.block):
            x = block(x)
            x = self.attn[k](x) if self.attn else x
        return x


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = (ResBlock(channels, channels) for _ in range(2))
        self.attn_1 = PixelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c, h, w)."""
        return self.block_2(self.attn_1(self.block_1(x)))


def _widths(width: int, multipliers: tuple[int, ...], blocks: int) -> list[int]:
    """Channels of each level, the finest first; ValueError for shapes that no network has."""
    check_positive(width=width, blocks=blocks)
    if not multipliers:
        raise ValueError("multipliers is empty; one for each level, e.g. (1, 2, 4) for a factor 4")
    for multiplier in multipliers:
        check_positive(multipliers=multiplier)
    return [width * multiplier for multiplier in multipliers]


class Encoder(nn.Module):
    """Images (b, in_channels, f·h, f·w) → (b, out_channels, h, w), f = 2^(levels - 1).

    Level k, the finest first, is `width`·`multipliers[k]` wide and has `blocks` blocks; the levels
    in `attention` have attention after each.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 1,
        attention: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        widths = _widths(width, multipliers, blocks)
        self.in_channels, self.factor = in_channels, 2 ** (len(widths) - 1)
        self.conv_in = _conv(in_channels, width)
        self.down = nn.ModuleList(
            Level(before, here, blocks, k in attention)
            for k, (before, here) in enumerate(zip([width, *widths], widths))
        )
        for level, channels in zip(self.down[:-1], widths):
            level.downsample = Downsample(channels)
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = _norm(widths[-1]), _conv(widths[-1], out_channels)

    def forward(self, images: Tensor) -> Tensor:
        """(b, in_channels, f·h, f·w) → (b, out_channels, h, w)."""
        check_images(images, self.in_channels, floats=True)
        if any(side % self.factor for side in images.shape[2:]):
            told = f"images are {tuple(images.shape[2:])} pixels"
            raise ValueError(f"{told}, which {self.factor} does not divide; pad or crop them")
        x = self.conv_in(images.to(self.conv_in.weight.dtype))
        for level in self.down[:-1]:
            x = level.downsample(level(x))
        x = self.mid(self.down[-1](x))
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Latents (b, in_channels, h, w) → images (b, out_channels, f·h, f·w): the way back.

    The arguments are the encoder's; a level has one block more.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 1,
        attention: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        widths = _widths(width, multipliers, blocks)
        self.in_channels = in_channels
        self.conv_in, self.mid = _conv(in_channels, widths[-1]), Middle(widths[-1])
        self.up = nn.ModuleList(  # the finest first, though it comes last
            Level(before, here, blocks + 1, k in attention)
            for k, (before, here) in enumerate(zip([*widths[1:], widths[-1]], widths))
        )
        for level, channels in zip(self.up[1:], widths[1:]):
            level.upsample = Upsample(channels)
        self.norm_out, self.conv_out = _norm(widths[0]), _conv(widths[0], out_channels)

    def forward(self, latents: Tensor) -> Tensor:
        """(b, in_channels, h, w) → (b, out_channels, f·h, f·w)."""
        check_latents(latents, self.in_channels)
        x = self.mid(self.conv_in(latents.to(self.conv_in.weight.dtype)))
        for level in reversed(self.up[1:]):
            x = level.upsample(level(x))
        return self.conv_out(F.silu(self.norm_out(self.up[0](x))))
