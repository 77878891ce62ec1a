"""Weights on disk: safetensors with the network's arguments in the header, checked by sha256.

A weights file holds numbers and text, no code. Beside a shipped one lies a JSON file of the same
name: sha256, recipe, seed, command, log and what was measured. Official weights: see `official`.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from minidit._validate import check_choice, unwrapped
from minidit.diffusion import Diffusion
from minidit.dit import DiT
from minidit.schedule import SCHEDULES
from minidit.train import replacing
from minidit.uvit import UViT

# By the name of their class; `minidit` adds those of its folders.
NETWORKS: dict[str, type[nn.Module]] = {"DiT": DiT, "UViT": UViT}
RENAMED = {"SceneJudge": "SceneDetector"}  # in files written before


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
    return json.loads((shipped_folder().parent / "results" / f"{name}.json").read_text("utf-8"))


def save(
    model: nn.Module,
    path: str | Path,
    diffusion: Diffusion | None = None,
    info: dict | None = None,
    autoencoder: dict | None = None,
) -> None:
    """Write weights, and what is needed to build the network again, to `path` (*.safetensors).

    `info` goes into a JSON file beside it, with the sha256. `autoencoder`: whose latents it draws
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
    state = model.state_dict().items()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state}
    content = safetensors.torch.save(tensors, {"minidit": json.dumps(header)})
    sha256 = hashlib.sha256(content).hexdigest()
    note = {"sha256": sha256, "bytes": len(content), **header, **(info or {})}
    with replacing(path.with_suffix(".json")) as beside, replacing(path) as file:
        file.write(content)
        beside.write(_as_json(note))
        path.with_suffix(".json").unlink(missing_ok=True)  # so that no kill leaves an odd pair


def load(name: str | Path) -> Loaded:
    """The network and its process from shipped weights ("dit-mnist") or a file of `save`.

    Raises ValueError for an unknown name, a damaged file, or weights that don't fit the network.
    """
    path = find(name)
    tensors, header = _read(path)
    check_choice("network", header["network"], NETWORKS)
    model = NETWORKS[header["network"]](**header["model"])
    own, given = ({k: tuple(v.shape) for k, v in d.items()} for d in (model.state_dict(), tensors))
    if wrong := sorted(k for k in own.keys() | given.keys() if own.get(k) != given.get(k)):
        k = wrong[0]
        raise ValueError(
            f"{path} doesn't fit the network in {len(wrong)} tensors; the first is {k}: "
            f"{given.get(k, 'missing')} in the file, {own.get(k, 'absent')} in the network"
        )
    model.load_state_dict(tensors, assign=True)
    diffusion = Diffusion.from_config(header["diffusion"]) if "diffusion" in header else None
    return Loaded(model.eval(), diffusion)


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
    if not path.exists():
        raise ValueError(f"{path} is missing; it is written beside the weights by `save`")
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is damaged: it is no JSON object; get it again") from None


def add_info(name: str | Path, key: str, entry: dict) -> None:
    """Add an entry to a list in the JSON file beside the weights."""
    note = info(name)
    note.setdefault(key, []).append(entry)
    with replacing(find(name).with_suffix(".json")) as file:
        file.write(_as_json(note))


def _as_json(note: dict) -> bytes:
    return (json.dumps(note, indent=1) + "\n").encode()


def known(name: str | Path) -> bool:
    """Whether `find` finds these weights."""
    return _path(name).exists()


def find(name: str | Path) -> Path:
    """The path of shipped weights, or of a file; ValueError if there is none."""
    if not known(name):
        raise ValueError(
            f"weights {str(name)!r} are unknown; shipped are {shipped()}, "
            "or give the path of a .safetensors file"
        )
    return _path(name)


def _path(name: str | Path) -> Path:
    file = Path(name).suffix == ".safetensors" and Path(name).exists()
    return Path(name) if file else shipped_folder() / f"{name}.safetensors"


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    note = path.with_suffix(".json")
    if note.exists() and _read_note(note).get("sha256") != file_sha256(path):
        raise ValueError(f"{path} is damaged: its sha256 isn't that of {note.name}; get it again")
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("minidit")
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        fault = f"{path} is damaged or no safetensors file"
        raise ValueError(f"{fault} ({error}); get it again") from None
    header = json.loads(header) if header is not None else {}
    if "network" not in header or "model" not in header:
        raise ValueError(f"{path} wasn't written by minidit.save: its header names no network")
    header["network"] = RENAMED.get(header["network"], header["network"])
    return tensors, header


def file_sha256(path: Path) -> str:
    """The sha256 of a file, by which weights know each other."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
