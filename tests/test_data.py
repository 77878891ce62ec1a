"""Data sets: formats, damage, downloads, and the digits that are drawn."""

import gzip
import hashlib
import http.server
import io
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import glyphs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minidit import data
from minidit.data import digits
from minidit.data import readers as _readers
from minidit.data.fetch import Source, fetch
from minidit.weights.files import replacing

# ------------------------------------------------------------------------------- made-up files


def idx(values: torch.Tensor) -> bytes:
    """The IDX file of a uint8 tensor."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + bytes(values.flatten().tolist())


def numbers(*shape: int, seed: int = 0, high: int = 256) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, high, shape, generator=rng, dtype=torch.uint8)


def put_mnist(root: Path, n: int = 5, packed: bool = True) -> dict[str, tuple]:
    """Four small IDX files under root/mnist; returns what is in them."""
    made = {}
    for seed, (split, sources) in enumerate(_readers.MNIST.items()):
        made[split] = numbers(n, 28, 28, seed=seed), numbers(n, seed=seed, high=10)
        for source, values in zip(sources, made[split], strict=True):
            path = root / "mnist" / (source.name if packed else source.name.removesuffix(".gz"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    return made


def cifar_batches() -> dict[str, bytes]:
    """Six batches of three rows each; the labels of all 18 rows count 0, 1, …, 9, 0, …."""
    names = [name for split in _readers.CIFAR10_BATCHES.values() for name in split]
    batches = {}
    for k, name in enumerate(names):
        rows = numbers(3, 3073, seed=k)
        rows[:, 0] = (torch.arange(3) + 3 * k) % 10
        batches[name] = bytes(rows.flatten().tolist())
    return batches


def put_cifar(root: Path, batches: dict[str, bytes], how: str) -> Path:
    """The batches under root/cifar10, unpacked or as the archive; returns the folder or archive."""
    folder = root / "cifar10"
    folder.mkdir(parents=True)
    if how == "unpacked":
        inside = folder / "cifar-10-batches-bin"
        inside.mkdir()
        for name, raw in batches.items():
            (inside / name).write_bytes(raw)
        return inside
    archive = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, raw in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return archive


@pytest.fixture
def offline(monkeypatch):
    """No mirror answers: port 9 of this machine, where nobody listens."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    nowhere = ("http://127.0.0.1:9/",)
    for name in ("MNIST", "FASHION"):
        moved = {
            split: tuple(Source(s.name, s.size, s.sha256, nowhere) for s in sources)
            for split, sources in getattr(_readers, name).items()
        }
        monkeypatch.setattr(_readers, name, moved)
    cifar = _readers.CIFAR10
    monkeypatch.setattr(_readers, "CIFAR10", Source(cifar.name, cifar.size, cifar.sha256, nowhere))


# ------------------------------------------------------------------------------- names, folders


def test_a_data_set_of_ones_own_is_one_entry(tmp_path, monkeypatch):
    def read(folder, split, seed):
        return torch.full((3, 1, 4, 4), seed, dtype=torch.uint8), torch.arange(3)

    monkeypatch.setitem(data.DATASETS, "mine", data.Entry(("a", "b", "c"), read))
    mine = data.load("mine", "test", root=tmp_path, seed=5)
    assert repr(mine) == "<mine test: 3 images 1×4×4, 3 classes>" and mine.images.max() == 5
    assert mine.classes == ("a", "b", "c")


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="name='minst'.*'digits', 'mnist', 'cifar10'"):
        data.load("minst", root=tmp_path)
    with pytest.raises(ValueError, match="split='valid'.*'train', 'test'"):
        data.load("digits", "valid", root=tmp_path)
    with pytest.raises(ValueError, match="seed=-1"):
        data.load("digits", root=tmp_path, seed=-1)
    with pytest.raises(TypeError, match="seed=0.5"):
        data.load("digits", root=tmp_path, seed=0.5)


