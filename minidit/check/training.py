"""A student's own training: a step in parts, a loop with planted mistakes, Adam's average.

A step or a loop is played on a toy network, and told by the weights that it leaves behind.
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from minidit.check.verdict import Fault, against, waves
from minidit.diffusion import Diffusion
from minidit.schedule import straight
from minidit.train import step_generator


def _row(values: list[Tensor]) -> Tensor:
    return torch.cat([value.detach().flatten() for value in values])


def _two_steps(step: Callable) -> Callable[[Tensor, Tensor, int], Tensor]:
    """The weights of a linear network after two steps, then the losses that were returned."""

    def run(x: Tensor, y: Tensor, most: int) -> Tensor:
        net = nn.Linear(3, 1)
        net.load_state_dict({"weight": _LINE[None, :3], "bias": _LINE[3:]})
        optimizer = SGD(net.parameters(), lr=0.2)

        def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            if len(x) > most:
                raise Fault(f"shows the network {len(x)} images at once; memory is for {most}")
            if kept:
                raise Fault(
                    "keeps the graph of a part, with all its images, while it computes the "
                    "next one: call backward() after each part"
                )
            losses = (net(x)[:, 0] - y).square()
            if losses.requires_grad:
                kept.append(losses)
                losses.register_hook(lambda _: kept.clear())
            return losses

        kept: list[Tensor] = []  # a loss until its gradient is taken
        losses = [step(net, optimizer, x, y, loss_of, most) for _ in range(2)]
        if not all(isinstance(loss, Tensor | float) for loss in losses):
            raise Fault(f"returns {losses[0]!r}; return the mean loss of the batch")
        return _row([*net.parameters(), *map(torch.as_tensor, losses)])

    return run


_X, _Y, _LINE = waves(12, 3), torch.arange(12.0).cos(), torch.tensor([2.0, -3.0, 1.0, 4.0])


@against(
    ("12 images in parts of 3", _X, _Y, 3),
    ("10 images in parts of 4, the last part smaller", _X[:10], _Y[:10], 4),
    ("gradients that need no clipping", _X, _X @ _LINE[:3] + _LINE[3] + 0.1 * _Y, 4),
    ("one part", _X[:4], _Y[:4], 4),
    "each part adds the gradient of its own mean, so that k parts count k times; a part's share is "
    "its number of images over that of the batch",
    {"losses[-1].sum() / len(x)": "losses[-1].mean()"},
    "the losses are added up, and not divided by the number of images",
    {"losses[-1].sum() / len(x)": "losses[-1].sum()"},
    "the parts count alike, though the last one is smaller: its images weigh too much",
    {"losses[-1].sum() / len(x)": "losses[-1].mean() / len(x.split(most))"},
    "the gradient is zeroed before each part, so that only the last part's is left",
    {"share.backward()": "optimizer.zero_grad(); share.backward()"},
    "the optimiser steps after each part; the whole batch is one step",
    {
        "    clip(": "        clip(",
        "    optimizer.step()": "        optimizer.step(); optimizer.zero_grad()",
    },
    "the optimiser takes no step",
    {"optimizer.step()": "pass"},
    "the gradient is never zeroed: the second step still holds the first one's",
    {"optimizer.zero_grad()": "pass"},
    "the gradient is clipped after each part; clip the sum, once",
    {"    clip(": "        clip("},
    "the gradient isn't clipped",
    {"clip(net.parameters(), 1.0)": "pass"},
    "the last part's loss is returned; add up the parts",
    {"torch.cat(losses).mean()": "losses[-1].sum() / len(x)"},
    "the mean of the parts' means is returned, though the last part is smaller",
    {"torch.cat(losses).mean()": "sum(some.mean() for some in losses) / len(losses)"},
    "the sum of the losses is returned; the mean of the batch is due",
    {"torch.cat(losses).mean()": "torch.cat(losses).sum()"},
    tolerance=1e-5,
    seen=_two_steps,
)
def accumulated_step(
    net: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, loss_of: Callable, most: int
) -> Tensor:
    """A step on (b, …) in parts of at most `most`; the gradient's norm is clipped to 1.

    `loss_of(net, x, y)` are the losses, (b,); their mean is returned. Each case shows the weights
    after two steps, and the two losses.
    """
    clip, losses = nn.utils.clip_grad_norm_, []
    optimizer.zero_grad()
    for few, wanted in zip(x.split(most), y.split(most)):
        losses.append(loss_of(net, few, wanted))
        share = losses[-1].sum() / len(x)
        share.backward()
    clip(net.parameters(), 1.0)
    optimizer.step()
    return torch.cat(losses).mean()


class _Toy(nn.Module):
    """A network as small as can be: (x, t, y) → (b, c, h, w), with a label table."""

    def __init__(self) -> None:
        super().__init__()
        self.null_label = 10
        self.table = nn.Embedding.from_pretrained(waves(11, 3), freeze=False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if y.min() < 0 or y.max() > 10:
            raise Fault("gives the network a label outside 0 … 10; 10 is the null label")
        gain, slope, shift = self.table(y).T.reshape(3, -1, 1, 1, 1)
        return gain * x + slope * t.reshape(-1, 1, 1, 1) / 1000 + shift


def _weights_after(loop: Callable) -> Callable[[Tensor, Tensor, int], Tensor]:
    """The averaged weights after some steps, then the network's."""

    def run(images: Tensor, labels: Tensor, steps: int) -> Tensor:
        net = _Toy()
        average = deepcopy(net)
        process = Diffusion(straight(), "x0", weight="v", max_weight=25.0)
        optimizer = SGD(net.parameters(), lr=0.05)
        loop(net, average, optimizer, images, labels, process, steps)
        return _row([*average.parameters(), *net.parameters()])

    return run


