"""Pixels as they are stored, bytes, and as networks see them, numbers in -1..1."""

import torch
from torch import Tensor


def to_unit(images: Tensor) -> Tensor:
    """uint8 in 0..255, any shape → float32 in -1..1, the range that the networks see."""
    if images.dtype != torch.uint8:
        raise TypeError(f"images has dtype {images.dtype}; to_unit takes uint8 in 0..255")
    return images.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Floats, nominally -1..1, any shape → uint8 in 0..255: rounded, and clamped outside."""
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; to_uint8 takes floats in -1..1")
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def as_unit(images: Tensor) -> Tensor:
    """Images as networks see them: bytes by `to_unit`, floats as they are, any shape."""
    return to_unit(images) if images.dtype == torch.uint8 else images
