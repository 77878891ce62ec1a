"""Getting a file whole: download it, check it, and only then give it its name."""

import hashlib
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from minidit.weights.files import locked

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20
Report = Callable[[int, int | None], None]


class DownloadError(OSError):
    """A file that is needed is not there and could not be fetched."""


@dataclass(frozen=True)
class Source:
    """A published file."""

    name: str
    size: int | None  # bytes, where it is known
    sha256: str | None
    mirrors: tuple[str, ...]  # URLs of folders


def fetch(source: Source, folder: Path, report: Report = lambda done, size: None) -> Path:
    """The file's path in `folder`; DownloadError says what to do if no mirror gives it whole.

    What came of a transfer that broke off is kept, and the next call goes on there.
    `report(done, size)` hears of bytes.
    """
    reasons = []
    for mirror in source.mirrors:
        try:
            return _download(mirror + source.name, source, folder / source.name, report)
        except (OSError, HTTPException) as error:
            reasons.append(str(error) or type(error).__name__)
    urls = " or ".join(mirror + source.name for mirror in source.mirrors)
    raise DownloadError(
        f"{source.name} could not be downloaded ({'; '.join(dict.fromkeys(reasons))}): get {urls} "
        f"(SHA-256 {source.sha256 or 'unknown'}) by other means and put it into {folder}"
    )


def _download(url: str, source: Source, target: Path, report: Report) -> Path:
    """One attempt; OSError if the answer is not exactly the file."""
    part = target.with_name(target.name + ".partial")
    with locked(target.with_name(target.name + ".lock")):
        # the last byte once more, for nothing can't be asked for where all has come
        done = max(part.stat().st_size - 1, 0) if part.exists() else 0
        rest = {"Range": f"bytes={done}-"} if done else {}
        request = urllib.request.Request(url, headers=rest)
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT)
        except HTTPError as error:
            if error.code == 416:  # it has become shorter
                part.unlink()
                raise OSError(f"{part.name} was no part of it; try again") from None
            raise
        with answer, open(part, "ab") as file:
            done = done if answer.status == 206 else 0  # it may know no parts
            file.truncate(done)
            length = answer.headers.get("Content-Length")
            whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
            told = int(whole) if whole.isdecimal() else done + int(length) if length else None
            size = source.size or told
            while (size is None or done <= size) and (chunk := answer.read(CHUNK)):
                file.write(chunk)
                done += len(chunk)
                report(done, size)
        if size is not None and done < size:
            raise OSError(f"the transfer stopped after {done} of {size} bytes")
    fault = f"more than the expected {size} bytes came" if done > (size or done) else None
    if fault is None and source.sha256 is not None:
        digest = hashlib.sha256()
        with open(part, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != source.sha256:
            fault = f"what came has another SHA-256, {digest.hexdigest()}"
    if fault is not None:
        part.unlink()
        raise OSError(fault)
    os.replace(part, target)
    return target
