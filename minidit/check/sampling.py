"""Steps of samplers: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidit.check.verdict import NOISE, POINTS, Fault, against, waves
from minidit.schedule import linear

_TABLE = linear(100).alphas_cumprod.float()
_LOGS = torch.tensor([[-1.0, -2.5], [-0.5, -3.0], [-4.0, -1.5]])


@against(
    {
        "three points in the middle": (POINTS, _LOGS, NOISE, torch.tensor([40, 7, 1])),
        "one of three at the end": (POINTS, _LOGS, NOISE, torch.tensor([9, 0, 2])),
        "the last step": (POINTS[:1], _LOGS[:1], NOISE[:1], torch.tensor([0])),
    },
    "the noise is multiplied by the variance; its factor is the standard deviation, e^(½ log Σ)",
    lambda mean, logs, noise, t: ancestral_step.right(mean, 2 * logs, noise, t),
    "the noise is multiplied by the logarithm itself; its factor is e^(½ log Σ)",
    lambda mean, logs, noise, t: mean + (t > 0)[:, None] * logs * noise,
    "the last step, t = 0, adds noise, too; it ends at the mean",
    lambda mean, logs, noise, t: ancestral_step.right(mean, logs, noise, t + 1),
    "no step adds noise; only the last one, t = 0, has none",
    lambda mean, logs, noise, t: mean + 0,
    "t[0] decides for all; each point has a t of its own",
    lambda mean, logs, noise, t: ancestral_step.right(mean, logs, noise, t[:1]),
    "t = 1 has no noise either; the last step is t = 0",
    lambda mean, logs, noise, t: ancestral_step.right(mean, logs, noise, t - 1),
)
def ancestral_step(mean: Tensor, log_variance: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """A step of DDPM, without noise at t = 0, the last; three times (b, d), (b,) → (b, d)."""
    return mean + (t > 0)[:, None] * (0.5 * log_variance).exp() * noise


def _x0(x_t: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    return (x_t - (1 - a).sqrt() * eps) / a.sqrt()


def _ddim(step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Callable:
    """A step from step(x_t, ε, ᾱ_t, ᾱ_s), with both ᾱ (b, 1)."""
    return lambda x_t, eps, now, after: step(x_t, eps, now[:, None], after[:, None])


@against(
    {
        "three points": (
            POINTS,
            NOISE,
            torch.tensor([0.1, 0.4, 0.8]),
            torch.tensor([0.3, 0.5, 0.9]),
        ),
        "two points": (POINTS[:2], NOISE[:2], torch.tensor([0.2, 0.6]), torch.tensor([0.7, 0.64])),
        "the last step, to the image": (POINTS[2:], NOISE[2:], torch.tensor([0.9]), torch.ones(1)),
    },
    "x̂_0 is not divided by √ᾱ_t; x_t minus its noise is the image times √ᾱ_t",
    _ddim(lambda x, e, a, b: b.sqrt() * (x - (1 - a).sqrt() * e) + (1 - b).sqrt() * e),
    "the new x has the factors of the step it comes from; mix with ᾱ_s, where it goes",
    lambda x_t, eps, now, after: ddim_step.right(x_t, eps, now, now),
    "the image and the noise have each other's factors",
    _ddim(lambda x, e, a, b: (1 - b).sqrt() * _x0(x, e, a) + b.sqrt() * e),
    "the roots are missing; x̂_0 has the factor √ᾱ_s, and ε̂ has √(1 - ᾱ_s)",
    _ddim(lambda x, e, a, b: b * _x0(x, e, a) + (1 - b) * e),
    "x_t itself is mixed with the noise; mix x̂_0, which has none",
    _ddim(lambda x, e, a, b: b.sqrt() * x + (1 - b).sqrt() * e),
    "no noise is mixed in again; only the last step, to ᾱ_s = 1, ends at x̂_0",
    _ddim(lambda x, e, a, b: b.sqrt() * _x0(x, e, a)),
)
def ddim_step(x_t: Tensor, eps: Tensor, now: Tensor, after: Tensor) -> Tensor:
    """A step of DDIM; ᾱ where x is and where it goes are (b,), all others (b, d)."""
    now, after = now[:, None], after[:, None]
    return after.sqrt() * _x0(x_t, eps, now) + (1 - after).sqrt() * eps


def _single(alphas_cumprod: Tensor) -> Tensor:
    """The β of single steps, (T,)."""
    return respaced_betas.right(alphas_cumprod, range(len(alphas_cumprod)))


@against(
    {
        "five steps of 100": (_TABLE, [0, 25, 50, 75, 99]),
        "three that don't start at 0": (_TABLE, [10, 40, 60]),
        "two neighbours": (_TABLE, [30, 31]),
    },
    "these are the β of single steps; a stride loses all that is lost on its way",
    lambda bar, steps: _single(bar)[steps],
    "the β on the way are added up; it is the shares that are kept, 1 - β, that multiply",
    lambda bar, steps: _single(bar).cumsum(dim=0)[steps].diff(prepend=torch.zeros(1)),
    "the root of ᾱ_t/ᾱ_s is taken; β' is 1 - ᾱ_t/ᾱ_s",
    lambda bar, steps: respaced_betas.right(bar.sqrt(), steps),
    "the first stride starts at the clean image, where ᾱ is 1, so its β' is 1 - ᾱ",
    lambda bar, steps: torch.cat([_single(bar)[steps[:1]], respaced_betas.right(bar, steps)[1:]]),
    "1 - ᾱ_t is all that is lost since the image; divide by ᾱ of the kept step before",
    lambda bar, steps: 1 - bar[steps],
)
def respaced_betas(alphas_cumprod: Tensor, steps: Sequence[int]) -> Tensor:
    """ᾱ (T,) and k rising steps → β of the strides, (k,)."""
    kept = alphas_cumprod[list(steps)]
    return 1 - kept / torch.cat([torch.ones(1), kept[:-1]])


def _parabola(
    d0: Tensor, d1: Tensor, d2: Tensor, r0: float, r1: float, on: float, factor: float
) -> Tensor:
    """d', carried on from the middle of the last stride by `on`·r0, and d'', (2, b, d)."""
    late, early = (d0 - d1) / r0, (d1 - d2) / r1  # at -r0/2 and at -(r0 + r1/2)
    second = (late - early) / (r0 + r1)  # the second divided difference
    return torch.stack([late + on * r0 * second, factor * second])


