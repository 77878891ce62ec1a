"""DiT and U-ViT as a plain reading of the papers: what the benchmark holds the package against.

DiT with adaLN-Zero (arXiv 2212.09748, figure 3) and U-ViT with its own choices (2209.12152, figure
1), formula by formula on a dict of weights, with the package's names: with the same weights both
compute the same. Then their training: a data loader that fetches image by image, DDPM's ε and
L_simple (2006.11239), AdamW and an average in loops over the weights, the loss read after every
step, float32 throughout; and two passes for guidance (2207.12598) in DDIM (2010.02502). Nothing is
slow on purpose, and nothing is fused.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from minidit.dit import DiT
from minidit.train import Recipe
from minidit.uvit import UViT

Weights = dict[str, Tensor]


def sinusoids(t: Tensor, dim: int) -> Tensor:
    """[cos(t·ω), sin(t·ω)], ω_k = 10000^(-k/half): (b,) → (b, dim)."""
    half = dim // 2
    omega = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device).float() / half)
    angles = t[:, None].float() * omega[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """W x + b, if there is a b: (…, d) → (…, the rows of W)."""
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def norm(x: Tensor) -> Tensor:
    """DiT's normalisation, which learns nothing: (b, n, d) → (b, n, d)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def affine_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """U-ViT's normalisation, with scales and shifts of its own: (b, n, d) → (b, n, d)."""
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])


def attention(w: Weights, name: str, x: Tensor, num_heads: int) -> Tensor:
    """softmax(q kᵀ / √k) v: (b, n, d) → (b, n, d)."""
    b, n, d = x.shape
    parts = linear(w, f"{name}.qkv", x).reshape(b, n, 3, num_heads, d // num_heads)
    q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (b, heads, n, k)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (b, heads, n, n)
    out = torch.softmax(scores, dim=-1) @ v  # (b, heads, n, k)
    return linear(w, f"{name}.proj", out.transpose(1, 2).reshape(b, n, d))


def mlp(w: Weights, name: str, x: Tensor, gelu: str) -> Tensor:
    """Linear, GELU, linear: (b, n, d) → (b, n, d)."""
    return linear(w, f"{name}.down", F.gelu(linear(w, f"{name}.up", x), approximate=gelu))


def tokens(w: Weights, x: Tensor, p: int) -> Tensor:
    """(b, c, h, w) → (b, n, d)."""
    b, c, side, _ = x.shape
    patches = x.reshape(b, c, side // p, p, side // p, p)
    patches = torch.einsum("bchpwq->bhwpqc", patches).reshape(b, -1, p * p * c)
    return linear(w, "patch_embed.proj", patches)


def image(w: Weights, x: Tensor, p: int) -> Tensor:
    """(b, n, d) → (b, c, h, w)."""
    b, side = len(x), math.isqrt(x.shape[1])
    patches = linear(w, "final.proj", x).reshape(b, side, side, p, p, -1)
    return torch.einsum("bhwpqc->bchpwq", patches).reshape(b, -1, side * p, side * p)


def plain_dit(w: Weights, config: dict, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Patches, N blocks told of c = time + label, a last adaptive layer.

    (b, c, h, w), (b,), (b,) → (b, c, h, w). A block regresses shift, scale and gate for attention
    and for the MLP from c.
    """
    time = F.silu(linear(w, "time_embed.mlp.0", sinusoids(t, 256)))
    c = linear(w, "time_embed.mlp.2", time) + F.embedding(y, w["label_embed.table.weight"])
    x = tokens(w, x, config["patch_size"]) + w["pos_embed"]  # (b, n, d)
    for k in range(config["depth"]):
        at = f"blocks.{k}"
        parts = linear(w, f"{at}.adaln", F.silu(c)).unsqueeze(1).chunk(6, dim=-1)  # each (b, 1, d)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        inside = norm(x) * (1 + scale1) + shift1
        x = x + gate1 * attention(w, f"{at}.attn", inside, config["num_heads"])
        x = x + gate2 * mlp(w, f"{at}.mlp", norm(x) * (1 + scale2) + shift2, "tanh")
    shift, scale = linear(w, "final.adaln", F.silu(c)).unsqueeze(1).chunk(2, dim=-1)
    return image(w, norm(x) * (1 + scale) + shift, config["patch_size"])


