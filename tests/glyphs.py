"""Draws `minidit/data/glyphs.png`, the digits of every face, anew: python tests/glyphs.py

Needs matplotlib 3.11, the first whose wheels hold all of these fonts.
"""

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minidit.data import digits

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
DRAWN_AT = 120  # font size
ZEROS = {"STIXGeneral-Mono": ("STIXGeneral", 0x1D7F6)}  # a monospaced face inside another


def drawn(face: str, digit: int) -> np.ndarray:
    """A digit of a face without margins, (h, w) bool; OSError if the font isn't there."""
    file, zero = ZEROS.get(face, (face, 0x30))
    if digit == 0:  # that of DejaVu Sans Mono has a dot that would fill its hole
        file = file.replace("SansMono", "Sans")
    font = ImageFont.truetype(
        str(FONTS / f"{file}.ttf"), DRAWN_AT, layout_engine=ImageFont.Layout.BASIC
    )
    paper = Image.new("L", (2 * DRAWN_AT, 2 * DRAWN_AT))
    ImageDraw.Draw(paper).text((DRAWN_AT // 2,) * 2, chr(zero + digit), fill=255, font=font)
    ink = np.asarray(paper) >= 128
    return ink[ink.any(1)][:, ink.any(0)]


def sheet() -> Image.Image:
    """All faces, a row each, in cells of one size, white on black."""
    cells = np.zeros((len(digits.FACES), 10, *digits.CELL), dtype=bool)
    for row, face in enumerate(digits.FACES):
        for digit in range(10):
            ink = drawn(face, digit)
            cells[row, digit, : ink.shape[0], : ink.shape[1]] = ink
    height, width = digits.CELL
    flat = cells.swapaxes(1, 2).reshape(len(digits.FACES) * height, 10 * width)
    return Image.fromarray(flat.astype(np.uint8) * 255).convert("1")


if __name__ == "__main__":
    sheet().save(digits.SHEET, optimize=True)
