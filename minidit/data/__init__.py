"""Data sets, whole, as tensors to index, without a loader: each fits into memory many times."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from minidit._validate import check_choice
from minidit.data import captions, digits, folders, readers, scenes
from minidit.data.fetch import DownloadError as DownloadError
from minidit.data.pictures import to_uint8 as to_uint8
from minidit.data.pictures import to_unit as to_unit


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A whole data set: images (n, c, h, w) uint8, labels (n,) int64, and what they mean."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]  # the name of label k is classes[k]
    name: str
    split: str
    # Scenes have these, too; of each, the label tells how many objects it has.
    objects: Tensor | None = None  # (n, 3, 6): 1 + kind, 1 + colour, box in 0..1; zeros for none
    captions: tuple[str, ...] | None = None
    held_out: Tensor | None = None  # (n,) bool: it shows a pair of kind, colour kept from training
    told: str | None = None  # what was done to the pictures of a folder, a sentence

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "×".join(str(side) for side in self.images.shape[1:])
        return f"<{self.name} {self.split}: {len(self)} images {size}, {len(self.classes)} classes>"


class Entry(NamedTuple):
    """What `load` knows of a data set; one of your own: `DATASETS["mine"] = Entry(classes, read)`.

    `read(folder, "train" or "test", seed)` gives the images (n, c, h, w) and labels (n,) of a
    `Dataset`, and perhaps a dict of the fields after `split`.
    """

    classes: tuple[str, ...]
    read: Callable[[Path, str, int], tuple]
    photographs: bool = False  # as good in a mirror, which no digit is: networks train on both


def _scenes(folder: Path, split: str, seed: int) -> tuple:
    images, objects, held_out = scenes.load(folder, split, seed)
    labels = (objects[..., 0] > 0).sum(dim=1) - 1  # (n,)
    told = captions.describe(objects, 2 * seed + (split == "test"))
    return images, labels, {"objects": objects, "captions": told, "held_out": held_out}


_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_THINGS = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
DATASETS = {
    "digits": Entry(tuple("0123456789"), digits.load),
    "mnist": Entry(tuple("0123456789"), readers.load_mnist),
    "cifar10": Entry(_THINGS, readers.load_cifar10, photographs=True),
    "fashion": Entry(tuple(_CLOTHES.split(",")), readers.load_mnist),
    "scenes": Entry(("one object", "two objects", "three objects"), _scenes),
}


def find(name: str | os.PathLike, argument: str = "name") -> Entry:
    """The entry of a data set by its name, or by the folder of its pictures."""
    if name in [*DATASETS]:
        return DATASETS[name]
    if not os.path.isdir(folder := os.path.expanduser(name)):
        told = f"{argument}={name!r} is unknown; choose one of {[*DATASETS]}"
        raise ValueError(f"{told}, or a folder with a subfolder of pictures for each class")
    classes = tuple(folders.listed(Path(folder))["train"])
    return Entry(classes, lambda _, split, seed: folders.load(Path(folder), split))


def load(
    name: str, split: str = "train", *, root: str | os.PathLike | None = None, seed: int = 0
) -> Dataset:
    """Load "digits", "mnist", "cifar10", "fashion" or "scenes", downloading what `root` lacks.

    Digits and scenes are drawn (seconds), then cached; `seed` tells which ones. A folder of your
    own pictures: see `folders`; another format: `Entry`. Without `root`: see `data_root`. Raises
    ValueError for unknown names and damaged files, and DownloadError, an OSError, for a missing
    file that can't be fetched.
    """
    check_choice("split", split, ["train", "test"])
    entry = find(name)
    images, labels, *more = entry.read(data_root(root) / name, split, seed)
    more = more[0] if more else {}
    return Dataset(images, labels, entry.classes, str(name), split, **more)


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, by label."""
    text = (Path(__file__).parent / "imagenet.txt").read_text("utf-8")
    return tuple(name.strip() for name in text.replace("\n", " ").split(";"))


def condition_of(dataset: Dataset, encoder: nn.Module | None) -> Tensor:
    """What a network with this encoder is told of images: labels, or what the encoder `reads`."""
    field = getattr(encoder, "reads", "labels")
    if (told := getattr(dataset, field, None)) is None:
        raise ValueError(f"{dataset.name} has no {field}; the network needs 'scenes'")
    return encoder.encode(told) if hasattr(encoder, "encode") else told


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Where data sets lie: `root`, else $MINIDIT_DATA, else the clone's data, else ~/.cache."""
    chosen = root if root is not None else os.environ.get("MINIDIT_DATA")
    if chosen:
        return Path(chosen).expanduser()
    clone = Path(__file__).resolve().parents[2] / "data"
    return clone if (clone / "README.md").is_file() else Path.home() / ".cache" / "minidit"