def test_the_folder_is_the_argument_then_the_variable_then_the_clone(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDIT_DATA", str(tmp_path / "variable"))
    assert data.data_root(tmp_path / "argument") == tmp_path / "argument"
    assert data.data_root() == tmp_path / "variable"
    monkeypatch.delenv("MINIDIT_DATA")
    monkeypatch.setattr(
        data, "__file__", str(tmp_path / "clone" / "minidit" / "data" / "__init__.py")
    )
    assert data.data_root() == Path.home() / ".cache" / "minidit"
    (tmp_path / "clone" / "data").mkdir(parents=True)
    (tmp_path / "clone" / "data" / "README.md").touch()
    assert data.data_root() == tmp_path / "clone" / "data"


def test_import_does_not_pull_in_matplotlib_or_pillow():
    code = "import sys; sys.modules['matplotlib'] = sys.modules['PIL'] = None; import minidit.data"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_dataset_says_what_it_is(tmp_path):
    put_mnist(tmp_path)
    dataset = data.load("mnist", root=tmp_path)
    assert repr(dataset) == "<mnist train: 5 images 1×28×28, 10 classes>"
    with pytest.raises(AttributeError):
        dataset.images = None


# -------------------------------------------------------------------------------- pixel ranges


def test_every_grey_level_survives_the_way_to_the_network_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    x = data.to_unit(levels)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert torch.equal(data.to_uint8(x), levels)
    assert torch.equal(data.to_uint8(x.double()), levels)


def test_to_uint8_rounds_and_clamps():
    x = torch.tensor([-7.0, -1.0, -0.9999, 0.003, 1.0, 1.2, float("inf")])
    assert data.to_uint8(x).tolist() == [0, 0, 0, 128, 255, 255, 255]


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="images has dtype torch.float32"):
        data.to_unit(torch.zeros(2))
    with pytest.raises(TypeError, match="x has dtype torch.uint8"):
        data.to_uint8(torch.zeros(2, dtype=torch.uint8))


# --------------------------------------------------------------------------------------- MNIST


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    packed=st.booleans(),
)
def test_idx_round_trip(tmp_path_factory, shape, seed, packed):
    path = tmp_path_factory.mktemp("idx") / ("values.gz" if packed else "values")
    values = numbers(*shape, seed=seed)
    path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    assert torch.equal(_readers.read_idx(path, ndim=len(shape)), values)


@given(cut=st.integers(0, 16 + 2 * 3 * 3 - 1), packed=st.booleans())
def test_idx_cut_anywhere_is_noticed(tmp_path_factory, cut, packed):
    path = tmp_path_factory.mktemp("idx") / ("values.gz" if packed else "values")
    raw = idx(numbers(2, 3, 3))[:cut]
    path.write_bytes(gzip.compress(raw) if packed else raw)
    with pytest.raises(ValueError, match=f"{path.name} is damaged.*delete it"):
        _readers.read_idx(path, ndim=3)


@given(where=st.floats(0, 1, exclude_max=True))
def test_gzip_cut_anywhere_is_noticed(tmp_path_factory, where):
    path = tmp_path_factory.mktemp("idx") / "values.gz"
    whole = gzip.compress(idx(numbers(2, 3, 3)))
    path.write_bytes(whole[: int(where * len(whole))])
    with pytest.raises(ValueError, match="values.gz is damaged"):
        _readers.read_idx(path, ndim=3)


@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_in_the_packed_values_is_noticed(tmp_path_factory, where, flip):
    path = tmp_path_factory.mktemp("idx") / "values.gz"
    values = numbers(2, 3, 3)
    raw = bytearray(gzip.compress(idx(values)))
    raw[10 + int(where * (len(raw) - 10))] ^= flip  # the first ten bytes are gzip's own header
    path.write_bytes(raw)
    try:  # a few bits only fill up the last byte of the stream: changing those changes nothing
        assert torch.equal(_readers.read_idx(path, ndim=3), values)
    except ValueError as error:
        assert "values.gz is damaged" in str(error)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x00\x00\x08\x01" + idx(numbers(2, 3, 3))[4:], "begins with 00000801.*magic 00000803"),
        (b"\x00\x00\x0d\x03" + idx(numbers(2, 3, 3))[4:], "begins with 00000d03"),
        (idx(numbers(2, 3, 3)) + b"\x00", r"says \(2, 3, 3\), and 19 bytes follow"),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 0, 28, 28), r"says \(0, 28, 28\)"),
        (b"<html>not found</html>", "begins with 3c68746d"),
        (b"\x00\x00\x08\x03\x00\x00", "header has 6 of 16 bytes"),
    ],
)
def test_idx_with_a_wrong_header_is_refused(tmp_path, raw, message):
    path = tmp_path / "values"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        _readers.read_idx(path, ndim=3)


