"""A small image classifier of our own: it recognises samples, and gives their features.

It never sees a generated image in training, and no denoiser is trained against it. Autoencoders may
be trained to please its features; where it also evaluates them, it flatters.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_images, check_positive
from minidit.patches import as_unit
from minidit.train import step_generator

PEAK = 0.01  # of the learning rate


class Classifier(nn.Module):
    """Images (b, c, 28 to 32, same) in [-1, 1] → logits (b, num_classes), by way of 64 features.

    `residual`: for photographs, twice as deep (arXiv 1512.03385). `mean`, `cov`: of the features of
    the real training images, for the Fréchet distance; set by `train_classifier`.
    """

    def __init__(
        self, in_channels: int = 1, num_classes: int = 10, width: int = 32, residual: bool = False
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, num_classes=num_classes, width=width)
        self.config = dict(in_channels=in_channels, num_classes=num_classes)
        self.config |= dict(width=width, residual=residual)
        self.in_channels = in_channels
        self.convs = _stages(in_channels, width, residual)
        self.pool = 1 if residual else 4
        self.to_features = nn.Linear(4 * width * self.pool**2, 64)
        self.to_logits = nn.Linear(64, num_classes)
        self.register_buffer("mean", torch.zeros(64, dtype=torch.float64))
        self.register_buffer("cov", torch.eye(64, dtype=torch.float64))

    def activations(self, images: Tensor) -> list[Tensor]:
        """(b, c, h, w) → the outputs of all stages, the first stage first: each (b, k, h', w')."""
        check_images(images, self.in_channels, floats=True)
        maps = [images.to(next(self.parameters()).dtype)]
        for stage in self.convs:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def features(self, images: Tensor) -> Tensor:
        """(b, c, h, w) → (b, 64), at least zero."""
        maps = F.adaptive_avg_pool2d(self.activations(images)[-1], self.pool)  # (b, 4·width, …)
        return F.relu(self.to_features(maps.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """(b, c, h, w) → (b, num_classes)."""
        return self.to_logits(F.dropout(self.features(images), 0.25, self.training))


def feature_distance(classifier: Classifier, images: Tensor, others: Tensor) -> Tensor:
    """How differently two batches (b, c, h, w) look to the classifier, a scalar in 0 … 2.

    The squared distance of the activations as vectors of length 1, its mean over places and stages
    (LPIPS, arXiv 1801.03924, without learned weights). No gradient flows to `others`.
    """
    ours = classifier.activations(images)
    with torch.no_grad():
        its = classifier.activations(others)
    units = [(F.normalize(a, dim=1), F.normalize(b, dim=1)) for a, b in zip(ours, its)]
    return torch.stack([(a - b).square().sum(dim=1).mean() for a, b in units]).mean()


def convolution(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """3×3 without bias, normalised, at least zero: (b, c_in, h, w) → (b, c_out, h/stride, …)."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()
    )


class _Residual(nn.Module):
    """x + two convolutions of x, (b, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(convolution(channels, channels) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convs(x)


def _stages(c: int, w: int, residual: bool) -> nn.Sequential:
    if not residual:  # (b, c, 28, 28) → (b, w, 14, 14) → (b, 2w, 14, 14) → … 7, 7) → (b, 4w, 7, 7)
        plain = [(c, w, 2), (w, 2 * w), (2 * w, 2 * w, 2), (2 * w, 4 * w)]
        return nn.Sequential(*(convolution(*stage) for stage in plain))
    # (b, c, 32, 32) → (b, w, 32, 32) → (b, 2w, 16, 16) → (b, 4w, 8, 8) → (b, 4w, 4, 4)
    steps = [(w, 2 * w), (2 * w, 4 * w), (4 * w, 4 * w)]
    down = [nn.Sequential(convolution(a, b, 2), _Residual(b)) for a, b in steps]
    return nn.Sequential(convolution(c, w), *down)


def jitter(images: Tensor, rng: torch.Generator) -> Tensor:
    """Images (b, c, h, w), each turned by 12°, scaled by 10 % and shifted by 2 pixels, at most."""
    u = torch.rand(5, len(images), generator=rng, device=rng.device) * 2 - 1  # (5, b) in [-1, 1]
    angle, scale, shear = u[0] * math.radians(12), 1 + 0.1 * u[1], 0.1 * u[2]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [torch.stack([cos, shear - sin, u[3] / 7], 1), torch.stack([sin, cos, u[4] / 7], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # outside is black: -1


def flip_and_shift(images: Tensor, rng: torch.Generator) -> Tensor:
    """Images (b, c, h, w), mirrored or not, shifted by up to 4 pixels; what comes in, too."""
    b, _, height, width = images.shape
    flip, *shift = torch.rand(3, b, generator=rng, device=rng.device)  # each (b,)
    rows, columns = ((s * 9).long() for s in shift)  # 0 … 8, where 4 leaves the image in place
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    x = columns[:, None] + torch.arange(width, device=rng.device)  # (b, w)
    x = torch.where(flip[:, None] < 0.5, x, x.flip(1))
    y = rows[:, None] + torch.arange(height, device=rng.device)  # (b, h)
    image = torch.arange(b, device=rng.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, y[:, :, None], x[:, None]].permute(0, 3, 1, 2)


@torch.inference_mode(False)
@torch.random.fork_rng()  # the caller's random numbers stay what they were
def one_cycle(
    build: Callable[[], nn.Module],
    loss: Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor],
    images: Tensor,
    steps: int,
    batch_size: int,
    seed: int,
    report: Callable[[int, float], None] | None,
) -> nn.Module:
    """Build a network, train it, freeze it: the learning rate rises to `PEAK`, falls to nothing.

    `loss(model, x, rows, rng)`: that of a batch x of `images` (n, c, h, w) uint8, in [-1, 1], and
    of their `rows`; all that is random in it comes from the step's `rng`.
    """
    check_positive(steps=steps)
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), PEAK, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=steps, pct_start=0.2)
    for step in range(steps):
        rng = step_generator(seed, step)
        rows = torch.randint(len(images), (batch_size,), generator=rng)
        value = loss(model, as_unit(images[rows]), rows, rng)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        cycle.step()
        if report is not None:
            report(step + 1, value.item())
    return model.eval().requires_grad_(False)


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    seed: int = 0,
    photographs: bool = False,
    report: Callable[[int, float], None] | None = None,
) -> Classifier:
    """Train on images (n, c, h, w) uint8, labels (n,); the deeper network for `photographs`."""
    # Photographs have edges and a horizon: they are not turned.
    move = flip_and_shift if photographs else jitter
    build = partial(Classifier, images.shape[1], int(labels.max()) + 1, residual=photographs)

    def loss(model: Classifier, x: Tensor, rows: Tensor, rng: torch.Generator) -> Tensor:
        return F.cross_entropy(model(move(x, rng)), labels[rows], label_smoothing=0.05)

    model = one_cycle(build, loss, images, steps, 256, seed, report)
    features = torch.cat([model.features(as_unit(x)) for x in images.split(1000)]).double()
    model.mean.copy_(features.mean(dim=0))
    model.cov.copy_(features.T.cov())
    return model
