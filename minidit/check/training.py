"""A student's own training: a step in parts, a loop with planted mistakes, Adam's average.

A step or a loop is played on a toy network, and told by the weights that it leaves behind.
"""

from collections import ChainMap
from collections.abc import Callable
from copy import deepcopy
from itertools import chain, combinations

import torch
from torch import Tensor, nn

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
        optimizer = torch.optim.SGD(net.parameters(), lr=0.2)

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


_STEPS = {
    "each part adds the gradient of its own mean, so that k parts count k times; a part's share is "
    "its number of images over that of the batch": {"share": lambda few, batch, parts: 1.0},
    "the losses are added up, and not divided by the number of images": {
        "share": lambda few, batch, parts: few
    },
    "the parts count alike, though the last one is smaller: its images weigh too much": {
        "share": lambda few, batch, parts: 1 / parts
    },
    "the gradient is zeroed before each part, so that only the last part's is left": {
        "part": "zero backward"
    },
    "the optimiser steps after each part; the whole batch is one step": {
        "part": "backward clip step zero",
        "after": "",
    },
    "the optimiser steps after each part, with what was added up so far; the whole batch is one "
    "step": {"part": "backward clip step", "after": ""},
    "the optimiser takes no step": {"after": "clip"},
    "the gradient is never zeroed: the second step still holds the first one's": {"before": ""},
    "the gradient is clipped after each part; clip the sum, once": {"part": "backward clip"},
    "the gradient isn't clipped": {"after": "step"},
}
_RETURNED = {
    "the last part's loss is returned; add up the parts": {
        "returned": lambda losses, n: losses[-1].sum() / n
    },
    "the last part's own mean is returned; the mean of the batch is due": {
        "returned": lambda losses, n: losses[-1].mean()
    },
    "the mean of the parts' means is returned, though the last part is smaller": {
        "returned": lambda losses, n: sum(part.mean() for part in losses) / len(losses)
    },
    "the sum of the parts' means is returned; the mean of the batch is due": {
        "returned": lambda losses, n: sum(part.mean() for part in losses)
    },
    "the sum of the losses is returned; the mean of the batch is due": {
        "returned": lambda losses, n: sum(part.sum() for part in losses)
    },
}
_X, _Y, _LINE = waves(12, 3), torch.arange(12.0).cos(), torch.tensor([2.0, -3.0, 1.0, 4.0])


@against(
    {
        "12 images in parts of 3": (_X, _Y, 3),
        "10 images in parts of 4, the last part smaller": (_X[:10], _Y[:10], 4),
        "gradients that need no clipping": (_X, _X @ _LINE[:3] + _LINE[3] + 0.1 * _Y, 4),
        "one part": (_X[:4], _Y[:4], 4),
    },
    *chain(*(_STEPS | _RETURNED).items()),
    tolerance=1e-5,
    seen=_two_steps,
)
def accumulated_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    loss_of: Callable[..., Tensor],
    most: int,
    *,
    before: str = "zero",
    part: str = "backward",
    after: str = "clip step",
    share: Callable[[int, int, int], float] = lambda few, batch, parts: few / batch,
    returned: Callable[[list[Tensor], int], Tensor] = lambda losses, n: torch.cat(losses).mean(),
) -> Tensor:
    """A step on (b, …) in parts of at most `most`; the gradient's norm is clipped to 1.

    `loss_of(net, x, y)` are the losses, (b,); their mean is returned. Each case shows the weights
    after two steps, and the two losses.
    """
    losses, parts = [], list(zip(x.split(most), y.split(most)))
    tasks = {
        "zero": optimizer.zero_grad,
        "backward": lambda: weighed.backward(),
        "clip": lambda: nn.utils.clip_grad_norm_(net.parameters(), 1.0),
        "step": optimizer.step,
    }
    do = lambda names: [tasks[name]() for name in names.split()]  # noqa: E731
    do(before)
    for few, wanted in parts:
        losses.append(loss_of(net, few, wanted))
        weighed = losses[-1].mean() * share(len(few), len(x), len(parts))
        do(part)
    do(after)
    return returned(losses, len(x))


