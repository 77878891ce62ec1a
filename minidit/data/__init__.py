"""Data sets, whole, as tensors: digits and scenes drawn on the spot, MNIST and CIFAR-10 from files.

Each fits into memory many times over, so there is no loader: index the tensors.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from minidit._validate import check_choice
from minidit.conditions.encoders import ConditionEncoder, TextEncoder
from minidit.data import captions, digits, readers, scenes
from minidit.data.fetch import DownloadError
from minidit.patches import to_uint8, to_unit

__all__ = ["CLASSES", "Dataset", "DownloadError", "Scenes"]
__all__ += ["asked", "available", "data_root", "load", "to_uint8", "to_unit"]

_NUMERALS = tuple("0123456789")
CLASSES = {
    "digits": _NUMERALS,
    "mnist": _NUMERALS,
    "cifar10": tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
    "scenes": ("one object", "two objects", "three objects"),
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


@dataclass(frozen=True, eq=False, repr=False)
class Scenes(Dataset):
    """Scenes with their objects and captions; of each, the label tells how many objects it has."""

    objects: Tensor  # (n, 3, 6): 1 + kind, 1 + colour, box x0, y0, x1, y1 in 0..1; zeros for none
    captions: tuple[str, ...]
    held_out: Tensor  # (n,) bool: whether it shows a pair of kind and colour kept from training


def load(
    name: str, split: str = "train", *, root: str | os.PathLike | None = None, seed: int = 0
) -> Dataset:
    """Load "digits", "mnist", "cifar10" or "scenes", downloading what is not yet in `root`.

    Digits and scenes are drawn (seconds), then cached; `seed` tells which ones, the others have no
    choice. Scenes come as `Scenes`.
    Without `root`, see `data_root`. Raises ValueError for unknown names and damaged files, and
    DownloadError, an OSError, for a missing file that can't be fetched.
    """
    check_choice("name", name, CLASSES)
    check_choice("split", split, ["train", "test"])
    folder = data_root(root) / name
    if name == "scenes":
        return _scenes(folder, split, seed)
    if name == "digits":
        images, labels = digits.load(folder, split, seed)
    elif name == "mnist":
        images, labels = readers.load_mnist(folder, split)
    else:
        images, labels = readers.load_cifar10(folder, split)
    return Dataset(images, labels, CLASSES[name], name, split)


def _scenes(folder: Path, split: str, seed: int) -> Scenes:
    images, objects, held_out = scenes.load(folder, split, seed)
    labels = (objects[..., 0] > 0).sum(dim=1) - 1  # (n,)
    told = captions.describe(objects, 2 * seed + (split == "test"))
    return Scenes(images, labels, CLASSES["scenes"], "scenes", split, objects, told, held_out)


def asked(dataset: Dataset, encoder: nn.Module | None) -> Tensor:
    """What a network with this encoder is told of each image: labels, words or boxes."""
    if not isinstance(encoder, ConditionEncoder):
        return dataset.labels
    if not isinstance(dataset, Scenes):
        raise ValueError(f"{dataset.name} has no captions and boxes; the network needs 'scenes'")
    if isinstance(encoder, TextEncoder):
        return encoder.tokenizer.encode(dataset.captions)
    return dataset.objects


def available(name: str, root: str | os.PathLike | None = None) -> bool:
    """Whether both splits of `name` can be loaded without a download."""
    check_choice("name", name, CLASSES)
    folder = data_root(root) / name
    if name == "mnist":
        return all(readers.find(folder, s) for pair in readers.MNIST.values() for s in pair)
    if name == "cifar10":
        archived = (folder / readers.CIFAR10.name).is_file()
        return archived or all(readers.has_batches(folder, s) for s in ("train", "test"))
    return True


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Where data sets lie: `root`, else $MINIDIT_DATA, else the clone's data, else ~/.cache."""
    chosen = root if root is not None else os.environ.get("MINIDIT_DATA")
    if chosen:
        return Path(chosen).expanduser()
    clone = Path(__file__).resolve().parents[2] / "data"
    if (clone / "README.md").is_file():
        return clone
    return Path.home() / ".cache" / "minidit"
