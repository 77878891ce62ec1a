"""The process and its training: is your version right, and if not, which mistake is it?"""

import torch
from torch import Tensor

from minidit.check.verdict import NOISE, POINTS, against
from minidit.schedule import linear

_BETAS = linear(100).betas.float()


def _bar(betas: Tensor) -> Tensor:
    """ᾱ of every step: (T,) → (T,)."""
    return (1 - betas).cumprod(dim=0)


@against(
    {
        "three points at three steps": (POINTS, torch.tensor([7, 0, 99]), NOISE, _bar(_BETAS)),
        "two points of the plane": (POINTS[:2], torch.tensor([60, 20]), NOISE[:2], _bar(_BETAS)),
    },
    "both roots are missing; the factors are √ᾱ_t and √(1 - ᾱ_t)",
    lambda x0, t, noise, bar: bar[t, None] * x0 + (1 - bar[t, None]) * noise,
    "the noise is multiplied by a variance, 1 - ᾱ_t; the factor is its root, √(1 - ᾱ_t)",
    lambda x0, t, noise, bar: bar[t, None].sqrt() * x0 + (1 - bar[t, None]) * noise,
    "the root stands inside: 1 - √ᾱ_t instead of √(1 - ᾱ_t)",
    lambda x0, t, noise, bar: bar[t, None].sqrt() * x0 + (1 - bar[t, None].sqrt()) * noise,
    "signal and noise are exchanged; at t = 0 nearly all is signal",
    lambda x0, t, noise, bar: q_sample.right(x0, t, noise, 1 - bar),
    "the noise has no factor; it is multiplied by √(1 - ᾱ_t)",
    lambda x0, t, noise, bar: bar[t, None].sqrt() * x0 + noise,
    "the table is read at t - 1; its entry t belongs to step t",
    lambda x0, t, noise, bar: q_sample.right(x0, t - 1, noise, bar),
    "every point is treated as the first, with t[0]; each has a t of its own",
    lambda x0, t, noise, bar: q_sample.right(x0, t[:1], noise, bar),
    "ᾱ_t (b,) meets points (b, d) on the wrong axis; make it (b, 1) with [:, None]",
    lambda x0, t, noise, bar: bar[t].sqrt() * x0 + (1 - bar[t]).sqrt() * noise,
)
def q_sample(x0: Tensor, t: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """√ᾱ_t·x_0 + √(1 - ᾱ_t)·ε; (b, d), (b,), (b, d), (T,) → x_t, (b, d)."""
    a = alphas_cumprod[t, None]  # (b, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


@against(
    {
        "three points": (POINTS, NOISE, torch.tensor([0.25, 0.5, 0.875])),
        "two points of the plane": (POINTS[:2], NOISE[:2], torch.tensor([0.125, 0.75])),
    },
    "the sign: v points from the data to the noise, so the way to x_0 is -u·v",
    lambda x_t, v, u: x_t + u[:, None] * v,
    "x_t + (1 - u)·v is the other end of the line, the noise ε",
    lambda x_t, v, u: x_t + (1 - u)[:, None] * v,
    "the way to x_0 is u·v, not (1 - u)·v: at u = 0 x_t is x_0 already",
    lambda x_t, v, u: x_t - (1 - u)[:, None] * v,
    "v is taken for ε; x_t = (1 - u)·x_0 + u·ε is solved, and v is ε - x_0",
    lambda x_t, v, u: (x_t - u[:, None] * v) / (1 - u)[:, None],
    "u (b,) meets points (b, d) on the wrong axis; make it (b, 1) with [:, None]",
    lambda x_t, v, u: x_t - u * v,
)
def x0_from_v(x_t: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """x_0 on the straight line; (b, d), (b, d), (b,) → (b, d)."""
    return x_t - u[:, None] * v


def _variance(t: Tensor, std: float, bar: Tensor) -> Tensor:
    """That of x_t, (b, 1)."""
    return bar[t, None] * std**2 + 1 - bar[t, None]


_CENTRE, _CLOUD = torch.tensor([1.0, -2.0]), _bar(_BETAS)


@against(
    {
        "three points at three steps": (POINTS, torch.tensor([5, 20, 60]), _CENTRE, 0.5, _CLOUD),
        "two points, a wide cloud": (POINTS[:2], torch.tensor([30, 10]), -_CENTRE, 2.0, _CLOUD),
    },
    "the sign: the score leads back to the middle",
    lambda *cloud: -gaussian_score.right(*cloud),
    "the middle of the cloud at t is √ᾱ·mean; it moves to zero with the data",
    lambda x, t, mean, std, bar: gaussian_score.right(x, t, mean / bar[t, None].sqrt(), std, bar),
    "the middle lacks its root: it is √ᾱ·mean",
    lambda x, t, mean, std, bar: gaussian_score.right(x, t, mean * bar[t, None].sqrt(), std, bar),
    "the noise is left out of the variance, ᾱ·std² + 1 - ᾱ",
    lambda x, t, mean, std, bar: (bar[t, None].sqrt() * mean - x) / (bar[t, None] * std**2),
    "the data's own spread is left out of the variance, ᾱ·std² + 1 - ᾱ",
    lambda x, t, mean, std, bar: gaussian_score.right(x, t, mean, 0, bar),
    "std isn't squared in the variance, ᾱ·std² + 1 - ᾱ",
    lambda x, t, mean, std, bar: gaussian_score.right(x, t, mean, std**0.5, bar),
    "std² isn't multiplied by ᾱ: the data's cloud shrinks while the noise grows",
    lambda x, t, mean, std, bar: gaussian_score.right(x, t, mean, std / bar[t, None].sqrt(), bar),
    "it is divided by a standard deviation; the score of a normal is -(x - middle) / variance",
    lambda *cloud: gaussian_score.right(*cloud) * _variance(cloud[1], *cloud[3:]).sqrt(),
    "ᾱ_t (b,) meets points (b, d) on the wrong axis; make it (b, 1) with [:, None]",
    lambda x, t, mean, std, bar: (bar[t].sqrt() * mean - x) / (bar[t] * std**2 + 1 - bar[t]),
    "this is the noise ε̂; the score is -ε̂ / √(1 - ᾱ)",
    lambda *cloud: -(1 - cloud[4][cloud[1], None]).sqrt() * gaussian_score.right(*cloud),
)
def gaussian_score(
    x_t: Tensor, t: Tensor, mean: Tensor, std: float, alphas_cumprod: Tensor
) -> Tensor:
    """The score at x_t; (b, d), (b,), (d,), std, (T,) → (b, d).

    The data are normal, with this mean and this standard deviation in every direction.
    """
    return (alphas_cumprod[t, None].sqrt() * mean - x_t) / _variance(t, std, alphas_cumprod)
