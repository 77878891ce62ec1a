"""Checkpoints that survive a kill at any moment, and know which run they belong to."""

import os
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor


def write_checkpoint(state: dict, path: Path) -> None:
    """Write to a temporary name, then rename: a kill at any moment leaves a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_checkpoint(path: Path) -> dict:
    """A checkpoint's contents; nothing in the file is executed. Raises ValueError if damaged."""
    try:
        with ZipFile(path) as archive:  # torch writes checksums but doesn't look at them
            if archive.testzip() is not None:
                raise BadZipFile(f"{archive.testzip()} has another checksum")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if {"done", "recipe", "data", "model", "ema", "optimizers"} <= state.keys():
            return state
        problem = None
    except Exception as error:  # torch raises many kinds for a damaged file
        problem = error
    raise ValueError(
        f"{path} is damaged or no checkpoint; remove it to start the run anew"
    ) from problem


def fingerprint(images: Tensor, labels: Tensor | None) -> dict:
    """Enough of a data set, (n, c, h, w) and (n, …), to notice that it is another one."""
    sample = images[:: max(1, len(images) // 64)].double().sum().item()
    facts = {"shape": list(images.shape), "sum": sample, "labels": None}
    if labels is not None:
        values = labels.flatten()
        place = torch.arange(len(values), device=labels.device)
        facts |= {"labels": int(values.sum()), "order": int((values * place).sum())}
    return facts
