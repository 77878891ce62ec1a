"""Weights on disk: safetensors with the network's arguments in the header, checked by sha256.

A weights file holds numbers and text, no code. Beside a shipped one lies a JSON file of the same
name: sha256, recipe, seed, command, log and what was measured. Official weights: see `official`.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minidit import train
from minidit._validate import check_choice, unwrapped
from minidit.diffusion import Diffusion
from minidit.dit import DiT
from minidit.schedule import SCHEDULES
from minidit.uvit import UViT
from minidit.weights.checkpoint import checkpoint_in
from minidit.weights.files import locked, parse_json, read_json, replacing, write_json

# By the name of their class; `minidit` adds those of its folders.
NETWORKS: dict[str, type[nn.Module]] = {"DiT": DiT, "UViT": UViT}
train.checkpoint_in = checkpoint_in
RENAMED = {"SceneJudge": "SceneDetector"}  # in files written before

LONGEST = 10**6  # steps of a schedule in a file, which a header may not make cost memory

# The shapes of what is read, see `parse_json`.
HEADER = {"network": str, "model": dict, "diffusion?": {"schedule": str, "T?": int}}
HEADER |= {"autoencoder?": {"name": str, "sha256": str}}
NOTE = {"sha256?": str, "evaluations?": [dict], "reconstructions?": [dict]}


class Loaded(NamedTuple):
    """A network in evaluation mode, and the process it was trained for (None for a classifier)."""

    model: nn.Module
    diffusion: Diffusion | None


def shipped_folder() -> Path:
    """Where the shipped weights lie: inside an installed package, or in a clone's data/weights."""
    package = Path(__file__).parents[1]
    inside = package / "_shipped" / "weights"
    return inside if inside.is_dir() else package.parent / "data" / "weights"


def shipped() -> list[str]:
    """The names that `load` knows."""
    return sorted(path.stem for path in shipped_folder().glob("*.safetensors"))


def results(name: str) -> dict:
    """What `data/results` of a clone, or of an installed package, holds of an experiment."""
    path = shipped_folder().parent / "results" / f"{name}.json"
    return read_json(path, {}, f"get it again; {path.parent} holds what there is")


def save(
    model: nn.Module,
    path: str | Path,
    diffusion: Diffusion | None = None,
    info: dict | None = None,
    autoencoder: dict | None = None,
) -> None:
    """Write weights, and what is needed to build the network again, to `path` (*.safetensors).

    `info` goes into a JSON file beside it, with the sha256; what that file said of the same
    weights, and `info` doesn't, stays. `autoencoder`: whose latents it draws
    (`FirstStage.link`). Both files are renamed when whole. Raises TypeError for a network
    that is none of `NETWORKS`.
    """
    path, model = Path(path), unwrapped(model)
    kind = type(model).__name__
    if kind not in NETWORKS:
        raise TypeError(f"model is a {kind}; weights files hold one of {sorted(NETWORKS)}")
    if path.suffix != ".safetensors":
        raise ValueError(f"path={str(path)!r} must end in .safetensors, by which `load` knows it")
    header = {"network": kind, "model": model.config}
    if diffusion is not None:
        header["diffusion"] = diffusion.config
        check_choice("diffusion.schedule.name", diffusion.schedule.name, SCHEDULES)
    if autoencoder is not None:
        header["autoencoder"] = autoencoder
    parse_json(json.dumps(header), HEADER, path, "no such file was written: see `FirstStage.link`")
    state = model.state_dict().items()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state}
    if not train.finite(tensors.values()):
        raise ValueError(f"model has weights that are not finite, so {path} was not written")
    content = safetensors.torch.save(tensors, {"minidit": json.dumps(header)})
    sha256 = hashlib.sha256(content).hexdigest()
    facts = {"sha256": sha256, "bytes": len(content), **header}
    kept = _note_of_same(path.with_suffix(".json"), sha256)
    note = kept | facts | (info or {}) | facts  # of other weights' info those would be wrong
    with replacing(path.with_suffix(".json")) as beside, replacing(path) as file:
        file.write(content)
        beside.write((json.dumps(note, indent=1) + "\n").encode())
        for part in (file, beside):  # a full disk says so here, where both old files still lie
            part.flush()
            os.fsync(part.fileno())
        path.with_suffix(".json").unlink(missing_ok=True)  # so that no kill leaves an odd pair


def load(name: str | Path) -> Loaded:
    """The network and its process from shipped weights ("dit-mnist") or a file of `save`.

    Raises ValueError for an unknown name, a damaged file, or weights that don't fit the network.
    """
    path = find(name)
    tensors, header = _read(path)
    check_choice("network", header["network"], NETWORKS)
    try:
        _check_sizes(header["model"], tensors)
        with Outline():  # a header may claim any size: no memory before it fits the file
            model = NETWORKS[header["network"]](**header["model"])
        process = header.get("diffusion")
        if process is not None and process.get("T", 1) > LONGEST:
            raise ValueError(f"T={process['T']} is more than {LONGEST} steps")
        diffusion = Diffusion.from_config(process) if process is not None else None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        told = f"{path} has a header that describes no network ({type(e).__name__}: {e})"
        raise ValueError(f"{told}; get it again") from None
    own = model.state_dict()
    shapes, given = ({k: tuple(v.shape) for k, v in d.items()} for d in (own, tensors))
    if wrong := sorted(k for k in own.keys() | given.keys() if shapes.get(k) != given.get(k)):
        k = wrong[0]
        raise ValueError(
            f"{path} doesn't fit the network in {len(wrong)} tensors; the first is {k}: "
            f"{given.get(k, 'missing')} in the file, {shapes.get(k, 'absent')} in the network"
        )
    double = {z.dtype for z in tensors.values() if z.is_floating_point()} == {torch.float64}
    for k, tensor in tensors.items():
        if tensor.is_floating_point() != own[k].is_floating_point():
            raise ValueError(f"{path} has {k} in {tensor.dtype}; the network in {own[k].dtype}")
        if not double:  # half precision would load, and fail in sampling
            tensors[k] = tensor.to(own[k].dtype)
    if not train.finite(tensors.values()):
        raise ValueError(f"{path} has weights that are not finite; get it again")
    model.load_state_dict(tensors, assign=True)
    return Loaded(model.eval(), diffusion)


