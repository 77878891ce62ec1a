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
from minidit.weights.files import replacing

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
        shape = dict(figsize=(width, height), squeeze=False, width_ratios=widths)
        fig, axes = plt.subplots(rows, columns, **shape)
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
    lines: dict[str, tuple], *, x: str = "", y: str = "", log: str = "", height: float = 3.0
) -> None:
    """Lines {name: (xs, ys) or (xs, ys, spreads)} in one figure; spreads become error bars.

    `log` names the logarithmic axes: "x", "y" or "xy".
    """
    with figure(height=height) as (ax,):
        for i, (name, (xs, ys, *spreads)) in enumerate(lines.items()):
            dash = ["-", "--", "-.", ":"][i % 4]  # for readers and printers without colour
            style = {"label": name, "color": COLORS[i % len(COLORS)], "linestyle": dash}
            if spreads:
                ax.errorbar(xs, ys, *spreads, marker="o", capsize=3, **style)
            else:
                ax.plot(xs, ys, **style)
        ax.set(xlabel=x, ylabel=y, **{f"{axis}scale": "log" for axis in log})
        if len(lines) > 1:
            ax.legend()


def bars(values: dict[str, float], *, y: str = "", form: str = "{:g}", height: float = 3.0) -> None:
    """One bar for each name, with its value written above in the format `form`."""
    with figure(height=height) as (ax,):
        drawn = ax.bar(list(values), list(values.values()), color=COLORS[0], width=0.6)
        ax.bar_label(drawn, [form.format(value) for value in values.values()], padding=3)
        ax.set(ylabel=y)
        ax.margins(y=0.15)
        ax.grid(False, axis="x")


Panels = dict[str, dict[str, Sequence[float]]]  # {measure: {name: values}}, the same names in all


@contextmanager
def _rows(panels: Panels, base: float, row: float, out: Path | None = None) -> Iterator[list]:
    """Axes side by side with a row for each name: yields [(axes, measure, rows of values)]."""
    names = list(next(iter(panels.values())))
    with figure(1, len(panels), height=base + row * len(names), out=out) as axes:
        for ax, measure in zip(axes, panels):
            ax.set(xlabel=measure, yticks=range(len(names)), ylim=(len(names) - 0.4, -0.6))
            ax.set_yticklabels(names if ax is axes[0] else [])
        yield [(ax, key, enumerate(panels[key].values())) for ax, key in zip(axes, panels)]


def dots(
    panels: Panels, *, log: Sequence[str] = (), title: str = "", out: Path | None = None
) -> None:
    """A row for each name, a dot for each of its values, and a stroke at their mean.

    Values that aren't finite are left out. `log` names the measures on a logarithmic axis, `out` a
    PNG file to write instead of showing it.
    """
    few = 3 if len(panels) < 4 else 2  # numbers on an axis; narrow panels have room for no more
    with _rows(panels, 0.9, 0.3, out) as parts:
        for ax, measure, rows in parts:
            for row, values in rows:
                values = [value for value in values if math.isfinite(value)] or [math.nan]
                mean = sum(values) / len(values)
                ax.plot([mean], [row], "|", color=COLORS[5], markersize=16, markeredgewidth=2.5)
                ax.plot(values, [row] * len(values), "o", color=COLORS[0], alpha=0.6, markersize=6)
            if measure in log:
                by_factors(ax)
            else:
                ax.locator_params(axis="x", nbins=few, steps=[1, 2, 4, 5, 10])
        ax.figure.suptitle(title, x=0.01, ha="left")


