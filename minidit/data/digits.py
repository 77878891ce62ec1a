"""A stand-in for MNIST that needs no download: digits of the fonts that come with matplotlib.

Each of the 230 glyphs (23 faces, 10 digits) lies in `SHEET`, large, and becomes a signed distance
field: how far, in pixels of the image, a point lies from the outline, negative in the ink. Bending
its coordinates changes the hand, adding a number the pen; a soft threshold at zero gives the greys.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minidit.data.cache import drawn

VERSION = 1  # of the recipe below; part of the cache's name, so that an old cache is not read
COUNTS = {"train": 60_000, "test": 10_000}

# A row for each face, ten digits in cells of one size, white on black; tests/glyphs.py draws it. No
# font is opened here: which of them a matplotlib has depends on its version.
SHEET = Path(__file__).with_name("glyphs.png")
CELL = (104, 80)  # pixels of the sheet: height, width
# STIX sans is left out: its 1 has no foot, and slanted it is a 7.
FACES = tuple(
    """
    DejaVuSans       DejaVuSans-Bold       DejaVuSans-Oblique       DejaVuSans-BoldOblique
    DejaVuSansMono   DejaVuSansMono-Bold   DejaVuSansMono-Oblique   DejaVuSansMono-BoldOblique
    DejaVuSerif      DejaVuSerif-Bold      DejaVuSerif-Italic       DejaVuSerif-BoldItalic
    STIXGeneral      STIXGeneralBol        STIXGeneralItalic        STIXGeneralBolIta
    cmr10 cmb10 cmss10 cmti10 cmtt10 cmmi10 STIXGeneral-Mono
    """.split()
)

SIZE = 28  # the image, in pixels
BOX = 20  # a digit's longer side before it varies, as in MNIST
FIELD = 56  # samples along a side of the distance field ...
REACH = 14.0  # ... which covers -REACH..REACH pixels around the glyph's centre of mass
EDGE = 1.3  # width of the grey seam, in pixels


def load(folder: Path, split: str, seed: int) -> list[Tensor]:
    """Images (n, 1, 28, 28) uint8 and labels (n,) int64 of a split, drawn once, then cached."""
    names, path = ("images", "labels"), folder / f"digits-v{VERSION}"
    return drawn(path, split, seed, names, lambda stream: render(COUNTS[split], stream))


def render(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n digits, evenly of all classes: images (n, 1, 28, 28) uint8, white on black, labels (n,)."""
    rng, fields = torch.Generator().manual_seed(seed), glyph_fields()
    labels = (torch.arange(n) % 10)[torch.randperm(n, generator=rng)]
    faces = torch.randint(len(FACES), (n,), generator=rng)
    images = torch.empty(n, 1, SIZE, SIZE, dtype=torch.uint8)
    for start in range(0, n, 1000):  # chunks keep the memory under 100 MB
        part = slice(start, start + 1000)
        images[part] = _draw(fields[faces[part], labels[part]], rng)
    return images, labels


def glyph_fields(faces: tuple[str, ...] = FACES) -> Tensor:
    """Signed distance fields of every face and digit, (faces, 10, 56, 56) float32, in pixels."""
    # NumPy up to here: in thousands of tiny steps torch's threads cost more than they bring.
    fields = [_distance_field(ink) for face in faces for ink in _glyphs(FACES.index(face))]
    return torch.from_numpy(np.stack(fields)).float().unflatten(0, (len(faces), 10))


def _glyphs(row: int) -> Iterator[np.ndarray]:
    """The ten digits of a face as boolean (h, w): the ink with a rim of one empty pixel."""
    from PIL import Image

    height, width = CELL
    with Image.open(SHEET) as sheet:
        cells = np.asarray(sheet.crop((0, row * height, 10 * width, (row + 1) * height)))
    for ink in np.split(cells, 10, axis=1):
        yield np.pad(ink[ink.any(1)][:, ink.any(0)], 1)