@pytest.mark.parametrize("shape", [(56, 14), (14, 56), (1, 784), (784, 1)])
def test_mnist_has_images_of_28_by_28(tmp_path, shape):
    put_mnist(tmp_path, packed=False)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte"
    path.write_bytes(idx(numbers(5, 28, 28).view(5, *shape)))
    with pytest.raises(
        ValueError, match=r"damaged: its images are \(\d+, \d+\), and MNIST's 28×28"
    ):
        data.load("mnist", root=tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_from_both_forms(tmp_path, packed):
    made = put_mnist(tmp_path, packed=packed)
    for split, (images, labels) in made.items():
        dataset = data.load("mnist", split, root=str(tmp_path))
        assert torch.equal(dataset.images, images[:, None])
        assert torch.equal(dataset.labels, labels.long()) and dataset.labels.dtype == torch.int64
        assert dataset.classes == tuple("0123456789") and len(dataset) == 5


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("name", "place"),
    [("mnist", "mnist/MNIST/raw"), ("mnist", "MNIST/raw"), ("mnist", ".")]
    + [("fashion", "fashion"), ("fashion", "FashionMNIST/raw")],
)
def test_mnist_is_read_where_torchvision_and_others_leave_it(tmp_path, packed, name, place):
    made = put_mnist(tmp_path / "made", packed=packed)
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for path in (tmp_path / "made" / "mnist").iterdir():
        kaggle = path.name if packed else path.name.replace("-idx", ".idx")
        path.rename(tmp_path / place / kaggle)
    for split, (images, labels) in made.items():
        dataset = data.load(name, split, root=tmp_path)
        assert torch.equal(dataset.images, images[:, None])
        assert torch.equal(dataset.labels, labels.long())
    assert dataset.classes[9] == {"mnist": "9", "fashion": "Ankle boot"}[name]


def test_files_of_mnist_are_never_taken_for_fashion(tmp_path, offline):
    put_mnist(tmp_path)
    for path in (tmp_path / "mnist").iterdir():
        path.rename(tmp_path / path.name)
    with pytest.raises(data.DownloadError, match=f"{_readers.FASHION['train'][0].sha256}.*fashion"):
        data.load("fashion", root=tmp_path)


def test_mnist_as_kaggles_table(tmp_path):
    images, labels = numbers(4, 784), torch.tensor([3, 0, 9, 1])
    rows = [",".join(map(str, [k, *row])) for k, row in zip(labels.tolist(), images.tolist())]
    (tmp_path / "mnist").mkdir()
    table = tmp_path / "mnist" / "train.csv"
    table.write_text("\n".join(["label,pixel0", *rows]) + "\n")
    dataset = data.load("mnist", root=tmp_path)
    assert torch.equal(dataset.images, images.view(4, 1, 28, 28))
    assert dataset.labels.dtype == torch.int64 and torch.equal(dataset.labels, labels)
    with pytest.raises(ValueError, match="train.csv is Kaggle's.*no labels.*move it away"):
        data.load("mnist", "test", root=tmp_path)
    named = {"train": table.with_name("mnist_train.csv"), "test": tmp_path / "mnist_test.csv"}
    for split, path in named.items():  # with titles or without, of either split
        path.write_text("\n".join(rows if split == "train" else ["label,pixel0", *rows]))
        assert torch.equal(data.load("mnist", split, root=tmp_path).labels, labels)
        path.unlink()
    for fault in (rows[0][:-4], rows[0] + ",1", "256" + rows[0], "ten" + rows[0], "1" + rows[0]):
        table.write_text("\n".join(["label,pixel0", fault]))
        with pytest.raises(ValueError, match="train.csv is damaged: it .*delete it"):
            data.load("mnist", root=tmp_path)


