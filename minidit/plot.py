"""Pictures in one style, all in one place: grids of images, denoising strips and films, charts.

What draws a figure ends with plt.show() and returns None; what makes pixels or bytes returns them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minidit.data.pictures import evenly, film, pixels, tile  # noqa: F401
from minidit.train import replacing

# The palette of Okabe and Ito: told apart with any kind of colour vision.
COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "axes.axisbelow": True,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "image.interpolation": "nearest",
}
WIDTH = 8.0  # inches; a cell of JupyterLab shows it whole


@contextmanager
def figure(
    rows: int = 1,
    columns: int = 1,
    width: float = WIDTH,
    height: float = 3.0,
    widths: Sequence[float] | None = None,
    out: Path | None = None,
) -> Iterator[np.ndarray]:
    """A figure in the common style, shown at the end of the with block: yields its axes, flat.

    `width`, `height`: inches; `widths`: how the columns share the width, equally unless told.
    `out`: a PNG file to write instead of showing it.
    """
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(
            rows, columns, figsize=(width, height), squeeze=False, width_ratios=widths
        )
        try:
            yield axes.flatten()
            if out is None:
                plt.show()
            else:
                with replacing(out) as file:
                    fig.savefig(file, format="png")
        finally:
            plt.close(fig)


def curves(
    lines: dict[str, tuple],
    *,
    x: str = "",
    y: str = "",
    title: str | None = None,
    log: str = "",
    height: float = 3.0,
) -> None:
    """Lines {name: (xs, ys) or (xs, ys, spreads)} in one figure; spreads become error bars.

    `log` names the logarithmic axes: "x", "y" or "xy".
    """
    with figure(height=height) as (ax,):
        for (name, (xs, ys, *spreads)), style in zip(lines.items(), _line_styles()):
            if spreads:
                ax.errorbar(xs, ys, *spreads, label=name, marker="o", capsize=3, **style)
            else:
                ax.plot(xs, ys, label=name, **style)
        ax.set(xlabel=x, ylabel=y, title=title)
        _logarithmic(ax, log)
        if len(lines) > 1:
            ax.legend()


def _line_styles() -> list[dict]:
    """Colours with a marker or dash each, for readers and printers without colour."""
    dashes = ["-", "--", "-.", ":"]
    return [{"color": c, "linestyle": dashes[i % 4]} for i, c in enumerate(COLORS)]


def _logarithmic(ax, log: str) -> None:
    for axis in log:
        getattr(ax, f"set_{axis}scale")("log")


def bars(
    values: dict[str, float],
    *,
    y: str = "",
    title: str | None = None,
    form: str = "{:g}",
    height: float = 3.0,
) -> None:
    """One bar for each name, with its value written above in the format `form`."""
    with figure(height=height) as (ax,):
        drawn = ax.bar(list(values), list(values.values()), color=COLORS[0], width=0.6)
        ax.bar_label(drawn, [form.format(value) for value in values.values()], padding=3)
        ax.set(ylabel=y, title=title)
        ax.margins(y=0.15)
        ax.grid(False, axis="x")


def dots(
    panels: dict[str, dict[str, Sequence[float]]],
    *,
    log: Sequence[str] = (),
    title: str | None = None,
    out: Path | None = None,
) -> None:
    """A row for each name, a dot for each of its values, and a stroke at their mean.

    panels: {measure: {name: values}}, side by side with the same names; values that aren't finite
    are left out. `log` names the measures on a logarithmic axis, `out` a PNG file to write instead
    of showing it.
    """
    names = list(next(iter(panels.values())))
    rows = range(len(names))
    with figure(1, len(panels), height=0.9 + 0.3 * len(names), out=out) as axes:
        for ax, (measure, groups) in zip(axes, panels.items()):
            for row, values in zip(rows, groups.values()):
                values = [value for value in values if math.isfinite(value)] or [math.nan]
                mean = sum(values) / len(values)
                ax.plot([mean], [row], "|", color=COLORS[5], markersize=16, markeredgewidth=2.5)
                ax.plot(values, [row] * len(values), "o", color=COLORS[0], alpha=0.6, markersize=6)
            ax.set(xlabel=measure, yticks=rows, yticklabels=[], ylim=(len(names) - 0.4, -0.6))
            if measure in log:
                _logarithmic(ax, "x")
            else:
                few = 3 if len(panels) < 4 else 2  # narrow panels have room for few numbers
                ax.locator_params(axis="x", nbins=few, steps=[1, 2, 5, 10])
        axes[0].set_yticklabels(names)
        axes[0].figure.suptitle(title or "", x=0.01, ha="left")


def marks(panels: dict[str, dict[str, Sequence[float]]], *, falling: Sequence[str] = ()) -> None:
    """A row for each name, and a stroke for each of its values, such as the steps of a walk.

    panels: {axis: {name: values}}, side by side with the same names; `falling` names the axes that
    run from high to low.
    """
    names = list(next(iter(panels.values())))
    rows = range(len(names))
    with figure(1, len(panels), height=0.7 + 0.4 * len(names)) as axes:
        for ax, (axis, groups) in zip(axes, panels.items()):
            for row, values in zip(rows, groups.values()):
                ax.plot(values, [row] * len(values), "|", color=COLORS[row], markersize=14)
            ax.set(xlabel=axis, yticks=rows, yticklabels=[], ylim=(len(names) - 0.4, -0.6))
            if axis in falling:
                ax.invert_xaxis()
        axes[0].set_yticklabels(names)


def maps(
    matrices: dict[str, Tensor],
    *,
    columns: int | None = None,
    limits: tuple[float, float] | None = None,
    x: str = "",
    y: str = "",
    bar: str = "",
    xs: Sequence[object] | None = None,
    ys: Sequence[object] | None = None,
    height: float = 3.0,
    aspect: str = "equal",
) -> None:
    """Matrices {title: (rows, columns)} as colours on one scale; `bar` names what the colour means.

    `xs`, `ys`: names of the columns and of the rows, which otherwise are counted from 0. Limits of
    opposite sign take a diverging scale, with white at zero.
    """
    arrays = {name: torch.as_tensor(m).detach().double().numpy() for name, m in matrices.items()}
    low, high = limits or (
        min(a.min() for a in arrays.values()),
        max(a.max() for a in arrays.values()),
    )
    columns = columns or len(arrays)
    rows = -(-len(arrays) // columns)
    with figure(rows, columns, height=height * rows) as axes:
        for ax in axes:
            ax.axis("off")
        for ax, (name, array) in zip(axes, arrays.items()):
            ax.axis("on")
            cmap = "RdBu_r" if low == -high else "cividis"
            drawn = ax.imshow(array, cmap=cmap, vmin=low, vmax=high, aspect=aspect)
            ax.set(title=name, xlabel=x, ylabel=y)
            if xs is not None:
                ax.set_xticks(range(len(xs)), xs)
            if ys is not None:
                ax.set_yticks(range(len(ys)), ys)
            ax.grid(False)
        axes[0].figure.colorbar(drawn, ax=list(axes), label=bar, shrink=0.9)


def numbers(tables: dict[str, Tensor], groups: dict[str, Tensor], height: float = 3.0) -> None:
    """Small tables of whole numbers side by side; cells of one group have one colour in all.

    tables: {title: (rows, columns)}; groups: for each title a table of group numbers.
    """
    from matplotlib.colors import ListedColormap, to_rgb

    light = ListedColormap([[0.45 * v + 0.55 for v in to_rgb(c)] for c in COLORS])
    widths = [table.shape[1] for table in tables.values()]
    with figure(1, len(tables), height=height, widths=widths) as axes:
        for ax, (title, table) in zip(axes, tables.items()):
            group = groups[title].numpy() % len(COLORS)
            ax.imshow(group, cmap=light, vmin=-0.5, vmax=len(COLORS) - 0.5)
            for (row, column), value in np.ndenumerate(table.numpy()):
                ax.text(column, row, int(value), ha="center", va="center")
            ax.set(title=title, xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[:].set_visible(False)


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
    chosen, picked = evenly(frames, count)
    above = [labels[i] for i in picked] if labels is not None else None
    show(chosen.flatten(0, 1), columns=len(picked), above=above, **layout)