def _distance_field(ink: np.ndarray) -> np.ndarray:
    """Boolean (h, w) → (56, 56): distance in final pixels to the outline, negative in the ink."""
    scale = BOX / max(ink.shape)
    across = np.argwhere(ink[:, 1:] != ink[:, :-1]) + [0, 0.5]  # left and right edges
    along = np.argwhere(ink[1:] != ink[:-1]) + [0.5, 0]  # upper and lower edges
    centre = np.argwhere(ink).mean(0)  # MNIST, too, is centred by mass
    outline = (np.concatenate([across, along]) - centre) * scale  # (points, 2) as y, x

    steps = np.linspace(-REACH, REACH, FIELD, dtype=np.float32)
    dy, dx = ((steps[:, None] - part) ** 2 for part in np.float32(outline).T)  # (56, points) each
    distance = np.sqrt([(dx + row).min(1) for row in dy])  # (56, 56) as y, x

    rows, columns = (np.rint(steps / scale + c).astype(int) for c in centre)
    rows, columns = rows.clip(0, len(ink) - 1), columns.clip(0, ink.shape[1] - 1)
    inside = ink[np.ix_(rows, columns)]  # what lies beyond the drawing reads its empty rim
    return np.where(inside, -distance, distance)


def _draw(fields: Tensor, rng: torch.Generator) -> Tensor:
    """Distance fields (n, 56, 56), one a sample → varied images (n, 1, 28, 28) uint8."""
    distance = F.grid_sample(
        fields[:, None], _warp(len(fields), rng), padding_mode="border", align_corners=True
    )  # (n, 1, 28, 28)
    half_stroke = -fields.flatten(1).amin(1)  # the pen of the face ...
    wanted = _uniform(rng, (len(fields),), 1.1, 1.8)  # ... and the pen of this sample
    heavier = (wanted - half_stroke).clamp(-0.2, 0.7)  # no further: thin parts stay, holes too
    grey = (0.5 + (heavier[:, None, None, None] - distance) / EDGE).clamp(0, 1)
    return (grey * 255).round().to(torch.uint8)


def _warp(n: int, rng: torch.Generator) -> Tensor:
    """Where each pixel reads the field, (n, 28, 28, 2) as x, y in -1..1: a Bézier patch.

    Its 5×5 control points are turned, slanted, stretched and shifted, the inner ones also jittered
    one by one: it follows an affine map exactly and jitter only smoothly.
    """
    turn, slant = _uniform(rng, (n,), -0.15, 0.15), _uniform(rng, (n,), -0.25, 0.25)
    wide, tall = _uniform(rng, (n,), 0.85, 1.15), _uniform(rng, (n,), 0.87, 1.02)
    cos, sin = turn.cos(), turn.sin()
    rows = [cos / wide, sin / wide + slant, -sin / tall, cos / tall]
    matrix = torch.stack(rows, 1).unflatten(1, (2, 2))  # image → field: the drawing's inverse
    knots = torch.linspace(-1, 1, 5) * (SIZE - 1) / 2
    points = torch.stack(torch.meshgrid(knots, knots, indexing="xy"))  # (2, 5, 5): x, y of each
    points = (matrix @ points.flatten(1)).unflatten(2, (5, 5))  # (n, 2, 5, 5)
    jitter = F.pad(_uniform(rng, (n, 2, 3, 3), -6.5, 6.5), (1, 1, 1, 1))  # the rim stays
    points = points + _uniform(rng, (n, 2, 1, 1), -0.7, 0.7) + jitter

    u, k = torch.linspace(0, 1, SIZE)[:, None], torch.arange(5)
    weights = torch.tensor([1, 4, 6, 4, 1]) * u**k * (1 - u) ** (4 - k)  # Bernstein, (28, 5)
    return (weights @ points @ weights.mT).movedim(1, -1) / REACH  # (n, 28, 28, 2)


def _uniform(rng: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Uniform numbers: unlike normal ones, their bits are the same on every kind of processor."""
    return torch.rand(shape, generator=rng) * (high - low) + low