def test_mnist_labels_must_fit(tmp_path):
    put_mnist(tmp_path)
    path = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(torch.tensor([0, 1, 2, 3], dtype=torch.uint8))))
    with pytest.raises(ValueError, match="train-labels.*4 labels for 5 images"):
        data.load("mnist", root=tmp_path)
    path.write_bytes(gzip.compress(idx(torch.tensor([0, 1, 10, 3, 4], dtype=torch.uint8))))
    with pytest.raises(ValueError, match="train-labels.*a label 10, and classes are 0..9"):
        data.load("mnist", root=tmp_path)


@pytest.mark.skipif(not (data.data_root() / "mnist").is_dir(), reason="the real MNIST is not here")
def test_facts_about_the_real_mnist():
    train, test = data.load("mnist"), data.load("mnist", "test")
    assert train.images.shape == (60_000, 1, 28, 28) and test.images.shape == (10_000, 1, 28, 28)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9] and train.labels[-1] == 8
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.images.double().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert train.labels.bincount()[:3].tolist() == [5923, 6742, 5958]


# ------------------------------------------------------------------------------------ CIFAR-10


@pytest.mark.parametrize("how", ["unpacked", "archive"])
def test_cifar_is_read_from_both_forms(tmp_path, how):
    batches = cifar_batches()
    put_cifar(tmp_path, batches, how)
    train, test = data.load("cifar10", root=tmp_path), data.load("cifar10", "test", root=tmp_path)
    assert train.images.shape == (15, 3, 32, 32) and test.images.shape == (3, 3, 32, 32)
    assert train.images.dtype == torch.uint8 and train.images.is_contiguous()
    assert train.labels.tolist() == [*range(10), *range(5)] and test.labels.tolist() == [5, 6, 7]
    row = batches["data_batch_2.bin"][3073:6146]  # row 1 of batch 2 is image 4
    assert row[0] == train.labels[4]
    red, green, blue = (row[1 + 1024 * c : 1 + 1024 * (c + 1)] for c in range(3))
    assert bytes(train.images[4, 0].flatten().tolist()) == red
    assert bytes(train.images[4, 1, 0].tolist()) == green[:32]  # the first line of the image
    assert train.images[4, 2, 31, 0] == blue[31 * 32]  # its last line begins here
    assert train.classes[:3] == ("airplane", "automobile", "bird")


@pytest.mark.parametrize("how", ["unpacked", "archive"])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (bytes(3073 + 17), "holds 3090 bytes, where rows of 3073"),
        (b"", "holds 0 bytes"),
        (b"\x0a" + bytes(3072), "a label 10"),
        (pickle.dumps({"data": list(range(50)), "labels": [1]}), "looks like a pickle"),
    ],
)
def test_cifar_batches_that_are_not_are_refused(tmp_path, how, raw, message):
    where = put_cifar(tmp_path, cifar_batches() | {"data_batch_3.bin": raw}, how)
    with pytest.raises(ValueError, match=f"{where.name}.* is damaged: .*{message}"):
        data.load("cifar10", root=tmp_path)
    assert len(data.load("cifar10", "test", root=tmp_path)) == 3  # the other split is not hurt


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.9999])
def test_a_truncated_archive_is_noticed(tmp_path, keep):
    archive = put_cifar(tmp_path, cifar_batches(), "archive")
    raw = archive.read_bytes()
    archive.write_bytes(raw[: int(keep * len(raw))])
    with pytest.raises(ValueError, match="cifar-10-binary.tar.gz is damaged.*delete it"):
        data.load("cifar10", root=tmp_path)


