"""The names of facebookresearch/DiT: how its state dict describes a `DiT`."""

from collections.abc import Iterable

from minidit.dit import DIT_SIZES, DiT

Network = DiT
LAYERS = {  # official → ours; {i} counts the blocks
    "x_embedder.proj": "patch_embed.proj",  # a convolution (d, c, p, p) there
    "pos_embed": "pos_embed",  # (1, n, d) there
    "t_embedder.mlp.0": "time_embed.mlp.0",
    "t_embedder.mlp.2": "time_embed.mlp.2",
    "y_embedder.embedding_table": "label_embed.table",
    "blocks.{i}.attn.qkv": "blocks.{i}.attn.qkv",
    "blocks.{i}.attn.proj": "blocks.{i}.attn.proj",
    "blocks.{i}.mlp.fc1": "blocks.{i}.mlp.up",
    "blocks.{i}.mlp.fc2": "blocks.{i}.mlp.down",
    "blocks.{i}.adaLN_modulation.1": "blocks.{i}.adaln",
    "final_layer.adaLN_modulation.1": "final.adaln",
    "final_layer.linear": "final.proj",  # rows (p, q, c), channels last, as ours
}
HEADS = {size["hidden_size"]: size["num_heads"] for size in DIT_SIZES.values()}  # by width
CONDITION_TOKENS = False  # none of the positions is a token's of time or label
SIGNS = ("x_embedder.", "final_layer.adaLN", "t_embedder.")  # with which names of this code begin


def tensors_of(layers: dict[str, str]) -> dict[str, str]:
    """The same for the tensors of layers: most have a weight and a bias."""
    kinds = {"pos_embed": ("",), "label_embed.table": (".weight",)}
    return {
        official + kind: own + kind
        for official, own in layers.items()
        for kind in kinds.get(own, (".weight", ".bias"))
    }


NAMES = tensors_of(LAYERS)


def names_of(config: dict) -> dict[str, str]:
    """`NAMES` written out for a network's blocks: official → ours."""
    return {
        official.format(i=i): own.format(i=i)
        for official, own in NAMES.items()
        for i in range(config["depth"] if "{i}" in official else 1)
    }


def outline(names: Iterable[str]) -> dict:
    """What the names alone tell of the network, enough for `names_of`."""
    return {"depth": len({name.split(".")[1] for name in names if name.startswith("blocks.")})}


def check_export(model: DiT) -> None:
    """Raise ValueError for a network that the official code doesn't have."""
    if model.config["block"] != "adaln_zero" or model.label_embed is None:
        told = f"block={model.config['block']!r}, num_classes={model.config['num_classes']}"
        raise ValueError(f"{told}: the official code has block 'adaln_zero' and at least one class")
