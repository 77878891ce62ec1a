"""Attention and the MLP, the halves of a transformer block (arXiv 1706.03762, 3.2 and 3.3)."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_positive
from minidit.patches import linear_layer


class Attention(nn.Module):
    """softmax(q kᵀ / √k) v over all tokens: of the sequence itself, or of a context (`cross`)."""

    scaled_dot_product_attention = staticmethod(F.scaled_dot_product_attention)

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        qkv_bias: bool = True,
        cross: bool = False,
        std: float | None = None,
    ) -> None:
        super().__init__()
        check_positive(hidden_size=hidden_size, num_heads=num_heads)
        if hidden_size % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide hidden_size={hidden_size}")
        self.num_heads, self.cross = num_heads, cross
        if cross:
            self.q = linear_layer(hidden_size, hidden_size, bias=qkv_bias, std=std)
            self.kv = linear_layer(hidden_size, 2 * hidden_size, bias=qkv_bias, std=std)
        else:
            self.qkv = linear_layer(hidden_size, 3 * hidden_size, bias=qkv_bias, std=std)
        self.proj = linear_layer(hidden_size, hidden_size, std=std)

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(b, n, d), and for cross-attention a context (b, m, d) → (b, n, d).

        `mask`, bool: which tokens are attended to, (b, n) or, of the context, (b, m); at least one.
        """
        if (context is not None) != self.cross:
            raise ValueError(
                f"context is {'missing' if context is None else 'given'}, but this attention was "
                f"made with cross={self.cross}; cross=True is for attention to a context"
            )
        if context is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (b, n, heads·k)
        else:
            q, (k, v) = self.q(x), self.kv(context).chunk(2, dim=-1)  # k, v: (b, m, heads·k)
        q, k, v = (
            rearrange(z, "b n (heads k) -> b heads n k", heads=self.num_heads) for z in (q, k, v)
        )
        if mask is not None:
            if mask.dtype != torch.bool or mask.shape != (k.shape[0], k.shape[2]):
                raise ValueError(
                    f"mask is {mask.dtype} of shape {tuple(mask.shape)}; expected bools, one for "
                    f"each token that is attended to: {(k.shape[0], k.shape[2])}"
                )
            mask = mask[:, None, None]  # (b, 1, 1, n or m)
        out = self.scaled_dot_product_attention(q, k, v, mask)  # (b, heads, n, k)
        return self.proj(rearrange(out, "b heads n k -> b n (heads k)"))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them; `approximate="tanh"` is the DiT's variant."""

    gelu = staticmethod(F.gelu)

    def __init__(
        self,
        hidden_size: int,
        ratio: float = 4.0,
        approximate: str = "tanh",
        std: float | None = None,
    ) -> None:
        super().__init__()
        check_positive(hidden_size=hidden_size)
        if not 1 <= hidden_size * ratio < 2**31:
            raise ValueError(f"mlp_ratio={ratio} leaves no inner width; the papers use 4")
        inner = int(hidden_size * ratio)
        self.up = linear_layer(hidden_size, inner, std=std)
        self.down = linear_layer(inner, hidden_size, std=std)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) → (b, n, d)."""
        return self.down(self.gelu(self.up(x), approximate=self.approximate))
