"""Pictures: grids hold every image where it belongs, films play, figures are drawn and shown."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from minidit import plot


@pytest.mark.parametrize("channels", [1, 3])
def test_tile_puts_images_row_by_row(channels):
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, channels, 2, 3)
    sheet = plot.tile(images, columns=3, gap=1)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (5, 11) + ((3,) if channels == 3 else ())
    plane = sheet if channels == 1 else sheet[..., 1]
    assert (plane[:2, 4:7] == 1).all() and (plane[3:, :3] == 3).all()
    assert (plane[2] == 255).all() and (plane[3:, 8:] == 255).all()  # the gap, and the empty place


def test_tile_takes_floats_in_the_unit_range():
    sheet = plot.tile(torch.tensor([-1.0, 0.0, 1.0, 7.0]).reshape(4, 1, 1, 1), gap=0)
    assert sheet.tolist() == [[0, 128, 255, 255]]


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 4, 8, 8), (28, 28)])
def test_tile_names_a_wrong_shape(shape):
    with pytest.raises(ValueError, match="expected"):
        plot.tile(torch.zeros(shape))


def test_tile_refuses_no_columns():
    with pytest.raises(ValueError, match="columns=0"):
        plot.tile(torch.zeros(2, 1, 4, 4), columns=0)


def test_film_is_an_animated_png_with_every_frame():
    frames = [np.full((4, 6), value, dtype=np.uint8) for value in (0, 100, 200)]
    film = Image.open(io.BytesIO(plot.film(frames, milliseconds=50, hold=700, scale=2)))
    assert film.n_frames == 3 and film.size == (12, 8)
    for number, value in enumerate((0, 100, 200)):
        film.seek(number)
        assert np.asarray(film.convert("L")).max() == value
    assert film.info["duration"] == 700


def test_film_needs_a_frame():
    with pytest.raises(ValueError, match="at least one frame"):
        plot.film([])


# --- figures: drawn, shown once, returned by nobody -----------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    """The figures that plt.show() was called for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = []
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    before = dict(matplotlib.rcParams)
    yield figures
    assert plt.get_fignums() == [], "every figure is closed"
    assert dict(matplotlib.rcParams) == before, "and the style left behind nowhere"


def texts(figure):
    from matplotlib.text import Text

    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(Text)}


def ink(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].std()


def sheet_of(figure):
    (sheet,) = (image.get_array() for ax in figure.axes for image in ax.images)
    return np.asarray(sheet)


IMAGES = torch.linspace(-1, 1, 6 * 8 * 8).reshape(6, 1, 8, 8)


def test_show_writes_its_labels_and_keeps_the_pixels(shown):
    out = plot.show(IMAGES, 3, above=["x", "y", "z"], beside=["top", "below"], title="Six")
    (figure,) = shown
    assert out is None and ink(figure) > 10
    assert {"x", "y", "z", "top", "below", "Six"} <= texts(figure)
    assert np.array_equal(sheet_of(figure), plot.tile(IMAGES, 3))


def test_show_makes_room_for_a_label_over_each_image(shown):
    plot.show(IMAGES.expand(6, 3, 8, 8), 3, labels=range(6))
    (figure,) = shown
    sheet = sheet_of(figure)
    assert {str(i) for i in range(6)} <= texts(figure)
    room = (len(sheet) - 2 * 8 - 2) // 2
    assert room >= 2 and sheet.shape == (2 * (room + 8) + 2, 3 * 10 - 2, 3)
    assert (sheet[:room] == 255).all() and (sheet[room + 8 : 2 * room + 10] == 255).all()


def test_show_frames_what_boxes_say(shown):
    boxes = torch.zeros(2, 3, 4)
    boxes[0, 1], boxes[1, 0] = torch.tensor([0.25, 0.5, 0.75, 1.0]), torch.tensor([0, 0, 1.0, 1])
    plot.show(torch.zeros(2, 3, 4, 8), boxes=boxes, gap=2)  # of 8 × 4 pixels each
    plot.show(torch.zeros(2, 3, 4, 8), labels="ab", boxes=boxes, gap=2)
    frames, lower = ([line.get_xydata() for line in fig.axes[0].lines] for fig in shown)
    assert [(f.min(0).tolist(), f.max(0).tolist()) for f in frames] == [
        ([1.5, 1.5], [5.5, 3.5]),
        ([9.5, -0.5], [17.5, 3.5]),  # the second image begins at column 10, half a pixel earlier
    ]
    assert lower[0].min(0)[1] > frames[0].min(0)[1], "below the line of text"