_IMAGES = (torch.arange(640) * 37 % 256).reshape(40, 1, 4, 4).to(torch.uint8)
_LABELS = torch.arange(40) % 10


@against(
    ("one step", _IMAGES, _LABELS, 1),
    ("six steps", _IMAGES, _LABELS, 6),
    # the four that are planted
    "pixels lie in 0 … 1, where the noise is centred on 0: the process wants -1 … 1",
    {"/ 127.5 - 1": "/ 255"},
    "a dropped label becomes 0, a class of its own; the null label is one past the last, 10",
    {"0.1, 10)": "0.1, 0)"},
    "all images of a batch share one t; draw as many as there are images",
    {"(32,), generator=rng)  # each its own": "(1,), generator=rng).expand(32)"},
    "`slow = …` gives the name a new tensor and leaves the weights alone; write into them, as "
    "`slow.lerp_(quick, 0.01)` does",
    {"slow.lerp_(": "slow.lerp("},
    "pixels are divided by 127.5 but 1 isn't subtracted: they lie in 0 … 2",
    {"/ 127.5 - 1": "/ 127.5"},
    "pixels lie in -½ … ½: the process wants -1 … 1",
    {"/ 127.5 - 1": "/ 255 - 0.5"},
    "9 is a class of its own; the null label is one past the last, 10",
    {"0.1, 10)": "0.1, 9)"},
    "the shares of the average are exchanged: it keeps 0.99 of itself",
    {"quick, 0.01": "quick, 0.99"},
    "gradients are never zeroed, so that each step adds all the steps before",
    {"optimizer.zero_grad()": "pass"},
    "no step is taken, or its gradient was zeroed before: the weights are those of the start",
    {"optimizer.step()": "pass"},
    tolerance=1e-5,
    seen=_weights_after,
    most=4,
)
def repaired_loop(
    net: nn.Module,
    average: nn.Module,
    optimizer: Optimizer,
    images: Tensor,
    labels: Tensor,
    process: Diffusion,
    steps: int,
) -> None:
    """The loop, repaired; images (n, c, h, w) uint8, labels (n,).

    Random numbers are drawn as in the notebook's broken loop, in its order. Each case shows the
    averaged weights, then the network's.
    """
    for step in range(steps):
        rng = step_generator(0, step)
        rows = torch.randint(len(images), (32,), generator=rng)
        y = labels[rows].masked_fill(torch.rand(32, generator=rng) < 0.1, 10)
        x0 = images[rows].float() / 127.5 - 1
        t = torch.randint(len(process), (32,), generator=rng)  # each its own
        optimizer.zero_grad()
        process.loss(net, x0, t, torch.randn(x0.shape, generator=rng), y).mean().backward()
        optimizer.step()
        with torch.no_grad():
            for slow, quick in zip(average.parameters(), net.parameters()):
                slow.lerp_(quick, 0.01)


_WEIGHTS = torch.tensor([[1.0, -2.0], [2.0, 0.5], [-1.0, 3.0], [0.5, 0.25], [4.0, -1.0]])


@against(
    ("five steps, decay 0.9", _WEIGHTS, 0.9),
    ("five steps, decay 0.5", _WEIGHTS, 0.5),
    ("weights that stay as they are", torch.ones(4, 3), 0.99),
    ("a single step", _WEIGHTS[:1], 0.999),
    "nothing is divided: the average is still full of the zeros that it starts with",
    {" / (1 - zeros)": ""},
    "the exponent is one too small: after the first step the zeros have the share m, not 1",
    {"torch.arange(1, len(weights) + 1": "torch.arange(len(weights)"},
    "the corrected average is fed back; keep the plain one, and divide only what you hand out",
    {
        "found.append(average)": "average /= 1 - decay ** (len(found) + 1); found.append(average)",
        " / (1 - zeros)": "",
    },
    "it is divided by 1 - m; after n steps the share of the weights is 1 - m^n",
    {"(1 - zeros)": "(1 - decay)"},
    "the list holds one tensor n times, since lerp_ and the like write in place: append a new one",
    {"average = now.lerp(average, decay)": "average.lerp_(now, 1 - decay)"},
    "it starts at the first weights, which then keep the share of the zeros: start at zero",
    {"0 * weights[0]": "weights[0]", " / (1 - zeros)": ""},
    "the shares are exchanged: the average keeps m of itself",
    {"now.lerp(average, decay)": "average.lerp(now, decay)"},
    "that is the ramp; here the decay stays as it is, and the average is divided",
    {
        "0 * weights[0]": "weights[0]",
        "(average, decay)": "(average, min(decay, (1 + len(found)) / (10 + len(found))))",
        " / (1 - zeros)": "",
    },
)
def corrected_average(weights: Tensor, decay: float) -> Tensor:
    """Weights after each step, (n, d), → their averages, (n, d), as in Adam.

    They start at zero, and are divided by the share that the zeros don't have.
    """
    average, found = 0 * weights[0], []
    for now in weights:
        average = now.lerp(average, decay)
        found.append(average)
    zeros = decay ** torch.arange(1, len(weights) + 1, dtype=torch.float64)[:, None]
    return torch.stack(found) / (1 - zeros)