def by_factors(ax) -> None:
    """Give the axes a logarithmic x with a few round numbers, even within a decade."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    ax.set(xscale="log")
    low, high = ax.get_xlim()
    few = MaxNLocator(4, steps=[1, 2, 5, 10])
    locator = few if high < 10 * low else LogLocator(subs=(1, 3) if high < 100 * low else (1,))
    ax.xaxis.set(major_locator=locator, minor_locator=NullLocator(), major_formatter="{x:g}")


def marks(panels: Panels, *, falling: Sequence[str] = ()) -> None:
    """A row for each name, and a stroke for each of its values, such as the steps of a walk.

    `falling` names the axes that run from high to low.
    """
    with _rows(panels, 0.7, 0.4) as parts:
        for ax, measure, rows in parts:
            for row, values in rows:
                ax.plot(values, [row] * len(values), "|", color=COLORS[row], markersize=14)
            if measure in falling:
                ax.invert_xaxis()


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
    low = min(a.min() for a in arrays.values())
    low, high = limits or (low, max(a.max() for a in arrays.values()))
    columns = columns or len(arrays)
    rows = -(-len(arrays) // columns)
    with figure(rows, columns, height=height * rows) as axes:
        for ax in axes[len(arrays) :]:
            ax.axis("off")
        for ax, (name, array) in zip(axes, arrays.items()):
            cmap = "RdBu_r" if low == -high else "cividis"
            drawn = ax.imshow(array, cmap=cmap, vmin=low, vmax=high, aspect=aspect)
            ax.set(title=name, xlabel=x, ylabel=y)
            for ticks, texts in ((ax.set_xticks, xs), (ax.set_yticks, ys)):
                if texts is not None:
                    ticks(range(len(texts)), texts)
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
    title: str = "",
    gap: int = 2,
    inch: float | None = None,
) -> None:
    """Show images (n, c, h, w) in a grid: see `tile`.

    `labels`: a text over each image; `above`: one over each column; `beside`: one left of each row.
    `boxes`: frames over each image, (n, m, 4) as x0, y0, x1, y1 in 0..1; empty ones are left out.
    `inch`: the width of an image; unless told, the grid fills the width of the page, within reason.
    """
    array = torch.as_tensor(pixels(images))  # (n, h, w) or (n, h, w, 3)
    n, h, w = array.shape[:3]
    columns = min(n, 10) if columns is None else columns
    inches = (inch or min(1.3, (WIDTH - 1) / columns)) / (w + gap)  # of a pixel
    room = math.ceil(0.2 / inches) if labels is not None else 0  # white pixels, for a line of text
    array = array[:, None] if array.ndim == 3 else array.movedim(-1, 1)
    sheet = tile(torch.nn.functional.pad(array, (0, 0, room, 0), value=255), columns, gap)
    with figure(1, 1, sheet.shape[1] * inches + 0.8, sheet.shape[0] * inches + 0.5) as (ax,):
        ax.imshow(sheet, cmap="gray", vmin=0, vmax=255)
        ax.axis("off")
        tops = [i // columns * (room + h + gap) + room for i in range(n)]
        lefts = [i % columns * (w + gap) for i in range(n)]
        for left, top, text in zip(lefts, tops, [] if labels is None else labels):
            ax.text(left + w / 2, top - 1, text, ha="center", va="bottom", size=10)
        for left, top, own in zip(lefts, tops, [] if boxes is None else torch.as_tensor(boxes)):
            # the first pixel of a sheet begins at -0.5
            corners = own * torch.tensor([w, h, w, h]) + torch.tensor([left, top, left, top]) - 0.5
            for x0, y0, x1, y1 in corners.tolist():
                if x1 > x0 and y1 > y0:
                    ends = [x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0]
                    ax.plot(*ends, color=COLORS[1], linewidth=1.2)
        for left, text in zip(lefts, above or []):
            ax.text(left + w / 2, -2, text, ha="center", va="bottom")
        for top, text in zip(tops[::columns], beside or []):
            ax.text(-3, top + h / 2, text, ha="right", va="center")
        ax.set_title(title, pad=20 if above else 6)


def strip(
    frames: Sequence[Tensor], count: int = 9, labels: Sequence[object] | None = None, **layout
) -> None:
    """Show `count` of many frames (b, c, h, w), evenly picked: an image a row, time to the right.

    `labels` belong to all the frames; the rest of the arguments goes to `show`.
    """
    chosen, picked = evenly(frames, count)
    above = [labels[i] for i in picked] if labels is not None else None
    show(chosen.flatten(0, 1), columns=len(picked), above=above, **layout)
