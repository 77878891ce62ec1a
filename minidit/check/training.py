"""Checks of a student's own training: whole steps and loops, averages, and the loss that learns Σ.

A step or a loop is played on a toy network, and judged by the weights that it leaves behind.
"""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import torch
from torch import Tensor, nn

from minidit.check.verdict import Verdict, judge
from minidit.diffusion import Diffusion, discretized_log_likelihood
from minidit.diffusion import normal_kl as divergence
from minidit.schedule import Schedule, linear, straight
from minidit.train import step_generator

# --- a step in parts ------------------------------------------------------------------------------

_START = {"weight": torch.tensor([[2.0, -3.0, 1.0]]), "bias": torch.tensor([4.0])}


def accumulated_step(fn: Callable) -> Verdict:
    """Check `fn(net, optimizer, x, y, loss_of, most)`: a step on (b, …) in parts of at most `most`.

    `loss_of(net, x, y)` are the losses, (b,); `fn` clips the gradient's norm to 1 and returns the
    mean loss. Each case shows the weights after two steps, and the two losses.
    """
    x, y = torch.arange(36.0).reshape(12, 3).sin(), torch.arange(12.0).cos()
    near = x @ _START["weight"][0] + _START["bias"] + 0.1 * y
    cases = {
        "12 images in parts of 4": (x, y, 4),
        "10 images in parts of 4, the last part smaller": (x[:10], y[:10], 4),
        "gradients that need no clipping": (x, near, 4),
        "one part": (x[:4], y[:4], 4),
    }
    wrong = {hint: partial(_two_steps, mistake) for hint, mistake in ACCUMULATED_STEP.items()}
    mine, right = partial(_two_steps, fn), partial(_two_steps, _step())
    return judge("accumulated_step", mine, right, cases, wrong, tolerance=1e-5)


def _two_steps(step: Callable, x: Tensor, y: Tensor, most: int) -> Tensor:
    """The weights of a linear network after two steps, then the losses that were returned."""
    net = nn.Linear(3, 1)
    net.load_state_dict(_START)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)

    def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if len(x) > most:
            raise ValueError(f"the network saw {len(x)} images at once; memory is for {most}")
        return (net(x)[:, 0] - y).square()

    losses = [step(net, optimizer, x, y, loss_of, most) for _ in range(2)]
    if not all(isinstance(loss, (Tensor, float)) for loss in losses):
        raise TypeError(f"the step returns {losses[0]!r}; return the mean loss of the batch")
    values = [torch.as_tensor(loss).detach().flatten() for loss in losses]
    return torch.cat([*(p.detach().flatten() for p in net.parameters()), *values])


def _step(
    share: Callable[[int, int, int], float] = lambda part, batch, parts: part / batch,
    clip: str = "once",
    zero: str = "before",
    steps: str = "once",
    returned: str = "mean",
) -> Callable:
    """A step whose parts count `share(size of part, size of batch, number of parts)` each."""

    def step(
        net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, loss_of, most: int
    ) -> Tensor:
        pairs, total = list(zip(x.split(most), y.split(most), strict=True)), torch.zeros(())
        if zero == "before":
            optimizer.zero_grad()
        for part, wanted in pairs:
            if zero == "in the loop":
                optimizer.zero_grad()
            mean = loss_of(net, part, wanted).mean()
            loss = mean * share(len(part), len(x), len(pairs))
            loss.backward()
            total = total + loss.detach()
            if clip == "in the loop":
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            if steps == "in the loop":
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        if clip == "once":
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        if steps == "once":
            optimizer.step()
        return {"mean": total, "last": loss.detach(), "last mean": mean.detach()}[returned]

    return step


