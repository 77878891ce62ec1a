"""Steps of samplers: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidit.check.verdict import NOISE, POINTS, Fault, against, waves
from minidit.schedule import linear

_TABLE = linear(100).alphas_cumprod.float()


@against(
    ("five steps of 100", _TABLE, [0, 25, 50, 75, 99]),
    ("three that don't start at 0", _TABLE, [10, 40, 60]),
    ("two neighbours", _TABLE, [30, 31]),
    "these are the β of single steps; a stride loses all that is lost on its way",
    {"torch.cat([torch.ones(1), kept[:-1]])": "torch.cat([torch.ones(1), alphas_cumprod])[steps]"},
    "the β on the way are added up; it is the shares that are kept, 1 - β, that multiply",
    lambda bar, steps: (
        respaced_betas.right(bar, range(len(bar))).cumsum(dim=0)[steps].diff(prepend=torch.zeros(1))
    ),
    "the root of ᾱ_t/ᾱ_s is taken; β' is 1 - ᾱ_t/ᾱ_s",
    {"kept / before": "(kept / before).sqrt()"},
    "the first stride starts at the clean image, where ᾱ is 1, so its β' is 1 - ᾱ",
    {"torch.ones(1)": "torch.cat([torch.ones(1), alphas_cumprod])[steps[:1]]"},
    "1 - ᾱ_t is all that is lost since the image; divide by ᾱ of the kept step before",
    {"kept / before": "kept"},
    "the first entry is missing; its stride starts at the clean image, where ᾱ is 1",
    {"1 - kept / before": "(1 - kept / before)[1:]"},
    "the table is squared once more; it holds ᾱ = α², so β' is 1 - ᾱ_t/ᾱ_s",
    {"kept / before": "(kept / before) ** 2"},
    "that is what is kept, ᾱ_t/ᾱ_s; β' is what is lost, 1 - ᾱ_t/ᾱ_s",
    {"1 - kept / before": "kept / before"},
    "the first stride starts at the first kept step; it starts at the clean image, where ᾱ is 1",
    {"torch.ones(1)": "kept[:1]"},
    "the first stride is read at -1, the last step; it starts at the clean image, where ᾱ is 1",
    {"torch.ones(1)": "kept[-1:]"},
    "the fraction is upside down; the later step, with the smaller ᾱ, stands above",
    {"kept / before": "before / kept"},
)
def respaced_betas(alphas_cumprod: Tensor, steps: Sequence[int]) -> Tensor:
    """ᾱ (T,) and k rising steps → β of the strides, (k,)."""
    kept = alphas_cumprod[list(steps)]
    before = torch.cat([torch.ones(1), kept[:-1]])
    return 1 - kept / before


@against(
    ("equal strides", POINTS, NOISE, POINTS.flip(0), 1.0, 1.0),
    ("unequal strides", POINTS[:2], NOISE[:2], POINTS[1:], 0.5, 2.0),
    "the second derivative is twice the divided difference: (late - early) lie (r0 + r1)/2 apart",
    {"2 * second": "second"},
    "the first derivative is that in the middle of the last stride; carry it on to now",
    {"late + r0 * second": "late"},
    "the first derivative is carried back, not on: from the middle to now, add",
    {"late + r0": "late - r0"},
    "from the middle of the last stride to now it is r0/2, not r0",
    {"r0 * second": "2 * r0 * second"},
    "the slopes belong to the middles of the strides, (r0 + r1)/2 apart, not r0 + r1",
    {"r0 * second, 2 * second": "r0 / 2 * second, second"},
    "the two are exchanged; the first derivative comes first",
    {"late + r0 * second, 2 * second": "2 * second, late + r0 * second"},
    "r1 is the stride from d2 to d1, not the way from d2 to now",
    {"/ r1": "/ (r0 + r1)"},
)
def derivatives(d0: Tensor, d1: Tensor, d2: Tensor, r0: float, r1: float) -> Tensor:
    """Values (b, d) at 0, -r0, -(r0 + r1) → d', d'' at 0 of their parabola, (2, b, d)."""
    late, early = (d0 - d1) / r0, (d1 - d2) / r1  # in the middles, -r0/2 and -(r0 + r1/2)
    second = (late - early) / (r0 + r1)  # the second divided difference
    return torch.stack([late + r0 * second, 2 * second])


def _predict(x: Tensor, t: Tensor) -> Tensor:
    """What stands for the network, (b, d), (b,) → (b, d)."""
    if not isinstance(t, Tensor) or t.shape != (len(x),):
        got = tuple(t.shape) if isinstance(t, Tensor) else t
        raise Fault(f"gives predict {got} for t; it wants a step for each point, ({len(x)},)")
    return (x + 0.1 * t[:, None]).sin()


_SHORT = linear(40).betas[:5].float()


