"""Tensors that took time to make, kept in a file that knows what it holds and if it is whole."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minidit.weights.files import check_plain, replacing


def drawn(
    path: Path, split: str, seed: int, names: tuple[str, ...], draw: Callable[[int], tuple]
) -> list[Tensor]:
    """Tensors by name, drawn by `draw(stream)`, or those that an earlier call left beside `path`.

    A folder that can't be written costs only the time. Raises TypeError or ValueError unless `seed`
    is an integer in 0 … 2³¹ - 1.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed={seed!r} must be an integer, not {type(seed).__name__}")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed={seed} must lie in 0..{2**31 - 1}")
    path = path.with_name(f"{path.name}-seed{seed}-{split}.safetensors")

    def make() -> dict[str, Tensor]:
        # Neighbouring streams: no seed's training images are another seed's test images.
        return dict(zip(names, draw(2 * seed + (split == "test"))))

    try:
        tensors = kept(path, {}, make)
    except OSError:  # a folder that is read-only or full
        tensors = make()
    return [tensors[name] for name in names]


def kept(
    path: Path, facts: dict[str, str], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors in the file `path`, if it is whole and has these facts, else those of `make`.

    Those are written there. Raises OSError before anything is made if the file can't be written.
    """
    check_plain(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            if file.metadata() == facts | {"sha256": sha256(tensors)}:
                return tensors
    except (OSError, SafetensorError):
        pass  # not there, or not whole
    with replacing(path) as file:  # first, so that it fails before the work, not after it
        tensors = make()
        file.write(safetensors.torch.save(tensors, facts | {"sha256": sha256(tensors)}))
    return tensors


def sha256(tensors: dict[str, Tensor]) -> str:
    """The sha256 of all tensors, their names, dtypes, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].cpu().contiguous().numpy())
    return digest.hexdigest()
