"""Data sets, whole, as tensors: digits drawn on the spot, MNIST and CIFAR-10 from their files.

Each fits into memory many times over, so there is no loader: index the tensors.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import _readers, digits
from ._fetch import DownloadError
from ._validate import check_choice

__all__ = ["CLASSES", "Dataset", "DownloadError"]
__all__ += ["available", "data_root", "load", "to_uint8", "to_unit"]

_NUMERALS = tuple("0123456789")
CLASSES = {
    "digits": _NUMERALS,
    "mnist": _NUMERALS,
    "cifar10": tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
}


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A whole data set: images (n, c, h, w) uint8, labels (n,) int64, and what they mean."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]  # the name of label k is classes[k]
    name: str
    split: str

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "×".join(str(side) for side in self.images.shape[1:])
        return f"<{self.name} {self.split}: {len(self)} images {size}, {len(self.classes)} classes>"


def load(
    name: str, split: str = "train", *, root: str | os.PathLike | None = None, seed: int = 0
) -> Dataset:
    """Load "digits", "mnist" or "cifar10", downloading what is not yet in `root`.

    The digits are drawn (seconds), then cached; `seed` tells which ones, the others have no choice.
    Without `root`, see `data_root`. Raises ValueError for unknown names and damaged files, and
    DownloadError, an OSError, for a missing file that can't be fetched.
    """
    check_choice("name", name, CLASSES)
    check_choice("split", split, ["train", "test"])
    folder = data_root(root) / name
    if name == "digits":
        images, labels = digits.load(folder, split, seed)
    elif name == "mnist":
        images, labels = _readers.load_mnist(folder, split)
    else:
        images, labels = _readers.load_cifar10(folder, split)
    return Dataset(images, labels, CLASSES[name], name, split)


def available(name: str, root: str | os.PathLike | None = None) -> bool:
    """Whether both splits of `name` can be loaded without a download."""
    check_choice("name", name, CLASSES)
    folder = data_root(root) / name
    if name == "mnist":
        return all(_readers.find(folder, s) for pair in _readers.MNIST.values() for s in pair)
    if name == "cifar10":
        archived = (folder / _readers.CIFAR10.name).is_file()
        return archived or all(_readers.has_batches(folder, s) for s in ("train", "test"))
    return True


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Where data sets lie: `root`, else $MINIDIT_DATA, else the clone's data, else ~/.cache."""
    chosen = root if root is not None else os.environ.get("MINIDIT_DATA")
    if chosen:
        return Path(chosen).expanduser()
    clone = Path(__file__).resolve().parents[1] / "data"
    if (clone / "README.md").is_file():
        return clone
    return Path.home() / ".cache" / "minidit"


def to_unit(images: Tensor) -> Tensor:
    """uint8 in 0..255, any shape → float32 in -1..1, the range that the networks see."""
    if images.dtype != torch.uint8:
        raise TypeError(f"images has dtype {images.dtype}; to_unit takes uint8 in 0..255")
    return images.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Floats, nominally -1..1, any shape → uint8 in 0..255: rounded, and clamped outside."""
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; to_uint8 takes floats in -1..1")
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
