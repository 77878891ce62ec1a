"""Training and sampling as a plain reading of the papers: the benchmark's other half.

A data loader that turns bytes into floats image by image, DDPM's ε and L_simple (arXiv 2006.11239),
AdamW and an average in loops over the weights, the loss read after every step, float32 throughout;
two passes for guidance (2207.12598) in DDIM (2010.02502).
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from minidit.train import Recipe


class PlainImages(Dataset):
    """Images with labels; bytes become floats in [-1, 1] as each is fetched."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        if image.dtype == torch.uint8:
            image = image.float() / 255  # [0, 1]
            image = (image - 0.5) / 0.5  # [-1, 1]
        return image, self.labels[index]


def signal_levels(T: int = 1000) -> Tensor:
    """ᾱ of DDPM's linear schedule, (T,), float64."""
    betas = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)


class PlainRun:
    """A training run with the numbers of `recipe`: AdamW at a constant rate, uniform times."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> None:
        self.model, self.clip, self.decay = model.train(), recipe.clip, recipe.ema_decay
        self.device = next(model.parameters()).device
        self.ema = copy.deepcopy(model).eval()
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=recipe.lr,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            foreach=False,
        )
        on_gpu = self.device.type == "cuda"
        self.loader = DataLoader(
            PlainImages(images, labels),
            recipe.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=4 if on_gpu else 0,  # as in DiT's code; a CPU has no one to spare
            pin_memory=on_gpu,
            persistent_workers=on_gpu,
        )
        self.batches = self.endless()
        self.alphas_cumprod = signal_levels().float().to(self.device)

    def endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches, one pass over the data after the other."""
        while True:
            yield from self.loader

    def step(self) -> float:
        """A training step; its loss."""
        x0, y = next(self.batches)
        x0, y = x0.to(self.device), y.to(self.device)
        dropped = torch.rand(len(y), device=self.device) < 0.1
        y = torch.where(dropped, self.model.null_label, y)
        t = torch.randint(0, len(self.alphas_cumprod), (len(x0),), device=self.device)
        return self.learn(x0, t, torch.randn_like(x0), y)

    def loss(self, x0: Tensor, t: Tensor, noise: Tensor, y: Tensor) -> Tensor:
        """L_simple: the mean squared error of the noise (DDPM, equation 14)."""
        level = self.alphas_cumprod[t].reshape(-1, 1, 1, 1)
        x_t = torch.sqrt(level) * x0 + torch.sqrt(1 - level) * noise
        return ((self.model(x_t, t, y) - noise) ** 2).mean()

    def learn(self, x0: Tensor, t: Tensor, noise: Tensor, y: Tensor) -> float:
        """What a step does with images (b, c, h, w), times, noise and labels; the loss."""
        self.optimizer.zero_grad()
        loss = self.loss(x0, t, noise, y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.update_ema()
        return loss.item()

    @torch.no_grad()
    def update_ema(self) -> None:
        """Move every averaged weight towards the model's."""
        for average, weight in zip(self.ema.parameters(), self.model.parameters()):
            average.mul_(self.decay).add_(weight, alpha=1 - self.decay)


@torch.no_grad()
def plain_ddim(model: nn.Module, x: Tensor, y: Tensor, steps: list[int], scale: float) -> Tensor:
    """DDIM with guidance u + scale·(c - u), in two passes a step; `steps` rise. → (b, c, h, w)."""
    levels = signal_levels()
    for k in reversed(range(len(steps))):
        level = levels[steps[k]].item()
        before = levels[steps[k - 1]].item() if k > 0 else 1.0
        t = torch.full((len(x),), steps[k], device=x.device)
        cond = model(x, t, y)
        uncond = model(x, t, torch.full_like(y, model.null_label))
        eps = uncond + scale * (cond - uncond)
        x0 = (x - (1 - level) ** 0.5 * eps) / level**0.5
        x = before**0.5 * x0 + (1 - before) ** 0.5 * eps
    return x