class Outline(TorchFunctionMode):
    """New weights are shapes without memory; torch.device("meta") would import the compiler."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.nn.init.normal_, Tensor.normal_):
            return kwargs.get("tensor", args[0] if args else None)
        fresh = {"device": "meta"} if func in (torch.empty, torch.zeros, torch.ones) else {}
        return func(*args, **kwargs | fresh)


def _check_sizes(config: dict, tensors: dict[str, Tensor]) -> None:
    """Raise for more layers, or a larger table of positions, than so many tensors can hold."""
    for key in ("depth", "blocks", "multipliers"):
        count = config.get(key, 0)
        if (len(count) if isinstance(count, list) else count) > len(tensors):
            raise ValueError(f"{key}={count} is more than its {len(tensors)} tensors can be")
    if isinstance(config.get("condition"), dict):
        _check_sizes(config["condition"], tensors)
    side, patch = config.get("input_size", 1), config.get("patch_size", 1)
    places = math.prod(side if isinstance(side, list) else (side, side)) // patch**2
    if places * config.get("hidden_size", 1) > sum(tensor.numel() for tensor in tensors.values()):
        raise ValueError(f"input_size={side} is more than its tensors can be")


def start_from(model: nn.Module, name: str | Path) -> list[str]:
    """Copy into a fresh network what fits of other weights, and name what stays as it was drawn.

    What fits has the same name and shape. An encoder of another kind of condition keeps its own
    blocks: they have another language to learn. Raises ValueError if nothing fits.
    """
    model, other = unwrapped(model), load(name).model
    own = model.state_dict()
    fits = {k: v for k, v in other.state_dict().items() if k in own and own[k].shape == v.shape}
    encoders = [type(getattr(network, "label_embed", None)) for network in (model, other)]
    if encoders[0] is not encoders[1]:
        fits = {k: v for k, v in fits.items() if not k.startswith("label_embed.blocks.")}
    if not fits:
        raise ValueError(f"start={str(name)!r} has no tensor that fits this network; leave it out")
    model.load_state_dict(fits, strict=False)
    return [key for key in own if key not in fits]


def autoencoder_of(name: str | Path) -> dict | None:
    """Which autoencoder's latents these weights draw: name and sha256; None if they draw pixels."""
    return _read(find(name))[1].get("autoencoder")


def info(name: str | Path) -> dict:
    """What is known of a weights file: recipe, seed, command, log and measurements."""
    return _read_note(find(name).with_suffix(".json"))


def _read_note(path: Path) -> dict:
    return read_json(path, NOTE, "`save` writes it beside the weights; get it again")


def _note_of_same(path: Path, sha256: str) -> dict:
    """What a JSON file says if it is of these weights: a finished run may be called again."""
    try:
        note = _read_note(path) if path.is_file() else {}
    except ValueError:  # damaged: there is a new one in a moment
        note = {}
    return note if note.get("sha256") == sha256 else {}


def add_info(name: str | Path, key: str, entry: dict) -> None:
    """Add an entry to a list in the JSON file beside the weights, after those of others."""
    path = find(name).with_suffix(".json")
    with locked(path.with_suffix(".lock"), wait=True):
        note = _read_note(path)
        note.setdefault(key, []).append(entry)
        write_json(path, note)


def known(name: str | Path) -> bool:
    """Whether `find` finds these weights."""
    return _path(name).is_file()  # a pipe could be waited for


def is_ours(path: Path) -> bool:
    """Whether `save` wrote a safetensors file; also of a damaged one, which `load` tells."""
    try:
        with safe_open(path, "pt") as file:
            return "minidit" in (file.metadata() or {})
    except SafetensorError:
        return True


def find(name: str | Path) -> Path:
    """The path of shipped weights, of a file, or of a run's folder; ValueError if there is none."""
    if not known(name):
        told = f"weights {str(name)!r} are unknown; shipped are {shipped()}"
        other = "" if Path(name).exists() else ", or of official weights"  # which isn't asked here
        raise ValueError(f"{told}, or give the path of a .safetensors file{other}")
    return _path(name)


def _path(name: str | Path) -> Path:
    path, ours = Path(name), shipped_folder() / f"{name}.safetensors"
    if path.suffix == ".safetensors" and path.is_file():
        return path
    inside = path / "weights.safetensors"  # of a run's folder
    return inside if inside.is_file() and not ours.is_file() else ours


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    note = path.with_suffix(".json")
    if note.is_file() and _read_note(note).get("sha256") != file_sha256(path):
        raise ValueError(f"{path} is damaged: its sha256 isn't that of {note.name}; get it again")
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("minidit")
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        fault = f"{path} is damaged or no safetensors file"
        raise ValueError(f"{fault} ({error}); get it again") from None
    if header is None:
        raise ValueError(f"{path} wasn't written by minidit.save: its header names no network")
    header = parse_json(header, HEADER, path, "get it again")
    header["network"] = RENAMED.get(header["network"], header["network"])
    return tensors, header


def file_sha256(path: Path) -> str:
    """The sha256 of a file, by which weights know each other."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
