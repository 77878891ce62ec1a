"""What an image is to show, as tokens: a text or a layout of boxes.

The encoders are the τ_θ of latent diffusion (Rombach et al., arXiv 2112.10752, section 3.3),
trained together with the network that attends to their tokens. In y, (b, m) or (b, m, 6), zeros
are padding, which changes nothing, and all zeros are the null condition of guidance.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_labels, check_positive, check_tensor, readable
from minidit.blocks import InContextBlock
from minidit.conditions.tokenizer import Tokenizer
from minidit.embed import LabelEmbedder, check_start, timestep_embedding
from minidit.patches import linear_layer


class ConditionEncoder(nn.Module):
    """A small transformer over the words or boxes that y names; the kinds below `embed` each.

    The first token is always there: it stands for the whole, and alone for no condition.
    `length`: how many words or boxes y may have; `depth`: how many blocks look at them together.
    `dropout`: how often training replaces y by the null condition. `std`: scale of the tables.
    `reads`: a data set's field, which is y, or of which `encode` makes y, if there is one.
    """

    reads: str
    columns: tuple[int, ...] = ()  # of y, for each word or box: (6,) for boxes
    dtype = torch.int64
    needs = "a text or a layout; pass y, e.g. model.label_embed.empty(b)"
    drop = LabelEmbedder.drop  # whole conditions of (b, m, …)

    def __init__(
        self,
        hidden_size: int,
        length: int,
        depth: int,
        num_heads: int,
        dropout: float,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive(length=length, hidden_size=hidden_size)
        if not isinstance(depth, int) or depth < 0:
            raise ValueError(f"depth={depth!r} must be a number of blocks, 0 for none")
        check_start(dropout, std)
        self.length, self.num_tokens, self.dropout = length, 1 + length, dropout
        self.null_label = 0 if dropout > 0 else None
        self.blocks = nn.ModuleList(InContextBlock(hidden_size, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        """(b, m) or (b, m, 6) → (b, 1 + m, d), zeros where y is padding."""
        self.check(y)
        mask = self.mask(y)  # (b, 1 + m)
        x = self.embed(torch.cat([torch.zeros_like(y[:, :1]), y], dim=1))  # (b, 1 + m, d)
        for block in self.blocks:
            x = block(x, x, mask)
        return self.norm(x) * mask[..., None]

    def tokens(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens (b, 1 + m, d), and which of them are no padding, (b, 1 + m) bool."""
        return self(y), self.mask(y)

    def mask(self, y: Tensor) -> Tensor:
        """Which of the tokens are there, (b, 1 + m) bool: the first, and those of no padding."""
        there = (y if y.ndim == 2 else y[..., 0]) > 0  # (b, m)
        return F.pad(there, (1, 0), value=True)

    def empty(self, n: int) -> Tensor:
        """The null condition n times, at full length: (n, length), or (n, length, 6)."""
        return torch.zeros(n, self.length, *self.columns, dtype=self.dtype)

    def check(self, y: Tensor, batch: int | None = None) -> None:
        """Raise TypeError or ValueError unless y is (b, m) of words, or (b, m, 6) of boxes."""
        b, boxes = "b" if batch is None else batch, self.dtype.is_floating_point
        what = f"({b}, m, 6) of boxes" if boxes else f"({b}, m) of words"
        what += f", m at most {self.length}"
        check_tensor("y", y, what)
        if y.is_floating_point() != boxes or y.dtype == torch.bool:
            use = "y.float()" if boxes else "y.long(), as of the tokenizer"
            raise TypeError(f"y has dtype {y.dtype}; expected a tensor {what}: use {use}")
        fits = y.ndim >= 2 and tuple(y.shape[2:]) == self.columns
        fits = fits and (batch is None or y.shape[0] == batch)
        if not fits or not 1 <= y.shape[1] <= self.length:
            raise ValueError(f"y has shape {tuple(y.shape)}; expected {what}")


