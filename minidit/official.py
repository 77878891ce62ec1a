"""Official DiT weights in and out (facebookresearch/DiT): the same network under other names.

The paper's code and this package compute the same function; only names and two memory layouts
differ. `NAMES` is the whole dictionary, and every other argument is read off the tensors.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from minidit.dit import DIT_SIZES, DiT

NAMES = {  # official → ours; {i} counts the blocks
    "x_embedder.proj.weight": "patch_embed.proj.weight",  # a convolution (d, c, p, p) there
    "x_embedder.proj.bias": "patch_embed.proj.bias",
    "pos_embed": "pos_embed",  # (1, n, d) there
    "t_embedder.mlp.0.weight": "time_embed.mlp.0.weight",
    "t_embedder.mlp.0.bias": "time_embed.mlp.0.bias",
    "t_embedder.mlp.2.weight": "time_embed.mlp.2.weight",
    "t_embedder.mlp.2.bias": "time_embed.mlp.2.bias",
    "y_embedder.embedding_table.weight": "label_embed.table.weight",
    "blocks.{i}.attn.qkv.weight": "blocks.{i}.attn.qkv.weight",
    "blocks.{i}.attn.qkv.bias": "blocks.{i}.attn.qkv.bias",
    "blocks.{i}.attn.proj.weight": "blocks.{i}.attn.proj.weight",
    "blocks.{i}.attn.proj.bias": "blocks.{i}.attn.proj.bias",
    "blocks.{i}.mlp.fc1.weight": "blocks.{i}.mlp.up.weight",
    "blocks.{i}.mlp.fc1.bias": "blocks.{i}.mlp.up.bias",
    "blocks.{i}.mlp.fc2.weight": "blocks.{i}.mlp.down.weight",
    "blocks.{i}.mlp.fc2.bias": "blocks.{i}.mlp.down.bias",
    "blocks.{i}.adaLN_modulation.1.weight": "blocks.{i}.adaln.weight",
    "blocks.{i}.adaLN_modulation.1.bias": "blocks.{i}.adaln.bias",
    "final_layer.adaLN_modulation.1.weight": "final.adaln.weight",
    "final_layer.adaLN_modulation.1.bias": "final.adaln.bias",
    "final_layer.linear.weight": "final.proj.weight",  # rows (p, q, c), channels last, as ours
    "final_layer.linear.bias": "final.proj.bias",
}
HEADS = {size["hidden_size"]: size["num_heads"] for size in DIT_SIZES.values()}  # by width


def load_official(
    source: Mapping[str, Tensor] | str | Path,
    num_heads: int | None = None,
    *,
    null_label: bool = True,
) -> DiT:
    """The DiT that official weights describe, in evaluation mode, with the same outputs.

    `source`: a state dict, plain or under the key "ema", or a file with one (*.pt, *.safetensors);
    nothing in a file is executed, and its tensors are used as they are, without a second copy.
    `num_heads` leaves no trace in the tensors: it may be left out for the paper's widths 384, 768,
    1024 and 1152. `null_label`: whether the last row of the label table is the null label; it is,
    unless the network was trained without label dropout.
    Raises ValueError for anything that is not a whole DiT, naming the first tensor that is wrong.
    """
    tensors = _state_dict(source)
    config = read_config(tensors, num_heads, null_label)
    with torch.device("meta"):  # no memory, no time
        model = DiT(**config)
    _check_shapes(model, tensors)
    names = names_of(config["depth"])
    ours = {names[name]: _to_ours(name, tensor) for name, tensor in tensors.items()}
    model.load_state_dict(ours, assign=True)
    return model.eval()


def export_official(model: DiT) -> dict[str, Tensor]:
    """The state dict that the official code loads: the inverse of `load_official`, to the bit.

    Raises TypeError or ValueError for a network that the official code doesn't have.
    """
    if not isinstance(model, DiT):
        raise TypeError(f"model is a {type(model).__name__}; only a DiT has official names")
    if model.config["block"] != "adaln_zero" or model.label_embed is None:
        raise ValueError(
            f"block={model.config['block']!r}, num_classes={model.config['num_classes']}: the "
            "official code has block 'adaln_zero' and at least one class"
        )
    if model.size[0] != model.size[1]:
        raise ValueError(f"input_size={model.size}: the official code has square images only")
    ours = model.state_dict()
    names = names_of(len(model.blocks))
    return {
        name: _to_official(name, ours[own].detach(), model.patch_size)
        for name, own in names.items()
    }


def names_of(depth: int) -> dict[str, str]:
    """`NAMES` written out for so many blocks."""
    return {
        official.format(i=i): own.format(i=i)
        for official, own in NAMES.items()
        for i in range(depth if "{i}" in official else 1)
    }


def read_config(
    tensors: Mapping[str, Tensor], num_heads: int | None = None, null_label: bool = True
) -> dict:
    """The arguments of `DiT` that a state dict's shapes tell."""
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    _check_names(tensors, depth)
    shape = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    width, channels, patch, n, inner, features = _sizes(shape)
    return {
        "input_size": math.isqrt(n) * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": depth,
        "num_heads": num_heads or _heads(width),
        "mlp_ratio": _ratio(inner, width),
        "num_classes": shape["y_embedder.embedding_table.weight"][0] - bool(null_label),
        "class_dropout_prob": 0.1 if null_label else 0.0,
        "learn_sigma": features == 2 * channels * patch**2,
    }


