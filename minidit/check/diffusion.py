"""The process and its training: is your version right, and if not, which mistake is it?"""

import torch
from torch import Tensor

from minidit import diffusion
from minidit.check.verdict import NOISE, POINTS, against
from minidit.schedule import linear

_BETAS = linear(100).betas.float()
_ERROR = torch.tensor([[1e-4, 3e-3], [2e-2, 5e-4]])
_FRACTION = torch.tensor([[-1.0, 0.5], [1.0, -0.25]])
_LOGS = (NOISE.flip(0), POINTS.flip(0))  # of variances


def _bar(betas: Tensor) -> Tensor:
    """ᾱ of every step: (T,) → (T,)."""
    return (1 - betas).cumprod(dim=0)


def _before(bar: Tensor) -> Tensor:
    """ᾱ of the step before, 1 before the first: (T,) → (T,)."""
    return torch.cat([torch.ones(1), bar[:-1]])


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


def _mean(x0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor, bar: Tensor, before: Tensor) -> Tensor:
    """The mean from the tables of β, ᾱ and ᾱ of the step before, (T,), read at t."""
    b, a, last = (table[t, None] for table in (betas, bar, before))
    return (last.sqrt() * b * x0 + (1 - b).sqrt() * (1 - last) * x_t) / (1 - a)


