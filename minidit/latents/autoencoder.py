"""Images small enough for diffusion, and back (LDM, arXiv 2112.10752, section 3.1, appendix G)."""

import torch
from torch import Tensor, nn

from minidit._validate import check_images, check_positive
from minidit.latents.encoder import Decoder, Encoder, check_latents
from minidit.latents.gaussian import DiagonalGaussian
from minidit.latents.quantizer import Quantized, Quantizer
from minidit.patches import as_unit


class Autoencoder(nn.Module):
    """What both kinds share: an encoder, a decoder, and the scale of the latents.

    Between encoder and latents (`z_channels` numbers, as many as latents if None), a convolution
    of single pixels each way, as in the official code. `groups`: of all normalisations; if None,
    the official 32, or fewer where those don't divide. Widths like 16 and 32 so get groups of one
    channel: after 320 steps copies of photographs had 3 to 4 dB less than with three or four in
    each (12, 24 and 48 have three); digits were learnt sooner. The other arguments: see `Encoder`.
    Diffusion wants numbers of size one: `to_latents` multiplies by `scale`, which `set_scale` sets
    to 1/std over a data set (LDM, appendix G: over a batch; Stable Diffusion: 0.18215).
    """

    scale: Tensor
    numbers_each = 1  # of the encoder's output, for each latent

    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 1,
        attention: tuple[int, ...] = (),
        z_channels: int | None = None,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        z = latent_channels if z_channels is None else z_channels
        check_positive(in_channels=in_channels, latent_channels=latent_channels, z_channels=z)
        shape = dict(width=width, multipliers=tuple(multipliers), blocks=blocks)
        shape |= dict(attention=tuple(attention))
        self.config = dict(in_channels=in_channels, latent_channels=latent_channels, z_channels=z)
        self.config |= shape
        self.in_channels, self.latent_channels = in_channels, latent_channels
        each = self.numbers_each
        self.encoder = Encoder(in_channels, each * z, **shape)
        self.quant_conv = nn.Conv2d(each * z, each * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, z, 1)
        self.decoder = Decoder(z, in_channels, **shape)
        for conv in (self.quant_conv, self.post_quant_conv):  # at first the identity
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.quant_conv.bias.data[latent_channels:], -6.0)  # little noise
        self.factor = self.encoder.factor
        self.register_buffer("scale", torch.ones(()))
        self.config["groups"] = None
        if groups is not None:
            self.set_groups(groups)

    def set_groups(self, groups: int) -> None:
        """Normalise channels in so many groups; ValueError where they don't divide them."""
        check_positive(groups=groups)
        for norm in (module for module in self.modules() if isinstance(module, nn.GroupNorm)):
            if norm.num_channels % groups:
                told = f"groups={groups} doesn't divide a layer's {norm.num_channels} channels"
                raise ValueError(f"{told}; choose a power of two that does")
            norm.num_groups = groups
        self.config["groups"] = groups

    def latents(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (b, c, f·h, f·w) → what `decode` takes, (b, latent_channels, h, w)."""
        return self.encoded(images)

    def encoded(self, images: Tensor) -> Tensor:
        """Images (b, c, f·h, f·w) → what the encoder says of the latents, `numbers_each` of one."""
        return self.quant_conv(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        """(b, latent_channels, h, w) → images (b, c, f·h, f·w)."""
        check_latents(latents, self.latent_channels)
        return self.decoder(self.post_quant_conv(latents.to(self.scale.dtype)))

    def forward(self, images: Tensor) -> Tensor:
        """Images → their reconstructions, both (b, c, f·h, f·w)."""
        return self.decode(self.latents(images))

    def to_latents(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (b, c, f·h, f·w) in [-1, 1] → scaled `latents` (b, latent_channels, h, w)."""
        return self.latents(images, generator) * self.scale

    def to_images(self, latents: Tensor) -> Tensor:
        """Scaled latents (b, latent_channels, h, w) → images (b, c, f·h, f·w), about [-1, 1]."""
        return self.decode(latents / self.scale)

    @torch.no_grad()
    def set_scale(self, images: Tensor, batch_size: int = 250) -> float:
        """Set `scale` to 1/std of all numbers of the images' latents, and return it.

        images: (n, c, f·h, f·w), uint8 or floats in [-1, 1].
        """
        check_images(images, self.in_channels)
        check_positive(batch_size=batch_size)
        total, squares, count = 0.0, 0.0, 0
        for part in images.split(batch_size):
            z = self.latents(as_unit(part).to(self.scale.device)).double()
            total, squares = total + z.sum().item(), squares + z.square().sum().item()
            count += z.numel()
        variance = squares / max(count, 1) - (total / max(count, 1)) ** 2
        if not variance > 0:
            raise ValueError(f"the latents of {len(images)} images have variance {variance}")
        self.scale.fill_(variance**-0.5)
        return self.scale.item()


class KLAutoencoder(Autoencoder):
    """Every image becomes a normal distribution of latents, drawn towards N(0, 1) but a little."""

    numbers_each = 2  # mean and log-variance

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """Images (b, c, f·h, f·w) → the distribution of (b, latent_channels, h, w)."""
        return DiagonalGaussian(self.encoded(images))

    def latents(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (b, c, f·h, f·w) → the mean, or a generator's draw: (b, latent_channels, h, w)."""
        gaussian = self.encode(images)
        return gaussian.mode if generator is None else gaussian.sample(generator)


class VQAutoencoder(Autoencoder):
    """Every latent vector becomes one of `num_codes` codes, see `Quantizer`.

    That is the first layer of the decoder, as in latent diffusion: diffusion works on the latents
    before it, and what it draws need not lie on a code.
    """

    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 4,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 1,
        attention: tuple[int, ...] = (),
        z_channels: int | None = None,
        groups: int | None = None,
        num_codes: int = 512,
        beta: float = 0.25,
        convention: str = "fixed",
    ) -> None:
        shape = (width, multipliers, blocks, attention, z_channels, groups)
        super().__init__(in_channels, latent_channels, *shape)
        self.config |= dict(num_codes=num_codes, beta=beta, convention=convention)
        self.quantizer = Quantizer(num_codes, latent_channels, beta, convention)

    def encode(self, images: Tensor) -> Quantized:
        """Images (b, c, f·h, f·w) → codes (b, latent_channels, h, w), their loss and indices."""
        return self.quantizer(self.encoded(images))

    def decode(self, latents: Tensor) -> Tensor:
        """(b, latent_channels, h, w), quantised here → images (b, c, f·h, f·w)."""
        return super().decode(self.quantizer(latents.to(self.scale.dtype)).codes)
