"""The loss of a learned variance: is your version right, and if not, which mistake is it?"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check.diffusion import _bar, q_sample
from minidit.check.verdict import NOISE, POINTS, Fault, against
from minidit.diffusion import normal_kl
from minidit.schedule import linear


def _small(betas: Tensor) -> Tensor:
    """β̃ of every step: (T,) → (T,)."""
    bar = _bar(betas)
    return betas * (1 - torch.cat([torch.ones(1), bar[:-1]])) / (1 - bar)


_BETAS = linear(100).betas.float()
_ERROR = torch.tensor([[1e-4, 3e-3], [2e-2, 5e-4]])


@against(
    {
        "steps 3 and 50": (_ERROR, torch.tensor([3, 50]), _BETAS),
        "step 1": (_ERROR, torch.tensor([1, 1]), _BETAS),
        "no error": (0 * _ERROR, torch.tensor([2, 20]), _BETAS),
    },
    "Σ is the error alone; what even x0 can't tell, β̃, comes on top",
    lambda error, t, b: best_fraction.right(error - _small(b)[t, None], t, b),
    "Σ lies between the ends in the logarithm, not as it is",
    lambda error, t, b: 2 * error / (b - _small(b))[t, None] - 1,
    "Σ lies between the ends in the logarithm, not as it is; and v = (o + 1)/2, so o = 2v - 1",
    lambda error, t, b: error / (b - _small(b))[t, None],
    "ᾱ of the step before is now[t - 1]; with ᾱ_t there β̃ becomes β",
    lambda error, t, b: 2 * ((b[t, None] + error) / b[t, None]).log() / 0.0 - 1,
    "β̃ (b,) meets errors (b, d) on the wrong axis; make it (b, 1) with [:, None]",
    lambda error, t, b: 2 * (error / _small(b)[t] + 1).log() / (b[t] / _small(b)[t]).log() - 1,
    "that is v, from 0 to 1; the network's number o runs from -1 to 1, and v = (o + 1)/2",
    lambda error, t, b: (best_fraction.right(error, t, b) + 1) / 2,
    "that is v read the wrong way: v = (o + 1)/2, so o = 2v - 1",
    lambda error, t, b: (best_fraction.right(error, t, b) + 3) / 4,
    "the ends are exchanged: o = -1 is the small variance",
    lambda error, t, b: -best_fraction.right(error, t, b),
    "the error is a square already",
    lambda error, t, b: best_fraction.right(error**2, t, b),
    "o is clamped to -1 … 1; nothing holds the network there, and the best may lie outside",
    lambda error, t, b: best_fraction.right(error, t, b).clamp(-1, 1),
    tolerance=0.01,
)
def best_fraction(error: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """The outputs o that cost least; (b, d), (b,), (T,) → (b, d).

    `error` are mean squares of μ̃ - μ̂, and t > 0.
    """
    small, large = _small(betas)[t, None], betas[t, None]
    return 2 * ((small + error) / small).log() / (large / small).log() - 1


def _bits(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """The bound's term L_t in bits per dimension; four times (b, d) → (b,)."""
    return normal_kl(mean1, log_var1, mean2, log_var2).mean(dim=1) / math.log(2)


