"""Tensors that took time to make, kept in a file that knows whether it is whole."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minidit.train import replacing


def kept(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What lies in the file, else what `make` makes, which is then put there.

    A file that is damaged is made anew; a folder that can't be written costs only the time.
    """
    tensors = _read(path)
    if tensors is None:
        tensors = make()
        try:
            with replacing(path) as file:
                file.write(save(tensors, {"sha256": _sha256(tensors)}))
        except OSError:
            pass  # a folder that is read-only or full: the tensors are at hand all the same
    return tensors


def _read(path: Path) -> dict[str, Tensor] | None:
    """What `kept` wrote, or None if it is not there or not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            whole = (file.metadata() or {}).get("sha256") == _sha256(tensors)
    except (OSError, SafetensorError):
        return None
    return tensors if whole else None


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy())
    return digest.hexdigest()