_SLIPS: dict[str, dict] = {
    "each part adds the gradient of its own mean, so that k parts count k times; a part's share is "
    "its number of images over that of the batch": {"share": lambda part, batch, parts: 1.0},
    "the parts count alike, though the last one is smaller: its images weigh too much": {
        "share": lambda part, batch, parts: 1 / parts
    },
    "the gradient is zeroed before each part, so that only the last part's is left": {
        "zero": "in the loop"
    },
    "the optimiser steps after each part; the whole batch is one step": {"steps": "in the loop"},
    "the gradient is never zeroed: the second step still holds the first one's": {"zero": "no"},
    "the gradient is clipped after each part; clip the sum, once": {"clip": "in the loop"},
    "the gradient isn't clipped": {"clip": "no"},
}
_LAST = {
    "the last part's loss is returned; add up the parts": {"returned": "last"},
    "the last part's own mean is returned; the mean of the batch is due": {"returned": "last mean"},
}
ACCUMULATED_STEP: dict[str, Callable] = (
    {hint: _step(**slip) for hint, slip in _SLIPS.items()}
    | {hint: _step(**last) for hint, last in _LAST.items()}
    | {
        f"{hint}; and {also}": _step(**slip, **last)
        for hint, slip in _SLIPS.items()
        for also, last in list(_LAST.items())[: 1 if "k times" in hint else 2]  # there, they agree
    }
)

# --- a loop with planted mistakes -----------------------------------------------------------------

_BATCH = 32


