"""The names of baofff/U-ViT: how its state dict describes a `UViT`."""

from collections.abc import Iterable

from minidit.uvit import UVIT_SIZES, UViT
from minidit.weights.official_dit import tensors_of

Network = UViT
LAYERS = {  # official → ours, where the network has it
    "patch_embed.proj": "patch_embed.proj",  # a convolution (d, c, p, p) there
    "pos_embed": "pos_embed",  # (1, extras + n, d) there
    "time_embed.0": "time_embed.mlp.0",
    "time_embed.2": "time_embed.mlp.2",
    "label_emb": "label_embed.table",
    "norm": "final.norm",
    "decoder_pred": "final.proj",  # rows (p, q, c), channels last, as ours
    "final_layer": "conv_after",
}
BLOCK_LAYERS = {k: k for k in ("norm1", "attn.qkv", "attn.proj", "norm2")}
BLOCK_LAYERS |= {"mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
HEADS = {size["hidden_size"]: size["num_heads"] for size in UVIT_SIZES.values()}  # by width
CONDITION_TOKENS = True  # time and label are tokens, whose positions come first
SIGNS = ("mid_block.", "in_blocks.", "out_blocks.")  # with which names of this code begin


def names_of(config: dict) -> dict[str, str]:
    """Every official name of such a network → ours. Our blocks are one list; the skips another."""
    absent = {  # the first part of an official name: what goes without it
        "time_embed": not config["time_mlp"],
        "label_emb": not config["num_classes"],
        "final_layer": config["conv"] == "none",
    }
    layers = {k: own for k, own in LAYERS.items() if not absent.get(k.split(".")[0], False)}
    half = config["depth"] // 2
    inner, outer = ([f"{side}_blocks.{i}" for i in range(half)] for side in ("in", "out"))
    for i, place in enumerate([*inner, "mid_block", *outer]):
        layers |= {f"{place}.{k}": f"blocks.{i}.{own}" for k, own in BLOCK_LAYERS.items()}
    if config["skip"] == "concat":
        layers |= {f"{place}.skip_linear": f"skips.{i}.proj" for i, place in enumerate(outer)}
    names = tensors_of(layers)
    return {k: v for k, v in names.items() if config["qkv_bias"] or not k.endswith("qkv.bias")}


def outline(names: Iterable[str]) -> dict:
    """What the names alone tell of the network, enough for `names_of`."""
    half = len({name.split(".")[1] for name in names if name.startswith("in_blocks.")})
    return {
        "depth": 2 * half,  # 2·half + 1 would be the same network
        "num_classes": int("label_emb.weight" in names),
        "skip": "concat" if "out_blocks.0.skip_linear.weight" in names else "none",
        "conv": "after" if "final_layer.weight" in names else "none",
        "time_mlp": "time_embed.0.weight" in names,
        "qkv_bias": "mid_block.attn.qkv.bias" in names,
    }


def check_export(model: UViT) -> None:
    """Raise ValueError for a network that the official code doesn't have."""
    official = dict(learn_sigma=[False], skip=["concat", "none"], time=["token"])
    official |= dict(conv=["after", "none"], patch_embed=["linear"], pos_embed=["learned_1d"])
    for name, allowed in official.items():
        if model.config[name] not in allowed:
            raise ValueError(f"{name}={model.config[name]!r}: the official code has only {allowed}")
