"""Pictures: grids hold every image where it belongs, films play, figures are drawn and shown."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from minidit import plot


@pytest.mark.parametrize("channels", [1, 3])
def test_tile_puts_images_row_by_row(channels):
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, channels, 2, 3)
    sheet = plot.tile(images, columns=3, gap=1, background=99)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (5, 11) + ((3,) if channels == 3 else ())
    plane = sheet if channels == 1 else sheet[..., 1]
    assert (plane[:2, 4:7] == 1).all() and (plane[3:, :3] == 3).all()
    assert (plane[2] == 99).all() and (plane[3:, 8:] == 99).all()  # the gap, and the empty place


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
