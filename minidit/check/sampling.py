"""Steps of samplers: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidit.check.verdict import NOISE, POINTS, Fault, against, waves
from minidit.schedule import linear

_TABLE = linear(100).alphas_cumprod.float()


def _x0(x_t: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    return (x_t - (1 - a).sqrt() * eps) / a.sqrt()


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
    "the first entry is missing; its stride starts at the clean image, where ᾱ is 1",
    lambda bar, steps: respaced_betas.right(bar, steps)[1:],
    "the table is squared once more; it holds ᾱ = α², so β' is 1 - ᾱ_t/ᾱ_s",
    lambda bar, steps: respaced_betas.right(bar**2, steps),
    "that is what is kept, ᾱ_t/ᾱ_s; β' is what is lost, 1 - ᾱ_t/ᾱ_s",
    lambda bar, steps: 1 - respaced_betas.right(bar, steps),
    "the first stride starts at the first kept step; it starts at the clean image, where ᾱ is 1",
    lambda bar, steps: respaced_betas.right(bar, steps) * (torch.arange(len(steps)) > 0),
    "the first stride is read at -1, the last step; it starts at the clean image, where ᾱ is 1",
    lambda bar, steps: 1 - bar[steps] / bar[steps].roll(1),
    "the fraction is upside down; the later step, with the smaller ᾱ, stands above",
    lambda bar, steps: 1 - torch.cat([torch.ones(1), bar[steps][:-1]]) / bar[steps],
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
    "from the middle of the last stride to now it is r0/2, not r0",
    lambda *values: _parabola(*values, on=2, factor=2),
    "the slopes belong to the middles of the strides, (r0 + r1)/2 apart, not r0 + r1",
    lambda *values: _parabola(*values, on=0.5, factor=1),
    "the two are exchanged; the first derivative comes first",
    lambda *values: derivatives.right(*values).flip(0),
    "d0 is the latest value: a slope is (d0 - d1)/r0",
    lambda *values: -derivatives.right(*values),
    "r1 is the stride from d2 to d1, not the way from d2 to now",
    lambda d0, d1, d2, r0, r1: derivatives.right(d0, d1, d1 + (d2 - d1) * r1 / (r0 + r1), r0, r1),
)
def derivatives(d0: Tensor, d1: Tensor, d2: Tensor, r0: float, r1: float) -> Tensor:
    """Values (b, d) at 0, -r0, -(r0 + r1) → d', d'' at 0 of their parabola, (2, b, d)."""
    return _parabola(d0, d1, d2, r0, r1, on=1, factor=2)


def _mean(x0: Tensor, x: Tensor, a: Tensor, last: Tensor, beta: Tensor) -> Tensor:
    """μ̃, where ᾱ is a, and last at the step before."""
    return (last.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - last) * x) / (1 - a)


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
    {"mean": lambda x0, x, a, last, b: _mean(x, x0, a, last, b)},
    "the mean lacks its division by 1 - ᾱ_t",
    {"mean": lambda x0, x, a, last, b: _mean(x0, x, a, last, b) * (1 - a)},
    "the factor of x_t lacks its root: √(1 - β_t)",
    {"mean": lambda x0, x, a, last, b: _mean(x0, (1 - b).sqrt() * x, a, last, b)},
    "the factor of x̂_0 lacks its root: √ᾱ of the step before",
    {"mean": lambda x0, x, a, last, b: _mean(last.sqrt() * x0, x, a, last, b)},
    "the root in the factor of x_t is that of ᾱ_t; it is √(1 - β_t), of the one step",
    {"mean": lambda x0, x, a, last, b: _mean(x0, last.sqrt() * x, a, last, b)},
    "the root in the factor of x̂_0 is that of ᾱ_t; it is √ᾱ of the step before",
    {"mean": lambda x0, x, a, last, b: _mean((1 - b).sqrt() * x0, x, a, last, b)},
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
    mean: Callable[..., Tensor] = _mean,
    order: int = -1,
) -> Tensor:
    """All steps of DDPM, with noise of variance β̃; (b, d), (T, b, d), (T,) → x_0, (b, d).

    `predict(x, t)` gives ε̂, (b, d), for t (b,).
    """
    bar = (1 - betas).cumprod(dim=0)
    for k in range(len(betas))[::order]:
        a, last, beta = bar[k], before(bar)[k], betas[k]
        x0 = x0_from(x, predict(x, torch.full((len(x),), k)), a)
        x = mean(x0, x, a, last, beta)
        x = x + factor((1 - last) / (1 - a) * beta, beta) * noises[k]
    return x


