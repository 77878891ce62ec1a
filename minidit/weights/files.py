"""Files that are whole or not there, that one process at a time writes, and that hold no code."""

import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO
from zipfile import BadZipFile, ZipFile

import torch


def lock(file: IO, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False if another process, which still lives, has it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        pass
    except ImportError:
        return _lock_on_windows(file, wait)
    return True


def _lock_on_windows(file: IO, wait: bool) -> bool:
    import msvcrt

    file.seek(1 << 30)  # where no byte is to be read, for locked ones can't be
    try:
        while True:
            with suppress(PermissionError):
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                return True
            if not wait:
                return False
            time.sleep(0.1)
    finally:
        file.seek(0)


def check_plain(path: Path) -> None:
    """Raise OSError for what is there and no file: a pipe would be waited for."""
    if "\0" in str(path):
        raise OSError(f"{str(path)!r} has the character NUL, which no path can; leave it out")
    plain = True
    with suppress(OSError):  # one look, for a lock may vanish between two
        plain = stat.S_ISREG(path.stat().st_mode)
    if not plain:
        raise OSError(f"{path} is no file; move it away, or choose another folder")


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the file `path` as a lock; OSError, or with `wait` patience, while another does."""
    check_plain(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    held = False
    while not held:
        with open(path, "a+") as file:
            if not lock(file, wait):
                told = f"another run writes to {path.parent}, pid {path.read_text('latin-1')}"
                raise BlockingIOError(f"{told}; wait for its end, or choose another folder")
            if held := os.fstat(file.fileno()).st_nlink > 0:  # else it has just been removed
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                try:
                    yield
                finally:
                    with suppress(OSError):
                        path.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write to a temporary neighbour; it takes the name `path` at the end, on an error it vanishes.

    So nobody ever finds half a file under that name, whatever interrupts the writer.
    """
    check_plain(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(path.name + ".*part"):  # by a process that was killed
        with suppress(OSError), open(left, "r+b") as file:  # a pipe would be waited for by "wb"
            if lock(file):
                left.unlink()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # "No space left on device"
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def parse_json(text: str, shape: object, path: Path, way_out: str) -> dict:
    """What a JSON text holds, which must have a shape: a type, [shape of each], or {key: shape}.

    A key that ends in "?" may be missing. Raises ValueError that names the file `path`.
    """
    try:
        content = json.loads(text)
        fault = _misshapen(content, shape)
    except (ValueError, RecursionError) as error:
        fault = f"it is no JSON ({error})"
    if fault:
        raise ValueError(f"{path} is damaged: {fault}; {way_out}")
    return content


def read_json(path: Path, shape: object, way_out: str) -> dict:
    """`parse_json` of a file; ValueError if it is none."""
    if not path.is_file():
        raise ValueError(f"{path} is missing or no file; {way_out}")
    return parse_json(path.read_text("utf-8", "replace"), shape, path, way_out)


def _misshapen(value: object, shape: object, place: str = "all of it") -> str | None:
    kind = shape if isinstance(shape, type) else type(shape)
    if not isinstance(value, kind):
        return f"{place} is no {kind.__name__}"
    if isinstance(shape, list):
        parts = [(part, shape[0], f"{place}[{k}]") for k, part in enumerate(value)]
    elif isinstance(shape, dict):
        names = {key.rstrip("?"): key for key in shape}
        if missing := [k for k, key in names.items() if k == key and k not in value]:
            return f"{place} has no {missing[0]!r}"
        parts = [(value[k], shape[key], repr(k)) for k, key in names.items() if k in value]
    else:
        return None
    return next(filter(None, (_misshapen(*part) for part in parts)), None)


def write_json(path: Path, content: dict) -> None:
    """Write plain values, whole."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())


def load_archive(path: Path, mmap: bool = False) -> object:
    """What torch.save wrote; nothing in the file is executed, and its checksums are looked at."""
    with ZipFile(path) as archive:  # torch itself doesn't
        if (bad := archive.testzip()) is not None:
            raise BadZipFile(f"{bad} has another checksum")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