class _Toy(nn.Module):
    """A network as small as can be: (x, t, y) → (b, c, h, w), with a label table."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = self.null_label = 10
        self.table = nn.Embedding(11, 2)
        self.table.weight.data = torch.arange(22.0).reshape(11, 2).sin()
        self.scale = nn.Parameter(torch.tensor([0.5, 0.1, -0.2]))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        shift, gain = self.table(y).T.reshape(2, -1, 1, 1, 1)
        time = t.reshape(-1, 1, 1, 1) / 1000
        return self.scale[0] * x * (1 + gain) + self.scale[1] * time + self.scale[2] + shift


def repaired_loop(fn: Callable) -> Verdict:
    """Check `fn(net, average, optimizer, images, labels, process, steps)`: the loop, repaired.

    images (n, c, h, w) uint8, labels (n,); random numbers as in the notebook's broken loop, in its
    order. Each case shows the averaged weights, then the network's.
    """
    images = (torch.arange(640) * 37 % 256).reshape(40, 1, 4, 4).to(torch.uint8)
    labels = torch.arange(40) % 10
    cases = {"one step": (images, labels, 1), "six steps": (images, labels, 6)}
    wrong = {hint: partial(_weights_after, mistake) for hint, mistake in REPAIRED_LOOP.items()}
    mine, right = partial(_weights_after, fn), partial(_weights_after, _loop())
    return judge("repaired_loop", mine, right, cases, wrong, tolerance=1e-5)


def _weights_after(loop: Callable, images: Tensor, labels: Tensor, steps: int) -> Tensor:
    net = _Toy()
    average, process = copy.deepcopy(net), Diffusion(straight(), "x0", weight="v", max_weight=25.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    loop(net, average, optimizer, images, labels, process, steps)
    both = [*average.parameters(), *net.parameters()]
    return torch.cat([p.detach().flatten() for p in both])


def _move(slow: Tensor, quick: Tensor) -> None:
    slow.lerp_(quick, 0.01)


def _loop(
    unit: Callable[[Tensor], Tensor] = lambda x: x / 127.5 - 1,
    null: int = 10,
    shared_time: bool = False,
    move: Callable[[Tensor, Tensor], object] = _move,
    zero: bool = True,
) -> Callable:
    def loop(net, average, optimizer, images, labels, process, steps) -> None:
        for step in range(steps):
            rng = step_generator(0, step)
            rows = torch.randint(len(images), (_BATCH,), generator=rng)
            dropped = torch.rand(_BATCH, generator=rng) < 0.1
            y = labels[rows].masked_fill(dropped, null)
            x0, n = unit(images[rows].float()), 1 if shared_time else _BATCH
            t = torch.randint(len(process), (n,), generator=rng).expand(_BATCH)
            noise = torch.randn(x0.shape, generator=rng)
            if zero:
                optimizer.zero_grad()
            process.loss(net, x0, t, noise, y).mean().backward()
            optimizer.step()
            with torch.no_grad():
                for slow, quick in zip(average.parameters(), net.parameters(), strict=True):
                    move(slow, quick)

    return loop


_PLANTED: dict[str, dict] = {
    "pixels lie in 0 … 1, where the noise is centred on 0: the process wants -1 … 1": {
        "unit": lambda x: x / 255
    },
    "a dropped label becomes 0, a class of its own; the null label is one past the last, 10": {
        "null": 0
    },
    "all images of a batch share one t; draw as many as there are images": {"shared_time": True},
    "`slow = …` gives the name a new tensor and leaves the weights alone; write into them, as "
    "`slow.lerp_(quick, 0.01)` does": {"move": lambda slow, quick: None},
}


def _left(names: Sequence[str]) -> str:
    """The hint for several planted mistakes that are left."""
    return names[0] if len(names) == 1 else f"{len(names)} mistakes are left: " + "; ".join(names)


REPAIRED_LOOP: dict[str, Callable] = {
    _left(names): _loop(**{key: value for n in names for key, value in _PLANTED[n].items()})
    for size in range(1, len(_PLANTED) + 1)
    for names in combinations(_PLANTED, size)
} | {
    "pixels are divided by 127.5 but 1 isn't subtracted: they lie in 0 … 2": (
        _loop(unit=lambda x: x / 127.5)
    ),
    "the average is a copy of the weights": _loop(move=lambda slow, quick: slow.copy_(quick)),
    "the shares of the average are exchanged: it keeps 0.99 of itself": (
        _loop(move=lambda slow, quick: slow.lerp_(quick, 0.99))
    ),
    "gradients are never zeroed, so that each step adds all the steps before": _loop(zero=False),
}

# --- an average without its start -----------------------------------------------------------------


def corrected_average(fn: Callable[[Tensor, float], Tensor]) -> Verdict:
    """Check `fn(weights, decay)`: weights after each step, (n, d) → their averages, (n, d).

    Averages that start at zero and are divided by the share that the zeros don't have, as in Adam.
    """
    weights = torch.tensor([[1.0, -2.0], [2.0, 0.5], [-1.0, 3.0], [0.5, 0.25], [4.0, -1.0]])
    cases = {
        "five steps, decay 0.9": (weights, 0.9),
        "five steps, decay 0.5": (weights, 0.5),
        "weights that stay as they are": (torch.ones(4, 3), 0.99),
        "a single step": (weights[:1], 0.999),
    }
    right = _averages(lambda m, n: 1 - m ** (n + 1))
    return judge("corrected_average", fn, right, cases, CORRECTED_AVERAGE, tolerance=1e-4)


def _averages(
    divisor: Callable[[float, int], float],
    keep: Callable[[float, int], float] = lambda m, n: m,
    first: bool = False,
    back: bool = False,
) -> Callable[[Tensor, float], Tensor]:
    """Averages divided by `divisor(decay, n)`; `first`: they start at the first weights."""

    def averages(weights: Tensor, decay: float) -> Tensor:
        average, found = weights[0] if first else torch.zeros_like(weights[0]), []
        for n, now in enumerate(weights):
            share = keep(decay, n)
            average = share * average + (1 - share) * now
            found.append(average / divisor(decay, n))
            average = found[-1] if back else average
        return torch.stack(found)

    return averages


CORRECTED_AVERAGE: dict[str, Callable] = {
    "nothing is divided: the average is still full of the zeros that it starts with": (
        _averages(lambda m, n: 1.0)
    ),
    "the exponent is one too small: after the first step the zeros have the share m, not 1": (
        _averages(lambda m, n: (1 - m**n) or math.inf)
    ),
    "the corrected average is fed back; keep the plain one, and divide only what you hand out": (
        _averages(lambda m, n: 1 - m ** (n + 1), back=True)
    ),
    "it is divided by the zeros' share m^n; divide by what is left for the weights, 1 - m^n": (
        _averages(lambda m, n: m ** (n + 1))
    ),
    "it starts at the first weights, which then keep the share of the zeros: start at zero": (
        _averages(lambda m, n: 1.0, first=True)
    ),
    "it starts at the first weights and is divided all the same: start at zero": (
        _averages(lambda m, n: 1 - m ** (n + 1), first=True)
    ),
    "the shares are exchanged: the average keeps m of itself": (
        _averages(lambda m, n: 1 - (1 - m) ** (n + 1), keep=lambda m, n: 1 - m)
    ),
    "that is the ramp; here the decay stays as it is, and the average is divided": (
        _averages(lambda m, n: 1.0, keep=lambda m, n: min(m, (1 + n) / (10 + n)), first=True)
    ),
}

# --- the loss that learns the variance ------------------------------------------------------------


def _schedule(betas: Tensor) -> Schedule:
    alpha = (1 - betas.double()).cumprod(dim=0).sqrt()
    sigma = (1 - alpha**2).sqrt()
    return Schedule(alpha, sigma, torch.arange(len(betas)), "variance_preserving")


def _ends(t: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """log β̃_t and log β_t, (b, 1) each, for t > 0."""
    now = (1 - betas.double()).cumprod(dim=0)
    small = betas[t] * (1 - now[t - 1]) / (1 - now[t])
    return small.log()[:, None].to(betas.dtype), betas[t].log()[:, None]


def best_fraction(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(error, t, betas)`: (b, d), (b,), (T,) → the outputs o that cost least, (b, d).

    `error` are mean squares of μ̃ - μ̂, and t > 0.
    """
    betas = linear(100).betas.float()
    error = torch.tensor([[1e-4, 3e-3], [2e-2, 5e-4]])
    cases = {
        "steps 3 and 50": (error, torch.tensor([3, 50]), betas),
        "step 1": (error, torch.tensor([1, 1]), betas),
        "no error": (0 * error, torch.tensor([2, 20]), betas),
    }
    return judge("best_fraction", fn, _fraction(), cases, BEST_FRACTION, tolerance=0.01)


