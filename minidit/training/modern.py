"""A block of today: what later transformers changed in adaLN-Zero, six parts, each with a switch.

RMSNorm (arXiv 1910.07467), rotary positions (2104.09864) of rows and columns, normalised queries
and keys (2302.05442), SwiGLU (2002.05202), adaLN shared by all blocks (PixArt's adaLN-single,
2310.00426) and registers (2309.16588). Importing this file, or the presets, tells the DiT
of them: "modern" has all parts, "modern_rope" one, BLOCKS["mine"] = modern("rope", "swiglu") two.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_choice
from minidit.attention import Attention
from minidit.blocks import BLOCKS, AdaLNZeroBlock
from minidit.embed import frequencies
from minidit.patches import linear_layer

PARTS = ("rms_norm", "rope", "qk_norm", "swiglu", "shared_adaln", "registers")
REGISTERS = 4


class RotaryAttention(Attention):
    """Self-attention whose queries and keys may be normalised, and rotated by where they are.

    `angles` (n, k/2): of the last n tokens; those before them, the registers, stand nowhere.
    """

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__(hidden_size, num_heads)
        k, norm = hidden_size // num_heads, nn.RMSNorm if qk_norm else nn.Identity
        self.q_norm, self.k_norm = norm(k, eps=1e-6), norm(k, eps=1e-6)
        self.register_buffer("angles", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) → (b, n, d)."""
        q, k, v = (
            rearrange(z, "b n (heads k) -> b heads n k", heads=self.num_heads)
            for z in self.qkv(x).chunk(3, dim=-1)
        )
        # autocast's q and k are narrower than x and the norms' weights
        q, k = self.q_norm(q.to(x.dtype)), self.k_norm(k.to(x.dtype))
        if self.angles is not None:
            angles = F.pad(self.angles, (0, 0, x.shape[1] - len(self.angles), 0))
            q, k = rotate(q, angles), rotate(k, angles)
        out = self.scaled_dot_product_attention(q, k, v)  # (b, heads, n, k)
        return self.proj(rearrange(out, "b heads n k -> b n (heads k)"))


def rotate(z: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs (z_i, z_(i + k/2)) by their angles: (b, heads, n, k), (n, k/2) → as z.

    So q·k depends on how far apart the two stand, and not on where.
    """
    first, second = z.chunk(2, dim=-1)  # (b, heads, n, k/2) each
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def grid_angles(grid: tuple[int, int], k: int) -> Tensor:
    """Of each patch of a grid (h, w): column·ω, then row·ω, ω_i = 100^(-4i/k); (h·w, k/2)."""
    if k % 4:
        raise ValueError(f"heads are {k} wide; rotary positions need a multiple of 4: change heads")
    row, column = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
    omega = frequencies(k // 4, max_period=100.0)
    return torch.cat([z.reshape(-1, 1) * omega.to(z.device) for z in (column, row)], dim=1)


class SwiGLU(nn.Module):
    """silu(x·W)·(x·V), then a linear layer; a third narrower than the MLP, so as large as it."""

    def __init__(self, hidden_size: int, ratio: float) -> None:
        super().__init__()
        inner = max(1, round(hidden_size * ratio * 2 / 3))
        self.up = linear_layer(hidden_size, 2 * inner)
        self.down = linear_layer(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) → (b, n, d)."""
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class ModernBlock(AdaLNZeroBlock):
    """adaLN-Zero with the parts in `parts`; with none of them it is that block.

    What a network's blocks have in common, `stack` gives them: a lone block has no positions, no
    registers, and an adaptive layer of its own.
    """

    parts: tuple[str, ...] = PARTS

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__(hidden_size, num_heads, mlp_ratio)
        if "rms_norm" in self.parts:
            self.norm1 = self.norm2 = nn.RMSNorm(hidden_size, 1e-6, elementwise_affine=False)
        self.attn = RotaryAttention(hidden_size, num_heads, "qk_norm" in self.parts)
        if "swiglu" in self.parts:
            self.mlp = SwiGLU(hidden_size, mlp_ratio)
        self.own = self.registers = None
        self.shared = [self.adaln]  # in a list: whose layer it is stays the first block

    @classmethod
    def stack(cls, depth: int, grid: tuple[int, int], *sizes: float) -> nn.ModuleList:
        """So many blocks for a grid (h, w) of patches; `sizes`: the arguments of each."""
        first, *others = blocks = super().stack(depth, grid, *sizes)
        d, heads, *_ = sizes
        if "rope" in cls.parts:
            for block in blocks:
                block.attn.angles = grid_angles(grid, d // heads)
        if "shared_adaln" in cls.parts:
            for block in others:
                block.shared = first.shared
                del block.adaln
            for block in blocks:  # what differs from block to block
                block.own = nn.Parameter(torch.zeros(1, cls.num_modulations, d))
        if "registers" in cls.parts:
            first.registers = nn.Parameter(0.02 * torch.randn(1, REGISTERS, d))
        return blocks

    def modulation(self, cond: Tensor) -> tuple[Tensor, ...]:
        """The condition's sum as vectors: (b, m, d) → six tensors (b, d)."""
        vectors = self.shared[0](F.silu(cond.sum(dim=1))).unflatten(1, (self.num_modulations, -1))
        return (vectors if self.own is None else vectors + self.own).unbind(dim=1)

    def forward(self, x: Tensor, cond: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, d); in a network the first block puts registers before x.

        The network leaves them out at the end, as it does with tokens of the condition.
        """
        if self.registers is not None:
            x = torch.cat([self.registers.expand(x.shape[0], -1, -1), x], dim=1)
        return super().forward(x, cond, mask)


def modern(*parts: str) -> type[ModernBlock]:
    """The kind of block that has these of the `PARTS`, for `BLOCKS`."""
    for part in parts:
        check_choice("part", part, PARTS)

    class Chosen(ModernBlock):
        """Some of the parts."""

    Chosen.parts = parts
    return Chosen


BLOCKS |= {"modern": ModernBlock} | {f"modern_{part}": modern(part) for part in PARTS}