class _Toy(nn.Module):
    """A network as small as can be: (x, t, y) → (b, c, h, w), with a label table."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = self.null_label = 10
        self.table = nn.Embedding.from_pretrained(waves(11, 2), freeze=False)
        self.scale = nn.Parameter(torch.tensor([0.5, 0.1, -0.2]))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        if y.min() < 0 or y.max() > 10:
            raise Fault("gives the network a label outside 0 … 10; 10 is the null label")
        shift, gain = self.table(y).T.reshape(2, -1, 1, 1, 1)
        time = t.reshape(-1, 1, 1, 1) / 1000
        return self.scale[0] * x * (1 + gain) + self.scale[1] * time + self.scale[2] + shift


def _weights_after(loop: Callable) -> Callable[[Tensor, Tensor, int], Tensor]:
    """The averaged weights after some steps, then the network's."""

    def run(images: Tensor, labels: Tensor, steps: int) -> Tensor:
        net = _Toy()
        average = deepcopy(net)
        process = Diffusion(straight(), "x0", weight="v", max_weight=25.0)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        loop(net, average, optimizer, images, labels, process, steps)
        return _row([*average.parameters(), *net.parameters()])

    return run


_PLANTED = {
    "pixels lie in 0 … 1, where the noise is centred on 0: the process wants -1 … 1": {
        "unit": lambda x: x / 255
    },
    "a dropped label becomes 0, a class of its own; the null label is one past the last, 10": {
        "null": 0
    },
    "all images of a batch share one t; draw as many as there are images": {"times": 1},
    "`slow = …` gives the name a new tensor and leaves the weights alone; write into them, as "
    "`slow.lerp_(quick, 0.01)` does": {"move": lambda slow, quick: None},
}
_LEFT = {  # several are left
    f"{size} mistakes are left: " * (size > 1) + "; ".join(hints): dict(
        ChainMap(*(_PLANTED[hint] for hint in hints))
    )
    for size in range(1, 5)
    for hints in combinations(_PLANTED, size)
}
_IMAGES = (torch.arange(640) * 37 % 256).reshape(40, 1, 4, 4).to(torch.uint8)
_LABELS = torch.arange(40) % 10


@against(
    {"one step": (_IMAGES, _LABELS, 1), "six steps": (_IMAGES, _LABELS, 6)},
    *chain(*_LEFT.items()),
    "pixels are divided by 127.5 but 1 isn't subtracted: they lie in 0 … 2",
    {"unit": lambda x: x / 127.5},
    "pixels lie in -½ … ½: the process wants -1 … 1",
    {"unit": lambda x: x / 255 - 0.5},
    "9 is a class of its own; the null label is one past the last, 10",
    {"null": 9},
    "the current weights are added whole; they get the share 0.01",
    {"move": lambda slow, quick: slow.mul_(0.99).add_(quick)},
    "the average is a copy of the weights",
    {"move": lambda slow, quick: slow.copy_(quick)},
    "the shares of the average are exchanged: it keeps 0.99 of itself",
    {"move": lambda slow, quick: slow.lerp_(quick, 0.99)},
    "gradients are never zeroed, so that each step adds all the steps before",
    {"zero": lambda optimizer: None},
    "no step is taken, or its gradient was zeroed before: the weights are those of the start",
    {"step_of": lambda optimizer: None},
    tolerance=1e-5,
    seen=_weights_after,
)
def repaired_loop(
    net: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    process: Diffusion,
    steps: int,
    *,
    unit: Callable[[Tensor], Tensor] = lambda x: x / 127.5 - 1,
    null: int = 10,
    times: int = 32,
    zero: Callable[[torch.optim.Optimizer], None] = torch.optim.Optimizer.zero_grad,
    step_of: Callable[[torch.optim.Optimizer], object] = lambda optimizer: optimizer.step(),
    move: Callable[[Tensor, Tensor], object] = lambda slow, quick: slow.lerp_(quick, 0.01),
) -> None:
    """The loop, repaired; images (n, c, h, w) uint8, labels (n,).

    Random numbers are drawn as in the notebook's broken loop, in its order. Each case shows the
    averaged weights, then the network's.
    """
    for step in range(steps):
        rng = step_generator(0, step)
        rows = torch.randint(len(images), (32,), generator=rng)
        y = labels[rows].masked_fill(torch.rand(32, generator=rng) < 0.1, null)
        x0 = unit(images[rows].float())
        t = torch.randint(len(process), (times,), generator=rng).expand(32)
        zero(optimizer)
        process.loss(net, x0, t, torch.randn(x0.shape, generator=rng), y).mean().backward()
        step_of(optimizer)
        with torch.no_grad():
            for slow, quick in zip(average.parameters(), net.parameters()):
                move(slow, quick)


