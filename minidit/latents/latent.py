"""Diffusion in a latent space (LDM, arXiv 2112.10752, section 3.2): encode, `fit`, draw, decode."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minidit import weights
from minidit._validate import check_images, check_positive
from minidit.data import cache
from minidit.latents.autoencoder import Autoencoder
from minidit.latents.encoder import check_latents
from minidit.patches import as_unit
from minidit.weights import official


class FirstStage(NamedTuple):
    """A trained autoencoder, and how the weights that draw its latents know it."""

    model: Autoencoder
    name: str  # shipped weights, or a file
    sha256: str  # of that file

    @property
    def link(self) -> dict:
        """What `weights.save` stores with a network that draws these latents."""
        return {"name": self.name, "sha256": self.sha256}


def first_stage(name: str | Path, sha256: str | None = None) -> FirstStage:
    """An autoencoder, shipped ("kl-cifar10") or a file's; ValueError if it is another or none.

    Official ones are known by the sha256 of their tensors, whatever the format.
    """
    model = official.open_weights(name).model
    if not isinstance(model, Autoencoder):
        raise ValueError(f"weights {str(name)!r} are a {type(model).__name__}, no autoencoder")
    if official.is_official(name):
        found = cache.sha256(model.state_dict())
    else:
        found = weights.file_sha256(weights.find(name))
    if sha256 not in (None, found):
        raise ValueError(
            f"autoencoder {str(name)!r} is another one than the latents belong to: its sha256 is "
            f"{found[:12]}…, theirs {sha256[:12]}…; get back that file, or train on the new latents"
        )
    return FirstStage(model, str(name), found)


def first_stage_of(name: str | Path, autoencoder: str | Path | None = None) -> FirstStage | None:
    """That whose latents the weights `name` draw, at `autoencoder` if moved; None for pixels."""
    if official.is_official(name):
        if autoencoder is None:
            raise ValueError(
                f"weights {str(name)!r} may draw latents: say where their autoencoder is, "
                "autoencoder=…, on the command line --autoencoder; DiT's are Stable Diffusion's"
            )
        return first_stage(autoencoder)
    link = weights.autoencoder_of(name)
    if link is None:
        if autoencoder is not None:
            raise ValueError(f"weights {str(name)!r} draw pixels; leave the autoencoder out")
        return None
    if autoencoder is None and not weights.known(link["name"]):
        told = f"weights {str(name)!r} draw latents of the autoencoder {link['name']!r}"
        raise ValueError(f"{told}, which isn't there; say where it is: autoencoder=…")
    return first_stage(autoencoder or link["name"], link["sha256"])


@torch.no_grad()
def encode(
    autoencoder: Autoencoder,
    images: Tensor,
    *,
    flips: bool = False,
    batch_size: int | None = None,
    report: Callable[[int], None] | None = None,
) -> Tensor:
    """Images (n, c, f·h, f·w), uint8 or floats in [-1, 1] → scaled latents (n, k, h, w).

    With `flips` (2·n, k, h, w): after the latents of all images those of all mirrored ones, for
    latents can't be mirrored themselves. Repeat the labels: `labels.repeat(2)`. `report(images)`
    hears how many of them are done.
    """
    check_images(images, autoencoder.in_channels)
    at_once = _at_once(images) if batch_size is None else batch_size
    check_positive(batch_size=at_once)
    device, found, done = autoencoder.scale.device, [], 0
    for flip in (False, True) if flips else (False,):
        for part in images.split(at_once):
            part = as_unit(part.flip(3) if flip else part)
            found.append(autoencoder.to_latents(part.to(device)).cpu().float())
            done += len(part)
            if report is not None:
                report(done)
    return torch.cat(found)


@torch.no_grad()
def decode(autoencoder: Autoencoder, latents: Tensor, batch_size: int | None = None) -> Tensor:
    """Scaled latents (n, k, h, w) → images (n, c, f·h, f·w) in [-1, 1]."""
    check_latents(latents, autoencoder.latent_channels)
    batch_size = _at_once(latents, autoencoder.factor) if batch_size is None else batch_size
    check_positive(batch_size=batch_size)
    device = autoencoder.scale.device
    parts = [autoencoder.to_images(z.to(device)).cpu().float() for z in latents.split(batch_size)]
    return torch.cat(parts).clamp(-1, 1)


def _at_once(x: Tensor, factor: int = 1) -> int:
    """How many (n, c, h, w) to work on at a time: as many pixels as 256 small photographs have."""
    return max(1, 2**18 // (x.shape[2] * x.shape[3] * factor**2))


def place(root: Path, name: str, split: str, stage: FirstStage) -> Path:
    """Where the latents of a data set lie: beside the data sets in `root`."""
    return root / "latents" / f"{name}-{split}-{stage.sha256[:12]}.safetensors"


def cached(
    path: str | Path,
    stage: FirstStage,
    images: Tensor,
    *,
    flips: bool = False,
    report: Callable[[int], None] | None = None,
) -> Tensor:
    """`encode` (n, c, h, w), or what an earlier call stored in the file `path` (*.safetensors).

    The file is of use while the sha256 of autoencoder, images and content are those it knows.
    Raises OSError before anything is encoded if it can't be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path={str(path)!r} must end in .safetensors")
    content = f"{images.dtype} {tuple(images.shape)} {cache.sha256({'images': images})}"
    facts = {"autoencoder": stage.sha256, "images": content, "flips": str(flips)}

    def make() -> dict[str, Tensor]:
        return {"latents": encode(stage.model, images, flips=flips, report=report)}

    return cache.kept(path, facts, make)["latents"]
