"""The names and layouts of facebookresearch/DiT: how its state dict describes a `DiT`."""

import math
from collections.abc import Mapping

from einops import rearrange
from torch import Tensor

from minidit.dit import DIT_SIZES, DiT

Network = DiT
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


def names_of(config: dict) -> dict[str, str]:
    """`NAMES` written out for a network's blocks: official → ours."""
    return {
        official.format(i=i): own.format(i=i)
        for official, own in NAMES.items()
        for i in range(config["depth"] if "{i}" in official else 1)
    }


def outline(tensors: Mapping[str, Tensor]) -> dict:
    """What the names alone tell of the network, enough for `names_of`."""
    return {"depth": len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})}


def read_config(tensors: Mapping[str, Tensor], num_heads: int, null_label: bool = True) -> dict:
    """The arguments of `DiT` that a whole state dict's shapes tell."""
    shape = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    width, channels, patch, n, inner, features = _sizes(shape)
    return {
        "input_size": math.isqrt(n) * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        **outline(tensors),
        "num_heads": num_heads,
        "mlp_ratio": inner / width,
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


def check_export(model: DiT) -> None:
    """Raise ValueError for a network that the official code doesn't have."""
    if model.config["block"] != "adaln_zero" or model.label_embed is None:
        raise ValueError(
            f"block={model.config['block']!r}, num_classes={model.config['num_classes']}: the "
            "official code has block 'adaln_zero' and at least one class"
        )


def to_ours(name: str, tensor: Tensor) -> Tensor:
    """An official tensor in our layout."""
    if name == "x_embedder.proj.weight":
        return rearrange(tensor, "d c p1 p2 -> d (p1 p2 c)")
    return tensor[0] if name == "pos_embed" else tensor


def to_official(name: str, tensor: Tensor, p: int) -> Tensor:
    """Our tensor in the official layout; p: the patch size."""
    if name == "x_embedder.proj.weight":
        return rearrange(tensor, "d (p1 p2 c) -> d c p1 p2", p1=p, p2=p).contiguous()
    return tensor[None] if name == "pos_embed" else tensor