@against(
    {
        "equal strides": (POINTS, NOISE, POINTS.flip(0), 1.0, 1.0),
        "unequal strides": (POINTS[:2], NOISE[:2], POINTS[1:], 0.5, 2.0),
    },
    "the second derivative is twice the divided difference: (late - early) lie (r0 + r1)/2 apart",
    lambda *values: _parabola(*values, on=1, factor=1),
    "the first derivative is that in the middle of the last stride; carry it on to now",
    lambda *values: _parabola(*values, on=0, factor=2),
    "the first derivative is carried back, not on: from the middle to now, add",
    lambda *values: _parabola(*values, on=-1, factor=2),
    "the first derivative is not yet that of now, nor is the second one doubled",
    lambda *values: _parabola(*values, on=0, factor=1),
)
def derivatives(d0: Tensor, d1: Tensor, d2: Tensor, r0: float, r1: float) -> Tensor:
    """Values (b, d) at 0, -r0, -(r0 + r1) → d', d'' at 0 of their parabola, (2, b, d)."""
    return _parabola(d0, d1, d2, r0, r1, on=1, factor=2)


def _predict(x: Tensor, t: Tensor) -> Tensor:
    """What stands for the network, (b, d), (b,) → (b, d)."""
    if not isinstance(t, Tensor) or t.shape != (len(x),):
        got = tuple(t.shape) if isinstance(t, Tensor) else t
        raise Fault(f"gives predict {got} for t; it wants a step for each point, ({len(x)},)")
    return (x + 0.1 * t[:, None]).sin()


