"""An image as a condition, concatenated to the input of the network (LDM, arXiv 2112.10752).

Inpainting (section 4.5) knows some pixels, super-resolution (4.4) knows all of them, coarsely.
Both are told as y (b, c + 1, h, w): what is known, in [-1, 1], and a mask that is 1 there; unknown
pixels are 0. All zeros are the null condition: drawing from nothing, which guidance needs, too.

A linear map of concatenated channels is a sum of two: [x, y]·W = x·W_x + y·W_y. The network's patch
embedding is W_x; W_y, an encoder like those of texts and layouts, adds to the same tokens.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_images, check_tensor
from minidit.diffusion import Diffusion
from minidit.embed import LabelEmbedder, check_start
from minidit.patches import PatchEmbed, as_unit


class ImageEncoder(nn.Module):
    """What is known of an image, as a vector for each of its patches; the kinds below `tell` it.

    `shape`: (c, h, w) of the images, `patch_size` that of the network. `dropout`: how often
    training replaces y by the null condition. `std`: of the weights at the start, times Xavier's.
    """

    reads = "images"  # of a data set: training makes y of them, see `drop`
    needs = "an image and its mask; pass y, e.g. model.label_embed.empty(b)"
    num_tokens = 0  # in the condition's sequence
    FACTOR = 1  # by how much less than the image y may tell

    def __init__(
        self,
        hidden_size: int,
        shape: Sequence[int],
        patch_size: int,
        dropout: float = 0.1,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        check_start(dropout, std)
        if any(side % self.FACTOR for side in shape[1:]):
            raise ValueError(f"shape={shape}: both sides must be multiples of {self.FACTOR}")
        self.shape, self.dropout = tuple(shape), dropout
        self.null_label = 0 if dropout > 0 else None
        self.embed = PatchEmbed(self.shape[0] + 1, patch_size, hidden_size)
        nn.init.xavier_uniform_(self.embed.proj.weight, gain=std)

    def check(self, y: Tensor, batch: int | None = None) -> None:
        """Raise unless y is floats (batch, c + 1, h, w); without `batch`, images to train on."""
        if batch is None:
            return check_images(y, self.shape[0], self.shape[1:])
        c, h, w = self.shape
        check_tensor("y", y, expected := f"({batch}, {c + 1}, {h}, {w}), an image and its mask")
        if y.shape != (batch, c + 1, h, w) or not y.is_floating_point():
            raise ValueError(f"y is {y.dtype} {tuple(y.shape)}; expected floats {expected}")

    def tokens(self, y: Tensor) -> tuple[Tensor, None]:
        """None in the condition's sequence: (b, 0, d)."""
        return self.embed.proj.weight.new_zeros(len(y), 0, self.embed.proj.out_features), None

    def join(self, tokens: Tensor, y: Tensor) -> Tensor:
        """Tokens of the image, and what y says of each: (b, n, d), (b, c + 1, h, w) → (b, n, d)."""
        own = self.embed(y.to(self.embed.proj.weight.dtype))  # (b, n, d)
        if own.shape != tokens.shape:
            told = f"has {own.shape[1]} patches, and the network {tokens.shape[1]}"
            raise ValueError(f"condition {told}; give both the same sizes and patch_size")
        return tokens + own

    def empty(self, n: int) -> Tensor:
        """The null condition n times: (n, c + 1, h, w)."""
        return torch.zeros(n, self.shape[0] + 1, *self.shape[1:])

    def drop(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What training tells of images (b, c, h, w): y, or the null condition now and then."""
        return LabelEmbedder.drop(self, self.tell(as_unit(images), generator), generator)


class InpaintEncoder(ImageEncoder):
    """Some pixels are known, and stay; the others are to be drawn."""

    def tell(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (b, c, h, w) with random holes: y, (b, c + 1, h, w)."""
        return self.compose(images, holes(len(images), self.shape[1:], generator, images.device))

    def compose(self, images: Tensor, mask: Tensor) -> Tensor:
        """y of images (b, c, h, w), of which `mask` (b, 1, h, w) is 1 where they are known."""
        return torch.cat([images * mask, mask.to(images.dtype)], dim=1)

    def process(self, diffusion: Diffusion, y: Tensor) -> Diffusion:
        """What samplers are to walk: a process that keeps what is known in y, (b, c + 1, h, w)."""
        return KnownPixels(**vars(diffusion), y=y)


class UpscaleEncoder(ImageEncoder):
    """All pixels are known, but only the mean of each block of 4×4."""

    FACTOR = 4

    def tell(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (b, c, h, w), shrunk: y, (b, c + 1, h, w)."""
        return self.compose(F.avg_pool2d(images, self.FACTOR))

    def compose(self, small: Tensor) -> Tensor:
        """y of small images (b, c, h/4, w/4)."""
        large = F.interpolate(small, scale_factor=self.FACTOR)  # nearest: blocks of one colour
        return torch.cat([large, torch.ones_like(large[:, :1])], dim=1)


@dataclass(frozen=True, eq=False)
class KnownPixels(Diffusion):
    """A process that knows some pixels: they replace what is predicted, in every step and at last.

    All samplers walk by the predicted image, so this holds for each of them; at last it holds for
    those that end with that image: not for `euler_maruyama`, nor for DPM-Solver's trace of noise.
    """

    _: KW_ONLY
    y: Tensor  # (b, c + 1, h, w)

    def to_x0(
        self, x_t: Tensor, t: Tensor, prediction: Tensor, clip: bool | float = False
    ) -> Tensor:
        """The image that a prediction stands for, but for its known pixels; all (b, c, h, w)."""
        x0 = super().to_x0(x_t, t, prediction, clip)
        return torch.where(self.y[:, -1:] > 0, self.y[:, :-1], x0)


def holes(
    n: int,
    size: tuple[int, int],
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Masks (n, 1, h, w), 0 in a random box or along random strokes (half of them each), else 1."""
    how = dict(generator=generator, device=device)
    h, w = ((torch.arange(side, device=device) + 0.5) / side for side in size)
    places = torch.stack(torch.meshgrid(h, w, indexing="ij"), dim=-1)  # (h, w, 2) in 0..1
    centre, reach = (torch.rand(n, 1, 1, 2, **how) for _ in range(2))
    box = ((places - centre).abs() < 0.15 + 0.2 * reach).all(dim=-1)  # (n, h, w)
    ends = torch.rand(n, 4, 1, 1, 2, **how)  # of three segments, one after the other
    start, along = ends[:, :-1], ends.diff(dim=1)  # (n, 3, 1, 1, 2)
    share = ((places - start) * along).sum(-1, keepdim=True) / along.square().sum(-1, keepdim=True)
    distance = (places - start - share.clamp(0, 1) * along).norm(dim=-1)  # (n, 3, h, w)
    strokes = distance.amin(dim=1) < 0.08
    gone = torch.where(torch.rand(n, 1, 1, **how) < 0.5, box, strokes)
    return (~gone[:, None]).float()