@against(
    {
        "three points in the middle": (POINTS, NOISE, torch.tensor([30, 50, 80]), _BETAS),
        "the last two steps": (POINTS[:2], NOISE[:2], torch.tensor([2, 1]), _BETAS),
        "t = 0": (POINTS[:1], NOISE[:1], torch.tensor([0]), _BETAS),
    },
    "the factors of x_0 and x_t are exchanged; close to the end x_0 counts more",
    lambda x0, x_t, t, betas: posterior_mean.right(x_t, x0, t, betas),
    "the roots are missing; the factors hold √ᾱ of the step before and √(1 - β_t)",
    lambda x0, x_t, t, betas: posterior_mean.right(
        x0 * _before(_bar(betas))[t, None].sqrt(), x_t * (1 - betas[t, None]).sqrt(), t, betas
    ),
    "ᾱ_t stands where ᾱ of the step before belongs",
    lambda x0, x_t, t, betas: _mean(x0, x_t, t, betas, _bar(betas), _bar(betas)),
    "at t = 0 the table is read at -1, its last entry; before the first step ᾱ is 1",
    lambda x0, x_t, t, betas: _mean(x0, x_t, t, betas, _bar(betas), _bar(betas).roll(1)),
    "1 - β_t is taken for ᾱ_t; ᾱ_t is the product of all 1 - β up to t",
    lambda x0, x_t, t, betas: _mean(x0, x_t, t, betas, 1 - betas, _before(1 - betas)),
    "the division by 1 - ᾱ_t is missing",
    lambda x0, x_t, t, betas: _mean(x0, x_t, t, betas, 0 * betas, _before(_bar(betas))),
)
def posterior_mean(x0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """The mean of x_{t-1} given x_0 and x_t; (b, d), (b, d), (b,), (T,) → (b, d)."""
    return _mean(x0, x_t, t, betas, _bar(betas), _before(_bar(betas)))


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


@against(
    {
        "the first step": (POINTS, NOISE, 0.9999, 0),
        "a step of the ramp": (POINTS, NOISE, 0.9999, 40),
        "a step after it": (POINTS, NOISE, 0.9, 1000),
    },
    "the shares are exchanged: the average keeps the large one, the weights add 1 minus it",
    lambda ema, new, decay, k: ema_update.right(new, ema, decay, k),
    "the ramp is missing; at step k at most (1 + k)/(10 + k) is kept",
    lambda ema, new, decay, k: new.lerp(ema, decay),
    "the decay is missing; it is the most that is ever kept, so take the smaller of the two",
    lambda ema, new, decay, k: new.lerp(ema, (1 + k) / (10 + k)),
    "the larger of decay and ramp is taken instead of the smaller",
    lambda ema, new, decay, k: new.lerp(ema, max(decay, (1 + k) / (10 + k))),
    "the ramp starts at step 1; steps count from 0, and the first keeps 1/10",
    lambda ema, new, decay, k: ema_update.right(ema, new, decay, k + 1),
)
def ema_update(average: Tensor, weights: Tensor, decay: float, step: int) -> Tensor:
    """The average after a step, counted from 0; both (b, d) → (b, d)."""
    return weights.lerp(average, min(decay, (1 + step) / (10 + step)))


def _small(betas: Tensor) -> Tensor:
    """β̃ of every step, that of t = 1 also at t = 0: (T,) → (T,)."""
    small = betas * (1 - _before(_bar(betas))) / (1 - _bar(betas))
    return torch.cat([small[1:2], small[1:]])


@against(
    {
        "steps 3 and 50": (_FRACTION, torch.tensor([3, 50]), _BETAS),
        "step 1": (_FRACTION, torch.tensor([1, 1]), _BETAS),
        "t = 0, where log β̃ is that of t = 1": (0.5 * _FRACTION, torch.tensor([0, 0]), _BETAS),
    },
    "the number itself is taken for the share; it runs from -1 to 1, the share (number + 1)/2",
    lambda v, t, b: learned_log_variance.right(2 * v - 1, t, b),
    "the ends are exchanged: 1 means β, -1 means β̃",
    lambda v, t, b: learned_log_variance.right(-v, t, b),
    "the variances are interpolated; it is their logarithms that are",
    lambda v, t, b: _small(b)[t, None].lerp(b[t, None], (v + 1) / 2).log(),
    "at t = 0 the logarithm of 0 is taken; log β̃ of t = 1 stands in for it",
    lambda v, t, b: learned_log_variance.right(v, t, b).where(t[:, None] > 0, -torch.inf),
    "β̃ is not β·(1 - ᾱ_t): divide (1 - ᾱ of the step before) by (1 - ᾱ_t)",
    lambda v, t, b: (b * (1 - _bar(b))).log()[t, None].lerp(b.log()[t, None], (v + 1) / 2),
    tolerance=1e-3,
)
def learned_log_variance(fraction: Tensor, t: Tensor, betas: Tensor) -> Tensor:
    """log Σ from log β̃ to log β; (b, d) in [-1, 1], (b,), (T,) → (b, d)."""
    return _small(betas).log()[t, None].lerp(betas.log()[t, None], (fraction + 1) / 2)


@against(
    {
        "three pairs of normals": (POINTS, _LOGS[0], NOISE, _LOGS[1]),
        "equal variances": (POINTS, _LOGS[0], NOISE, _LOGS[0]),
        "equal normals": (POINTS, _LOGS[0], POINTS, _LOGS[0]),
        "distance from the standard normal": (POINTS, _LOGS[0], 0 * POINTS, 0 * POINTS),
    },
    "it is the divergence the other way round; the expectation is over the first normal",
    lambda m1, l1, m2, l2: diffusion.normal_kl(m2, l2, m1, l1),
    "the factor ½ is missing",
    lambda m1, l1, m2, l2: 2 * diffusion.normal_kl(m1, l1, m2, l2),
    "the -1 is missing: of a normal from itself the divergence is 0",
    lambda m1, l1, m2, l2: diffusion.normal_kl(m1, l1, m2, l2) + 0.5,
    "the squared distance of the means is not divided by the second variance",
    lambda m1, l1, m2, l2: diffusion.normal_kl(m1, l1, m1, l2) + 0.5 * (m1 - m2) ** 2,
    "the distance of the means is not squared",
    lambda m1, l1, m2, l2: diffusion.normal_kl(m1, l1, m1, l2) + 0.5 * (m1 - m2) / l2.exp(),
    "the logarithms are of variances, not of standard deviations",
    lambda m1, l1, m2, l2: diffusion.normal_kl(m1, 2 * l1, m2, 2 * l2),
)
def normal_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """The divergence in nats, all (b, d) → (b, d)."""
    return diffusion.normal_kl(mean1, log_var1, mean2, log_var2)


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
