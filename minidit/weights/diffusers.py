"""The names of the library diffusers, for the networks whose official names are known here."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from minidit.embed import sincos_2d

DIT = {  # diffusers → official; {i} counts the blocks
    "pos_embed.proj": "x_embedder.proj",
    "transformer_blocks.{i}.attn1.to_out.0": "blocks.{i}.attn.proj",
    "transformer_blocks.{i}.ff.net.0.proj": "blocks.{i}.mlp.fc1",
    "transformer_blocks.{i}.ff.net.2": "blocks.{i}.mlp.fc2",
    "transformer_blocks.{i}.norm1.linear": "blocks.{i}.adaLN_modulation.1",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
SHARED = {  # one for the network officially; here every block has a copy
    "timestep_embedder.linear_1": "t_embedder.mlp.0",
    "timestep_embedder.linear_2": "t_embedder.mlp.2",
    "class_embedder.embedding_table": "y_embedder.embedding_table",
}
AUTOENCODER = {  # patterns, one after the other
    r"(down|up)_blocks\.(\d+)\.resnets\.": r"\1.\2.block.",
    r"(down|up)_blocks\.(\d+)\.attentions\.": r"\1.\2.attn.",
    r"(down|up)_blocks\.(\d+)\.(down|up)samplers\.0\.": r"\1.\2.\3sample.",
    r"mid_block\.resnets\.0\.": "mid.block_1.",
    r"mid_block\.resnets\.1\.": "mid.block_2.",
    r"mid_block\.attentions\.0\.": "mid.attn_1.",
    r"conv_norm_out\.": "norm_out.",
    r"conv_shortcut\.": "nin_shortcut.",
    r"group_norm\.": "norm.",
    r"\b(to_q|query)\.": "q.",
    r"\b(to_k|key)\.": "k.",
    r"\b(to_v|value)\.": "v.",
    r"\b(to_out\.0|proj_attn)\.": "proj_out.",
}


def official_names(tensors: dict[str, Tensor], input_size: int | None = None) -> dict[str, Tensor]:
    """A state dict of `DiTTransformer2DModel` or `AutoencoderKL` in official names, others as is.

    input_size: of a DiT, whose table of positions is not in the file.
    """
    if "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight" in tensors:
        return _dit(tensors, input_size)
    if any(name.startswith(("encoder.mid_block.", "decoder.mid_block.")) for name in tensors):
        return _autoencoder(tensors)
    return tensors


def _dit(tensors: dict[str, Tensor], input_size: int | None) -> dict[str, Tensor]:
    if input_size is None:
        told = "input_size is needed: diffusers keeps it in config.json, beside the file"
        raise ValueError(f"{told}; for DiT-XL/2 it is 32 at 256×256 pixels, 64 at 512×512")
    left = {k: v for k, v in tensors.items() if k != "pos_embed.pos_embed"}
    depth = len({name.split(".")[1] for name in left if name.startswith("transformer_blocks.")})
    found: dict[str, Tensor] = {}

    def take(name: str) -> Tensor:
        if name not in left:
            raise ValueError(f"these are no weights of diffusers' DiT: {name} is missing")
        return left.pop(name)

    for kind in ("weight", "bias"):
        for i in range(depth):
            block = f"transformer_blocks.{i}"
            parts = [take(f"{block}.attn1.to_{letter}.{kind}") for letter in "qkv"]
            found[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
            for name, own in SHARED.items():
                if kind == "bias" and own.startswith("y_"):
                    continue
                copy, name = f"{own}.{kind}", f"{block}.norm1.emb.{name}.{kind}"
                tensor = take(name)
                if not torch.equal(found.setdefault(copy, tensor), tensor):
                    told = f"{name} differs from that of block 0; the official code has one for all"
                    raise ValueError(f"{told} blocks, so this network has no official twin")
        for name, own in DIT.items():
            for i in range(depth if "{i}" in name else 1):
                found[f"{own.format(i=i)}.{kind}"] = take(f"{name.format(i=i)}.{kind}")
    weight = found["x_embedder.proj.weight"]  # (d, c, p, p)
    if weight.ndim == 4 and weight.shape[2]:
        table = sincos_2d(len(weight), input_size // weight.shape[2])
        found["pos_embed"] = table[None].to(weight.dtype)
    return found | left  # what is left is unknown


def _autoencoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        for pattern, own in AUTOENCODER.items():
            name = re.sub(pattern, own, name)
        if re.search(r"attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight", name) and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]  # linear there, a convolution of single pixels here
        found[name] = tensor
    levels = len({name.split(".")[2] for name in found if name.startswith("decoder.up.")})

    def turned(match: re.Match) -> str:  # there the first is the coarsest
        return f"decoder.up.{levels - 1 - int(match[1])}."

    return {re.sub(r"^decoder\.up\.(\d+)\.", turned, k): v for k, v in found.items()}
