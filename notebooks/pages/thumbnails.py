"""A thumbnail for each notebook, cut from one of its own stored figures."""

import base64
import io
import json
from pathlib import Path

from PIL import Image, ImageChops, ImageOps

from render import ROOT

FOLDER = Path(__file__).resolve().parent / "thumbnails"
SIZE = (240, 150)

# The figure of which cell, by a piece of its code, and how much of it: all ("whole"), or as large a
# piece as fits, from its upper left corner ("corner").
FIGURES = {
    "00": ("hundred = torch.arange(10)", "corner"),
    "01": ("ax.plot(*path[:, :10]", "whole"),
    "02": ("patch_of_pixel =", "whole"),
    "03": ('plot.maps({"e(t)"', "whole"),
    "04": ('arrow = dict(arrowstyle="->", shrinkA=0)', "whole"),
    "05": ("end.get_position(), start.get_position()", "whole"),
    "06": ("pictures = torch.cat([draw(kept[k], ten)", "whole"),
    "09": ("drawn[kind] = minidit.sample(states)", "corner"),
    "07": ("scales = [0, 1, 1.5, 3, 8]", "corner"),
    "08": ("for ax, (name, paths) in zip(axes, walks", "whole"),
    "10": ("ax.annotate(", "whole"),
    "11": ("plot.show(torch.cat([x[:10], *channels", "corner"),
    "12": ("plot.strip(guesses", "corner"),
    "13": ('draw("text", encode(prompts)', "corner"),
    "14": ('against(blocks, "adaLN-Zero")', "whole"),
    "15": ("index of t", "whole"),
    "16": ('label="a lenient test"', "whole"),
    "17": ("back = there_and_back_wrongly(colour, 4)", "whole"),
    "18": ("student, hundred = lesson.go()", "whole"),
}


def refresh() -> list[str]:
    """Draw the thumbnails anew where they would look different; returns the files that changed."""
    FOLDER.mkdir(exist_ok=True)
    changed = []
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        target = FOLDER / f"{path.stem}.png"
        image = thumbnail(path)
        if not target.is_file() or difference(Image.open(target), image) > 0:
            image.save(target, optimize=True)
            changed.append(target.relative_to(ROOT).as_posix())
    return changed


def thumbnail(path: Path) -> Image.Image:
    """The thumbnail of a notebook: its figure in FIGURES or, without one, its first.

    Raises ValueError if the notebook has no such figure.
    """
    code, part = FIGURES.get(path.name[:2], ("", "whole"))
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and code in "".join(cell["source"]):
            for output in cell["outputs"]:
                if "image/png" in output.get("data", {}):
                    data = base64.b64decode("".join(output["data"]["image/png"]))
                    return _small(Image.open(io.BytesIO(data)).convert("RGB"), part)
    raise ValueError(f"{path.name} has no figure from a cell with {code!r}; see FIGURES")


def _small(figure: Image.Image, part: str) -> Image.Image:
    """A figure without its margins, small and in few colours."""
    white = Image.new("RGB", figure.size, "white")
    figure = figure.crop(ImageChops.difference(figure, white).getbbox())
    if part == "corner":
        figure = ImageOps.fit(figure, SIZE, Image.Resampling.LANCZOS, centering=(0, 0))
    figure.thumbnail(SIZE, Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", SIZE, "white")
    sheet.paste(figure, ((SIZE[0] - figure.width) // 2, (SIZE[1] - figure.height) // 2))
    return sheet.quantize(64, dither=Image.Dither.NONE)


def difference(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures of one size, 0 … 255."""
    gap = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).convert("L")
    return sum(i * n for i, n in enumerate(gap.histogram())) / (gap.width * gap.height)