def test_an_archive_without_the_batches_is_refused(tmp_path):
    put_cifar(tmp_path, {"data_batch_1": b"\x80\x04.", "test_batch.bin": bytes(3073)}, "archive")
    with pytest.raises(ValueError, match="lacks data_batch_1.bin, .*data_batch_5.bin"):
        data.load("cifar10", root=tmp_path)


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "elsewhere"])
def test_an_archive_with_two_files_of_a_name_is_refused(tmp_path, folder):
    archive = put_cifar(tmp_path, cifar_batches(), "archive")
    with tarfile.open(archive) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(archive, "w:gz") as tar:
        for member, raw in members:
            tar.addfile(member, io.BytesIO(raw))
        member.name = f"{folder}/data_batch_2.bin"
        tar.addfile(member, io.BytesIO(raw))
    with pytest.raises(ValueError, match="gz is damaged: .*holds two files data_batch_2.bin"):
        data.load("cifar10", root=tmp_path)


@pytest.mark.parametrize("place", ["", "cifar-10-batches-py", "../cifar-10-batches-py"])
def test_the_pickled_version_is_refused_and_never_opened(tmp_path, place):
    trap = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (trap,))

    path = tmp_path / "cifar10" / place / "data_batch_1"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="pickles can run any code.*cifar-10-binary.tar.gz from"):
        data.load("cifar10", root=tmp_path)
    assert not trap.exists()


# ------------------------------------------------------------------------ pictures of one's own


def put_pictures(folder: Path, pictures: dict[str, Image.Image]) -> Path:
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
    return folder


