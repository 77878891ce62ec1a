"""Small scenes, drawn here: one to three coloured digits and shapes, with their boxes.

Everything is a signed distance field, as in `digits`: thirteen of them, scaled, placed, coloured,
and laid over a dark background. Boxes don't overlap.

Of every kind one colour is held out, `HELD_OUT`: no training image shows such a pair, half of the
test images do: they tell whether a network has learnt kinds and colours, or only pairs of them.
"""

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minidit.data.cache import drawn
from minidit.data.digits import BOX, FIELD, REACH, glyph_fields

VERSION = 1  # of the recipe below; part of the cache's name, so that an old cache is not read
COUNTS = {"train": 40_000, "test": 4_000}

KINDS = tuple("zero one two three four five six seven eight nine circle square triangle".split())
COLOURS = {
    "red": (230, 50, 50),
    "green": (50, 190, 80),
    "blue": (70, 110, 255),
    "yellow": (245, 215, 50),
    "purple": (185, 75, 220),
    "white": (245, 245, 245),
}
HELD_OUT = tuple((kind, -kind % len(COLOURS)) for kind in range(len(KINDS)))  # zero is never red

SIZE = 32  # the image, in pixels
SLOTS = 3  # objects at most
SMALL, LARGE = (9.0, 11.0), (13.5, 16.0)  # an object's longer side, in pixels, from … to
THRESHOLD = 12 / SIZE  # a box whose longer side exceeds it is that of a large object
GAP = 1.0  # pixels between boxes, at least

_FACES = ("DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSerif-Bold")


def load(folder: Path, split: str, seed: int) -> list[Tensor]:
    """Images (n, 3, 32, 32) uint8, objects (n, 3, 6) and held_out (n,), drawn once, then cached."""
    names, path = ("images", "objects", "held_out"), folder / f"scenes-v{VERSION}"
    novel = 0.5 if split == "test" else 0.0
    return drawn(path, split, seed, names, lambda stream: render(COUNTS[split], stream, novel))