def _sizes(shape: dict[str, tuple]) -> tuple[int, ...]:
    """Width, channels, patch, positions, width inside the MLP, features of the last layer."""
    for name, kind in {"x_embedder.proj.weight": "(d, c, p, p)", "pos_embed": "(1, n, d)"}.items():
        if len(shape[name]) != kind.count(",") + 1:
            raise ValueError(f"{name} has shape {shape[name]}; expected {kind}")
    width, channels, patch, _ = shape["x_embedder.proj.weight"]
    n, features = shape["pos_embed"][1], shape["final_layer.linear.bias"][0]
    if math.isqrt(n) ** 2 != n:
        raise ValueError(f"pos_embed has {n} positions, which are no square grid")
    if features not in (patch**2 * channels, patch**2 * 2 * channels):
        raise ValueError(
            f"final_layer.linear has {features} outputs; patches of {patch}×{patch} pixels and "
            f"{channels} channels need {patch**2 * channels}, or twice that with learned sigma"
        )
    return width, channels, patch, n, shape["blocks.0.mlp.fc1.bias"][0], features


def _ratio(inner: int, width: int) -> float:
    """A ratio whose product with the width rounds down to `inner`: inner / width may fall short."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else math.nextafter(ratio, math.inf)


def _heads(width: int) -> int:
    if width not in HEADS:
        raise ValueError(
            f"num_heads is needed: it can't be read off the tensors, and width {width} is none of "
            f"the paper's {sorted(HEADS)}"
        )
    return HEADS[width]


def _to_ours(name: str, tensor: Tensor) -> Tensor:
    if name == "x_embedder.proj.weight":
        return rearrange(tensor, "d c p1 p2 -> d (p1 p2 c)")
    return tensor[0] if name == "pos_embed" else tensor


def _to_official(name: str, tensor: Tensor, p: int) -> Tensor:
    if name == "x_embedder.proj.weight":
        return rearrange(tensor, "d (p1 p2 c) -> d c p1 p2", p1=p, p2=p).contiguous()
    return tensor[None] if name == "pos_embed" else tensor


def _check_names(tensors: Mapping[str, Tensor], depth: int) -> None:
    names = names_of(max(depth, 1))
    odd = sorted(names.keys() ^ tensors.keys())
    if odd:
        fault = "missing" if odd[0] in names else "unknown"
        raise ValueError(
            f"these are no official DiT weights: {odd[0]} is {fault} ({len(odd)} such)"
        )


def _check_shapes(model: DiT, tensors: Mapping[str, Tensor]) -> None:
    p = model.patch_size
    own = {name: t.to("meta") for name, t in model.state_dict().items()}
    for name, ours in names_of(len(model.blocks)).items():
        expected, given = _to_official(name, own[ours], p).shape, tensors[name].shape
        if given != expected:
            raise ValueError(
                f"{name} has shape {tuple(given)}; {tuple(expected)} would fit the rest"
            )


def _state_dict(source: Mapping[str, Tensor] | str | Path) -> Mapping[str, Tensor]:
    content = _read(Path(source)) if isinstance(source, str | Path) else source
    if not isinstance(content, Mapping):
        raise TypeError(f"source holds a {type(content).__name__}, not a state dict")
    for key in ("ema", "model"):  # a training checkpoint; its average is what samples well
        if isinstance(content.get(key), Mapping):
            return content[key]
    return content


def _read(path: Path) -> Mapping:
    if not path.is_file():
        raise ValueError(
            f"{path} is no file; give the path of *.pt or *.safetensors, or a state dict"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The official training loop stores its command line, a Namespace of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return _torch_load(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    except Exception as error:  # torch raises many kinds for a damaged or a dangerous file
        raise ValueError(
            f"{path} can't be read as weights; it is damaged, or holds code, which is never run"
        ) from error


def _torch_load(path: Path):
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"  # the format since torch 1.6, which can stay on disk
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