def picture(*shape: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(numbers(*shape, seed=seed).numpy())


def test_a_folder_of_pictures_is_a_data_set(tmp_path):
    colour, wide, grey = picture(32, 32, 3), picture(40, 70, 3), picture(32, 32)
    folder = put_pictures(tmp_path, {"dog/b.PNG": colour, "dog/a.png": grey, "cat/1.jpg": wide})
    put_pictures(folder, {"dog/.hidden.png": grey, ".git/x.png": grey, "root.png": grey})
    (folder / "empty").mkdir()
    (folder / "dog" / "notes.txt").write_text("no picture")
    mine = data.load(folder)
    assert repr(mine) == f"<{folder} train: 3 images 3×32×32, 2 classes>"
    assert mine.classes == ("cat", "dog") and mine.labels.tolist() == [0, 1, 1]
    assert torch.equal(mine.images[2], numbers(32, 32, 3).permute(2, 0, 1))
    assert torch.equal(mine.images[1], numbers(32, 32).expand(3, -1, -1))
    assert mine.told == (
        f"{folder}: 3 colour pictures, 1 of them resized and cropped to 32×32; "
        "4 hidden or other files left out; labels: 0 cat, 1 dog"
    )
    with pytest.raises(ValueError, match="no test pictures; sort them into train/CLASS and"):
        data.load(str(folder), "test")


def test_a_folder_may_hold_both_splits(tmp_path):
    pictures = {"train/b/1.png": 1, "train/a/1.png": 2, "test/b/1.png": 3}
    grey = {name: picture(32, 32, seed=seed) for name, seed in pictures.items()}
    folder = put_pictures(tmp_path / "both", grey)
    train, test = data.load(folder), data.load(folder, "test")
    assert train.classes == test.classes == ("a", "b") and test.labels.tolist() == [1]
    assert torch.equal(test.images, numbers(1, 1, 32, 32, seed=3))
    put_pictures(folder, {"test/c/1.png": grey["test/b/1.png"]})
    with pytest.raises(ValueError, match=r"test has classes \['c'\], and train/ doesn't"):
        data.load(folder)
    folder = put_pictures(
        tmp_path / "vehicles", {"train/1.png": picture(9, 9), "car/1.png": picture(9, 9)}
    )
    assert data.load(folder).classes == ("car", "train")  # a train


def test_pictures_of_every_kind_are_upright_opaque_and_of_eight_bits(tmp_path):
    grey = numbers(32, 32)
    deep = Image.fromarray(grey.numpy().astype(np.uint16) * 257)
    folder = put_pictures(tmp_path, {"a/0.png": deep, "a/1.png": Image.new("LA", (9, 9), (0, 0))})
    turned = Image.Exif()
    turned[274] = 6  # to be turned by 90° clockwise
    Image.fromarray(grey.numpy()).save(folder / "a" / "2.png", exif=turned)
    images = data.load(folder).images
    assert images.shape == (3, 1, 32, 32) and torch.equal(images[0, 0], grey)
    assert images[1].min() == 255 and torch.equal(images[2, 0], grey.rot90(-1))


@pytest.mark.parametrize("raw", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", None])
def test_a_damaged_picture_names_itself(tmp_path, raw):
    folder = put_pictures(tmp_path, {"a/1.png": picture(64, 64), "a/2.png": picture(64, 64)})
    path = folder / "a" / "2.png"
    path.write_bytes(path.read_bytes()[:2000] if raw is None else raw)
    with pytest.raises(ValueError, match="2.png can't be read as a PNG or JPEG.*remove it"):
        data.load(folder)


def test_a_folder_without_pictures_says_what_it_wants(tmp_path):
    with pytest.raises(ValueError, match="no subfolders with PNG or JPEG.*cats.*1.png"):
        data.load(put_pictures(tmp_path, {"1.png": picture(9, 9)}))


# ----------------------------------------------------------------------------------- downloads


class _Handler(http.server.BaseHTTPRequestHandler):
    """/whole/ gives the file, /other/ one of equal size, /cut/ half of what it promised, /part/
    half of it, too, but the rest to who asks for that.
    """

    content = bytes(numbers(5000).tolist())

    def do_GET(self):
        kind = self.path.split("/")[1]
        if kind == "gone":
            return self.send_error(404)
        body = self.content if kind != "other" else self.content[::-1]
        body = body + b"more" if kind == "long" else body
        start = self.headers.get("Range", "")
        if kind == "part" and start:
            first = int(start.removeprefix("bytes=").removesuffix("-"))
            if first >= len(body):
                return self.send_error(416)
            body, kind = body[first:], "rest"
        self.send_response(206 if kind == "rest" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if kind in ("cut", "part") else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def published(*mirrors: str) -> Source:
    sha256 = hashlib.sha256(_Handler.content).hexdigest()
    return Source("file.bin", len(_Handler.content), sha256, mirrors)


def test_a_download_arrives_whole_and_leaves_nothing_else(tmp_path, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    path = fetch(published(f"{server}/whole/"), tmp_path / "new")
    assert path == tmp_path / "new" / "file.bin" and path.read_bytes() == _Handler.content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("other", "what came has another SHA-256"),
        ("long", "more than the expected 5000 bytes"),
        ("gone", "404"),
    ],
)
def test_a_download_that_is_not_the_file_is_not_kept(tmp_path, server, monkeypatch, kind, reason):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    source = published(f"{server}/{kind}/")
    with pytest.raises(data.DownloadError, match=reason) as error:
        fetch(source, tmp_path)
    assert isinstance(error.value, OSError) and "\n" not in str(error.value)
    for part in (f"{server}/{kind}/file.bin", source.sha256, str(tmp_path)):
        assert part in str(error.value)
    assert list(tmp_path.iterdir()) == []
    path = fetch(published(f"{server}/{kind}/", f"{server}/whole/"), tmp_path)  # the next mirror
    assert path.read_bytes() == _Handler.content


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", ["part", "cut"])
def test_a_transfer_that_broke_off_goes_on(tmp_path, server, monkeypatch, kind, known):
    """Where the server knows no parts, from the start; sizes unknown are the server's."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    source, heard = published(f"{server}/{kind}/"), []
    source = source if known else Source(source.name, None, None, source.mirrors)
    with pytest.raises(data.DownloadError, match="stopped after 2500 of 5000|IncompleteRead"):
        fetch(source, tmp_path)
    assert (tmp_path / "file.bin.partial").stat().st_size == 2500
    if kind == "cut":
        source = replace(source, mirrors=(f"{server}/whole/",))
    path = fetch(source, tmp_path, lambda done, size: heard.append((done, size)))
    assert path.read_bytes() == _Handler.content and heard[-1] == (5000, 5000)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", ["part", "whole"])
def test_a_transfer_whose_end_was_killed_is_finished(tmp_path, server, monkeypatch, kind, known):
    """All bytes have come, but the file hasn't got its name."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    source, part = published(f"{server}/{kind}/"), tmp_path / "file.bin.partial"
    source = source if known else Source(source.name, None, None, source.mirrors)
    part.write_bytes(_Handler.content)
    assert fetch(source, tmp_path).read_bytes() == _Handler.content
    assert list(tmp_path.iterdir()) == [tmp_path / "file.bin"]


def test_what_is_longer_than_the_file_is_dropped(tmp_path, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    part = tmp_path / "file.bin.partial"
    part.write_bytes(_Handler.content + b"older")
    with pytest.raises(data.DownloadError, match="was no part of it; try again"):
        fetch(published(f"{server}/part/"), tmp_path)
    assert not part.exists()
    assert fetch(published(f"{server}/whole/"), tmp_path).read_bytes() == _Handler.content


def test_mnist_is_fetched_file_by_file(tmp_path, monkeypatch):
    made = put_mnist(tmp_path / "elsewhere")
    mirror = (tmp_path / "elsewhere" / "mnist").as_uri() + "/"

    def moved(source: Source) -> Source:
        raw = (tmp_path / "elsewhere" / "mnist" / source.name).read_bytes()
        return Source(source.name, len(raw), hashlib.sha256(raw).hexdigest(), (mirror,))

    sources = {split: tuple(map(moved, pair)) for split, pair in _readers.MNIST.items()}
    monkeypatch.setattr(_readers, "MNIST", sources)
    dataset = data.load("mnist", root=tmp_path / "here")
    assert torch.equal(dataset.labels, made["train"][1].long())
    names = sorted(path.name for path in (tmp_path / "here" / "mnist").iterdir())
    assert names == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("kind", ["b", "L", "x"])
def test_archives_are_bounded(kind, tmp_path, monkeypatch):
    """A tar member's size, or what a gzip unpacks to, costs no memory."""
    monkeypatch.setattr(_readers, "MOST", 100_000)
    (tmp_path / "cifar10").mkdir()
    info = tarfile.TarInfo("data_batch_1.bin")
    info.size, info.type = (10**14, tarfile.REGTYPE) if kind == "b" else (10**6, b"L")
    with gzip.open(tmp_path / "cifar10" / _readers.CIFAR10.name, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) if kind != "x" else b"")
        file.write(bytes(2_000_000))
    with pytest.raises(ValueError, match="can't be unpacked .*more than 100000 bytes"):
        data.load("cifar10", root=tmp_path)
    with gzip.open(tmp_path / "images.gz", "wb") as file:
        file.write(bytes(2_000_000))
    with pytest.raises(ValueError, match="gzip says: it unpacks to more than 100000 bytes"):
        _readers.read_idx(tmp_path / "images.gz", 1)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "fashion"])