def render(n: int, seed: int, novel: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Draw n scenes; a share `novel` of them has an object of a held-out pair. By arguments alone.

    Returns images (n, 3, 32, 32) uint8; objects (n, 3, 6) float32, rows of 1 + kind, 1 + colour
    and the box x0, y0, x1, y1 in 0..1, zeros where there is none; and held_out (n,) bool.
    """
    rng, fields = torch.Generator().manual_seed(seed), _fields()  # (faces, kinds, 56, 56)
    u = torch.rand(n, generator=rng)
    counts = 1 + (u > 0.3).long() + (u > 0.7).long()  # (n,)
    held_out = torch.arange(n) < round(novel * n)
    held_out = held_out[torch.randperm(n, generator=rng)]
    scenes = _arrange(counts, held_out, _extents(fields), rng)  # (n, 3, 9)
    images = torch.empty(n, 3, SIZE, SIZE, dtype=torch.uint8)
    for start in range(0, n, 1000):  # chunks keep the memory under 100 MB
        part = slice(start, start + 1000)
        images[part] = _draw(scenes[part], fields, rng)
    return images, scenes[..., :6].contiguous(), held_out


def _fields() -> Tensor:
    """Signed distance fields of all kinds in each face, (faces, 13, 56, 56), a side of 20 each."""
    digits = glyph_fields(_FACES)
    steps, half = torch.linspace(-REACH, REACH, FIELD), BOX / 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    circle = (x**2 + y**2).sqrt() - half
    square = torch.maximum(x.abs(), y.abs()) - half
    sides = (2 * x.abs() - y - half) / 5**0.5  # of the triangle, apex up
    shapes = torch.stack([circle, square, torch.maximum(y - half, sides)])
    return torch.cat([digits, shapes.expand(len(digits), -1, -1, -1)], dim=1)


def _extents(fields: Tensor) -> Tensor:
    """The box x0, y0, x1, y1 of the ink in each field, in its pixels: (faces, kinds, 4)."""
    steps = torch.linspace(-REACH, REACH, FIELD)
    ink = fields < 0  # (faces, kinds, 56, 56) as y, x
    across, along = ink.any(dim=2), ink.any(dim=3)  # (faces, kinds, 56) each
    far = torch.tensor(REACH)
    low = [torch.where(line, steps, far).amin(-1) for line in (across, along)]
    high = [torch.where(line, steps, -far).amax(-1) for line in (across, along)]
    return torch.stack([*low, *high], dim=-1)


def _arrange(counts: Tensor, held_out: Tensor, extents: Tensor, rng: torch.Generator) -> Tensor:
    """Scenes (n, 3, 9): rows of `render`'s objects, then the face and the field's middle x, y."""
    scenes, rows = torch.zeros(len(counts), SLOTS, 9), torch.arange(len(counts))
    while len(rows):  # until boxes keep their distance and no pair is there twice
        scenes[rows] = _propose(counts[rows], held_out[rows], extents, rng)
        rows = rows[~_fits(scenes[rows])]
    return scenes


def _propose(counts: Tensor, held_out: Tensor, extents: Tensor, rng: torch.Generator) -> Tensor:
    n, slots = len(counts), torch.arange(SLOTS)
    novel = _pairs(held_out=True)[torch.randint(len(HELD_OUT), (n, SLOTS), generator=rng)]
    seen = _pairs(held_out=False)
    seen = seen[torch.randint(len(seen), (n, SLOTS), generator=rng)]  # (n, 3, 2)
    at = (torch.rand(n, generator=rng) * counts).long()  # the object of a held-out pair
    here = held_out[:, None] & (slots == at[:, None])  # (n, 3)
    kind, colour = torch.where(here[..., None], novel, seen).unbind(-1)
    face = torch.randint(len(extents), (n, SLOTS), generator=rng)

    extent = extents[face, kind]  # (n, 3, 4)
    sides = extent[..., 2:] - extent[..., :2]  # (n, 3, 2) as x, y
    low, high = torch.tensor([SMALL, LARGE])[torch.randint(2, (n, SLOTS), generator=rng)].unbind(-1)
    side = low + (high - low) * torch.rand(n, SLOTS, generator=rng)  # the longer one, in pixels
    sides = sides * (side / sides.amax(-1))[..., None] / SIZE
    corner = torch.rand(n, SLOTS, 2, generator=rng) * (1 - sides)
    numbers = torch.stack([1 + kind, 1 + colour], dim=-1).float()
    middle = (extent[..., :2] + extent[..., 2:]) / 2
    scenes = torch.cat([numbers, corner, corner + sides, face[..., None].float(), middle], dim=-1)
    return scenes * (slots < counts[:, None])[..., None]


def _pairs(held_out: bool) -> Tensor:
    """Pairs of kind and colour that are held out, or all the others: (pairs, 2)."""
    every = [(kind, colour) for kind in range(len(KINDS)) for colour in range(len(COLOURS))]
    return torch.tensor([pair for pair in every if (pair in HELD_OUT) == held_out])


def _fits(scenes: Tensor) -> Tensor:
    """Whether the objects of each scene are apart, and all of different pairs: (n,)."""
    fits = torch.ones(len(scenes), dtype=torch.bool)
    for a, b in itertools.combinations(scenes.unbind(1), 2):  # (n, 9) each
        both = (a[:, 0] > 0) & (b[:, 0] > 0)
        gaps = torch.maximum(a[:, 2:4] - b[:, 4:6], b[:, 2:4] - a[:, 4:6]).amax(-1)
        fits &= ~both | ((gaps >= GAP / SIZE) & (a[:, :2] != b[:, :2]).any(-1))
    return fits


def _draw(scenes: Tensor, fields: Tensor, rng: torch.Generator) -> Tensor:
    """Scenes (n, 3, 9) → images (n, 3, 32, 32) uint8, the objects over a dark grey."""
    n = len(scenes)
    paint = torch.tensor([(0, 0, 0), *COLOURS.values()]).float()
    shade = torch.rand(n, 1, 1, 1, generator=rng) * 40
    images = shade.expand(n, 3, SIZE, SIZE)
    pixels = (torch.arange(SIZE) + 0.5) / SIZE
    grid = torch.stack(torch.meshgrid(pixels, pixels, indexing="xy"), dim=-1)  # (32, 32, 2): x, y
    for row in scenes.unbind(1):  # (n, 9)
        kind, colour, face = (row[:, k].long() for k in (0, 1, 6))
        field = fields[face, (kind - 1).clamp(min=0)]  # (n, 56, 56)
        side = (row[:, 4:6] - row[:, 2:4]).amax(-1) * SIZE  # (n,) in pixels, 0 for no object
        scale = side.clamp(min=1) / BOX
        centre = (row[:, 2:4] + row[:, 4:6]) / 2
        at = (grid - centre[:, None, None]) * SIZE / scale[:, None, None, None]
        at = (at + row[:, None, None, 7:]) / REACH  # (n, 32, 32, 2)
        distance = F.grid_sample(field[:, None], at, padding_mode="border", align_corners=True)
        alpha = (0.5 - distance * scale[:, None, None, None]).clamp(0, 1)  # (n, 1, 32, 32)
        alpha = alpha * (kind > 0)[:, None, None, None]
        images = images + alpha * (paint[colour][..., None, None] - images)
    return images.round().to(torch.uint8)
