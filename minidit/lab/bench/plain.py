"""DiT and U-ViT as a plain reading of the papers: what the benchmark holds the package against.

DiT with adaLN-Zero (arXiv 2212.09748, figure 3) and U-ViT with its own choices (2209.12152, figure
1), formula by formula in PyTorch's own layers: three linear layers for q, k and v, the softmax
written out, a convolution for the patches. Nothing is slow on purpose, and nothing is fused.
`plain_weights.plain` makes one out of a network of the package, with the same weights, so that both
compute the same function, with as many multiply-accumulates.
"""

import math

import torch
from torch import Tensor, nn


def sinusoids(t: Tensor, dim: int) -> Tensor:
    """[cos(t·ω), sin(t·ω)], ω_k = 10000^(-k/half): (b,) → (b, dim)."""
    half = dim // 2
    omega = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device).float() / half)
    angles = t[:, None].float() * omega[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class PlainAttention(nn.Module):
    """softmax(q kᵀ / √k) v."""

    def __init__(self, hidden_size: int, num_heads: int, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.k = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.v = nn.Linear(hidden_size, hidden_size, bias=bias)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def heads(self, z: Tensor) -> Tensor:
        """(b, n, heads·k) → (b, heads, n, k)."""
        b, n, d = z.shape
        return z.reshape(b, n, self.num_heads, d // self.num_heads).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) → (b, n, d)."""
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (b, heads, n, n)
        out = torch.softmax(scores, dim=-1) @ v  # (b, heads, n, k)
        return self.proj(out.transpose(1, 2).reshape(x.shape))


class PlainMlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, hidden_size: int, inner: int, gelu: str) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, inner)
        self.gelu = nn.GELU(approximate=gelu)
        self.down = nn.Linear(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) → (b, n, d)."""
        return self.down(self.gelu(self.up(x)))


class PlainDiTBlock(nn.Module):
    """adaLN-Zero: shift, scale and gate for attention and for the MLP, regressed from c."""

    def __init__(self, hidden_size: int, num_heads: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.attn = PlainAttention(hidden_size, num_heads, bias=True)
        self.norm2 = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.mlp = PlainMlp(hidden_size, inner, gelu="tanh")
        self.silu = nn.SiLU()
        self.adaln = nn.Linear(hidden_size, 6 * hidden_size)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """(b, n, d), (b, d) → (b, n, d)."""
        parts = self.adaln(self.silu(c)).unsqueeze(1).chunk(6, dim=-1)  # each (b, 1, d)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        x = x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        return x


class PlainUViTBlock(nn.Module):
    """A ViT's block."""

    def __init__(self, hidden_size: int, num_heads: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size)
        self.attn = PlainAttention(hidden_size, num_heads, bias=False)
        self.norm2 = nn.LayerNorm(hidden_size)
        self.mlp = PlainMlp(hidden_size, inner, gelu="none")

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d) → (b, n, d)."""
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class PlainNetwork(nn.Module):
    """What both networks share: the arguments, the patches, the labels."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        d, p, c = config["hidden_size"], config["patch_size"], config["in_channels"]
        self.d, self.p, self.c, self.depth = d, p, c, config["depth"]
        self.side = config["input_size"] // p
        self.null_label = config["num_classes"]
        self.patch_embed = nn.Conv2d(c, d, kernel_size=p, stride=p)
        self.label_embed = nn.Embedding(config["num_classes"] + 1, d)

    def tokens(self, x: Tensor) -> Tensor:
        """(b, c, h, w) → (b, n, d)."""
        return self.patch_embed(x).flatten(2).transpose(1, 2)

    def image(self, tokens: Tensor) -> Tensor:
        """(b, n, p·p·c) → (b, c, h, w)."""
        side, p = self.side, self.p
        patches = tokens.reshape(len(tokens), side, side, p, p, self.c)
        return torch.einsum("bhwpqc->bchpwq", patches).reshape(-1, self.c, side * p, side * p)


class PlainDiT(PlainNetwork):
    """Patches, N blocks told of c = time + label, a last adaptive layer."""

    def __init__(self, config: dict) -> None:
        super().__init__(config)
        d = self.d
        self.pos_embed = nn.Parameter(torch.zeros(self.side**2, d), requires_grad=False)
        self.time_mlp = nn.Sequential(nn.Linear(256, d), nn.SiLU(), nn.Linear(d, d))
        arguments = (d, config["num_heads"], int(d * config["mlp_ratio"]))
        self.blocks = nn.ModuleList(PlainDiTBlock(*arguments) for _ in range(self.depth))
        self.final_norm = nn.LayerNorm(d, eps=1e-6, elementwise_affine=False)
        self.final_adaln = nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))
        self.final_proj = nn.Linear(d, self.p**2 * self.c)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """(b, c, h, w), (b,), (b,) → (b, c, h, w)."""
        x = self.tokens(x) + self.pos_embed
        c = self.time_mlp(sinusoids(t, 256)) + self.label_embed(y)  # (b, d)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.final_adaln(c).unsqueeze(1).chunk(2, dim=-1)
        return self.image(self.final_proj(self.final_norm(x) * (1 + scale) + shift))


class PlainUViT(PlainNetwork):
    """Label, time and patches as tokens; the first half's outputs join the second half."""

    def __init__(self, config: dict) -> None:
        super().__init__(config)
        d, self.half = self.d, self.depth // 2
        self.pos_embed = nn.Parameter(torch.zeros(2 + self.side**2, d))
        arguments = (d, config["num_heads"], int(d * config["mlp_ratio"]))
        self.blocks = nn.ModuleList(PlainUViTBlock(*arguments) for _ in range(2 * self.half + 1))
        self.skips = nn.ModuleList(nn.Linear(2 * d, d) for _ in range(self.half))
        self.final_norm = nn.LayerNorm(d)
        self.final_proj = nn.Linear(d, self.p**2 * self.c)
        self.conv = nn.Conv2d(self.c, self.c, kernel_size=3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """(b, c, h, w), (b,), (b,) → (b, c, h, w)."""
        time, label = sinusoids(t, self.d).unsqueeze(1), self.label_embed(y).unsqueeze(1)
        x = torch.cat([label, time, self.tokens(x)], dim=1) + self.pos_embed
        early = []
        for block in self.blocks[: self.half]:
            x = block(x)
            early.append(x)
        x = self.blocks[self.half](x)
        for skip, block in zip(self.skips, self.blocks[self.half + 1 :]):
            x = block(skip(torch.cat([x, early.pop()], dim=-1)))
        x = x[:, 2:]  # without label and time
        return self.conv(self.image(self.final_proj(self.final_norm(x))))
