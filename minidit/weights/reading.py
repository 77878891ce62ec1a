"""Files of other people: the tensors in them, by their names, and nothing else.

PyTorch's archives are read with `weights_only`: whatever in them is no tensor, container or number
stands there as an `Unread`, and no code of the file is imported or called.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from minidit.weights.files import load_archive, read_json

WAY_OUT = "give the path of *.pt, *.safetensors or a folder of diffusers', or a state dict"
AGAIN = "get it again"
STEMS = ("diffusion_pytorch_model", "model")  # of the files in diffusers' folders
ENDS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
INNER = ("ema", "model", "state_dict")  # where checkpoints keep a network, the average first
FIRST_STAGE = "first_stage_model."  # the autoencoder inside a whole latent diffusion model
DROPPED = ("loss.", "model_ema.")  # parts of training

# Signs of other formats: a part of a tensor's name → what it looks like, and what can be done.
SIGNS = {
    "final.proj.weight": ("minidit's own weights", "take minidit.load"),
    "lora": ("a LoRA, a small change to weights", "merge it into its network first"),
    "text_model.": ("a text encoder", "give the file of the DiT, U-ViT or autoencoder"),
    "joint_blocks.": ("Stable Diffusion 3's MMDiT", "its code computes something else"),
    "double_blocks.": ("FLUX", "its code computes something else"),
    "cross_attn.": ("PixArt or another DiT for texts", "load a DiT for classes"),
    "adaln_single.": ("PixArt in diffusers' names", "load a DiT for classes"),
    "time_embedding.": ("a U-Net in diffusers' names", "load the vae beside it"),
    "input_blocks.": ("a U-Net", "load a DiT, a U-ViT, or the autoencoder beside it"),
    "cls_token": ("a ViT that classifies", "there is no time in it; load a DiT"),
    "encoder.conv_in": ("an autoencoder with other parts than latent diffusion's", "see its code"),
}
# What config.json may say of parts that networks here have only one way.
ONLY = {"act_fn": ["silu"], "activation_fn": ["gelu-approximate"], "shift_factor": [None, 0]}


class Unread:
    """Stands for an object in a file that isn't looked at."""

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def state_dict(source: Mapping[str, Tensor] | str | Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a network in a file, folder or dictionary, and what its config.json says.

    Prefixes of wrappers are taken off. TypeError or ValueError for what holds no network.
    """
    content, told = (source, {}) if isinstance(source, Mapping) else read(Path(source))
    if not isinstance(content, Mapping):
        raise TypeError(f"source holds a {type(content).__name__}, not a state dict; {WAY_OUT}")
    inner = [content[key] for key in INNER if isinstance(content.get(key), Mapping)]
    content = inner[0] if inner else content
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        there = str(list(content)[:3])[1:-1] or "nothing"
        fault = f"source is no state dict: it holds {there}; it must hold tensors by their names"
        raise ValueError(f"{fault}, itself or under a key of {list(INNER)}")
    # of DistributedDataParallel and torch.compile, around all of it or a part
    bare = {re.sub(r"\b(module|_orig_mod)\.", "", k): v for k, v in tensors.items()}
    if any(name.startswith(FIRST_STAGE) for name in bare):
        bare = {k[len(FIRST_STAGE) :]: v for k, v in bare.items() if k.startswith(FIRST_STAGE)}
    return {k: v for k, v in bare.items() if not k.startswith(DROPPED)}, told


def read(path: Path) -> tuple[object, dict]:
    """What a file holds, or a folder of diffusers' with config.json; ValueError if it is damaged.

    The tensors stay on the disk until they are used, where the format allows.
    """
    if path.is_dir():
        names = [stem + end for stem in STEMS for end in ENDS if (path / (stem + end)).is_file()]
        inside = [path / part for part in ("transformer", "vae") if (path / part).is_dir()]
        if not names and not inside:
            raise ValueError(f"{path} has no {STEMS[0]}.safetensors or the like; {WAY_OUT}")
        return read(path / names[0] if names else inside[0])
    if not path.is_file():
        raise ValueError(f"{path} is no file; {WAY_OUT}")
    config = path.parent / "config.json"
    diffusers = path.name.startswith(STEMS) and config.is_file()
    told = read_json(config, {}, AGAIN) if diffusers else {}
    for key, known in ONLY.items():
        if key in told and told[key] not in known:
            raise ValueError(f"{key}={told[key]!r} in {config} is unknown here; only {known} is")
    if path.suffix == ".json":
        return _shards(path), told
    try:
        if path.suffix == ".safetensors":
            return load_file(path), told
        if is_zipfile(path):  # the format since torch 1.6
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            with torch.serialization.safe_globals([(Unread, name) for name in unsafe]):
                return load_archive(path, mmap=True), told
        return torch.load(path, map_location="cpu", weights_only=True), told
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    except Exception as error:  # torch raises many kinds for a damaged or a dangerous file
        fault = f"{path} can't be read as weights"
        raise ValueError(f"{fault}; it is damaged, or holds code, which is never run") from error


def _shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names."""
    places = read_json(index, {"weight_map": dict}, AGAIN)["weight_map"]
    tensors: dict[str, Tensor] = {}
    for name in sorted({str(place) for place in places.values()}):
        shard = index.parent / Path(name).name
        if not shard.is_file():
            missing = sum(place == name for place in places.values())
            fault = f"{shard} is missing, in which {index.name} has {missing} of its tensors"
            raise ValueError(f"{fault}; get it")
        tensors |= read(shard)[0]
    if absent := sorted(places.keys() - tensors.keys()):
        told = f"{index} names {absent[0]}, which is in none of its files"
        raise ValueError(f"{told}; get them again")
    return tensors


def looks_like(names: Mapping[str, Tensor]) -> str:
    """A sentence about tensors of no known format."""
    kinds = (kind for sign, kind in SIGNS.items() if any(sign in name for name in names))
    kind, way_out = next(kinds, ("no network that is known here", "see its code"))
    some = ", ".join(sorted(names)[:2])
    return f"this looks like {kind} ({some}, …), which load_official doesn't read; {way_out}"