def test_without_a_network_one_sentence_says_what_to_do(tmp_path, offline, name):
    with pytest.raises(data.DownloadError) as error:
        data.load(name, root=tmp_path)
    sources = {"mnist": _readers.MNIST, "fashion": _readers.FASHION}
    source = sources[name]["train"][0] if name in sources else _readers.CIFAR10
    for part in (source.mirrors[0] + source.name, source.sha256, str(tmp_path / name)):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


# -------------------------------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def drawn():
    return digits.render(2000, seed=0)


def test_digits_look_like_mnist(drawn):
    images, labels = drawn
    assert images.shape == (2000, 1, 28, 28) and images.dtype == torch.uint8
    assert labels.dtype == torch.int64 and labels.bincount().tolist() == [200] * 10
    assert images.flatten(1).amax(1).min() > 200  # no digit is faint
    grey = images[:, 0].float() / 255
    assert 0.11 < grey.mean().item() < 0.15  # MNIST: 0.1307
    rim = torch.cat([grey[:, [0, -1]].flatten(1), grey[:, :, [0, -1]].flatten(1)], 1)
    assert (rim.amax(1) > 0.5).float().mean().item() < 0.01  # hardly any digit touches the rim
    where = torch.arange(28) - 13.5
    mass = grey.sum((1, 2))
    assert ((grey.sum(1) @ where) / mass).abs().max() < 4  # centred by mass, up to the bending
    assert ((grey.sum(2) @ where) / mass).abs().max() < 4
    height = (grey.amax(2) > 0.5).sum(1).float()
    assert 17 < height.mean().item() < 21 and height.min().item() > 10


