"""Numbers that the official codes gave (data only), and what this package gives for the same input.

Each module here yields `Comparison`s; the tests hold them to their tolerance, and
`python tests/golden/differences.py` prints and stores the largest of each file.
The tolerances are those at which an independent recomputation agrees with the files.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
NETWORK = 3.2e-6  # float32 networks, absolute
GUIDED = 7 * NETWORK  # the same, extrapolated to four times one pass minus three times another
PROCESS = 5e-6  # float32 operations of the process, relative to max(1, value)
AUTOENCODER = 3e-5  # float32 autoencoders, relative to max(1, value)
WALK = 3.1e-6  # float32 trajectories
DOUBLE = 1e-12  # everything in float64, relative to max(1, value)
TABLES = 3e-12  # schedules, relative to max(1e-4, value): 1 - ᾱ has lost four digits at the start


class Golden:
    """One file: `golden["in/x"]` is a tensor, `golden.config` what it was made with."""

    def __init__(self, name: str) -> None:
        self.name = f"{name}.npz"
        self.arrays = dict(np.load(HERE / self.name))
        self.config = json.loads(str(self.arrays.pop("config")))

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def part(self, prefix: str) -> dict[str, Tensor]:
        """All arrays below a prefix, without it."""
        return {k.removeprefix(prefix): self[k] for k in self.arrays if k.startswith(prefix)}


class Comparison(NamedTuple):
    """What the official code gave and what this package gives."""

    file: str
    what: str
    ours: Tensor
    official: Tensor
    allowed: float
    floor: float | None = 1.0  # differences are divided by max(floor, |official|), or by nothing

    @property
    def difference(self) -> float:
        """The largest difference of any number, infinite if shapes differ or one is not finite."""
        if self.ours.shape != self.official.shape:
            return float("inf")
        ours, official = self.ours.detach().double(), self.official.double()
        error = (ours - official).abs()
        if self.floor is not None:
            error = error / official.abs().clamp(min=self.floor)
        return error.max().item() if error.isfinite().all() else float("inf")
