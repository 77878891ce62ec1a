"""The DiT block in its four forms of conditioning (DiT, section 3.2, figure 3), and the last layer.

Every block is called `block(x, cond)`: x (b, n, d) are the image's tokens, cond (b, m, d) is the
condition, a short sequence: the time first, then the label or the words of a text.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from minidit._init import linear
from minidit.attention import Attention, Mlp


def layer_norm(hidden_size: int, affine: bool) -> nn.LayerNorm:
    """The DiT's normalisation; `affine=False` where the scale and shift come from the condition."""
    return nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=affine)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """FiLM: x·(1 + scale) + shift for every token. x: (b, n, d); shift, scale: (b, d)."""
    return x * (1 + scale[:, None]) + shift[:, None]


class InContextBlock(nn.Module):
    """A plain ViT block: the condition is part of the sequence x, put there by the network."""

    in_context = True

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer_norm(hidden_size, True), layer_norm(hidden_size, True)
        self.attn = Attention(hidden_size, num_heads)
        self.mlp = Mlp(hidden_size, mlp_ratio)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(b, m + n, d), cond unused → (b, m + n, d)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossAttentionBlock(nn.Module):
    """After attending to itself, the image attends to the condition's tokens."""

    in_context = False

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer_norm(hidden_size, True), layer_norm(hidden_size, True)
        self.norm_cross = layer_norm(hidden_size, True)
        self.attn = Attention(hidden_size, num_heads)
        self.cross = Attention(hidden_size, num_heads, cross=True)
        self.mlp = Mlp(hidden_size, mlp_ratio)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, d)."""
        x = x + self.attn(self.norm1(x))
        x = x + self.cross(self.norm_cross(x), cond)
        return x + self.mlp(self.norm2(x))


class AdaLNBlock(nn.Module):
    """Scale and shift of both normalisations are regressed from the sum of the condition."""

    in_context = False
    parts = 4  # shift and scale, for attention and for the MLP

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer_norm(hidden_size, False), layer_norm(hidden_size, False)
        self.attn = Attention(hidden_size, num_heads)
        self.mlp = Mlp(hidden_size, mlp_ratio)
        self.adaln = linear(hidden_size, self.parts * hidden_size, std=0.0)

    def modulation(self, cond: Tensor) -> tuple[Tensor, ...]:
        """(b, m, d) → `parts` tensors (b, d)."""
        return self.adaln(F.silu(cond.sum(dim=1))).chunk(self.parts, dim=-1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, d)."""
        shift1, scale1, shift2, scale2 = self.modulation(cond)
        x = x + self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + self.mlp(modulate(self.norm2(x), shift2, scale2))


class AdaLNZeroBlock(AdaLNBlock):
    """adaLN with a gate before each addition; the gates start at zero: the identity."""

    parts = 6  # shift, scale and gate, for attention and for the MLP

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, d)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(cond)
        x = x + gate1[:, None] * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


BLOCKS = {
    "in_context": InContextBlock,
    "cross_attention": CrossAttentionBlock,
    "adaln": AdaLNBlock,
    "adaln_zero": AdaLNZeroBlock,
}


class FinalLayer(nn.Module):
    """Tokens to patches: a normalisation (adaptive with adaLN), and a linear map from zero."""

    def __init__(self, hidden_size: int, out_features: int, adaptive: bool) -> None:
        super().__init__()
        self.norm = layer_norm(hidden_size, affine=not adaptive)
        self.adaln = linear(hidden_size, 2 * hidden_size, std=0.0) if adaptive else None
        self.proj = linear(hidden_size, out_features, std=0.0)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, out_features)."""
        x = self.norm(x)  # (b, n, d)
        if self.adaln is not None:
            shift, scale = self.adaln(F.silu(cond.sum(dim=1))).chunk(2, dim=-1)  # (b, d) each
            x = modulate(x, shift, scale)
        return self.proj(x)
