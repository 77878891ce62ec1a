"""Pictures of your own: a folder with a subfolder of PNG and JPEG files for each class.

A subfolder `train` with classes in it holds what to train on, and `test` the test images.
"""

import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PICTURE = re.compile(r"[^.].*\.(png|jpe?g)", re.IGNORECASE)
SIZE = 32  # pixels a side, of whatever is read
GREY = {"1", "L", "LA", "I", "I;16", "I;16B"}  # Pillow's names


def listed(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """The pictures of each class of each split; ValueError if there are none to train on."""
    train, test = _classes(folder / "train"), _classes(folder / "test")
    if not train:
        train, test = _classes(folder), {}
    if not train:
        told = f"{folder} has no subfolders with PNG or JPEG pictures; each class is one"
        raise ValueError(f"{told}, e.g. {folder / 'cats' / '1.png'}")
    if strange := sorted(test.keys() - train.keys()):
        raise ValueError(f"{folder / 'test'} has classes {strange}, and train/ doesn't; move them")
    return {"train": train, "test": test}


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The pictures in each subfolder that has some, by its name."""
    places = sorted(folder.iterdir(), key=lambda p: p.name) if folder.is_dir() else []
    shown = [place for place in places if place.is_dir() and place.name[0] != "."]
    found = {p.name: [f for f in sorted(p.iterdir()) if PICTURE.fullmatch(f.name)] for p in shown}
    return {name: files for name, files in found.items() if files}


def load(folder: Path, split: str) -> tuple[Tensor, Tensor, dict]:
    """Images (n, c, SIZE, SIZE) uint8, labels (n,) int64, and `told`: what was done, a sentence.

    One channel if all pictures are grey, else three; what is transparent becomes white. Raises
    ValueError for a picture that can't be read.
    """
    found = listed(folder)
    names = {name: label for label, name in enumerate(found["train"])}
    if not found[split]:
        told = f"{folder} has no test pictures; sort them into train/CLASS and test/CLASS"
        raise ValueError(f"{told}, e.g. {folder / 'test' / min(names) / '1.png'}")
    rows = [(s, k, path) for s in found for k, files in found[s].items() for path in files]
    pictures, modes, sizes = zip(*(read_picture(path, (SIZE, SIZE)) for _, _, path in rows))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)  # (n, 3, h, w)
    mine, grey = [s == split for s, _, _ in rows], set(modes) <= GREY
    labels = torch.tensor([names[k] for _, k, _ in rows])
    there = {Path(where, file) for where, _, files in os.walk(folder) for file in files}
    others, changed = there - {path for _, _, path in rows}, [s for s in sizes if s != (SIZE, SIZE)]
    told = (
        f"{folder}: {len(rows)} {'grey' if grey else 'colour'} pictures, {len(changed)} of them "
        f"resized and cropped to {SIZE}×{SIZE}; {len(others)} hidden or other files left out; "
        f"labels: {', '.join(f'{label} {name}' for name, label in names.items())}"
    )
    return images[mine][:, : 1 if grey else 3].contiguous(), labels[mine], {"told": told}


def read_picture(
    path: Path, size: tuple[int, int], averaged: bool = False
) -> tuple[np.ndarray, str, tuple[int, int]]:
    """A picture upright, resized and cropped to (width, height), and what mode and size it had.

    It is (height, width, 3) uint8. Resized is bicubically, or by the means of pixels (`averaged`).
    Raises ValueError for a file that is no picture.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            image, mode = ImageOps.exif_transpose(file), file.mode
            if mode[0] == "I":  # of 16 bits, which Pillow would cut at 255
                image = image.point(lambda value: value / 257)
            if "A" in mode or "transparency" in file.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
    except Exception as error:  # Pillow raises many kinds for a damaged file
        told = f"{path} can't be read as a PNG or JPEG picture ({error})"
        raise ValueError(f"{told}; replace it or remove it") from error
    method = Image.Resampling.BOX if averaged else Image.Resampling.BICUBIC
    return np.array(ImageOps.fit(image, size, method)), mode, image.size