def test_strip_picks_the_first_the_last_and_some_between(shown):
    frames = [torch.full((2, 1, 4, 4), k / 10) for k in range(11)]
    plot.strip(frames, 3, labels=[f"t={k}" for k in range(11)])
    sheet, found = sheet_of(shown[0]), texts(shown[0])
    assert {"t=0", "t=5", "t=10"} <= found and "t=1" not in found
    assert sheet[0, [0, 6, 12]].tolist() == [128, 191, 255] and sheet[6, 0] == 128


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot.curves({"a": ([1, 2], [3, 4]), "b": ([1, 2], [4, 3])}, x="s", y="t", log="xy"),
        lambda: plot.bars({"a": 1.0, "b": 2.5, "s": 0.0}, y="t", form="{:.1f}"),
        lambda: plot.maps({"s": torch.eye(3), "t": torch.zeros(3, 3)}, bar="a", x="b"),
        lambda: plot.maps({"s": torch.eye(3)}, columns=2, limits=(-1, 1), y="t", x="a", bar="b"),
        lambda: plot.maps({"s": torch.eye(2)}, xs=["a", "b"], ys=["s", "t"]),
    ],
)
def test_other_figures_draw_and_return_nothing(shown, draw):
    assert draw() is None
    (figure,) = shown
    assert ink(figure) > 5 and {"a", "b", "s", "t"} <= texts(figure)


def test_spreads_become_error_bars(shown):
    plot.curves({"with": ([1, 2], [3.0, 4.0], [0.5, 1.0]), "without": ([1, 2], [2.0, 2.0])})
    (ax,) = shown[0].axes
    (container,) = ax.containers
    (segments,) = container.lines[2]
    assert [s[:, 1].tolist() for s in segments.get_segments()] == [[2.5, 3.5], [3.0, 5.0]]
    assert container.get_label() == "with"
    assert {t.get_text() for t in ax.get_legend().get_texts()} == {"with", "without"}


def rows(ax):
    """What stands in the rows of an axis: [(values, numbers of their rows)]."""
    return [(list(line.get_xdata()), set(line.get_ydata())) for line in ax.lines]


def names(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def test_dots_show_every_value_and_their_mean(shown):
    loss, shares = {"a": [1.0, 3.0], "b": [5.0]}, {"a": [0.5, 0.25], "b": [math.inf]}
    plot.dots({"loss": loss, "share": shares}, log=["share"], title="q")
    first, second = shown[0].axes
    assert (first.get_xlabel(), second.get_xlabel()) == ("loss", "share")
    assert (first.get_xscale(), second.get_xscale()) == ("linear", "log")
    assert names(first) == ["a", "b"] and not any(names(second)) and "q" in texts(shown[0])
    assert rows(first)[0::2] == [([2.0], {0}), ([5.0], {1})], "means"
    assert rows(first)[1::2] == [([1.0, 3.0], {0}), ([5.0], {1})]
    assert np.isnan(rows(second)[3][0]).all()


def test_marks_show_every_value_in_its_row(shown):
    plot.marks({"t": {"a": [0, 9], "b": [5]}, "s": {"a": [1.0], "b": [2.0]}}, falling=["t"])
    first, second = shown[0].axes
    assert (first.get_xlabel(), rows(first)) == ("t", [([0, 9], {0}), ([5], {1})])
    assert (second.get_xlabel(), rows(second)) == ("s", [([1.0], {0}), ([2.0], {1})])
    assert first.xaxis_inverted() and not second.xaxis_inverted()
    assert names(first) == ["a", "b"]


def test_a_figure_goes_to_a_file_when_told(shown, tmp_path):
    path = tmp_path / "dots.png"
    plot.dots({"loss": {"a": [1.0, 3.0]}}, out=path)
    assert shown == [] and [p.name for p in tmp_path.iterdir()] == ["dots.png"]
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_numbers_are_all_written(shown):
    table = torch.arange(6).reshape(2, 3) + 40
    assert plot.numbers({"here": table}, {"here": table % 2}) is None
    assert {"here", "40", "45"} <= texts(shown[0])


def test_a_figure_that_fails_is_closed_and_not_shown(shown):
    with pytest.raises(RuntimeError), plot.figure(1, 2) as axes:
        assert len(axes) == 2
        raise RuntimeError
    assert shown == []


def test_importing_the_package_leaves_matplotlib_alone():
    import subprocess
    import sys

    code = "import sys, minidit, minidit.plot, minidit.check; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
