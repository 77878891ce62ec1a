"""The process and its losses: is your version right, and if not, which of these mistakes is it?"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check.verdict import NOISE, POINTS, Fault, against
from minidit.diffusion import normal_kl
from minidit.schedule import linear

_BETAS = linear(100).betas.float()
_BAR = (1 - _BETAS).cumprod(dim=0)


@against(
    ("three points", POINTS, NOISE, torch.tensor([0.25, 0.5, 0.875])),
    ("two points of the plane", POINTS[:2], NOISE[:2], torch.tensor([0.125, 0.75])),
    "the sign: v points from the data to the noise, so the way to x_0 is -u·v",
    {"x_t - u": "x_t + u"},
    "x_t + (1 - u)·v is the other end of the line, the noise ε",
    {"x_t - u": "x_t + (1 - u)"},
    "the way to x_0 is u·v, not (1 - u)·v: at u = 0 x_t is x_0 already",
    {"x_t - u": "x_t - (1 - u)"},
    "v is taken for ε; x_t = (1 - u)·x_0 + u·ε is solved, and v is ε - x_0",
    {"x_t - u[:, None] * v": "(x_t - u[:, None] * v) / (1 - u)[:, None]"},
)
def x0_from_v(x_t: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """x_0 on the straight line; (b, d), (b, d), (b,) → (b, d)."""
    return x_t - u[:, None] * v


_CENTRE = torch.tensor([1.0, -2.0])


@against(
    ("three points at three steps", POINTS, torch.tensor([5, 20, 60]), _CENTRE, 0.5, _BAR),
    ("two points, a wide cloud", POINTS[:2], torch.tensor([30, 10]), -_CENTRE, 2.0, _BAR),
    "the sign: the score leads back to the middle",
    {"(middle - x_t)": "(x_t - middle)"},
    "the middle of the cloud at t is √ᾱ·mean; it moves to zero with the data",
    {"a.sqrt() * mean": "mean"},
    "the noise is left out of the variance, ᾱ·std² + 1 - ᾱ",
    {"std**2 + 1 - a": "std**2"},
    "the data's own spread is left out of the variance, ᾱ·std² + 1 - ᾱ",
    {"a * std**2 + 1 - a": "1 - a"},
    "std isn't squared in the variance, ᾱ·std² + 1 - ᾱ",
    {"std**2": "std"},
    "std² isn't multiplied by ᾱ: the data's cloud shrinks while the noise grows",
    {"a * std**2": "std**2"},
    "it is divided by a standard deviation; the score of a normal is -(x - middle) / variance",
    {"/ variance": "/ variance.sqrt()"},
    "this is the noise ε̂; the score is -ε̂ / √(1 - ᾱ)",
    {"(middle - x_t)": "(1 - a).sqrt() * (x_t - middle)"},
)
def gaussian_score(
    x_t: Tensor, t: Tensor, mean: Tensor, std: float, alphas_cumprod: Tensor
) -> Tensor:
    """The score at x_t; (b, d), (b,), (d,), std, (T,) → (b, d).

    The data are normal, with this mean and this standard deviation in every direction.
    """
    a = alphas_cumprod[t, None]
    middle, variance = a.sqrt() * mean, a * std**2 + 1 - a
    return (middle - x_t) / variance


def _small(betas: Tensor) -> Tensor:
    """β̃ of every step: (T,) → (T,)."""
    bar = (1 - betas).cumprod(dim=0)
    return betas * (1 - torch.cat([torch.ones(1), bar[:-1]])) / (1 - bar)


_ERROR = torch.tensor([[1e-4, 3e-3], [2e-2, 5e-4]])


@against(
    ("steps 3 and 50", _ERROR, torch.tensor([3, 50]), _BETAS),
    ("step 1", _ERROR, torch.tensor([1, 1]), _BETAS),
    ("no error", 0 * _ERROR, torch.tensor([2, 20]), _BETAS),
    "Σ is the error alone; what even x0 can't tell, β̃, comes on top",
    {"(small + error)": "error"},
    "Σ lies between the ends in the logarithm, not as it is",
    {"2 * share": "2 * error / (large - small)"},
    "ᾱ of the step before is now[t - 1]; with ᾱ_t there β̃ becomes β",
    {"_small(betas)": "betas"},
    "β̃ (b,) meets errors (b, d) on the wrong axis; make it (b, 1) with [:, None]",
    {"[t, None]": "[t]"},
    "that is v, from 0 to 1; the network's number o runs from -1 to 1, and v = (o + 1)/2",
    {"2 * share - 1": "share"},
    "the ends are exchanged: o = -1 is the small variance",
    {"2 * share - 1": "1 - 2 * share"},
    "o is clamped to -1 … 1; nothing holds the network there, and the best may lie outside",
    {"2 * share - 1": "(2 * share - 1).clamp(-1, 1)"},
    tolerance=0.01,
)
def best_fraction(error: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """The outputs o that cost least; (b, d), (b,), (T,) → (b, d).

    `error` are mean squares of μ̃ - μ̂, and t > 0.
    """
    small, large = _small(betas)[t, None], betas[t, None]
    share = ((small + error) / small).log() / (large / small).log()
    return 2 * share - 1


def _with_gradient(loss_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Every point's loss and the gradient of its output, (b, 1 + 2d)."""

    def run(output: Tensor, *rest: object) -> Tensor:
        leaf = output.clone().requires_grad_()
        loss = loss_of(leaf, *rest)
        if not isinstance(loss, Tensor) or loss.shape != output.shape[:1]:
            given = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise Fault(
                f"gives a loss of {given}; one number for each point, {len(output)}, is due"
            )
        (gradient,) = torch.autograd.grad(loss.sum() + 0 * leaf.sum(), leaf)
        return torch.cat([loss.detach()[:, None], gradient], dim=1)

    return run


