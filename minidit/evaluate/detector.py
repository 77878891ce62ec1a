"""A detector of scenes: a small convolutional network that says what is where in an image.

One look at all places, as in FCOS (arXiv 1904.01355): every cell of a coarse grid says whether an
object's middle is near, of which kind and colour, and where its box lies. Of several cells that
found the same object, the surest counts.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_images, check_positive
from minidit.data import scenes
from minidit.evaluate.classifier import convolution, one_cycle

CELL = 4  # pixels along a cell of the grid
NEAR = 2.5  # a cell is near an object if its middle is, along both axes, this many pixels at most
SAME = 0.3  # boxes that overlap by more are taken for one object: scenes' objects don't overlap
FOUND = 6  # objects that are told of an image, at most
DRAWN_FROM = 2**40  # the detector's own training scenes: a seed that no data set has


class SceneDetector(nn.Module):
    """Images (b, 3, h, w) in [-1, 1] → maps (b, 1 + kinds + colours + 4, h/4, w/4); see `find`."""

    def __init__(self, kinds: int, colours: int, width: int = 24) -> None:
        super().__init__()
        check_positive(kinds=kinds, colours=colours, width=width)
        self.config = dict(kinds=kinds, colours=colours, width=width)
        self.parts = (1, kinds, colours, 4)
        widths = [(3, 1, 1), (1, 2, 2), (2, 2, 1), (2, 4, 2), (4, 4, 1), (4, 4, 1)]
        convs = [convolution(a if a == 3 else a * width, b * width, s) for a, b, s in widths]
        self.convs = nn.Sequential(*convs, nn.Conv2d(4 * width, sum(self.parts), 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """How likely an object is near, its kind, colour (logits, classes last) and box, by cell.

        (b, 3, h, w) → (b, n), (b, n, kinds), (b, n, colours), (b, n, 4) with n = h/4·w/4.
        """
        check_images(images, 3, floats=True)
        images = images.to(self.convs[-1].weight.dtype)
        maps = self.convs(images).flatten(2).transpose(1, 2)  # (b, n, channels)
        near, kind, colour, box = maps.split(self.parts, dim=2)
        box = box + middles(images).repeat(1, 2)  # (b, n, 4): x0, y0, x1, y1 in 0..1
        return near.squeeze(2), kind, colour, box

    @torch.no_grad()
    def find(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, 6, 6): 1 + kind, 1 + colour, box, the surest first; zeros for none."""
        near, kind, colour, box = self(images)
        _, order = near.sort(dim=1, descending=True)
        order = order[:, : 4 * FOUND]  # cells that are worth a look, (b, k)
        rows = [1 + kind.argmax(-1)[..., None], 1 + colour.argmax(-1)[..., None], box]
        rows = torch.cat([part.to(box.dtype) for part in rows], dim=-1)
        rows = rows.gather(1, order[..., None].expand(-1, -1, 6))  # (b, k, 6)
        kept = near.gather(1, order) > 0  # more likely than not
        same = overlap(rows[:, :, None, 2:], rows[:, None, :, 2:]) > SAME  # (b, k, k)
        for i in range(1, kept.shape[1]):
            kept[:, i] &= ~(same[:, i, :i] & kept[:, :i]).any(dim=1)
        first = kept.int().argsort(dim=1, descending=True, stable=True)[:, :FOUND]
        return (rows * kept[..., None]).gather(1, first[..., None].expand(-1, -1, 6))


def middles(images: Tensor) -> Tensor:
    """The middles of the grid's cells as x, y in 0..1, raster order: (n, 2)."""
    h, w = (side // CELL for side in images.shape[2:])
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1).to(images)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (…, 4) as x0, y0, x1, y1 → (…); 0 for empty boxes."""
    sides = (torch.minimum(a, b)[..., 2:] - torch.maximum(a, b)[..., :2]).clamp(min=0)
    both = sides.prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(dim=-1) for box in (a, b)]
    return both / (sum(areas) - both).clamp(min=1e-9)


def detector_loss(detector: SceneDetector, images: Tensor, objects: Tensor) -> Tensor:
    """Of images (b, 3, h, w) with objects (b, m, 6): is one near? And there: what, and where?"""
    near, kind, colour, box = detector(images)
    at = (objects[:, :, 2:4] + objects[:, :, 4:6]) / 2  # (b, m, 2)
    far = (middles(images)[None, :, None] - at[:, None]).abs().amax(-1)  # (b, n, m)
    far = far.masked_fill(objects[:, None, :, 0] == 0, torch.inf)
    distance, which = far.min(dim=2)  # (b, n): the nearest object
    there = distance <= NEAR / images.shape[3]
    wanted = objects.gather(1, which[..., None].expand(-1, -1, 6))[there]  # (objects' cells, 6)
    loss = F.binary_cross_entropy_with_logits(near, there.float(), reduction="sum") / len(wanted)
    loss = loss + F.cross_entropy(kind[there], wanted[:, 0].long() - 1)
    loss = loss + F.cross_entropy(colour[there], wanted[:, 1].long() - 1)
    return loss + 10 * F.l1_loss(box[there], wanted[:, 2:])


def make_detector(
    steps: int = 1500, images: int = 30_000, seed: int = 0, report: Callable | None = None
) -> SceneDetector:
    """Train one on scenes of its own, in which all pairs of kind and colour are equally known."""
    pictures, objects, _ = scenes.render(images, DRAWN_FROM + seed, novel=0.34)

    def loss(model: SceneDetector, x: Tensor, rows: Tensor, rng: torch.Generator) -> Tensor:
        # A little noise, in some images more: samples aren't as clean as drawings.
        strength = 0.2 * torch.rand(len(x), 1, 1, 1, generator=rng)
        x = x + strength * torch.randn(x.shape, generator=rng)
        return detector_loss(model, x, objects[rows])

    build = partial(SceneDetector, len(scenes.KINDS), len(scenes.COLOURS))
    return one_cycle(build, loss, pictures, steps, 64, seed, report)
