"""The formats of MNIST (IDX, CSV) and CIFAR-10 (binary version), where they come from, and checks.

Nothing here runs code from a file: the pickled version of CIFAR-10 is refused, and archives are
read member by member, without unpacking their paths.
"""

import gzip
import math
import struct
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from minidit.data.fetch import Source, fetch

_FILES = """\
train-images-idx3-ubyte.gz 9912422 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
train-labels-idx1-ubyte.gz 28881 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
t10k-images-idx3-ubyte.gz 1648877 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
t10k-labels-idx1-ubyte.gz 4542 f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
train-images-idx3-ubyte.gz 26421880 3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84
train-labels-idx1-ubyte.gz 29515 a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845
t10k-images-idx3-ubyte.gz 4422102 346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073
t10k-labels-idx1-ubyte.gz 5148 67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5
cifar-10-binary.tar.gz 170052171 c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd
"""  # name, size in bytes, SHA-256: of MNIST, of Fashion-MNIST (arXiv 1708.07747), of CIFAR-10
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_SHOPS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
_URLS = [_MIRRORS] * 4 + [_SHOPS] * 4 + [("https://www.cs.toronto.edu/~kriz/",)]
_ROWS = zip(map(str.split, _FILES.splitlines()), _URLS)
*_SOURCES, CIFAR10 = [Source(name, int(n), sha256, urls) for (name, n, sha256), urls in _ROWS]
MNIST = {"train": _SOURCES[:2], "test": _SOURCES[2:4]}  # split → its images and its labels
FASHION = {"train": _SOURCES[4:6], "test": _SOURCES[6:]}
CIFAR10_FOLDER = "cifar-10-batches-bin"
_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR10_BATCHES = {"train": _TRAIN, "test": ("test_batch.bin",)}
MOST = 1 << 28  # bytes of an unpacked file: CIFAR-10's archive holds 184 MB
CIFAR10_ROW = 1 + 3 * 32 * 32  # a label, then the red, the green and the blue plane


def load_mnist(folder: Path, split: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (n, 1, h, w) uint8 and labels (n,) int64 of a split, downloaded if need be.

    Those of Fashion-MNIST, whose files have the same names, if the folder is "fashion".
    """
    fashion, root = folder.name == "fashion", folder.parent
    sources, home = (FASHION[split], "FashionMNIST") if fashion else (MNIST[split], "MNIST")
    places = [folder, folder / home / "raw", root / home / "raw", *([] if fashion else [root])]
    found = [[_find(place, source.name) for source in sources] for place in places]
    whole = [pair for pair in found if all(pair)]
    names = [f"{'fashion-' * fashion}mnist_{split}.csv", *([] if fashion else ["train.csv"])]
    tables = [path for name in names for path in (folder / name, root / name) if path.is_file()]
    if tables and not whole:
        return read_csv(tables[0], split)
    pair = whole[0] if whole else found[0]
    image_file, label_file = (path or fetch(s, folder) for path, s in zip(pair, sources))
    images, labels = read_idx(image_file, ndim=3), read_idx(label_file, ndim=1)
    if images.shape[1:] != (28, 28):
        raise _damaged(image_file, f"its images are {tuple(images.shape[1:])}, and MNIST's 28×28")
    if len(images) != len(labels):
        raise _damaged(label_file, f"it has {len(labels)} labels for {len(images)} images")
    _check_labels(labels, label_file)
    return images[:, None], labels.long()


def _find(place: Path, name: str) -> Path | None:
    """A file as published, without its .gz, or as Kaggle names it."""
    plain = name.removesuffix(".gz")
    there = [place / name, place / plain, place / plain.replace("-idx", ".idx")]
    return next((path for path in there if path.is_file()), None)


def read_csv(path: Path, split: str) -> tuple[Tensor, Tensor]:
    """A table, in a row a label and 784 pixels, as `load_mnist` gives them; titles may be above."""
    if split == "test" and path.name == "train.csv":
        raise ValueError(
            f"{path} is Kaggle's, where the test images have no labels, and some of MNIST's are "
            "trained on; move it away, and the next call downloads the official files"
        )
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            titles = not file.readline().split(",")[0].strip().isdecimal()
        how = dict(delimiter=",", skiprows=int(titles), ndmin=2)
        rows = torch.from_numpy(np.loadtxt(path, np.float32, **how))
        if (rows.round().clamp(0, 255) != rows).any():  # numpy 1 would read 256 as 0
            raise ValueError("a number isn't in 0 … 255")
        images, labels = rows[:, 1:].byte().reshape(len(rows), 1, 28, 28), rows[:, 0].byte()
    except (ValueError, RuntimeError) as error:
        raise _damaged(path, f"it isn't a label and 784 bytes a row ({error})") from error
    _check_labels(labels, path)
    return images, labels.long()


def read_idx(path: Path, ndim: int) -> Tensor:
    """Read an IDX file of bytes, plain or gzipped: a uint8 tensor of `ndim` dimensions.

    Two zero bytes, the type (8: bytes), the number of dimensions; their big-endian 4-byte sizes;
    the values. Raises ValueError if the file isn't exactly that.
    """
    try:
        with (_Gzip if path.suffix == ".gz" else open)(path, "rb") as file:
            raw = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, f"gzip says: {error}") from error
    magic, header = bytes([0, 0, 8, ndim]), 4 + 4 * ndim
    if raw[:4] != magic:
        raise _damaged(path, f"it begins with {raw[:4].hex()}, not with the magic {magic.hex()}")
    if len(raw) < header:
        raise _damaged(path, f"its header has {len(raw)} of {header} bytes")
    shape = struct.unpack(f">{ndim}I", raw[4:header])
    if 0 in shape or math.prod(shape) != len(raw) - header:
        raise _damaged(path, f"its header says {shape}, and {len(raw) - header} bytes follow")
    return _tensor(raw[header:]).view(shape)


def load_cifar10(folder: Path, split: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 32, 32) uint8 and labels (n,) int64 of a split: unpacked, archived, fetched."""
    names, archive = CIFAR10_BATCHES[split], folder / CIFAR10.name
    paths = [folder / CIFAR10_FOLDER / name for name in names]
    if all(path.is_file() for path in paths):
        batches = [read_batch(path.read_bytes(), path) for path in paths]
    else:
        if not archive.is_file():
            _refuse_pickles(folder)
            fetch(CIFAR10, folder)
        batches = [read_batch(raw, archive) for raw in _read_members(archive, names)]
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def read_batch(raw: bytes, path: Path) -> tuple[Tensor, Tensor]:
    """Split the rows of a binary batch; `path` is for the error, ValueError if it isn't one."""
    if not raw or len(raw) % CIFAR10_ROW:
        what = "looks like a pickle" if raw[:1] == b"\x80" else f"holds {len(raw)} bytes"
        raise _damaged(path, f"a batch {what}, where rows of {CIFAR10_ROW} bytes belong")
    rows = _tensor(raw).view(-1, CIFAR10_ROW)
    _check_labels(rows[:, 0], path)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].long()