_X0, _NOISE = (torch.cat([z, z.flip(0)[:, :1]], dim=1) for z in (POINTS, NOISE))  # (3, 3)
_OUTPUT = torch.cat([_NOISE + 0.3 * _X0.flip(0), _X0.sin()], dim=1)


@against(
    ("steps 3, 20 and 80", _OUTPUT, _X0, _NOISE, torch.tensor([3, 20, 80]), _BETAS, 1.0),
    ("scale 5", _OUTPUT, _X0, _NOISE, torch.tensor([2, 5, 50]), _BETAS, 5.0),
    "the prediction isn't detached before it enters the bound, so that both losses teach it",
    {"eps.detach()": "eps"},
    "both halves are detached: Σ learns nothing",
    {"(o + 1)": "(o.detach() + 1)"},
    "the share is o itself; o runs from -1 to 1, and v = (o + 1)/2",
    {"(o + 1) / 2": "o"},
    "the ends are exchanged: v = 0 is the small variance",
    {"(o + 1)": "(1 - o)"},
    "Σ is interpolated as it is; it lies between the ends in the logarithm",
    {"small.log().lerp(large.log(), (o + 1) / 2)": "small.lerp(large, (o + 1) / 2).log()"},
    "it is the divergence the other way round: of the network's normal from the true one",
    {"true, small.log(), mean, log_var)": "mean, log_var, true, small.log())"},
    "the bound's term is in nats; divide it by ln 2 for bits",
    {" / math.log(2)": ""},
    "the bound's term is summed over the numbers of a point; it is their mean",
    {"log_var).mean(dim=1)": "log_var).sum(dim=1)"},
    "the share is a sigmoid of o; the network's number itself runs from -1 to 1, v = (o + 1)/2",
    {"(o + 1) / 2": "o.sigmoid()"},
    "the halves of the output are exchanged; the prediction comes first",
    {"eps, o =": "o, eps ="},
    "L_simple is summed over the numbers of a point; it is their mean",
    {"square().mean(dim=1)": "square().sum(dim=1)"},
    tolerance=1e-3,
    seen=_with_gradient,
)
def hybrid_loss(
    output: Tensor, x0: Tensor, noise: Tensor, t: Tensor, betas: Tensor, scale: float
) -> Tensor:
    """L_simple + scale · L_t in bits; (b, 2d), (b, d), (b, d), (b,), (T,), a factor → (b,).

    `output`: the noise predicted and the numbers of the variance; t > 0. Each case shows, for each
    point, its loss and then the gradient of `output`.
    """
    eps, o = output.chunk(2, dim=1)
    small, large = _small(betas)[t, None], betas[t, None]
    log_var = small.log().lerp(large.log(), (o + 1) / 2)
    bar = (1 - betas).cumprod(dim=0)
    a, last = bar[t, None], bar[t - 1, None]
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * noise
    guess = (x_t - (1 - a).sqrt() * eps.detach()) / a.sqrt()
    true, mean = (
        (last.sqrt() * large * x + (1 - large).sqrt() * (1 - last) * x_t) / (1 - a)
        for x in (x0, guess)
    )
    bound = normal_kl(true, small.log(), mean, log_var).mean(dim=1) / math.log(2)
    return (eps - noise).square().mean(dim=1) + scale * bound
