"""The names and layouts of baofff/U-ViT: how its state dict describes a `UViT`."""

import math
from collections.abc import Mapping

from einops import rearrange
from torch import Tensor

from minidit.uvit import UVIT_SIZES, UViT

Network = UViT
NAMES = {  # official → ours, where the network has it
    "patch_embed.proj.weight": "patch_embed.proj.weight",  # a convolution (d, c, p, p) there
    "patch_embed.proj.bias": "patch_embed.proj.bias",
    "pos_embed": "pos_embed",  # (1, extras + n, d) there
    "time_embed.0.weight": "time_embed.mlp.0.weight",
    "time_embed.0.bias": "time_embed.mlp.0.bias",
    "time_embed.2.weight": "time_embed.mlp.2.weight",
    "time_embed.2.bias": "time_embed.mlp.2.bias",
    "label_emb.weight": "label_embed.table.weight",
    "norm.weight": "final.norm.weight",
    "norm.bias": "final.norm.bias",
    "decoder_pred.weight": "final.proj.weight",  # rows (p, q, c), channels last, as ours
    "decoder_pred.bias": "final.proj.bias",
    "final_layer.weight": "conv_after.weight",
    "final_layer.bias": "conv_after.bias",
}
BLOCK_NAMES = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attn.qkv.weight": "attn.qkv.weight",
    "attn.qkv.bias": "attn.qkv.bias",
    "attn.proj.weight": "attn.proj.weight",
    "attn.proj.bias": "attn.proj.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.weight": "mlp.up.weight",
    "mlp.fc1.bias": "mlp.up.bias",
    "mlp.fc2.weight": "mlp.down.weight",
    "mlp.fc2.bias": "mlp.down.bias",
}
HEADS = {size["hidden_size"]: size["num_heads"] for size in UVIT_SIZES.values()}  # by width


def names_of(config: dict) -> dict[str, str]:
    """Every official name of such a network → ours. Our blocks are one list; the skips another."""
    absent = {  # the first part of an official name: what goes without it
        "time_embed": not config["time_mlp"],
        "label_emb": not config["num_classes"],
        "final_layer": config["conv"] == "none",
    }
    names = {k: own for k, own in NAMES.items() if not absent.get(k.split(".")[0], False)}
    half = config["depth"] // 2
    places = [f"in_blocks.{i}" for i in range(half)]
    places += ["mid_block", *(f"out_blocks.{i}" for i in range(half))]
    for i, place in enumerate(places):
        for official, own in BLOCK_NAMES.items():
            if official != "attn.qkv.bias" or config["qkv_bias"]:
                names[f"{place}.{official}"] = f"blocks.{i}.{own}"
    for i in range(half if config["skip"] == "concat" else 0):
        for kind in ("weight", "bias"):
            names[f"out_blocks.{i}.skip_linear.{kind}"] = f"skips.{i}.proj.{kind}"
    return names


def outline(tensors: Mapping[str, Tensor]) -> dict:
    """What the names alone tell of the network, enough for `names_of`."""
    half = len({name.split(".")[1] for name in tensors if name.startswith("in_blocks.")})
    return {
        "depth": 2 * half,  # 2·half + 1 would be the same network
        "num_classes": int("label_emb.weight" in tensors),
        "skip": "concat" if "out_blocks.0.skip_linear.weight" in tensors else "none",
        "conv": "after" if "final_layer.weight" in tensors else "none",
        "time_mlp": "time_embed.0.weight" in tensors,
        "qkv_bias": "mid_block.attn.qkv.bias" in tensors,
    }


def read_config(tensors: Mapping[str, Tensor], num_heads: int, null_label: bool = True) -> dict:
    """The arguments of `UViT` that a whole state dict's shapes tell."""
    shape = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, kind in {"patch_embed.proj.weight": "(d, c, p, p)", "pos_embed": "(1, n, d)"}.items():
        if len(shape[name]) != kind.count(",") + 1:
            raise ValueError(f"{name} has shape {shape[name]}; expected {kind}")
    width, channels, patch, _ = shape["patch_embed.proj.weight"]
    rows = shape.get("label_emb.weight", (0,))[0]
    n = shape["pos_embed"][1] - 1 - (rows > 0)  # without the tokens of time and label
    if n < 1 or math.isqrt(n) ** 2 != n:
        raise ValueError(f"pos_embed has {n} positions of patches, which are no square grid")
    return {
        **outline(tensors),
        "input_size": math.isqrt(n) * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "num_heads": num_heads,
        "mlp_ratio": shape["mid_block.mlp.fc1.bias"][0] / width,
        "num_classes": rows - (rows > 0 and null_label),
        "class_dropout_prob": 0.1 if null_label else 0.0,
    }


def check_export(model: UViT) -> None:
    """Raise ValueError for a network that the official code doesn't have."""
    official = {
        "learn_sigma": (False,),
        "skip": ("concat", "none"),
        "time": ("token",),
        "conv": ("after", "none"),
        "patch_embed": ("linear",),
        "pos_embed": ("learned_1d",),
    }
    for name, allowed in official.items():
        if model.config[name] not in allowed:
            raise ValueError(
                f"{name}={model.config[name]!r}: the official code has only {list(allowed)}"
            )


def to_ours(name: str, tensor: Tensor) -> Tensor:
    """An official tensor in our layout."""
    if name == "patch_embed.proj.weight":
        return rearrange(tensor, "d c p1 p2 -> d (p1 p2 c)")
    return tensor[0] if name == "pos_embed" else tensor


def to_official(name: str, tensor: Tensor, p: int) -> Tensor:
    """Our tensor in the official layout; p: the patch size."""
    if name == "patch_embed.proj.weight":
        return rearrange(tensor, "d (p1 p2 c) -> d c p1 p2", p1=p, p2=p).contiguous()
    return tensor[None] if name == "pos_embed" else tensor