def _with_gradient(loss_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Every point's loss and the gradient of its output, (b, 1 + 2d)."""

    def run(output: Tensor, *rest: object) -> Tensor:
        leaf = output.clone().requires_grad_()
        loss = loss_of(leaf, *rest)
        if not isinstance(loss, Tensor) or loss.shape != output.shape[:1]:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise Fault(
                f"gives a loss of {shape}; one number for each point, {len(output)}, is due"
            )
        (gradient,) = torch.autograd.grad(loss.sum() + 0 * leaf.sum(), leaf)
        return torch.cat([loss.detach()[:, None], gradient], dim=1)

    return run


def _log_variance(o: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """log Σ, from log β̃ where o is -1 to log β where it is 1; (b, d)."""
    return _small(betas)[t, None].log().lerp(betas[t, None].log(), (o + 1) / 2)


def _terms(eps: Tensor, o: Tensor, x0: Tensor, noise: Tensor, t: Tensor, betas: Tensor) -> tuple:
    """Mean and log-variance of the true posterior, then of the network's with its output eps, o."""
    bar = _bar(betas)
    x_t = q_sample.right(x0, t, noise, bar)
    guess = (x_t - (1 - bar[t, None]).sqrt() * eps) / bar[t, None].sqrt()
    a, last = bar[t, None], bar[t - 1, None]  # t > 0
    b = betas[t, None]
    true, mean = (
        (last.sqrt() * b * x + (1 - b).sqrt() * (1 - last) * x_t) / (1 - a) for x in (x0, guess)
    )
    return true, _log_variance(o * 0 - 1, t, betas), mean, _log_variance(o, t, betas)


def _in_the_variance(o: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """The o by which Σ is interpolated as it is."""
    low, high = (_log_variance(o * 0 + end, t, betas).exp() for end in (-1, 1))
    return best_fraction.right((o + 1) / 2 * (high - low), t, betas)


_X0, _NOISE = (torch.cat([z, z.flip(0)[:, :1]], dim=1) for z in (POINTS, NOISE))  # (3, 3)
_OUTPUT = torch.cat([_NOISE + 0.3 * _X0.flip(0), _X0.sin()], dim=1)


@against(
    {
        "steps 3, 20 and 80": (_OUTPUT, _X0, _NOISE, torch.tensor([3, 20, 80]), _BETAS, 1.0),
        "scale 5": (_OUTPUT, _X0, _NOISE, torch.tensor([2, 5, 50]), _BETAS, 5.0),
    },
    "the prediction isn't detached before it enters the bound, so that both losses teach it",
    {"prediction": lambda eps: eps},
    "the variance is detached, not the prediction: Σ learns nothing",
    {"prediction": lambda eps: eps, "fraction": lambda o, *_: o.detach()},
    "both halves are detached: Σ learns nothing",
    {"fraction": lambda o, *_: o.detach()},
    "the share is o itself; o runs from -1 to 1, and v = (o + 1)/2",
    {"fraction": lambda o, *_: 2 * o - 1},
    "the ends are exchanged: v = 0 is the small variance",
    {"fraction": lambda o, *_: -o},
    "Σ is interpolated as it is; it lies between the ends in the logarithm",
    {"fraction": _in_the_variance},
    "it is the divergence the other way round: of the network's normal from the true one",
    {"bits": lambda m1, l1, m2, l2: _bits(m2, l2, m1, l1)},
    "the bound's term is in nats; divide it by ln 2 for bits",
    {"bits": lambda *terms: _bits(*terms) * math.log(2)},
    "the bound's term is summed over the numbers of a point; it is their mean",
    {"bits": lambda *terms: _bits(*terms) * terms[0].shape[1]},
    "the share is a sigmoid of o; the network's number itself runs from -1 to 1, v = (o + 1)/2",
    {"fraction": lambda o, *_: 2 * o.sigmoid() - 1},
    "the halves of the output are exchanged; the prediction comes first",
    lambda output, *rest: hybrid_loss.right(output.roll(output.shape[1] // 2, 1), *rest),
    "the ½ of the divergence is forgotten",
    {"bits": lambda *terms: 2 * _bits(*terms)},
    "the bound's term is missing",
    {"bits": lambda *terms: 0.0},
    "L_simple is averaged over the batch as well; every point keeps its own",
    {"simple": lambda error: error.mean()},
    "L_simple is summed over the numbers of a point; it is their mean",
    {"simple": lambda error: error.sum(dim=1)},
    "`scale` is left out",
    lambda *inputs: hybrid_loss.right(*inputs[:-1], 1.0),
    "L_simple, the squared error of the noise, is missing",
    {"simple": lambda error: 0.0},
    tolerance=1e-3,
    seen=_with_gradient,
)
def hybrid_loss(
    output: Tensor,
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    betas: Tensor,
    scale: float,
    *,
    prediction: Callable[[Tensor], Tensor] = Tensor.detach,
    fraction: Callable[..., Tensor] = lambda o, t, betas: o,
    bits: Callable[..., Tensor] = _bits,
    simple: Callable[[Tensor], Tensor] = lambda error: error.mean(dim=1),
) -> Tensor:
    """L_simple + scale · L_t in bits; (b, 2d), (b, d), (b, d), (b,), (T,), a factor → (b,).

    `output`: the noise predicted and the numbers of the variance; t > 0. Each case shows, for each
    point, its loss and then the gradient of `output`.
    """
    eps, o = output.chunk(2, dim=1)
    bound = bits(*_terms(prediction(eps), fraction(o, t, betas), x0, noise, t, betas))
    return simple((eps - noise).square()) + scale * bound