_WALK = (  # mistakes that both samplers can make
    "x̂_0 lacks its roots: it is (x_t - √(1 - ᾱ)·ε̂) / √ᾱ",
    {"(1 - a).sqrt() * eps": "(1 - a) * eps", "/ a.sqrt()": "/ a"},
    "x̂_0 is not divided by √ᾱ_t; x_t minus its noise is the image times √ᾱ_t",
    {" / a.sqrt()": ""},
    "the fresh noise is multiplied by its variance; the factor is the root",
    {"v.sqrt() * noises": "v * noises"},
    "no fresh noise is added",
    {" + v.sqrt() * noises[k]": ""},
    "the steps are walked from the image up; start with the noisiest, the last",
    {"reversed(": "iter("},
    "noises[0] is taken for the first step of the walk; it belongs to the last, at the image",
    {"noises[k]": "noises[-1 - k]"},
)


@against(
    ("three points, five steps", _predict, POINTS, waves(5, 3, 2), _SHORT),
    ("one point, a single step", _predict, POINTS[:1], waves(1, 1, 2), torch.tensor([0.3])),
    ("two points, two steps", _predict, POINTS[1:], waves(2, 2, 2), torch.tensor([0.1, 0.4])),
    *_WALK,
    "at t = 0 the table is read at -1, its last entry; before the first step ᾱ is 1",
    {"torch.ones(1)": "bar[-1:]"},
    "at t = 0 the index is held at 0, so ᾱ_0 stands where ᾱ of the step before belongs; "
    "before the first step ᾱ is 1",
    {"torch.ones(1)": "bar[:1]"},
    "ᾱ_t stands where ᾱ of the step before belongs, at every step",
    {"before[k]": "bar[k]"},
    "the noise has the variance β, as in the text; here it is β̃",
    {"v.sqrt()": "b.sqrt() * (k > 0)"},
    "the network is told t - 1 instead of t",
    {"(len(x),), k": "(len(x),), max(k - 1, 0)"},
    "the factors of x̂_0 and x_t are exchanged in the mean",
    {"b * x0": "b * x", "(1 - last) * x)": "(1 - last) * x0)"},
    "the factor of x_t lacks its root: √(1 - β_t)",
    {"(1 - b).sqrt()": "(1 - b)"},
    "the factor of x̂_0 lacks its root: √ᾱ of the step before",
    {"last.sqrt()": "last"},
    "ε̂ is taken for x̂_0; solve x_t = √ᾱ·x_0 + √(1 - ᾱ)·ε for x_0",
    {"(x - (1 - a).sqrt() * eps) / a.sqrt()": "eps"},
)
def ancestral_sampler(predict: Callable, x: Tensor, noises: Tensor, betas: Tensor) -> Tensor:
    """All steps of DDPM, with noise of variance β̃; (b, d), (T, b, d), (T,) → x_0, (b, d).

    `predict(x, t)` gives ε̂, (b, d), for t (b,).
    """
    bar = (1 - betas).cumprod(dim=0)
    before = torch.cat([torch.ones(1), bar[:-1]])
    for k in reversed(range(len(betas))):
        a, last, b = bar[k], before[k], betas[k]
        eps = predict(x, torch.full((len(x),), k))
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        mean = (last.sqrt() * b * x0 + (1 - b).sqrt() * (1 - last) * x) / (1 - a)
        v = (1 - last) / (1 - a) * b
        x = mean + v.sqrt() * noises[k]
    return x


