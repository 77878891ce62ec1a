"""Common mistakes about samplers, as functions; see `_mistakes`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidit.check._mistakes import Mistakes

# --- DDPM's step ---------------------------------------------------------------------------------


def _ancestral(
    spread: Callable[[Tensor], Tensor] = lambda log_variance: (0.5 * log_variance).exp(),
    noisy: Callable[[Tensor], Tensor] = lambda t: t > 0,
) -> Callable:
    """A step back; `spread`: the factor of the noise, `noisy`: the steps that have noise."""

    def step(mean: Tensor, log_variance: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return mean + noisy(t)[:, None] * spread(log_variance) * noise

    return step


ancestral_step = _ancestral()

ANCESTRAL_STEP: Mistakes = {
    "the noise is multiplied by the variance; its factor is the standard deviation, e^(½ log Σ)": (
        _ancestral(spread=torch.exp)
    ),
    "the noise is multiplied by the logarithm itself; its factor is e^(½ log Σ)": (
        _ancestral(spread=lambda log_variance: log_variance)
    ),
    "the last step, t = 0, adds noise, too; it ends at the mean": (
        _ancestral(noisy=torch.ones_like)
    ),
    "no step adds noise; only the last one, t = 0, has none": _ancestral(noisy=torch.zeros_like),
    "t[0] decides for all; each point has a t of its own": (
        _ancestral(noisy=lambda t: (t[:1] > 0).expand(len(t)))
    ),
    "t = 1 has no noise either; the last step is t = 0": _ancestral(noisy=lambda t: t > 1),
}

# --- DDIM's step ----------------------------------------------------------------------------------


def _ddim(
    divided: bool = True,
    mixed: Callable = lambda a: (a.sqrt(), (1 - a).sqrt()),
    arrive: bool = True,
    exchanged: bool = False,
    foreseen: bool = True,
) -> Callable:
    """A DDIM step; `mixed` gives the factors of x̂_0 and ε̂ from ᾱ (b, 1)."""

    def step(x_t: Tensor, eps: Tensor, now: Tensor, after: Tensor) -> Tensor:
        a, b = now[:, None], (after if arrive else now)[:, None]
        x0 = x_t - (1 - a).sqrt() * eps
        x0 = x0 / a.sqrt() if divided else x0
        image, noise = mixed(b)
        if exchanged:
            image, noise = noise, image
        return image * (x0 if foreseen else x_t) + noise * eps

    return step


ddim_step = _ddim()

DDIM_STEP: Mistakes = {
    "x̂_0 is not divided by √ᾱ_t; x_t minus its noise is the image times √ᾱ_t": (
        _ddim(divided=False)
    ),
    "the new x has the factors of the step it comes from; mix with ᾱ_s, where it goes": (
        _ddim(arrive=False)
    ),
    "the image and the noise have each other's factors": _ddim(exchanged=True),
    "the roots are missing; x̂_0 has the factor √ᾱ_s, and ε̂ has √(1 - ᾱ_s)": (
        _ddim(mixed=lambda a: (a, 1 - a))
    ),
    "x_t itself is mixed with the noise; mix x̂_0, which has none": _ddim(foreseen=False),
    "no noise is mixed in again; only the last step, to ᾱ_s = 1, ends at x̂_0": (
        _ddim(mixed=lambda a: (a.sqrt(), torch.zeros_like(a)))
    ),
}

# --- β of a respaced schedule ---------------------------------------------------------------------


def _respaced(ratio: Callable, first: Callable) -> Callable:
    """The β of strides; `ratio(ᾱ_t, ᾱ_s)` from each kept step to the next, `first(ᾱ, step)`."""

    def betas(alphas_cumprod: Tensor, steps: Sequence[int]) -> Tensor:
        kept = alphas_cumprod[list(steps)]
        return torch.cat([first(alphas_cumprod, steps[0])[None], ratio(kept[1:], kept[:-1])])

    return betas


def _old_betas(alphas_cumprod: Tensor, steps: Sequence[int]) -> Tensor:
    before = torch.cat([torch.ones(1), alphas_cumprod[:-1]])
    return (1 - alphas_cumprod / before)[list(steps)]


def _summed_betas(alphas_cumprod: Tensor, steps: Sequence[int]) -> Tensor:
    betas = _old_betas(alphas_cumprod, range(len(alphas_cumprod))).cumsum(dim=0)
    return betas[list(steps)].diff(prepend=torch.zeros(1))


respaced_betas = _respaced(lambda now, before: 1 - now / before, lambda a, step: 1 - a[step])

RESPACED_BETAS: Mistakes = {
    "these are the β of single steps; a stride loses all that is lost on its way": _old_betas,
    "the β on the way are added up; it is the shares that are kept, 1 - β, that multiply": (
        _summed_betas
    ),
    "the root of ᾱ_t/ᾱ_s is taken; β' is 1 - ᾱ_t/ᾱ_s": (
        _respaced(lambda now, before: 1 - (now / before).sqrt(), lambda a, step: 1 - a[step].sqrt())
    ),
    "the first stride starts at the clean image, where ᾱ is 1, so its β' is 1 - ᾱ": (
        _respaced(lambda now, before: 1 - now / before, lambda a, step: _old_betas(a, [step])[0])
    ),
    "1 - ᾱ_t is all that is lost since the image; divide by ᾱ of the kept step before": (
        _respaced(lambda now, before: 1 - now, lambda a, step: 1 - a[step])
    ),
}

# --- derivatives from three predictions -----------------------------------------------------------


def _derivatives(double: bool = True, at_now: bool = True, sign: int = 1) -> Callable:
    def derivatives(d0: Tensor, d1: Tensor, d2: Tensor, r0: float, r1: float) -> Tensor:
        late, early = (d0 - d1) / r0, (d1 - d2) / r1  # at -r0/2 and at -(r0 + r1/2)
        second = (late - early) / (r0 + r1)
        first = late + sign * r0 * second if at_now else late
        return torch.stack([first, 2 * second if double else second])

    return derivatives


derivatives = _derivatives()

DERIVATIVES: Mistakes = {
    "the second derivative is twice the divided difference: (late - early) lie (r0 + r1)/2 apart": (
        _derivatives(double=False)
    ),
    "the first derivative is that in the middle of the last stride; carry it on to now": (
        _derivatives(at_now=False)
    ),
    "the first derivative is carried back, not on: from the middle to now, add": (
        _derivatives(sign=-1)
    ),
    "the first derivative is not yet that of now, nor is the second one doubled": (
        _derivatives(double=False, at_now=False)
    ),
}
