"""Where, when and what: positions, timesteps and labels as vectors (DiT, sections 3.2 and 4)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_choice, check_labels, check_positive, check_times
from minidit.patches import linear_layer


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoids of a time: [cos(t·ω_0), …, cos(t·ω_k), sin(t·ω_0), …], ω_k = max_period^(-k/half).

    Shapes: (b,) → (b, dim), float32; an odd `dim` ends with a zero. The slowest sinusoid turns
    once in nearly 2π·max_period, so `t` runs over hundreds: over [0, 1] nearly all are flat.
    """
    check_positive(dim=dim)
    check_times(t)
    return _sinusoids(t, dim, max_period)


def _sinusoids(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    angles = t[:, None].float() * frequencies(dim // 2, max_period, t.device)  # (b, half)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)  # (b, 2·half)
    return F.pad(embedding, (0, dim % 2))


def frequencies(
    half: int, max_period: float = 10_000.0, device: torch.device | str = "cpu"
) -> Tensor:
    """ω_k = max_period^(-k/half) of `timestep_embedding`, (half,), float32 as in both codes.

    Processors round them differently in the last place, which times t = 999 moves a sinusoid by
    up to 1e-4.
    """
    k = torch.arange(half, dtype=torch.float32, device=device)
    return torch.exp(-math.log(max_period) * k / half)


def sincos_2d(dim: int, grid: int | tuple[int, int]) -> Tensor:
    """A fixed table of positions: half the channels tell the column, half the row.

    Shape: (h·w, dim), float64, raster order; each half is [sin(pos·ω), cos(pos·ω)] with
    ω_k = 10000^(-k/(dim/4)). `grid` is (h, w), or one number for a square.
    Raises ValueError if `dim` is not a multiple of 4.
    """
    check_positive(dim=dim)
    if dim % 4:
        raise ValueError(
            f"dim={dim}, a network's hidden_size, must be a multiple of 4: "
            "sin and cos of a row and of a column"
        )
    h, w = (grid, grid) if isinstance(grid, int) else grid
    omega = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    row, column = torch.meshgrid(
        torch.arange(h, dtype=torch.float64), torch.arange(w, dtype=torch.float64), indexing="ij"
    )
    angles = [position.reshape(-1, 1) * omega for position in (column, row)]  # 2 × (h·w, dim/4)
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)


class TimestepEmbedder(nn.Module):
    """Sinusoids, then an MLP that turns them into a vector as wide as the network.

    `inner`: the width inside the MLP; by default that of the network, as in the DiT.
    """

    def __init__(self, hidden_size: int, frequencies: int = 256, inner: int | None = None) -> None:
        super().__init__()
        self.frequencies, inner = frequencies, inner or hidden_size
        self.mlp = nn.Sequential(
            linear_layer(frequencies, inner, std=0.02),
            nn.SiLU(),
            linear_layer(inner, hidden_size, std=0.02),
        )

    def forward(self, t: Tensor) -> Tensor:
        """(b,) → (b, d)."""
        embedding = _sinusoids(t, self.frequencies)  # (b, frequencies), float32
        dtype = [*self.parameters(), embedding][0].dtype  # layers in int8 have no parameters
        return self.mlp(embedding.to(dtype))


# By name: what turns times (b,) into vectors (b, d), made with the width d.
TIME_EMBEDDERS: dict[str, Callable[[int], nn.Module]] = {"sinusoidal": TimestepEmbedder}


def check_start(dropout: float, std: float, name: str = "std") -> None:
    """Raise ValueError for a `dropout` that is no probability, or a scale `std`, so `name`d."""
    if not (0 <= dropout < 1 and 0 <= std < math.inf):
        raise ValueError(f"dropout={dropout} must be in [0, 1), {name}={std} finite and ≥ 0")


class LabelEmbedder(nn.Module):
    """A table of label vectors; with dropout, one more row: the null label of guidance.

    `std` is the scale of the table at the start. The paper's code uses 0.02; with 1 the label has
    an effect from the first step, which matters when training is short.
    """

    def __init__(
        self, num_classes: int, hidden_size: int, dropout: float = 0.0, std: float = 0.02
    ) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, hidden_size=hidden_size)
        check_start(dropout, std)
        self.num_classes, self.dropout = num_classes, dropout
        self.null_label = num_classes if dropout > 0 else None
        self.table = nn.Embedding(num_classes + (dropout > 0), hidden_size)
        nn.init.normal_(self.table.weight, std=std)

    needs = "labels; pass y, e.g. full of model.null_label"
    num_tokens = 1

    def forward(self, y: Tensor) -> Tensor:
        """(b,) → (b, d)."""
        self.check(y)
        return self.table(y)

    def check(self, y: Tensor, batch: int | None = None) -> None:
        """Raise TypeError or ValueError unless y holds labels, (batch,)."""
        check_labels(y, batch, self.table.num_embeddings)

    def tokens(self, y: Tensor) -> tuple[Tensor, None]:
        """A label as a sequence of one token, (b, 1, d), none of them padding."""
        return self.table(y)[:, None], None

    def drop(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Replace labels by the null label with probability `dropout`: (b, …) → (b, …).

        The training loop calls this, not the network: a forward pass draws no random numbers.
        """
        if self.null_label is None:
            return y
        dropped = torch.rand(len(y), generator=generator, device=y.device) < self.dropout
        return y.masked_fill(dropped.reshape(-1, *[1] * (y.ndim - 1)), self.null_label)


# What can take the labels' place, by name; `minidit.conditions` adds texts, layouts and images.
ENCODERS: dict[str, type[nn.Module]] = {}


def make_condition(
    condition: dict | None, num_classes: int, hidden_size: int, dropout: float, std: float
) -> nn.Module | None:
    """The table of labels, or the encoder that `condition` describes, or None for neither.

    `condition`: {"encoder": a key of `ENCODERS`, …}, the rest being the encoder's own arguments.
    """
    if condition is None:
        return LabelEmbedder(num_classes, hidden_size, dropout, std) if num_classes else None
    if num_classes:
        raise ValueError(
            f"num_classes={num_classes} and condition={condition.get('encoder')!r} are both given; "
            "a text or a layout takes the labels' place, so set num_classes=0"
        )
    check_choice("condition['encoder']", condition.get("encoder"), ENCODERS)
    arguments = {name: value for name, value in condition.items() if name != "encoder"}
    return ENCODERS[condition["encoder"]](hidden_size, dropout=dropout, std=std, **arguments)


def condition_tokens(
    encoder: nn.Module | None, y: Tensor | None, batch: int
) -> tuple[list[Tensor], Tensor | None]:
    """The condition as [(b, m, d)], or [] without an encoder; and which tokens are no padding.

    Raises where y, (b,) or (b, m, …), is missing, in vain, or not what the encoder reads.
    """
    if (y is None) != (encoder is None):
        raise ValueError(
            f"y=None, but this network needs {encoder.needs}"
            if y is None
            else "y is given, but this network has no labels (num_classes=0); leave y out"
        )
    if encoder is None:
        return [], None
    encoder.check(y, batch)
    tokens, mask = encoder.tokens(y)
    return [tokens], mask