@against(
    ("no fresh noise", _predict, POINTS, waves(4, 3, 2), [0, 20, 40, 65], _TABLE, 0.0),
    ("half of it", _predict, POINTS, waves(3, 3, 2), [10, 40, 60], _TABLE, 0.5),
    ("all of it", _predict, POINTS[1:], waves(2, 2, 2), [5, 60], _TABLE, 1.0),
    ("one point, a single step", _predict, POINTS[:1], waves(1, 1, 2), [30], _TABLE, 0.5),
    *_WALK,
    "the last step is missing: from steps[0] it goes to the clean image, where ᾱ is 1",
    {"torch.ones(1)": "alphas_cumprod[steps[:1]]"},
    "at the last step steps[k - 1] is steps[-1], the noisiest; it goes to the image, where ᾱ is 1",
    {"torch.ones(1)": "alphas_cumprod[steps[-1:]]"},
    "the step goes to t - 1; it goes to the next of the steps that are kept",
    {", levels[k]": ", alphas_cumprod[t - 1] if t else torch.ones(())"},
    "x̂_0 lacks its root in the new x: its factor is √ᾱ_s",
    {"to.sqrt()": "to"},
    "ε̂ lacks its root in the new x: its factor is √(1 - ᾱ_s - η²β̃)",
    {"(1 - to - v).sqrt()": "(1 - to - v)"},
    "the table is squared once more; it holds ᾱ = α², so σ² is 1 - ᾱ",
    {"alphas_cumprod[list(steps)]": "alphas_cumprod[list(steps)] ** 2"},
    "the wrong noise level: the fresh noise comes on top; ε̂ must give way, √(1 - ᾱ_s - η²β̃)",
    {"(1 - to - v)": "(1 - to)"},
    "the wrong noise level: ε̂ gets that of the step where x comes from; take that where it goes",
    {"(1 - to - v)": "(1 - a - v)"},
    "η is not squared in the variance; it is η²β̃",
    {"eta**2": "eta"},
    "the variance is that of single steps; between kept steps β' is 1 - ᾱ_t/ᾱ_s",
    {"(1 - a / to)": "respaced_betas.right(alphas_cumprod, range(100))[t]"},
    "the variance is β', the large one; β̃ has the factor (1 - ᾱ_s)/(1 - ᾱ_t)",
    {"eta**2 * (1 - to) / (1 - a)": "eta**2"},
    "the network is told the index k; tell it the number of the step, steps[k]",
    {"(len(x),), t": "(len(x),), k"},
)
def ddim_sampler(
    predict: Callable, x: Tensor, noises: Tensor, steps: list, alphas_cumprod: Tensor, eta: float
) -> Tensor:
    """All steps of DDIM with η; (b, d), (k, b, d), k rising steps, (T,) → x_0, (b, d).

    `predict(x, t)` gives ε̂, (b, d), for t (b,); noises[k] belongs to the step from steps[k].
    """
    levels = torch.cat([torch.ones(1), alphas_cumprod[list(steps)]])
    for k in reversed(range(len(steps))):
        t = steps[k]
        a, to = levels[k + 1], levels[k]
        eps = predict(x, torch.full((len(x),), t))
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        v = eta**2 * (1 - to) / (1 - a) * (1 - a / to)
        x = to.sqrt() * x0 + (1 - to - v).sqrt() * eps + v.sqrt() * noises[k]
    return x


def _by_ddim(answer: Callable, noises: Tensor, steps: list, alphas_cumprod: Tensor) -> Tensor:
    x, levels = noises[-1], alphas_cumprod[list(steps)]
    for k in reversed(range(len(steps))):
        image = answer(x, torch.full((len(x),), steps[k]))
        eps = (x - levels[k].sqrt() * image) / (1 - levels[k]).sqrt()
        x = levels[k - 1].sqrt() * image + (1 - levels[k - 1]).sqrt() * eps if k else image
    return x


@against(
    ("three levels", _predict, waves(3, 3, 2), [20, 45, 99], _TABLE),
    ("two levels", _predict, waves(2, 3, 2), [30, 80], _TABLE),
    ("a single answer", _predict, waves(1, 1, 2), [99], _TABLE),
    "the noise that the answer leaves in x is kept, as in DDIM; mix in fresh noise",
    _by_ddim,
    "the same noise at every level; noises[k] belongs to steps[k]",
    {"noises[k - 1]": "noises[-1]"},
    "the noise of the level where x comes from; mix in that of the level below",
    {"noises[k - 1]": "noises[k]"},
    "the answer is mixed with noise at the level where x comes from; the next one is steps[k - 1]",
    {"[steps[k - 1]]": "[steps[k]]"},
    "the last answer is mixed with noise once more; it is the image",
    {"if k:": "if True:"},
    "noise comes on top; where it is mixed in, the image keeps the factor √ᾱ",
    {"bar.sqrt() * x": "x"},
    "the image's factor lacks its root: √ᾱ",
    {"bar.sqrt() * x": "bar * x"},
    "the noise's factor lacks its root: √(1 - ᾱ)",
    {"(1 - bar).sqrt()": "(1 - bar)"},
    "the table is squared once more; it holds ᾱ = α²",
    {"alphas_cumprod[steps[k - 1]]": "alphas_cumprod[steps[k - 1]] ** 2"},
    "the levels are walked from the image up; start with the noisiest, the last",
    {"reversed(": "iter(", "noises[-1]": "noises[0]"},
    "the walk starts with noises[0]; the noisiest level is the last",
    {"noises[-1]": "noises[0]"},
    "no noise is mixed in; the network is asked again at the level below, so x must be one of it",
    {"if k:": "if False:"},
    "the network is told the index k; tell it the number of the step, steps[k]",
    {", steps[k])": ", k)"},
)
def consistency_sampler(
    answer: Callable, noises: Tensor, steps: list, alphas_cumprod: Tensor
) -> Tensor:
    """An image at once, then noise again at the level below; (k, b, d), k rising steps → (b, d).

    `answer(x, t)` gives the image for t (b,); it starts with noises[-1], noises[k] is of steps[k].
    """
    x = noises[-1]
    for k in reversed(range(len(steps))):
        x = answer(x, torch.full((len(x),), steps[k]))
        if k:
            bar = alphas_cumprod[steps[k - 1]]
            x = bar.sqrt() * x + (1 - bar).sqrt() * noises[k - 1]
    return x