def test_digits_are_the_same_for_a_seed_and_differ_between_seeds(drawn):
    images, labels = digits.render(2000, seed=0)
    assert torch.equal(images, drawn[0]) and torch.equal(labels, drawn[1])
    other, _ = digits.render(2000, seed=1)
    assert not (other == images).flatten(1).all(1).any()


def test_digits_vary(drawn):
    assert len(digits.FACES) == len(set(digits.FACES)) >= 20
    images, labels = drawn
    assert len(images.unique(dim=0)) == 2000
    ink = images.float().mean((1, 2, 3))
    ones = ink[labels == 1]
    assert ones.max() > 2 * ones.min()  # thin and thick pens


def test_classes_are_told_apart_by_their_nearest_neighbour(drawn):
    images, labels = drawn
    flat = images.flatten(1).float()
    flat = flat / flat.norm(dim=1, keepdim=True)
    nearest = (flat[:500] @ flat[500:].T).argmax(1)
    assert (labels[500:][nearest] == labels[:500]).float().mean() > 0.9


def test_every_face_has_its_ten_digits():
    fields = digits.glyph_fields()
    assert fields.shape == (len(digits.FACES), 10, 56, 56)
    ink = (fields < 0).flatten(2)
    assert ink.any(2).all()
    assert len(ink.flatten(0, 1).unique(dim=0)) >= 10 * (len(digits.FACES) - 1)
    slope = (fields[..., 1:] - fields[..., :-1]).abs().max() / (2 * digits.REACH / 55)
    assert slope < 1.5  # a distance changes by at most a pixel a pixel, up to the drawing's grid


def test_drawing_does_not_touch_the_global_random_state():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    digits.render(20, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_digits_are_cached_and_a_damaged_cache_is_drawn_anew(tmp_path, monkeypatch):
    begin = time.perf_counter()
    first = data.load("digits", "test", root=tmp_path)
    assert time.perf_counter() - begin < 15 and len(first) == 10_000
    (path,) = (tmp_path / "digits").iterdir()
    assert path.name == f"digits-v{digits.VERSION}-seed0-test.safetensors"
    whole = path.read_bytes()

    drawings = []

    def render(n: int, seed: int):
        drawings.append(seed)
        return first.images.clone(), first.labels.clone()

    monkeypatch.setattr(digits, "render", render)
    again = data.load("digits", "test", root=tmp_path)
    assert torch.equal(again.images, first.images) and torch.equal(again.labels, first.labels)
    assert drawings == []
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (b"", whole[:100], whole[:-1], bytes(flipped), b"\xff" * 64):
        path.unlink()
        path.write_bytes(damaged)
        data.load("digits", "test", root=tmp_path)
        assert path.read_bytes() == whole
    assert drawings == [1] * 5


def test_splits_and_seeds_draw_from_different_streams(tmp_path, monkeypatch):
    seen = []
    tiny = torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    monkeypatch.setattr(digits, "render", lambda n, seed: seen.append((n, seed)) or tiny)
    for seed in (0, 1, 2):
        data.load("digits", "train", root=tmp_path, seed=seed)
        data.load("digits", "test", root=tmp_path, seed=seed)
    assert [n for n, _ in seen] == [60_000, 10_000] * 3
    assert len({stream for _, stream in seen}) == 6


def test_a_folder_that_cannot_be_made_costs_only_the_cache(tmp_path, monkeypatch):
    monkeypatch.setitem(digits.COUNTS, "test", 30)
    (tmp_path / "digits").write_text("a file where the folder should be")
    assert len(data.load("digits", "test", root=tmp_path)) == 30


@pytest.mark.parametrize("face", digits.FACES)
def test_the_sheet_holds_what_the_fonts_draw(face):
    row = digits._glyphs(digits.FACES.index(face))
    for digit, stored in enumerate(row):
        try:
            ink = glyphs.drawn(face, digit)
        except OSError:
            pytest.skip(f"this matplotlib has no {face}")
        assert np.array_equal(stored, np.pad(ink, 1))
