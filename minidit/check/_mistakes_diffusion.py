"""Common mistakes about the process and its training, as functions; see `_mistakes`."""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check._mistakes import Mistakes

# --- x_t in one jump ------------------------------------------------------------------------------


def _jump(signal: Callable, noise_factor: Callable, shift: int = 0) -> Callable:
    """A q_sample with these factors, as functions of ᾱ (b, 1)."""

    def q_sample(x0: Tensor, t: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
        a = alphas_cumprod[t + shift][:, None]
        return signal(a) * x0 + noise_factor(a) * noise

    return q_sample


def _first_time(x0: Tensor, t: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    a = alphas_cumprod[t[0]]
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def _same_axis(x0: Tensor, t: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    a = alphas_cumprod[t]
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


Q_SAMPLE: Mistakes = {
    "both roots are missing; the factors are √ᾱ_t and √(1 - ᾱ_t)": (
        _jump(lambda a: a, lambda a: 1 - a)
    ),
    "the noise is multiplied by a variance, 1 - ᾱ_t; the factor is its root, √(1 - ᾱ_t)": (
        _jump(lambda a: a.sqrt(), lambda a: 1 - a)
    ),
    "the root stands inside: 1 - √ᾱ_t instead of √(1 - ᾱ_t)": (
        _jump(lambda a: a.sqrt(), lambda a: 1 - a.sqrt())
    ),
    "signal and noise are exchanged; at t = 0 nearly all is signal": (
        _jump(lambda a: (1 - a).sqrt(), lambda a: a.sqrt())
    ),
    "the noise has no factor; it is multiplied by √(1 - ᾱ_t)": (
        _jump(lambda a: a.sqrt(), torch.ones_like)
    ),
    "the table is read at t - 1; its entry t belongs to step t": (
        _jump(lambda a: a.sqrt(), lambda a: (1 - a).sqrt(), shift=-1)
    ),
    "every point is treated as the first, with t[0]; each has a t of its own": _first_time,
    "ᾱ_t (b,) meets points (b, d) on the wrong axis; make it (b, 1) with [:, None]": _same_axis,
}

# --- one step back --------------------------------------------------------------------------------


def _posterior(
    before: Callable | None = None,
    roots: bool = True,
    exchanged: bool = False,
    divided: bool = True,
    product: bool = True,
) -> Callable:
    """A posterior mean; `before(ᾱ, t)` gives ᾱ of the step before."""

    def posterior_mean(x0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
        keep = 1 - betas
        table = keep.cumprod(dim=0) if product else keep
        last = before(table, t) if before else torch.cat([torch.ones(1), table])[t]
        beta, now = betas[t], table[t]
        factors = [last, 1 - beta]
        one, other = (factor.sqrt() if roots else factor for factor in factors)
        below = 1 - now if divided else torch.ones_like(now)
        to_x0, to_xt = one * beta / below, other * (1 - last) / below
        if exchanged:
            to_x0, to_xt = to_xt, to_x0
        return to_x0[:, None] * x0 + to_xt[:, None] * x_t

    return posterior_mean


POSTERIOR_MEAN: Mistakes = {
    "the factors of x_0 and x_t are exchanged; close to the end x_0 counts more": (
        _posterior(exchanged=True)
    ),
    "the roots are missing; the factors hold √ᾱ of the step before and √(1 - β_t)": (
        _posterior(roots=False)
    ),
    "ᾱ_t stands where ᾱ of the step before belongs": _posterior(lambda table, t: table[t]),
    "at t = 0 the table is read at -1, its last entry; before the first step ᾱ is 1": (
        _posterior(lambda table, t: table[t - 1])
    ),
    "1 - β_t is taken for ᾱ_t; ᾱ_t is the product of all 1 - β up to t": _posterior(product=False),
    "the division by 1 - ᾱ_t is missing": _posterior(divided=False),
}

# --- the straight line ----------------------------------------------------------------------------


def x0_on_the_line(x_t: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """x_0 = x_t - u·v, for x_t = (1 - u)·x_0 + u·ε and v = ε - x_0. (b, d), (b, d), (b,)."""
    return x_t - u[:, None] * v


X0_FROM_V: Mistakes = {
    "the sign: v points from the data to the noise, so the way to x_0 is -u·v": (
        lambda x_t, v, u: x_t + u[:, None] * v
    ),
    "x_t + (1 - u)·v is the other end of the line, the noise ε": (
        lambda x_t, v, u: x_t + (1 - u)[:, None] * v
    ),
    "the way to x_0 is u·v, not (1 - u)·v: at u = 0 x_t is x_0 already": (
        lambda x_t, v, u: x_t - (1 - u)[:, None] * v
    ),
    "v is taken for ε; x_t = (1 - u)·x_0 + u·ε is solved, and v is ε - x_0": (
        lambda x_t, v, u: (x_t - u[:, None] * v) / (1 - u)[:, None]
    ),
    "u (b,) meets points (b, d) on the wrong axis; make it (b, 1) with [:, None]": (
        lambda x_t, v, u: x_t - u * v
    ),
}

# --- training -------------------------------------------------------------------------------------


def _average(keep: Callable[[float, int], float]) -> Callable:
    """An update of an average that keeps this share of it."""

    def update(average: Tensor, weights: Tensor, decay: float, step: int) -> Tensor:
        share = keep(decay, step)
        return share * average + (1 - share) * weights

    return update


ema_update = _average(lambda decay, step: min(decay, (1 + step) / (10 + step)))

EMA_UPDATE: Mistakes = {
    "the shares are exchanged: the average keeps the large one, the weights add 1 minus it": (
        _average(lambda decay, step: 1 - min(decay, (1 + step) / (10 + step)))
    ),
    "the ramp is missing; at step k at most (1 + k)/(10 + k) is kept": (
        _average(lambda decay, step: decay)
    ),
    "the decay is missing; it is the most that is ever kept, so take the smaller of the two": (
        _average(lambda decay, step: (1 + step) / (10 + step))
    ),
    "the larger of decay and ramp is taken instead of the smaller": (
        _average(lambda decay, step: max(decay, (1 + step) / (10 + step)))
    ),
    "the ramp starts at step 1; steps count from 0, and the first keeps 1/10": (
        _average(lambda decay, step: min(decay, (2 + step) / (11 + step)))
    ),
}

# --- a learned variance ---------------------------------------------------------------------------


def _between(
    share: Callable[[Tensor], Tensor] = lambda fraction: (fraction + 1) / 2,
    log_first: bool = True,
    first: bool = True,
    previous: bool = True,
) -> Callable:
    """A log-variance between β̃ and β; without `first`, log β̃ at t = 0 is log 0."""

    def log_variance(fraction: Tensor, t: Tensor, betas: Tensor) -> Tensor:
        now = (1 - betas).cumprod(dim=0)
        before = torch.cat([torch.ones(1), now[:-1]])
        small = betas * (1 - before) / (1 - now)
        if first:
            small = torch.cat([small[1:2], small[1:]])
        if not previous:
            small = betas * (1 - now)
        v, low, high = share(fraction), small[t][:, None], betas[t][:, None]
        if log_first:
            return v * high.log() + (1 - v) * low.log()
        return (v * high + (1 - v) * low).log()

    return log_variance


LEARNED_LOG_VARIANCE: Mistakes = {
    "the number itself is taken for the share; it runs from -1 to 1, the share (number + 1)/2": (
        _between(share=lambda fraction: fraction)
    ),
    "the ends are exchanged: 1 means β, -1 means β̃": _between(share=lambda f: (1 - f) / 2),
    "the variances are interpolated; it is their logarithms that are": _between(log_first=False),
    "at t = 0 the logarithm of 0 is taken; log β̃ of t = 1 stands in for it": _between(first=False),
    "β̃ is not β·(1 - ᾱ_t): divide (1 - ᾱ of the step before) by (1 - ᾱ_t)": (
        _between(previous=False)
    ),
}


def _kl(m1: Tensor, l1: Tensor, m2: Tensor, l2: Tensor) -> Tensor:
    return 0.5 * (l2 - l1 - 1 + (l1 - l2).exp() + (m1 - m2) ** 2 / l2.exp())


NORMAL_KL: Mistakes = {
    "it is the divergence the other way round; the expectation is over the first normal": (
        lambda m1, l1, m2, l2: _kl(m2, l2, m1, l1)
    ),
    "the factor ½ is missing": lambda m1, l1, m2, l2: 2 * _kl(m1, l1, m2, l2),
    "the -1 is missing: of a normal from itself the divergence is 0": (
        lambda m1, l1, m2, l2: _kl(m1, l1, m2, l2) + 0.5
    ),
    "the squared distance of the means is not divided by the second variance": (
        lambda m1, l1, m2, l2: 0.5 * (l2 - l1 - 1 + (l1 - l2).exp() + (m1 - m2) ** 2)
    ),
    "the distance of the means is not squared": (
        lambda m1, l1, m2, l2: 0.5 * (l2 - l1 - 1 + (l1 - l2).exp() + (m1 - m2) / l2.exp())
    ),
    "the logarithms are of variances, not of standard deviations": (
        lambda m1, l1, m2, l2: _kl(m1, 2 * l1, m2, 2 * l2)
    ),
}
