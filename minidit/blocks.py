"""The transformer block in four forms of conditioning (DiT, section 3.2, figure 3), the last layer,
and the long skips of U-ViT.

Every block is called `block(x, cond)`: x (b, n, d) are the image's tokens, cond (b, m, d) is the
condition, a short sequence: the time first, then the label or the words of a text. Blocks that
attend to the condition's tokens take a mask (b, m), too, False where they are padding. Padding is
zeros, so that the others, which sum the condition up, need none.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from minidit._validate import check_choice
from minidit.attention import Attention, Mlp
from minidit.patches import linear_layer


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """FiLM: x·(1 + scale) + shift for every token. x: (b, n, d); shift, scale: (b, d)."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class Block(nn.Module):
    """What all blocks have: attention and an MLP, with a normalisation before each.

    Left alone, the arguments are the DiT's; U-ViT has other ones for `eps` (of the normalisations),
    `gelu`, `qkv_bias`, and `std` (of the weights at the start).
    """

    in_context = False  # are the condition's tokens part of the sequence?
    num_modulations = 0  # how many vectors (b, d) are regressed from the condition

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        eps: float = 1e-6,
        gelu: str = "tanh",
        qkv_bias: bool = True,
        std: float | None = None,
    ) -> None:
        super().__init__()
        own = self.num_modulations == 0  # else scale and shift come from the condition
        self.norm1 = nn.LayerNorm(hidden_size, eps, elementwise_affine=own)
        self.norm2 = nn.LayerNorm(hidden_size, eps, elementwise_affine=own)
        self.attn = Attention(hidden_size, num_heads, qkv_bias, std=std)
        self.mlp = Mlp(hidden_size, mlp_ratio, gelu, std)
        if self.num_modulations:
            self.adaln = linear_layer(hidden_size, self.num_modulations * hidden_size, std=0.0)

    @classmethod
    def stack(cls, depth: int, grid: tuple[int, int], *sizes: float) -> nn.ModuleList:
        """So many blocks for a grid (h, w) of patches; `sizes`: the arguments of each."""
        return nn.ModuleList(cls(*sizes) for _ in range(depth))

    def modulation(self, cond: Tensor) -> tuple[Tensor, ...]:
        """The condition's sum as vectors: (b, m, d) → `num_modulations` tensors (b, d)."""
        return self.adaln(F.silu(cond.sum(dim=1))).chunk(self.num_modulations, dim=-1)


class InContextBlock(Block):
    """A plain ViT block: the condition is part of the sequence x, put there by the network."""

    in_context = True

    def forward(self, x: Tensor, cond: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, m + n, d), cond unused, mask (b, m) of the first tokens → (b, m + n, d)."""
        if mask is not None:
            mask = F.pad(mask, (0, x.shape[1] - mask.shape[1]), value=True)  # (b, m + n)
        x = x + self.attn(self.norm1(x), mask=mask)
        return x + self.mlp(self.norm2(x))


class CrossAttentionBlock(Block):
    """After attending to itself, the image attends to the condition's tokens."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__(hidden_size, num_heads, mlp_ratio)
        self.norm_cross = nn.LayerNorm(hidden_size, 1e-6)
        self.cross = Attention(hidden_size, num_heads, cross=True)

    def forward(self, x: Tensor, cond: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, n, d), (b, m, d), mask (b, m) → (b, n, d)."""
        x = x + self.attn(self.norm1(x))
        x = x + self.cross(self.norm_cross(x), cond, mask=mask)
        return x + self.mlp(self.norm2(x))


class AdaLNBlock(Block):
    """Scale and shift of both normalisations are regressed from the sum of the condition."""

    num_modulations = 4  # shift and scale, for attention and for the MLP

    def forward(self, x: Tensor, cond: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, d); padding is zeros, which the sum doesn't see."""
        shift1, scale1, shift2, scale2 = self.modulation(cond)
        x = x + self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + self.mlp(modulate(self.norm2(x), shift2, scale2))


class AdaLNZeroBlock(AdaLNBlock):
    """adaLN with a gate before each addition; the gates start at zero: the identity."""

    num_modulations = 6  # shift, scale and gate, for attention and for the MLP

    def forward(self, x: Tensor, cond: Tensor, mask: Tensor | None = None) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, d); padding is zeros, which the sum doesn't see."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(cond)
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


BLOCKS = {
    "in_context": InContextBlock,
    "cross_attention": CrossAttentionBlock,
    "adaln": AdaLNBlock,
    "adaln_zero": AdaLNZeroBlock,
}


def checkpointed(
    block: nn.Module, x: Tensor, cond: Tensor, checkpointing: bool, mask: Tensor | None = None
) -> Tensor:
    """block(x, cond), with the mask where there is one.

    With `checkpointing`, what is inside is computed again in the backward pass, which saves the
    memory of activations for a third more computing, and changes no bit (arXiv 1604.06174).
    """
    if checkpointing and torch.is_grad_enabled():
        # blocks draw no random numbers, so there is no random state to restore
        return checkpoint(block, x, cond, mask, use_reentrant=False, preserve_rng_state=False)
    return block(x, cond, mask)


class FinalLayer(nn.Module):
    """Tokens to patches: a normalisation (adaptive with adaLN), and a linear map, zero at first."""

    def __init__(
        self,
        hidden_size: int,
        out_features: int,
        adaptive: bool,
        eps: float = 1e-6,
        std: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps, elementwise_affine=not adaptive)
        self.adaln = linear_layer(hidden_size, 2 * hidden_size, std=0.0) if adaptive else None
        self.proj = linear_layer(hidden_size, out_features, std=std)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, out_features)."""
        x = self.norm(x)  # (b, n, d)
        if self.adaln is not None:
            shift, scale = self.adaln(F.silu(cond.sum(dim=1))).chunk(2, dim=-1)  # (b, d) each
            x = modulate(x, shift, scale)
        return self.proj(x)


# How many times the width goes into the linear layer of a long skip; 0: there is no such layer.
SKIPS = {"concat": 2, "add": 0, "add_linear": 1, "linear_add": 1, "none": 0}


class LongSkip(nn.Module):
    """How the tokens of an early block join those of a late one (U-ViT, section 3.1, figure 2a).

    `kind`: "concat" Linear([x, early]); "add" x + early; "add_linear" x + Linear(early);
    "linear_add" Linear(x + early); "none" x.
    """

    def __init__(self, kind: str, hidden_size: int, std: float | None = None) -> None:
        super().__init__()
        check_choice("skip", kind, SKIPS)
        self.kind = kind
        if SKIPS[kind]:
            self.proj = linear_layer(SKIPS[kind] * hidden_size, hidden_size, std=std)

    def forward(self, x: Tensor, early: Tensor) -> Tensor:
        """(b, n, d), (b, n, d) → (b, n, d)."""
        if self.kind == "concat":
            return self.proj(torch.cat([x, early], dim=-1))
        if self.kind == "add":
            return x + early
        if self.kind == "add_linear":
            return x + self.proj(early)
        return self.proj(x + early) if self.kind == "linear_add" else x
