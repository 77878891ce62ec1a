"""Official weights in and out: the same networks under other names.

The papers' codes compute the same; only names, held by `official_dit` and `official_uvit`,
and two memory layouts differ. All else is read off the tensors.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from minidit.dit import DiT
from minidit.uvit import UViT
from minidit.weights import Outline, official_dit, official_uvit
from minidit.weights.files import load_archive


def load_official(
    source: Mapping[str, Tensor] | str | Path,
    num_heads: int | None = None,
    *,
    null_label: bool = True,
) -> DiT | UViT:
    """The network that official weights describe, in evaluation mode, with the same outputs.

    `source`: a state dict of DiT or U-ViT, plain or under the key "ema", or a file with one (*.pt,
    *.pth, *.safetensors); nothing in a file is executed, and its tensors are used as they are,
    without a second copy. `num_heads` leaves no trace in the tensors: it may be left out for the
    papers' widths. `null_label`: whether the last row of the label table is the null label; it
    is, unless the network was trained without label dropout.
    Raises ValueError for anything that is not a whole network, naming the first wrong tensor.
    """
    tensors = _state_dict(source)
    uvit = any(name.startswith(("mid_block.", "in_blocks.", "out_blocks.")) for name in tensors)
    code = official_uvit if uvit else official_dit
    config = read_config(tensors, num_heads, null_label, code)
    with Outline():  # no memory, no time
        model = code.Network(**config)
    empty, names = model.state_dict(), code.names_of(config)
    first = next(iter(tensors.values()))
    for name, own in names.items():
        kind = (tensors[name].dtype, tensors[name].layout, tensors[name].is_meta)
        if kind != (first.dtype, torch.strided, first.is_meta) or first.dtype.itemsize < 2:
            raise ValueError(f"{name} is {kind[0]}, {kind[1]}; expected dense floats, all alike")
        expected = to_official(own, empty[own].to("meta"), model.patch_size).shape
        if tensors[name].shape != expected:
            raise ValueError(
                f"{name} has shape {tuple(tensors[name].shape)}; {tuple(expected)} would fit the "
                "rest"
            )
        if not (first.is_meta or tensors[name].isfinite().all()):
            raise ValueError(f"{name} has numbers that are not finite; get these weights again")
    ours = {names[name]: to_ours(names[name], tensor) for name, tensor in tensors.items()}
    model.load_state_dict(ours, assign=True)
    return model.eval()


def export_official(model: DiT | UViT) -> dict[str, Tensor]:
    """The official code's state dict, to the bit; TypeError or ValueError for other networks."""
    codes = {DiT: official_dit, UViT: official_uvit}
    if type(model) not in codes:
        raise TypeError(f"model is a {type(model).__name__}; only DiT and UViT have official names")
    code = codes[type(model)]
    code.check_export(model)
    if model.size[0] != model.size[1]:
        raise ValueError(f"input_size={model.size}: the official code has square images only")
    ours = model.state_dict()
    return {
        name: to_official(own, ours[own].detach(), model.patch_size)
        for name, own in code.names_of(model.config).items()
    }


def to_ours(own: str, tensor: Tensor) -> Tensor:
    """An official tensor in our layout; own: our name of it."""
    if own == "patch_embed.proj.weight":
        return rearrange(tensor, "d c p1 p2 -> d (p1 p2 c)")
    return tensor[0] if own == "pos_embed" else tensor


def to_official(own: str, tensor: Tensor, p: int) -> Tensor:
    """Our tensor in the official layout; p: the patch size."""
    if own == "patch_embed.proj.weight":
        return rearrange(tensor, "d (p1 p2 c) -> d c p1 p2", p1=p, p2=p).contiguous()
    return tensor[None] if own == "pos_embed" else tensor


def read_config(
    tensors: Mapping[str, Tensor],
    num_heads: int | None = None,
    null_label: bool = True,
    code: ModuleType = official_dit,
) -> dict:
    """The arguments of the network that a state dict's names and shapes tell."""
    outline = code.outline(tensors)
    names = code.names_of(outline)
    if odd := sorted(names.keys() ^ tensors.keys()):
        fault, network = "missing" if odd[0] in names else "unknown", code.Network.__name__
        raise ValueError(
            f"these are no official {network} weights: {odd[0]} is {fault} ({len(odd)} such)"
        )
    ranks = {"patch_embed.proj.weight": "(d, c, p, p)", "pos_embed": "(1, n, d)"}
    shape = {}  # by our names
    for name, own in names.items():
        shape[own] = tuple(tensors[name].shape)
        if not shape[own]:
            raise ValueError(f"{name} is a single number; every official weight has dimensions")
        if own in ranks and len(shape[own]) != ranks[own].count(",") + 1:
            raise ValueError(f"{name} has shape {shape[own]}; expected {ranks[own]}")
    width, channels, patch, _ = shape["patch_embed.proj.weight"]
    if num_heads is None and width not in code.HEADS:
        raise ValueError(
            f"num_heads is needed: it can't be read off the tensors, and width {width} is none of "
            f"the paper's {sorted(code.HEADS)}"
        )
    rows = shape.get("label_embed.table.weight", (0,))[0]
    n = shape["pos_embed"][1] - code.CONDITION_TOKENS * (1 + (rows > 0))
    if n < 1 or math.isqrt(n) ** 2 != n:
        raise ValueError(f"pos_embed has {n} positions of patches, which are no square grid")
    inner = shape["blocks.0.mlp.up.bias"][0]
    config = {
        "input_size": math.isqrt(n) * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        **outline,
        "num_heads": code.HEADS.get(width) if num_heads is None else num_heads,
        "mlp_ratio": inner / width,
        "num_classes": rows - bool(rows and null_label),
        "class_dropout_prob": 0.1 if null_label else 0.0,
    }
    if code is official_dit:
        outputs = shape["final.proj.bias"][0]
        config["learn_sigma"] = official_dit.learns_sigma(outputs, channels, patch)
    if "label_embed.table.weight" in shape and config["num_classes"] < 1:
        raise ValueError(
            "the label table has one row, and with null_label=True that leaves no class; "
            "null_label=False takes it for a class"
        )
    if int(width * config["mlp_ratio"]) != inner:  # rounded down, the ratio may fall short
        config["mlp_ratio"] = math.nextafter(config["mlp_ratio"], math.inf)
    return config


def _state_dict(source: Mapping[str, Tensor] | str | Path) -> Mapping[str, Tensor]:
    content = _read(Path(source)) if isinstance(source, str | Path) else source
    if not isinstance(content, Mapping):
        raise TypeError(f"source holds a {type(content).__name__}, not a state dict")
    # Of a training checkpoint the average, which samples well.
    inner = [content[key] for key in ("ema", "model") if isinstance(content.get(key), Mapping)]
    content = inner[0] if inner else content
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(
                f"source is no state dict: {name!r} is a {type(tensor).__name__}; it must hold "
                "tensors by their names, itself or under the key 'ema'"
            )
    return content


def _read(path: Path) -> Mapping:
    if not path.is_file():
        way_out = "give the path of *.pt or *.safetensors, or a state dict"
        raise ValueError(f"{path} is no file; {way_out}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The official training loop stores its command line, a Namespace of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]), open(path, "rb") as file:
            zipped = file.read(2) == b"PK"  # the format since torch 1.6, which can stay on disk
            if zipped:
                return load_archive(path, mmap=True)
            return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    except Exception as error:  # torch raises many kinds for a damaged or a dangerous file
        raise ValueError(
            f"{path} can't be read as weights; it is damaged, or holds code, which is never run"
        ) from error