def _averages(
    weights: Tensor,
    keep: Callable[[int], float],
    average: Tensor,
    divisor: Callable[[int], float] = lambda n: 1.0,
) -> Tensor:
    """(n, d) and the average at the start, (d,) → the averages, (n, d)."""
    found = []
    for n, now in enumerate(weights):
        average = now.lerp(average, keep(n)) / divisor(n)
        found.append(average)
    return torch.stack(found)


def _zeros(w: Tensor, m: float) -> Tensor:
    """The share of the zeros that the average starts with, after each step, (n, 1)."""
    return m ** torch.arange(1, len(w) + 1, dtype=torch.float64)[:, None]


_WEIGHTS = torch.tensor([[1.0, -2.0], [2.0, 0.5], [-1.0, 3.0], [0.5, 0.25], [4.0, -1.0]])


@against(
    {
        "five steps, decay 0.9": (_WEIGHTS, 0.9),
        "five steps, decay 0.5": (_WEIGHTS, 0.5),
        "weights that stay as they are": (torch.ones(4, 3), 0.99),
        "a single step": (_WEIGHTS[:1], 0.999),
    },
    "nothing is divided: the average is still full of the zeros that it starts with",
    lambda w, m: _averages(w, lambda n: m, 0 * w[0]),
    "the exponent is one too small: after the first step the zeros have the share m, not 1",
    lambda w, m: _averages(w, lambda n: m, 0 * w[0]) / (1 - _zeros(w, m) / m),
    "the corrected average is fed back; keep the plain one, and divide only what you hand out",
    lambda w, m: _averages(w, lambda n: m, 0 * w[0], lambda n: 1 - m ** (n + 1)),
    "the exponent is one too large: after the first step the zeros have the share m",
    lambda w, m: _averages(w, lambda n: m, 0 * w[0]) / (1 - _zeros(w, m) * m),
    "it is divided by 1 - m; after n steps the share of the weights is 1 - m^n",
    lambda w, m: _averages(w, lambda n: m, 0 * w[0]) / (1 - m),
    "the list holds one tensor n times, since lerp_ and the like write in place: append a new one",
    lambda w, m: _averages(w, lambda n: m, 0 * w[0])[-1:] / (1 - _zeros(w, m)),
    "the list holds one tensor n times, and nothing is divided",
    lambda w, m: _averages(w, lambda n: m, 0 * w[0])[[-1] * len(w)],
    "it is divided by the zeros' share m^n; divide by what is left for the weights, 1 - m^n",
    lambda w, m: _averages(w, lambda n: m, 0 * w[0]) / _zeros(w, m),
    "it starts at the first weights, which then keep the share of the zeros: start at zero",
    lambda w, m: _averages(w, lambda n: m, w[0]),
    "it starts at the first weights and is divided all the same: start at zero",
    lambda w, m: _averages(w, lambda n: m, w[0]) / (1 - _zeros(w, m)),
    "the shares are exchanged: the average keeps m of itself",
    lambda w, m: _averages(w, lambda n: 1 - m, 0 * w[0]) / (1 - _zeros(w, m)),
    "m and 1 - m are exchanged, also in the divisor",
    lambda w, m: corrected_average.right(w, 1 - m),
    "that is the ramp; here the decay stays as it is, and the average is divided",
    lambda w, m: _averages(w, lambda n: min(m, (1 + n) / (10 + n)), w[0]),
)
def corrected_average(weights: Tensor, decay: float) -> Tensor:
    """Weights after each step, (n, d), → their averages, (n, d), as in Adam.

    They start at zero, and are divided by the share that the zeros don't have.
    """
    average = _averages(weights, lambda n: decay, 0 * weights[0])
    return average / (1 - _zeros(weights, decay))
