"""Input checks that several modules share: each names the argument, the value, and the way out."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {allowed}")


def check_positive(**sizes: int) -> None:
    """Raise TypeError or ValueError for the first size that is not an integer of at least 1."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name}={value!r} must be an integer, not {type(value).__name__}")
        if not 1 <= value < 2**31:
            raise ValueError(f"{name}={value} must be at least 1" + " and below 2³¹" * (value > 1))


def check_tensor(name: str, value: object, shape: str) -> None:
    """Raise TypeError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise TypeError(f"{name} must be a tensor {shape}, not {kind}; torch.as_tensor makes one")


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, of one in `DataParallel`, `DistributedDataParallel`, `torch.compile`."""
    wrappers = nn.DataParallel | nn.parallel.DistributedDataParallel
    while hasattr(model, "_orig_mod") or isinstance(model, wrappers):
        model = getattr(model, "_orig_mod", None) or model.module
    return model


def check_images(
    images: Tensor, channels: int | None = None, size: tuple | None = None, floats: bool = False
) -> None:
    """Raise unless `images` is a tensor (b, c, h, w), where given with these c and (h, w)."""
    check_tensor("images", images, "(b, c, h, w)")
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (b, c, h, w)")
    if channels is not None and images.shape[1] != channels:
        raise ValueError(f"images have {images.shape[1]} channels; in_channels is {channels}")
    if size is not None and tuple(images.shape[2:]) != tuple(size):
        raise ValueError(f"images are {tuple(images.shape[2:])} pixels; input_size is {size}")
    if floats and not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}; networks see floats in [-1, 1]: data.to_unit")


def plain_size(input_size: int | tuple) -> int | tuple:
    """A side, or (height, width) as a tuple; raise TypeError for anything else."""
    if isinstance(input_size, int):
        return input_size
    sides = tuple(input_size) if isinstance(input_size, list | tuple) else ()
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise TypeError(f"input_size={input_size!r} must be an integer or (height, width)")
    return sides


def check_grid(input_size: int | tuple, patch_size: int) -> tuple[tuple, tuple]:
    """The size (height, width) and the grid of patches (h, w); raise if patches don't fit."""
    check_positive(patch_size=patch_size)
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if any(side < 1 or side % patch_size for side in size):
        raise ValueError(
            f"patch_size={patch_size} does not divide input_size={input_size}; "
            "choose a patch_size that divides both sides, or pad the images"
        )
    return size, tuple(side // patch_size for side in size)


def check_times(t: Tensor, batch: int | None = None) -> None:
    """Raise unless `t` is a tensor (batch,): (1,) and (batch, 1) would broadcast silently."""
    b = "b" if batch is None else batch
    check_tensor("t", t, f"of shape ({b},)")
    if t.ndim != 1 or (batch is not None and t.shape[0] != batch):
        hint = f"torch.full(({b},), t) repeats one time for the batch"
        raise ValueError(f"t has shape {tuple(t.shape)}; expected ({b},); {hint}")
    if t.dtype in (torch.bool, torch.bfloat16):  # where 999 is 1000
        raise TypeError(f"t is {t.dtype}, which can't tell all times; use integers or float32")


def check_inputs(x: Tensor, t: Tensor, channels: int, size: tuple) -> None:
    """Raise unless a network can take images x (b, channels, *size), and one time for each."""
    check_images(x, channels, size, floats=True)
    check_times(t, x.shape[0])


def check_labels(y: Tensor, batch: int | None, limit: int) -> None:
    """Raise unless `y` is an integer tensor (batch,) with values in 0 … limit - 1."""
    b = "b" if batch is None else batch
    check_tensor("y", y, f"of shape ({b},)")
    if y.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"y has dtype {y.dtype}; labels are integers: use y.long()")
    if y.ndim != 1 or (batch is not None and y.shape[0] != batch):
        raise ValueError(f"y has shape {tuple(y.shape)}; expected ({b},), one label an image")
    check_range("y", y, limit, "is a label (the null label, if there is one, is the last)")


def readable(x: Tensor) -> bool:
    """Whether x has values to look at: none in torch.compile, vmap; a GPU would be awaited."""
    traced = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x)
    return x.is_cpu and not traced and x.numel() > 0


def check_range(name: str, x: Tensor, limit: int, what: str) -> None:
    """Raise ValueError unless the integers x, of any shape, are in 0 … limit - 1, if `readable`."""
    low, high = (int(end) for end in x.aminmax()) if readable(x) else (0, 0)
    if low < 0 or high >= limit:
        bad = low if low < 0 else high
        raise ValueError(f"{name} contains {bad}, which is out of range: 0 … {limit - 1} {what}")
