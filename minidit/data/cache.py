"""Tensors that took time to make, kept in a file that knows what it holds and if it is whole."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minidit._validate import check_seed
from minidit.train import replacing


def drawn(
    path: Path, split: str, seed: int, names: tuple[str, ...], draw: Callable[[int], tuple]
) -> list[Tensor]:
    """Tensors by name, drawn by `draw(stream)`, or those that an earlier call left beside `path`.

    A file that is damaged is made anew; a folder that can't be written costs only the time.
    """
    check_seed(seed)
    path = path.with_name(f"{path.name}-seed{seed}-{split}.safetensors")
    tensors = read(path, {})
    if tensors is None:
        # Neighbouring streams: no seed's training images are another seed's test images.
        tensors = dict(zip(names, draw(2 * seed + (split == "test"))))
        try:
            with replacing(path) as file:
                file.write(packed(tensors, {}))
        except OSError:
            pass  # a folder that is read-only or full: the tensors are at hand all the same
    return [tensors[name] for name in names]


def packed(tensors: dict[str, Tensor], facts: dict[str, str]) -> bytes:
    """What `read` reads: a safetensors file with `facts` and the tensors' sha256 in its header."""
    return safetensors.torch.save(tensors, facts | {"sha256": sha256(tensors)})


def read(path: Path, facts: dict[str, str]) -> dict[str, Tensor] | None:
    """The tensors of a file, or None if it is not there, not whole, or has other facts."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            whole = file.metadata() == facts | {"sha256": sha256(tensors)}
    except (OSError, SafetensorError):
        return None
    return tensors if whole else None


def sha256(tensors: dict[str, Tensor]) -> str:
    """The sha256 of the numbers of all tensors, by the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].cpu().contiguous().numpy())
    return digest.hexdigest()