@against(
    {
        "no fresh noise": (_predict, POINTS, waves(4, 3, 2), [0, 20, 40, 65], _TABLE, 0.0),
        "half of it": (_predict, POINTS, waves(3, 3, 2), [10, 40, 60], _TABLE, 0.5),
        "all of it": (_predict, POINTS[1:], waves(2, 2, 2), [5, 60], _TABLE, 1.0),
        "one point, a single step": (_predict, POINTS[:1], waves(1, 1, 2), [30], _TABLE, 0.5),
    },
    "the last step is missing: from steps[0] it goes to the clean image, where ᾱ is 1",
    {"level": lambda bar, steps: bar[[steps[0], *steps]]},
    "at the last step steps[k - 1] is steps[-1], the noisiest; it goes to the image, where ᾱ is 1",
    {"level": lambda bar, steps: bar[[steps[-1], *steps]]},
    "the step goes to t - 1; it goes to the next of the steps that are kept",
    {"target": lambda level, bar, k, t: bar[t - 1] if t else torch.tensor(1.0)},
    "x̂_0 lacks its roots: it is (x - √(1 - ᾱ)·ε̂) / √ᾱ",
    {"x0_from": lambda x, eps, a: (x - (1 - a) * eps) / a},
    "x̂_0 is not divided by √ᾱ_t; x minus its noise is the image times √ᾱ_t",
    {"x0_from": lambda x, eps, a: x - (1 - a).sqrt() * eps},
    "the last step goes to step 0; it goes to the clean image, where ᾱ is 1",
    {"level": lambda bar, steps: bar[[0, *steps]]},
    "x̂_0 lacks its root in the new x: its factor is √ᾱ_s",
    {"factors": lambda to, v, now: (to, (1 - to - v).sqrt())},
    "ε̂ lacks its root in the new x: its factor is √(1 - ᾱ_s - η²β̃)",
    {"factors": lambda to, v, now: (to.sqrt(), 1 - to - v)},
    "standard deviations are taken from one another; the variances are, √(1 - ᾱ_s - η²β̃)",
    {"factors": lambda to, v, now: (to.sqrt(), (1 - to).sqrt() - v.sqrt())},
    "x itself is mixed with the noise; mix x̂_0, which has none",
    {"x0_from": lambda x, eps, a: x},
    "the roots are missing in the new x; x̂_0 has the factor √ᾱ_s, and ε̂ a root, too",
    {"factors": lambda to, v, now: (to, 1 - to - v)},
    "all roots are missing: ᾱ is α², and the image has the factor α = √ᾱ",
    {
        "x0_from": lambda x, eps, a: (x - (1 - a) * eps) / a,
        "factors": lambda to, v, now: (to, 1 - to - v),
    },
    "the table is squared once more; it holds ᾱ = α², so σ² is 1 - ᾱ",
    {"level": lambda bar, steps: torch.cat([torch.ones(1), bar[steps] ** 2])},
    "the wrong noise level: the fresh noise comes on top; ε̂ must give way, √(1 - ᾱ_s - η²β̃)",
    {"factors": lambda to, v, now: (to.sqrt(), (1 - to).sqrt())},
    "the wrong noise level: ε̂ gets that of the step where x comes from; take that where it goes",
    {"factors": lambda to, v, now: (to.sqrt(), (1 - now - v).sqrt())},
    "image and noise both get the level of the step where x comes from; take that where it goes",
    {"target": lambda level, bar, k, t: level[k + 1]},
    "η is not squared in the variance; it is η²β̃",
    {"variance": lambda eta, now, to, t, bar: eta * (1 - to) / (1 - now) * (1 - now / to)},
    "the variance is that of single steps; between kept steps β' is 1 - ᾱ_t/ᾱ_s",
    {
        "variance": lambda eta, now, to, t, bar: (
            eta**2 * (1 - to) / (1 - now) * respaced_betas.right(bar, range(len(bar)))[t]
        )
    },
    "the variance is β', the large one; β̃ has the factor (1 - ᾱ_s)/(1 - ᾱ_t)",
    {"variance": lambda eta, now, to, t, bar: eta**2 * (1 - now / to)},
    "the fresh noise is multiplied by its variance; the factor is the root, η·√β̃",
    {"fresh": lambda v: v},
    "no fresh noise is added",
    {"fresh": lambda v: 0 * v},
    "the network is told the index k; tell it the number of the step, steps[k]",
    {"told": lambda k, t: k},
    "the steps are walked from the image up; start with the noisiest, the last",
    {"order": 1},
    "noises[0] is taken for the first step of the walk; noises[k] belongs to steps[k]",
    lambda predict, x, noises, *rest: ddim_sampler.right(predict, x, noises.flip(0), *rest),
)
def ddim_sampler(
    predict: Callable,
    x: Tensor,
    noises: Tensor,
    steps: Sequence[int],
    alphas_cumprod: Tensor,
    eta: float,
    *,
    level: Callable = lambda bar, steps: torch.cat([torch.ones(1), bar[steps]]),
    target: Callable = lambda level, bar, k, t: level[k],
    x0_from: Callable[[Tensor, Tensor, Tensor], Tensor] = _x0,
    variance: Callable = lambda eta, now, to, t, bar: (
        eta**2 * (1 - to) / (1 - now) * (1 - now / to)
    ),
    factors: Callable = lambda to, v, now: (to.sqrt(), (1 - to - v).sqrt()),
    fresh: Callable[[Tensor], Tensor] = torch.sqrt,
    told: Callable[[int, int], int] = lambda k, t: t,
    order: int = -1,
) -> Tensor:
    """All steps of DDIM with η; (b, d), (k, b, d), k rising steps, (T,) → x_0, (b, d).

    `predict(x, t)` gives ε̂, (b, d), for t (b,); noises[k] belongs to the step from steps[k].
    """
    levels = level(alphas_cumprod, list(steps))
    for k, t in list(enumerate(steps))[::order]:
        now, to = levels[k + 1], target(levels, alphas_cumprod, k, t)
        eps = predict(x, torch.full((len(x),), told(k, t)))
        v = variance(eta, now, to, t, alphas_cumprod)
        of_x0, of_eps = factors(to, v, now)
        x = of_x0 * x0_from(x, eps, now) + of_eps * eps + fresh(v) * noises[k]
    return x
