"""Images as bytes and back, side by side in one array, and films, which `plot` offers, too."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from minidit._validate import check_positive
from minidit.patches import as_unit


def to_unit(images: Tensor) -> Tensor:
    """uint8 in 0..255, any shape → float32 in -1..1, the range that the networks see."""
    if images.dtype != torch.uint8:
        raise TypeError(f"images has dtype {images.dtype}; to_unit takes uint8 in 0..255")
    return as_unit(images)


def to_uint8(x: Tensor) -> Tensor:
    """Floats, nominally -1..1, any shape → uint8 in 0..255: rounded, and clamped outside."""
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; to_uint8 takes floats in -1..1")
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def pixels(images: Tensor | np.ndarray) -> np.ndarray:
    """Images (n, 1 or 3, h, w), floats in [-1, 1] or uint8 → uint8 (n, h, w) or (n, h, w, 3)."""
    images = torch.as_tensor(images).detach().cpu()
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (n, 1 or 3, h, w)")
    if images.dtype != torch.uint8:
        images = to_uint8(images)
    array = images.permute(0, 2, 3, 1).numpy()  # (n, h, w, c)
    return array[..., 0] if array.shape[3] == 1 else array


def tile(images: Tensor | np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Images (n, c, h, w) in rows of `columns` (10 unless told) → uint8 (H, W) or (H, W, 3)."""
    array = pixels(images)
    n, h, w = array.shape[:3]
    columns = min(n, 10) if columns is None else columns
    check_positive(images=n, columns=columns)
    rows = -(-n // columns)
    shape = rows * (h + gap) - gap, columns * (w + gap) - gap
    sheet = np.full(shape + array.shape[3:], 255, dtype=np.uint8)
    for i, image in enumerate(array):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[top : top + h, left : left + w] = image
    return sheet


def evenly(frames: Sequence[Tensor], count: int) -> tuple[Tensor, list[int]]:
    """`count` frames (n, c, h, w) at most, from first to last: (n, count, c, h, w), and which."""
    picked = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int).tolist()
    return torch.stack([torch.as_tensor(frames[i]) for i in picked], dim=1), picked


def film(
    frames: Sequence[np.ndarray], milliseconds: int = 80, hold: int = 1500, scale: int = 1
) -> bytes:
    """An animated PNG of uint8 frames (H, W) or (H, W, 3) of `tile`, every pixel `scale` wide.

    The last is held for `hold` milliseconds. A notebook shows it: IPython.display.Image(data).
    """
    from PIL import Image

    if not len(frames):
        raise ValueError("a film needs at least one frame")
    check_positive(milliseconds=milliseconds, hold=hold, scale=scale)
    pages = [Image.fromarray(np.asarray(f).repeat(scale, 0).repeat(scale, 1)) for f in frames]
    file, durations = io.BytesIO(), [milliseconds] * (len(pages) - 1) + [hold]
    how = dict(save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=True)
    pages[0].save(file, "PNG", **how)
    return file.getvalue()
