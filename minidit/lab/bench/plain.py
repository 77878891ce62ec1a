"""DiT and U-ViT as a plain reading of the papers: what the benchmark holds the package against.

DiT with adaLN-Zero (arXiv 2212.09748, figure 3) and U-ViT with its own choices (2209.12152, figure
1), formula by formula on a dict of weights that have the package's names. Then their training: a
data loader that fetches image by image, DDPM's ε and L_simple (2006.11239), AdamW and an average in
loops over the weights, the loss read after every step, float32 throughout; and two passes for
guidance (2207.12598) in DDIM (2010.02502). Nothing is slow on purpose, and nothing is fused.
"""

import itertools
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from minidit.dit import DiT
from minidit.train import Recipe
from minidit.uvit import UViT

Weights = dict[str, Tensor]


def sinusoids(t: Tensor, dim: int) -> Tensor:
    """[cos(t·ω), sin(t·ω)], ω_k = 10000^(-2k/dim): (b,) → (b, dim)."""
    k = torch.arange(dim // 2, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(10_000) * k.float() / (dim // 2))
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """W x + b, if there is a b: (…, d) → (…, the rows of W)."""
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def norm(w: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """DiT's normalisation learns nothing, U-ViT's scales and shifts: (b, n, d) → (b, n, d)."""
    return F.layer_norm(x, x.shape[-1:], w.get(f"{name}.weight"), w.get(f"{name}.bias"), eps)


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
    """(b, c, h, w), (b,), (b,) → (b, c, h, w): patches, N blocks told of c = time + label.

    A block regresses shift, scale and gate for attention and for the MLP from c.
    """
    time = F.silu(linear(w, "time_embed.mlp.0", sinusoids(t, 256)))
    c = linear(w, "time_embed.mlp.2", time) + F.embedding(y, w["label_embed.table.weight"])
    x = tokens(w, x, config["patch_size"]) + w["pos_embed"]  # (b, n, d)
    for k in range(config["depth"]):
        at = f"blocks.{k}"
        parts = linear(w, f"{at}.adaln", F.silu(c)).unsqueeze(1).chunk(6, dim=-1)  # each (b, 1, d)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        inside = norm(w, f"{at}.norm1", x, 1e-6) * (1 + scale1) + shift1
        x = x + gate1 * attention(w, f"{at}.attn", inside, config["num_heads"])
        inside = norm(w, f"{at}.norm2", x, 1e-6) * (1 + scale2) + shift2
        x = x + gate2 * mlp(w, f"{at}.mlp", inside, "tanh")
    shift, scale = linear(w, "final.adaln", F.silu(c)).unsqueeze(1).chunk(2, dim=-1)
    x = norm(w, "final.norm", x, 1e-6) * (1 + scale) + shift
    return image(w, x, config["patch_size"])


def plain_uvit(w: Weights, config: dict, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """(b, c, h, w), (b,), (b,) → (b, c, h, w): the first half's outputs join the second half."""
    time = sinusoids(t, config["hidden_size"]).unsqueeze(1)
    label = F.embedding(y, w["label_embed.table.weight"]).unsqueeze(1)
    x = torch.cat([label, time, tokens(w, x, config["patch_size"])], dim=1) + w["pos_embed"]
    early, half = [], config["depth"] // 2
    for k in range(2 * half + 1):
        at = f"blocks.{k}"
        if k > half:
            x = linear(w, f"skips.{k - half - 1}.proj", torch.cat([x, early.pop()], dim=-1))
        x = x + attention(w, f"{at}.attn", norm(w, f"{at}.norm1", x), config["num_heads"])
        x = x + mlp(w, f"{at}.mlp", norm(w, f"{at}.norm2", x), "none")
        if k < half:
            early.append(x)
    x = norm(w, "final.norm", x[:, 2:])  # without label and time
    x = image(w, x, config["patch_size"])
    return F.conv2d(x, w["conv_after.weight"], w["conv_after.bias"], padding=1)


class PlainRun:
    """A training run from the weights of `model`: AdamW at a constant rate, uniform times.

    `network`: (b, c, h, w), (b,), (b,) → (b, c, h, w).
    """

    def __init__(self, model: DiT | UViT, images: Tensor, labels: Tensor, recipe: Recipe) -> None:
        self.null_label, self.recipe = model.null_label, recipe
        self.weights = {k: p.detach().clone() for k, p in model.named_parameters()}
        self.ema = {k: p.clone() for k, p in self.weights.items()}
        formula = plain_dit if isinstance(model, DiT) else plain_uvit
        self.network = partial(formula, self.weights, model.config)
        self.learnt = [k for k, p in model.named_parameters() if p.requires_grad]
        parameters = [self.weights[k].requires_grad_() for k in self.learnt]
        numbers = dict(lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(parameters, foreach=False, **numbers)
        self.device = parameters[0].device
        on_gpu = self.device.type == "cuda"
        how = dict(shuffle=True, drop_last=True, pin_memory=on_gpu, persistent_workers=on_gpu)
        how["num_workers"] = 4 * on_gpu  # as in DiT's code; a CPU has no one to spare
        loader = DataLoader(TensorDataset(images, labels), recipe.batch_size, **how)
        self.batches = (batch for _ in itertools.count() for batch in loader)  # pass by pass
        beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # DDPM's linear schedule
        self.levels = torch.cumprod(1 - beta, dim=0).tolist()  # ᾱ
        self.alphas_cumprod = torch.tensor(self.levels, device=self.device)  # (T,) float32

    def step(self) -> float:
        """A training step; its loss."""
        x0, y = (z.to(self.device) for z in next(self.batches))
        if x0.dtype == torch.uint8:
            x0 = (x0.float() / 255 - 0.5) / 0.5
        dropped = torch.rand(len(y), device=self.device) < 0.1
        t = torch.randint(0, len(self.levels), (len(x0),), device=self.device)
        return self.learn(x0, t, torch.randn_like(x0), torch.where(dropped, self.null_label, y))

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
        for k in reversed(range(len(steps))):
            level, before = self.levels[steps[k]], self.levels[steps[k - 1]] if k > 0 else 1.0
            t = torch.full((len(x),), steps[k], device=x.device)
            cond = self.network(x, t, y)
            uncond = self.network(x, t, torch.full_like(y, self.null_label))
            eps = uncond + scale * (cond - uncond)
            x0 = (x - (1 - level) ** 0.5 * eps) / level**0.5
            x = before**0.5 * x0 + (1 - before) ** 0.5 * eps
        return x
