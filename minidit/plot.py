"""Pictures in one style, all in one place: grids of images, denoising strips and films, charts.

What draws a figure ends with plt.show() and returns None; what makes pixels or bytes returns them.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from minidit.charts import (  # noqa: F401 - one public place for all that is drawn
    COLORS,
    STYLE,
    WIDTH,
    bars,
    curves,
    dots,
    figure,
    maps,
    marks,
    numbers,
)
from minidit.pictures import film, pixels, tile  # noqa: F401


def show(
    images: Tensor | np.ndarray,
    columns: int | None = None,
    *,
    labels: Sequence[object] | None = None,
    above: Sequence[object] | None = None,
    beside: Sequence[object] | None = None,
    boxes: Tensor | None = None,
    title: str | None = None,
    gap: int = 2,
    inch: float | None = None,
) -> None:
    """Show images (n, c, h, w) in a grid: see `tile`.

    `labels`: a text over each image; `above`: one over each column; `beside`: one left of each row.
    `boxes`: frames over each image, (n, m, 4) as x0, y0, x1, y1 in 0..1; empty ones are left out.
    `inch`: the width of an image; unless told, the grid fills the width of the page, within reason.
    """
    n, h, w = pixels(images).shape[:3]
    columns = min(n, 10) if columns is None else columns
    rows = -(-n // columns)
    inch = min(1.3, (WIDTH - 1) / columns) if inch is None else inch
    inches = inch / (w + gap)  # of a pixel
    room = math.ceil(0.2 / inches) if labels is not None else 0  # pixels, for a line of text
    sheet = tile(_padded(images, room), columns, gap)
    with figure(1, 1, sheet.shape[1] * inches + 0.8, sheet.shape[0] * inches + 0.5) as (ax,):
        ax.imshow(sheet, cmap="gray", vmin=0, vmax=255)
        ax.axis("off")
        steps = room + h + gap, w + gap
        places = [(i // columns * steps[0] + room, i % columns * steps[1]) for i in range(n)]
        for (top, left), text in zip(places, [] if labels is None else labels):
            ax.text(left + w / 2, top - 1, text, ha="center", va="bottom", size=10)
        for (top, left), own in zip(places, [] if boxes is None else torch.as_tensor(boxes)):
            _frames(ax, own * torch.tensor([w, h, w, h]) + torch.tensor([left, top, left, top]))
        for column, text in enumerate(above or []):
            ax.text(column * (w + gap) + w / 2, -2, text, ha="center", va="bottom")
        for row, text in zip(range(rows), beside or []):
            ax.text(-3, places[row * columns][0] + h / 2, text, ha="right", va="center")
        if title:
            ax.set_title(title, pad=20 if above else 6)


def _frames(ax, boxes: Tensor) -> None:
    """Frames around boxes (m, 4) in the pixels of a sheet, whose first pixel begins at -0.5."""
    for x0, y0, x1, y1 in (boxes - 0.5).tolist():
        if x1 > x0 and y1 > y0:
            ax.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=COLORS[1], linewidth=1.2)


def _padded(images: Tensor | np.ndarray, extra: int) -> Tensor:
    """Images as uint8 with `extra` white rows on top, where a text will stand."""
    array = torch.as_tensor(pixels(images))
    array = array[:, None] if array.ndim == 3 else array.movedim(-1, 1)
    return torch.nn.functional.pad(array, (0, 0, extra, 0), value=255)


def strip(
    frames: Sequence[Tensor], count: int = 9, labels: Sequence[object] | None = None, **layout
) -> None:
    """Show `count` of many frames (b, c, h, w), evenly picked: an image a row, time to the right.

    `labels` belong to all the frames; the rest of the arguments goes to `show`.
    """
    picked = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    chosen = torch.stack([torch.as_tensor(frames[i]) for i in picked], dim=1)  # (b, count, c, h, w)
    above = [labels[i] for i in picked] if labels is not None else None
    show(chosen.flatten(0, 1), columns=len(picked), above=above, **layout)