def _fraction(
    of: Callable[[Tensor, Tensor], Tensor] = lambda small, error: small + error,
    logarithm: Callable[[Tensor], Tensor] = Tensor.log,
    last: Callable[[Tensor], Tensor] = lambda v: 2 * v - 1,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def fraction(error: Tensor, t: Tensor, betas: Tensor) -> Tensor:
        small, large = (end.exp() for end in _ends(t, betas))
        low, high, best = (logarithm(z) for z in (small, large, of(small, error)))
        return last((best - low) / (high - low))

    return fraction


BEST_FRACTION: dict[str, Callable] = {
    "Σ is the error alone; what even x0 can't tell, β̃, comes on top": (
        _fraction(of=lambda small, error: error)
    ),
    "Σ lies between the ends in the logarithm, not as it is": _fraction(logarithm=lambda z: z),
    "that is v, from 0 to 1; the network's number o runs from -1 to 1, and v = (o + 1)/2": (
        _fraction(last=lambda v: v)
    ),
    "that is v read the wrong way: v = (o + 1)/2, so o = 2v - 1": (
        _fraction(last=lambda v: (v + 1) / 2)
    ),
    "the ends are exchanged: o = -1 is the small variance": _fraction(last=lambda v: 1 - 2 * v),
    "the error is a square already": _fraction(of=lambda small, error: small + error**2),
    "o is clamped to -1 … 1; nothing holds the network there, and the best may lie outside": (
        _fraction(last=lambda v: (2 * v - 1).clamp(-1, 1))
    ),
}


def hybrid_loss(fn: Callable[..., Tensor]) -> Verdict:
    """Check `fn(output, x0, noise, t, betas, scale)`: L_simple + scale · L_t in bits, (b,).

    output (b, 2d): the noise predicted and the numbers of the variance; x0, noise (b, d); t > 0.
    Each case shows, for each point, its loss and then the gradient of `output`.
    """
    betas = linear(100).betas.float()
    x0 = torch.tensor([[0.5, -1.0], [0.25, 0.75], [-0.5, 1.0]])
    noise = torch.tensor([[0.1, -0.7], [1.2, 0.3], [-0.4, 0.9]])
    off = torch.tensor([[0.3, -0.2], [-0.5, 0.1], [0.2, 0.4]])
    output = torch.cat([noise + off, torch.tensor([[0.5, -1.0], [0.0, 0.25], [1.0, -0.5]])], dim=1)
    cases = {
        "steps 3, 20 and 80": (output, x0, noise, torch.tensor([3, 20, 80]), betas, 1.0),
        "scale 5": (output, x0, noise, torch.tensor([2, 5, 50]), betas, 5.0),
    }
    wrong = {hint: partial(_with_gradient, mistake) for hint, mistake in HYBRID_LOSS.items()}
    mine, right = partial(_with_gradient, fn), partial(_with_gradient, _hybrid())
    return judge("hybrid_loss", mine, right, cases, wrong, tolerance=1e-3)


def _with_gradient(loss_of: Callable[..., Tensor], output: Tensor, *rest: object) -> Tensor:
    """Every point's loss and the gradient of its output, (b, 1 + 2d)."""
    leaf = output.clone().requires_grad_()
    loss = loss_of(leaf, *rest)
    if not isinstance(loss, Tensor) or loss.shape != output.shape[:1]:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the loss is {shape}; one number for each point, {len(output)}, is due")
    (gradient,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
    gradient = torch.zeros_like(output) if gradient is None else gradient
    return torch.cat([loss.detach()[:, None], gradient], dim=1)


def _hybrid(
    prediction: Callable[[Tensor], Tensor] = Tensor.detach,
    fraction: Callable[[Tensor], Tensor] = lambda o: (o + 1) / 2,
    exchanged: bool = False,
    linear_share: bool = False,
    turned: bool = False,
    unit: float = math.log(2),
    reduce: Callable[..., Tensor] = Tensor.mean,
    factor: Callable[[float], float] = lambda scale: scale,
    everywhere: bool = False,
    simple: bool = True,
) -> Callable[..., Tensor]:
    """L_simple + the bound's term; `prediction`: what is done to ε̂ before it enters the bound."""

    def loss(
        output: Tensor, x0: Tensor, noise: Tensor, t: Tensor, betas: Tensor, scale: float
    ) -> Tensor:
        process = Diffusion(_schedule(betas))
        x_t, (eps, o) = process.q_sample(x0, t, noise), output.chunk(2, dim=1)
        guess = process.to_x0(x_t, t, prediction(eps))
        mean, true = (process.q_posterior_mean(x, x_t, t) for x in (guess, x0))
        low, high = _ends(t, betas)
        small, v = low, fraction(o)
        if exchanged:
            low, high = high, low
        log_var = v * high + (1 - v) * low
        if linear_share:
            log_var = (v * high.exp() + (1 - v) * low.exp()).log()
        pair = (true, small.expand_as(log_var)), (mean, log_var)
        one, other = pair[::-1] if turned else pair
        nats = divergence(*one, *other)
        if everywhere:
            nats = -discretized_log_likelihood(x0, mean, log_var / 2)
        squared = (eps - noise).square().mean(dim=1) if simple else 0.0
        return squared + factor(scale) * reduce(nats, dim=1) / unit

    return loss


HYBRID_LOSS: dict[str, Callable] = {
    "the prediction isn't detached before it enters the bound, so that both losses teach it": (
        _hybrid(prediction=lambda eps: eps)
    ),
    "the variance is detached, not the prediction: Σ learns nothing": (
        _hybrid(prediction=lambda eps: eps, fraction=lambda o: (o.detach() + 1) / 2)
    ),
    "both halves are detached: Σ learns nothing": (
        _hybrid(fraction=lambda o: (o.detach() + 1) / 2)
    ),
    "the share is o itself; o runs from -1 to 1, and v = (o + 1)/2": _hybrid(fraction=lambda o: o),
    "the ends are exchanged: v = 0 is the small variance": _hybrid(exchanged=True),
    "Σ is interpolated as it is; it lies between the ends in the logarithm": (
        _hybrid(linear_share=True)
    ),
    "it is the divergence the other way round: of the network's normal from the true one": (
        _hybrid(turned=True)
    ),
    "the bound's term is in nats; divide it by ln 2 for bits": _hybrid(unit=1.0),
    "the bound's term is summed over the numbers of a point; it is their mean": (
        _hybrid(reduce=Tensor.sum)
    ),
    "`scale` is left out": _hybrid(factor=lambda scale: 1.0),
    "the likelihood of pixels is for t = 0; here it is the divergence": _hybrid(everywhere=True),
    "L_simple, the squared error of the noise, is missing": _hybrid(simple=False),
}