def plain_uvit(w: Weights, config: dict, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Label, time and patches as tokens; the first half's outputs join the second half.

    (b, c, h, w), (b,), (b,) → (b, c, h, w).
    """
    time = sinusoids(t, config["hidden_size"]).unsqueeze(1)
    label = F.embedding(y, w["label_embed.table.weight"]).unsqueeze(1)
    x = torch.cat([label, time, tokens(w, x, config["patch_size"])], dim=1) + w["pos_embed"]
    early, half = [], config["depth"] // 2
    for k in range(2 * half + 1):
        at = f"blocks.{k}"
        if k > half:
            x = linear(w, f"skips.{k - half - 1}.proj", torch.cat([x, early.pop()], dim=-1))
        inside = affine_norm(w, f"{at}.norm1", x)
        x = x + attention(w, f"{at}.attn", inside, config["num_heads"])
        x = x + mlp(w, f"{at}.mlp", affine_norm(w, f"{at}.norm2", x), "none")
        if k < half:
            early.append(x)
    x = affine_norm(w, "final.norm", x[:, 2:])  # without label and time
    x = image(w, x, config["patch_size"])
    return F.conv2d(x, w["conv_after.weight"], w["conv_after.bias"], padding=1)


class PlainRun:
    """A training run from the weights of `model`: AdamW at a constant rate, uniform times."""

    def __init__(self, model: DiT | UViT, images: Tensor, labels: Tensor, recipe: Recipe) -> None:
        self.formula = {DiT: plain_dit, UViT: plain_uvit}[type(model)]
        self.config, self.null_label, self.recipe = model.config, model.null_label, recipe
        self.weights, self.ema = (
            {k: p.detach().clone() for k, p in model.named_parameters()} for _ in range(2)
        )
        self.learnt = [k for k, p in model.named_parameters() if p.requires_grad]
        parameters = [self.weights[k].requires_grad_() for k in self.learnt]
        numbers = dict(lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(parameters, foreach=False, **numbers)
        self.device = parameters[0].device
        on_gpu = self.device.type == "cuda"
        loader = DataLoader(
            TensorDataset(images, labels),
            recipe.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=4 if on_gpu else 0,  # as in DiT's code; a CPU has no one to spare
            pin_memory=on_gpu,
            persistent_workers=on_gpu,
        )
        self.batches = (batch for _ in itertools.count() for batch in loader)  # pass by pass
        self.alphas_cumprod = signal_levels().float().to(self.device)

    def network(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """(b, c, h, w), (b,), (b,) → (b, c, h, w)."""
        return self.formula(self.weights, self.config, x, t, y)

    def step(self) -> float:
        """A training step; its loss."""
        x0, y = (z.to(self.device) for z in next(self.batches))
        if x0.dtype == torch.uint8:
            x0 = (x0.float() / 255 - 0.5) / 0.5
        dropped = torch.rand(len(y), device=self.device) < 0.1
        y = torch.where(dropped, self.null_label, y)
        t = torch.randint(0, len(self.alphas_cumprod), (len(x0),), device=self.device)
        return self.learn(x0, t, torch.randn_like(x0), y)

    def loss(self, x0: Tensor, t: Tensor, noise: Tensor, y: Tensor) -> Tensor:
        """L_simple: the mean squared error of the noise (DDPM, equation 14), a scalar."""
        level = self.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        x_t = torch.sqrt(level) * x0 + torch.sqrt(1 - level) * noise
        return ((self.network(x_t, t, y) - noise) ** 2).mean()

    def learn(self, x0: Tensor, t: Tensor, noise: Tensor, y: Tensor) -> float:
        """What a step does with images (b, c, h, w), times, noise and labels; the loss."""
        self.optimizer.zero_grad()
        loss = self.loss(x0, t, noise, y)
        loss.backward()
        nn.utils.clip_grad_norm_([self.weights[k] for k in self.learnt], self.recipe.clip)
        self.optimizer.step()
        decay = self.recipe.ema_decay
        with torch.no_grad():
            for name, average in self.ema.items():
                average.mul_(decay).add_(self.weights[name], alpha=1 - decay)
        return loss.item()

    @torch.no_grad()
    def ddim(self, x: Tensor, y: Tensor, steps: list[int], scale: float) -> Tensor:
        """Guidance u + scale·(c - u), in two passes a step; `steps` rise. → (b, c, h, w)."""
        levels = signal_levels().tolist()
        for k in reversed(range(len(steps))):
            level, before = levels[steps[k]], levels[steps[k - 1]] if k > 0 else 1.0
            t = torch.full((len(x),), steps[k], device=x.device)
            cond = self.network(x, t, y)
            uncond = self.network(x, t, torch.full_like(y, self.null_label))
            eps = uncond + scale * (cond - uncond)
            x0 = (x - (1 - level) ** 0.5 * eps) / level**0.5
            x = before**0.5 * x0 + (1 - before) ** 0.5 * eps
        return x


def signal_levels(T: int = 1000) -> Tensor:
    """ᾱ of DDPM's linear schedule, (T,), float64."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64), dim=0)