class TextEncoder(ConditionEncoder):
    """Word numbers (b, m) of `tokenizer` → a token of each word, where it stands, and one more."""

    reads = "captions"

    def __init__(
        self,
        hidden_size: int,
        words: Sequence[str],
        length: int = 24,
        depth: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
        std: float = 1.0,
    ) -> None:
        super().__init__(hidden_size, length, depth, num_heads, dropout, std)
        self.tokenizer = Tokenizer(words, length)
        self.table = nn.Embedding(1 + len(words), hidden_size)
        self.positions = nn.Parameter(torch.randn(1 + length, hidden_size) * std)
        nn.init.normal_(self.table.weight, std=std)

    def encode(self, told: Sequence[str]) -> Tensor:
        """n texts → (n, length) int64, as of the tokenizer."""
        return self.tokenizer.encode(told)

    def check(self, y: Tensor, batch: int | None = None) -> None:
        """Raise unless y is an integer tensor (b, m), m ≤ length, of known numbers."""
        super().check(y, batch)
        check_labels(y.flatten(), None, self.table.num_embeddings)

    def embed(self, y: Tensor) -> Tensor:
        """(b, 1 + m) → (b, 1 + m, d)."""
        return self.table(y) + self.positions[: y.shape[1]]


class LayoutEncoder(ConditionEncoder):
    """A set of boxes (b, m, 6): 1 + kind, 1 + colour, x0, y0, x1, y1 in 0..1 → 1 + m tokens."""

    reads, columns, dtype = "objects", (6,), torch.float32
    SINUSOIDS = 32  # of each coordinate; the shortest turns once in 2π hundredths of the image

    def __init__(
        self,
        hidden_size: int,
        kinds: Sequence[str],
        colours: Sequence[str],
        length: int = 3,
        depth: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
        std: float = 1.0,
    ) -> None:
        super().__init__(hidden_size, length, depth, num_heads, dropout, std)
        self.kinds, self.colours = tuple(kinds), tuple(colours)
        self.kind_table = nn.Embedding(1 + len(kinds), hidden_size)
        self.colour_table = nn.Embedding(1 + len(colours), hidden_size)
        self.box = linear_layer(4 * self.SINUSOIDS, hidden_size)
        nn.init.normal_(self.kind_table.weight, std=std)
        nn.init.normal_(self.colour_table.weight, std=std)

    def check(self, y: Tensor, batch: int | None = None) -> None:
        """Raise unless y is a float tensor (b, m, 6), m ≤ length, of known kinds and of boxes."""
        super().check(y, batch)
        for column, table in enumerate((self.kind_table, self.colour_table)):
            check_labels(y[..., column].flatten().long(), None, table.num_embeddings)
        if not readable(y):
            return
        named = y[..., :2]  # (b, m, 2)
        odd = (named != named.round()).any(-1) | ((named > 0).any(-1) != (named > 0).all(-1))
        if odd.any():
            told = f"y contains the kind and colour {y[odd][0, :2].tolist()}"
            raise ValueError(f"{told}; both are whole numbers from 1 on, or both 0 for padding")
        bad = (y[..., 2:4] >= y[..., 4:6]).any(-1) | (y[..., 2:].clamp(0, 1) != y[..., 2:]).any(-1)
        bad &= y[..., 0] > 0
        if bad.any():
            box = [round(c, 3) for c in y[bad][0, 2:].tolist()]
            raise ValueError(f"y contains the box {box}; boxes are x0 < x1, y0 < y1 within 0 … 1")

    def embed(self, y: Tensor) -> Tensor:
        """(b, 1 + m, 6) → (b, 1 + m, d)."""
        kind, colour = y[..., 0].long(), y[..., 1].long()  # (b, 1 + m) each
        waves = timestep_embedding(100 * y[..., 2:].flatten(), self.SINUSOIDS, max_period=100)
        waves = waves.reshape(*y.shape[:2], -1).to(self.norm.weight.dtype)  # (b, 1 + m, 4·32)
        return self.kind_table(kind) + self.colour_table(colour) + self.box(waves)
