"""Images to tokens and back (DiT, section 3.2, "Patchify"; ViT, arXiv 2010.11929, equation 1)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from minidit._validate import check_images, check_positive


def as_unit(images: Tensor) -> Tensor:
    """Images as networks see them: bytes as floats in -1..1, floats as they are, any shape."""
    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1
    if not images.is_floating_point():  # are they 0 … 255, or what?
        raise TypeError(f"images are {images.dtype}; give uint8, or floats in [-1, 1]")
    return images


def linear_layer(
    d_in: int, d_out: int, *, bias: bool = True, std: float | None = None
) -> nn.Linear:
    """A linear layer: weights Xavier-uniform, or normal with `std`; `std=0` gives zeros. Bias zero.

    A zero layer is the "Zero" of adaLN-Zero (DiT, section 3.2). It is zeroed here, where it is
    made: initialising "all Linear layers" in a later pass would silently undo it.
    """
    layer = nn.Linear(d_in, d_out, bias=bias)
    if std is None:
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=std) if std > 0 else nn.init.zeros_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


PATCHES = "b c (h p1) (w p2) -> b (h w) (p1 p2 c)"  # channels last inside a patch


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images into square patches, each flattened with its channels last.

    Shapes: (b, c, h·p, w·p) → (b, h·w, p·p·c), patches in raster order.
    Raises ValueError if `patch` does not divide the height and the width.
    """
    check_images(images)
    check_positive(patch=patch)
    height, width = images.shape[2:]
    if height % patch or width % patch:
        fits = [p for p in range(1, min(height, width) + 1) if height % p == 0 == width % p]
        raise ValueError(
            f"patch={patch} does not divide images of {height}×{width} pixels; these do: {fits}"
        )
    return rearrange(images, PATCHES, p1=patch, p2=patch)


def unpatchify(tokens: Tensor, patch: int, grid: int | tuple[int, int]) -> Tensor:
    """Put patches back into images: the inverse of `patchify`.

    Shapes: (b, h·w, p·p·c) → (b, c, h·p, w·p), where `grid` is (h, w), or one number for a square.
    Raises ValueError if tokens and grid, or features and patch, don't fit.
    """
    h, w = (grid, grid) if isinstance(grid, int) else grid
    check_positive(patch=patch, **{"grid's height": h, "grid's width": w})
    if tokens.ndim != 3 or tokens.shape[1] != h * w:
        shape = tuple(tokens.shape)
        raise ValueError(f"tokens have shape {shape}; grid={grid} needs (b, {h * w}, p·p·c)")
    if tokens.shape[2] % patch**2:
        features = tokens.shape[2]
        raise ValueError(f"{features} features a token are not a multiple of patch² = {patch**2}")
    return rearrange(tokens, "b (h w) (p1 p2 c) -> b c (h p1) (w p2)", h=h, w=w, p1=patch, p2=patch)


class PatchEmbed(nn.Module):
    """One linear map for every patch; the same function as a convolution of stride `patch`."""

    def __init__(self, in_channels: int, patch: int, hidden_size: int) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, patch=patch, hidden_size=hidden_size)
        self.in_channels, self.patch = in_channels, patch
        self.proj = linear_layer(patch * patch * in_channels, hidden_size)

    def forward(self, images: Tensor) -> Tensor:
        """(b, c, h·p, w·p) → (b, h·w, d); the network has checked the images."""
        return self.proj(rearrange(images, PATCHES, p1=self.patch, p2=self.patch))


class ConvPatchEmbed(nn.Module):
    """A small stack instead of one linear map: 3×3 convolutions that halve the image, then a 1×1.

    U-ViT compares it with `PatchEmbed` (section 3.1, figure 2d; after arXiv 2106.14881). Channels
    double from layer to layer up to the width. `patch` is a power of two.
    """

    def __init__(self, in_channels: int, patch: int, hidden_size: int) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, patch=patch, hidden_size=hidden_size)
        halvings = patch.bit_length() - 1
        if patch < 2 or patch != 2**halvings or hidden_size % 2**halvings:
            raise ValueError(
                f"patch={patch} must be a power of two from 2 on, which divides hidden_size="
                f"{hidden_size}, because every convolution halves; patch_embed='linear' takes any"
            )
        self.in_channels, self.patch, layers = in_channels, patch, []
        widths = [in_channels, *(hidden_size >> k for k in reversed(range(halvings)))]
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(hidden_size, hidden_size, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(b, c, h·p, w·p) → (b, h·w, d)."""
        return rearrange(self.layers(images), "b d h w -> b (h w) d")
