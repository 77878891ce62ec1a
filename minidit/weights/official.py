"""Official weights in and out: the same networks under other names.

The papers' codes compute the same; only names, which `official_dit`, `official_uvit` and
`latents.official_ldm` hold, and two memory layouts differ. All else is read off the tensors.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from einops import rearrange
from torch import Tensor, nn

from minidit import weights
from minidit._validate import unwrapped
from minidit.diffusion import Diffusion
from minidit.dit import DiT
from minidit.uvit import UViT
from minidit.weights import Outline, diffusers, official_dit, official_uvit, reading

# The codes whose names are known, each a module; `minidit` adds that of the autoencoders.
CODES: list[ModuleType] = [official_dit, official_uvit]


def load_official(
    source: Mapping[str, Tensor] | str | Path,
    num_heads: int | None = None,
    *,
    null_label: bool = True,
    input_size: int | None = None,
) -> nn.Module:
    """The network that official weights describe, in evaluation mode, with the same outputs.

    `source`: a state dict of DiT, U-ViT or an autoencoder of latent diffusion (alone or in a whole
    model), in the names of its authors or of diffusers, plain or as in a training checkpoint; or
    its file (*.pt, *.safetensors, an index of shards) or folder. Nothing in a file is executed, and
    tensors are used as they are, without a second copy. Not in the tensors are: `num_heads`, known
    for the papers' widths; `null_label`, whether the last row of the label table is the null label,
    as after label dropout; `input_size` of diffusers' DiT, which its config.json has.
    Raises ValueError for anything that is not a whole network, naming the first wrong tensor.
    """
    tensors, told = reading.state_dict(source)
    tensors = diffusers.official_names(tensors, input_size or told.get("sample_size"))
    code = next((c for c in CODES if any(name.startswith(c.SIGNS) for name in tensors)), None)
    if code is None:
        raise ValueError(reading.looks_like(tensors))
    heads = told.get("num_attention_heads") if num_heads is None else num_heads
    config = read_config(tensors, heads, null_label, code)
    with Outline():  # no memory, no time
        model = code.build(config) if hasattr(code, "build") else code.Network(**config)
    names = code.names_of(config)
    _check(tensors, names, model.state_dict(), config.get("patch_size"))
    ours = {names[name]: to_ours(names[name], tensor) for name, tensor in tensors.items()}
    model.load_state_dict(ours, strict=False, assign=True)
    if hasattr(code, "finish"):
        code.finish(model, told)
    return model.eval()


def _check(
    tensors: Mapping[str, Tensor], names: dict[str, str], empty: dict[str, Tensor], p: int | None
) -> None:
    """Raise ValueError for the first tensor that doesn't fit the network, whose are `empty`."""
    first = next(iter(tensors.values()))
    for name, own in names.items():
        tensor = tensors[name]
        kind = (tensor.dtype, tensor.layout, tensor.is_meta)
        if kind != (first.dtype, torch.strided, first.is_meta) or first.dtype.itemsize < 2:
            raise ValueError(f"{name} is {kind[0]}, {kind[1]}; expected dense floats, all alike")
        shape, fits = tuple(tensor.shape), tuple(to_official(own, empty[own].to("meta"), p).shape)
        if shape != fits:
            raise ValueError(f"{name} has shape {shape}; {fits} would fit the rest")
        if not (tensor.is_meta or tensor.isfinite().all()):
            raise ValueError(f"{name} has numbers that are not finite; get these weights again")


def is_official(name: str | Path) -> bool:
    """Whether there is a file or folder of this name that `save` didn't write."""
    path = Path(name)
    if path.suffix == ".safetensors":
        return path.is_file() and not weights.is_ours(path)
    return path.exists() and not weights.known(name)


def open_weights(name: str | Path) -> weights.Loaded:
    """`load`, or official weights with the process that their authors trained them for.

    Of DiT the linear schedule; of U-ViT that of Stable Diffusion for latents, which have four
    channels, the VP process for pixels. Both predict the noise. None for an autoencoder.
    """
    if not is_official(name):
        return weights.load(name)
    model = load_official(name)
    if isinstance(model, DiT):
        process = {"schedule": "linear", "learn_sigma": model.config["learn_sigma"]}
    elif isinstance(model, UViT):
        schedule = "scaled_linear_from_1" if model.in_channels == 4 else "vp_sde"
        process = {"schedule": schedule}
    else:
        return weights.Loaded(model, None)
    return weights.Loaded(model, Diffusion.from_config(process | {"predict": "eps"}))


def export_official(model: nn.Module) -> dict[str, Tensor]:
    """The official code's state dict, to the bit; TypeError or ValueError for other networks."""
    model = unwrapped(model)
    code = next((code for code in CODES if isinstance(model, code.Network)), None)
    if code is None:
        told = f"model is a {type(model).__name__}"
        raise TypeError(f"{told}; only DiT, UViT and autoencoders have official names")
    if hasattr(code, "check_export"):  # else all have official names
        code.check_export(model)
    if len(set(getattr(model, "size", ()))) > 1:
        raise ValueError(f"input_size={model.size}: the official code has square images only")
    ours = model.state_dict()
    return {
        name: to_official(own, ours[own].detach(), model.config.get("patch_size"))
        for name, own in code.names_of(model.config).items()
    }


def to_ours(own: str, tensor: Tensor) -> Tensor:
    """An official tensor in our layout; own: our name of it."""
    if own == "patch_embed.proj.weight":
        return rearrange(tensor, "d c p1 p2 -> d (p1 p2 c)")
    return tensor[0] if own == "pos_embed" else tensor


def to_official(own: str, tensor: Tensor, p: int | None) -> Tensor:
    """Our tensor in the official layout; p: the patch size of a network that has one."""
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
        told = f"these are no official {network} weights"
        raise ValueError(f"{told}: {odd[0]} is {fault} ({len(odd)} such)")
    if not code.HEADS:  # no transformer
        return outline
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
        fault = "num_heads is needed: it can't be read off the tensors"
        raise ValueError(f"{fault}, and width {width} is none of the paper's {sorted(code.HEADS)}")
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
        outputs, plain = shape["final.proj.bias"][0], patch**2 * channels
        if outputs not in (plain, 2 * plain):
            fault = f"final_layer.linear has {outputs} outputs; patches of {patch}×{patch} pixels"
            fault = f"{fault} and {channels} channels need {plain}"
            raise ValueError(f"{fault}, or twice that with learned sigma")
        config["learn_sigma"] = outputs == 2 * plain
    if "label_embed.table.weight" in shape and config["num_classes"] < 1:
        fault = "the label table has one row, and with null_label=True that leaves no class"
        raise ValueError(f"{fault}; null_label=False takes it for a class")
    if int(width * config["mlp_ratio"]) != inner:  # rounded down, the ratio may fall short
        config["mlp_ratio"] = math.nextafter(config["mlp_ratio"], math.inf)
    return config