@against(
    {
        "three points, five steps": (
            _predict,
            POINTS,
            waves(5, 3, 2),
            linear(40).betas[:5].float(),
        ),
        "one point, a single step": (_predict, POINTS[:1], waves(1, 1, 2), torch.tensor([0.3])),
        "two points, two steps": (_predict, POINTS[1:], waves(2, 2, 2), torch.tensor([0.1, 0.4])),
    },
    "at t = 0 the table is read at -1, its last entry; before the first step ᾱ is 1",
    {"before": lambda bar: bar.roll(1)},
    "at t = 0 the index is held at 0, so ᾱ_0 stands where ᾱ of the step before belongs; "
    "before the first step ᾱ is 1",
    {"before": lambda bar: torch.cat([bar[:1], bar[:-1]])},
    "ᾱ_t stands where ᾱ of the step before belongs, at every step",
    {"before": lambda bar: bar},
    "the noise is multiplied by its variance β̃; the factor is the root, √β̃",
    {"factor": lambda small, beta: small},
    "the noise has the variance β, and β after the last step, too; here it is β̃, 0 at t = 0",
    {"factor": lambda small, beta: beta.sqrt()},
    "the noise has the variance β, as in the text; here it is β̃",
    {"factor": lambda small, beta: beta.sqrt() * (small > 0)},
    "no noise is added",
    {"factor": lambda small, beta: 0 * beta},
    "the steps are walked from 0 up; start with the noisiest, T - 1",
    {"order": 1},
    "the network is told t - 1 instead of t",
    lambda predict, *rest: ancestral_sampler.right(
        lambda x, t: predict(x, (t - 1).clamp(min=0)), *rest
    ),
    "noises[0] is taken for the first step of the walk; noises[t] belongs to step t",
    lambda predict, x, noises, betas: ancestral_sampler.right(predict, x, noises.flip(0), betas),
    "the factors of x̂_0 and x_t are exchanged in the mean",
    {"mean": lambda x0, x, of_x0, of_x: of_x * x0 + of_x0 * x},
    "x̂_0 lacks the roots: it is (x_t - √(1 - ᾱ)·ε̂) / √ᾱ",
    {"x0_from": lambda x, eps, a: (x - (1 - a) * eps) / a},
    "x̂_0 lacks its division by √ᾱ",
    {"x0_from": lambda x, eps, a: x - (1 - a).sqrt() * eps},
    "ε̂ is taken for x̂_0; solve x_t = √ᾱ·x_0 + √(1 - ᾱ)·ε for x_0",
    {"x0_from": lambda x, eps, a: eps},
)
def ancestral_sampler(
    predict: Callable,
    x: Tensor,
    noises: Tensor,
    betas: Tensor,
    *,
    before: Callable[[Tensor], Tensor] = lambda bar: torch.cat([torch.ones(1), bar[:-1]]),
    factor: Callable[[Tensor, Tensor], Tensor] = lambda small, beta: small.sqrt(),
    x0_from: Callable[[Tensor, Tensor, Tensor], Tensor] = _x0,
    mean: Callable[..., Tensor] = lambda x0, x, of_x0, of_x: of_x0 * x0 + of_x * x,
    order: int = -1,
) -> Tensor:
    """All steps of DDPM, with noise of variance β̃; (b, d), (T, b, d), (T,) → x_0, (b, d).

    `predict(x, t)` gives ε̂, (b, d), for t (b,).
    """
    bar = (1 - betas).cumprod(dim=0)
    for k in range(len(betas))[::order]:
        a, last, beta = bar[k], before(bar)[k], betas[k]
        x0 = x0_from(x, predict(x, torch.full((len(x),), k)), a)
        x = mean(x0, x, last.sqrt() * beta / (1 - a), (1 - beta).sqrt() * (1 - last) / (1 - a))
        x = x + factor((1 - last) / (1 - a) * beta, beta) * noises[k]
    return x