def _read_members(archive: Path, names: tuple[str, ...]) -> list[bytes]:
    """The named files of a .tar.gz, found by their last path component."""
    members = {}
    try:
        # The tar is streamed from a gzip file of our own, so that gzip's checksum is verified.
        with _Gzip(archive) as plain:
            with tarfile.open(fileobj=plain, mode="r|") as tar:
                for member in tar:
                    name = PurePosixPath(member.name).name
                    if name in members:  # which of them is right?
                        raise tarfile.TarError(f"it holds two files {name}")
                    if name in names and member.isfile():
                        members[name] = tar.extractfile(member).read()
            while plain.read(1 << 20):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise _damaged(archive, f"it can't be unpacked ({error})") from error
    missing = [name for name in names if name not in members]
    if missing:
        raise _damaged(archive, f"it lacks {', '.join(missing)} of CIFAR-10's binary version")
    return [members[name] for name in names]


class _Gzip(gzip.GzipFile):
    """A gzip file that ends in an error where it unpacks to more than any data set holds."""

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(MOST + 1 if size is None or not 0 <= size <= MOST else size)
        if self.tell() > MOST:
            raise gzip.BadGzipFile(f"it unpacks to more than {MOST} bytes")
        return found


def _refuse_pickles(folder: Path) -> None:
    names = ("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1")
    for path in [place / name for place in (folder, folder.parent) for name in names]:
        if path.exists():
            raise ValueError(
                f"{path} is CIFAR-10's Python version, whose pickles can run any code and are not "
                f"opened: put {CIFAR10.name} from {CIFAR10.mirrors[0]} into {folder} instead, "
                "or move the Python version away, and the next call downloads the binary one"
            )


def _check_labels(labels: Tensor, path: Path) -> None:
    if labels.max() > 9:
        raise _damaged(path, f"it has a label {labels.max().item()}, and classes are 0..9")


def _damaged(path: Path, what: str) -> ValueError:
    way_out = "delete it, and the next call downloads a fresh one"
    return ValueError(f"{path} is damaged: {what}; {way_out}")


def _tensor(raw: bytes) -> Tensor:
    """A uint8 tensor that owns its bytes; torch would warn about read-only memory otherwise."""
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)
