"""Getting a file whole: download it, check it, and only then give it its name."""

import hashlib
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from minidit.weights.files import replacing

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20


class DownloadError(OSError):
    """A file that is needed is not there and could not be fetched."""


@dataclass(frozen=True)
class Source:
    """A published file."""

    name: str
    size: int  # bytes
    sha256: str
    mirrors: tuple[str, ...]  # URLs of folders


def fetch(source: Source, folder: Path) -> Path:
    """The file's path in `folder`; DownloadError says what to do if no mirror gives it whole."""
    reasons = []
    for mirror in source.mirrors:
        try:
            return _download(mirror + source.name, source, folder / source.name)
        except (OSError, HTTPException) as error:
            reasons.append(str(error) or type(error).__name__)
    urls = " or ".join(mirror + source.name for mirror in source.mirrors)
    raise DownloadError(
        f"{source.name} could not be downloaded ({'; '.join(dict.fromkeys(reasons))}): get {urls} "
        f"(SHA-256 {source.sha256}) by other means and put it into {folder}"
    )


def _download(url: str, source: Source, target: Path) -> Path:
    """One attempt; OSError if the answer is not exactly the file."""
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, replacing(target) as file:
        while size <= source.size and (chunk := answer.read(CHUNK)):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        if size < source.size:
            raise OSError(f"the transfer stopped after {size} of {source.size} bytes")
        if size > source.size:
            raise OSError(f"more than the expected {source.size} bytes came")
        if digest.hexdigest() != source.sha256:
            raise OSError(f"what came has another SHA-256, {digest.hexdigest()}")
    return target
