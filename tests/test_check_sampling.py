"""Checks of samplers: right ones pass, and every hint is given for its mistake."""

import numpy as np
import students
import torch

from minidit import check, ddim, linear
from minidit.check import _mistakes_sampling as hints
from minidit.diffusion import Diffusion

# --- right, written in other ways than the package's ----------------------------------------------


def by_the_package(x_t, eps, now, after):
    """`ddim` itself, over a schedule of two levels."""
    rows = []
    for x, e, a, b in zip(x_t, eps, now, after):
        process = Diffusion(linear())
        alpha = torch.stack([b, a]).double().sqrt()
        sigma = (1 - alpha**2).sqrt()
        schedule = type(process.schedule)(alpha, sigma, torch.arange(2), "variance_preserving")
        first = next(ddim(lambda x, t, y, e=e: e[None], process.over(schedule), x[None]))
        rows.append(first.x[0])
    return torch.stack(rows)


def point_by_point(mean, log_variance, noise, t):
    normals = torch.distributions.Normal(mean, log_variance.exp().sqrt())
    quantile = torch.distributions.Normal(0, 1).cdf(noise.double())
    steps = torch.distributions.Normal(mean.double(), normals.scale.double()).icdf(quantile)
    return torch.stack([m if k == 0 else s.float() for m, s, k in zip(mean, steps, t)])


def stride_by_stride(alphas_cumprod, steps):
    before, found = torch.tensor(1.0), []
    for step in steps:
        found.append((before - alphas_cumprod[step]) / before)
        before = alphas_cumprod[step]
    return torch.stack(found)


def fitted(d0, d1, d2, r0, r1):
    """The parabola through three values, by solving for its coefficients."""
    places = torch.tensor([0.0, -r0, -(r0 + r1)], dtype=torch.float64)
    powers = torch.stack([places**0, places, places**2], dim=1)
    values = torch.stack([d0, d1, d2]).double().flatten(1)
    found = torch.linalg.solve(powers, values).reshape(3, *d0.shape).float()
    return torch.stack([found[1], 2 * found[2]])


def unequal(*arguments):
    return hints.ddim_step(*arguments) + 0.1


RIGHT = [
    ("ancestral_step", point_by_point),
    ("respaced_betas", stride_by_stride),
    ("derivatives", fitted),
]

test_right_ones_pass = students.right(RIGHT)


def test_the_packages_ddim_passes_where_its_levels_are_between_image_and_noise():
    x, eps = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    now, after = torch.tensor([0.1, 0.4, 0.8]), torch.tensor([0.3, 0.5, 0.9])
    mine = hints.ddim_step(x, eps, now, after)
    assert torch.allclose(by_the_package(x, eps, now, after), mine, atol=1e-5)
    assert check.ddim_step(hints.ddim_step) and not check.ddim_step(unequal)


def test_betas_are_those_of_a_respaced_schedule():
    schedule = linear(100)
    steps = [0, 7, 50, 99]
    mine = hints.respaced_betas(schedule.alphas_cumprod, steps)
    assert np.allclose(mine, schedule.respace(steps).betas)


# --- wrong, each with the words that its hint must hold -------------------------------------------


def column(a):
    return a.unsqueeze(1)


def foresee(x, e, a):
    return (x - (1 - column(a)) ** 0.5 * e) / column(a) ** 0.5


def mix(x0, e, b):
    return column(b) ** 0.5 * x0 + (1 - column(b)) ** 0.5 * e


def spread(factor, t):
    return factor * (t.unsqueeze(1) > 0)


ANCESTRAL_STEP = {
    "by the variance": lambda m, logs, e, t: m + spread(logs.exp(), t) * e,
    "by the logarithm itself": lambda m, logs, e, t: m + spread(logs, t) * e,
    "adds noise, too": lambda m, logs, e, t: m + logs.exp().sqrt() * e,
    "no step adds noise": lambda m, logs, e, t: m.clone(),
    "t[0] decides": lambda m, logs, e, t: m + (logs.exp().sqrt() * e if t[0] > 0 else 0),
    "t = 1 has no noise": lambda m, logs, e, t: m + spread(logs.exp().sqrt(), t // 2) * e,
}

DDIM_STEP = {
    "is not divided": lambda x, e, a, b: mix(foresee(x, e, a) * column(a) ** 0.5, e, b),
    "where it goes": lambda x, e, a, b: mix(foresee(x, e, a), e, a),
    "each other's": lambda x, e, a, b: mix(foresee(x, e, a), e, 1 - b) * 1.0,
    "the roots are missing": lambda x, e, a, b: column(b) * foresee(x, e, a) + (1 - column(b)) * e,
    "x_t itself": lambda x, e, a, b: mix(x, e, b),
    "no noise is mixed in": lambda x, e, a, b: column(b).sqrt() * foresee(x, e, a),
}


def products(a, steps, change=lambda share: 1 - share, start=1.0):
    previous = torch.cat([torch.tensor([start]), a[list(steps)][:-1]])
    return change(a[list(steps)] / previous)


def single(a):
    return 1 - a / torch.cat([torch.ones(1), a])[:-1]


RESPACED_BETAS = {
    "of single steps": lambda a, steps: torch.stack([single(a)[k] for k in steps]),
    "are added up": lambda a, steps: torch.stack(
        [single(a)[i + 1 : k + 1].sum() for i, k in zip([-1, *steps], steps)]
    ),
    "the root of": lambda a, steps: products(a, steps, lambda share: 1 - share**0.5),
    "the first stride": lambda a, steps: products(
        a, steps, start=1.0 if steps[0] == 0 else a[steps[0] - 1].item()
    ),
    "since the image": lambda a, steps: 1 - a[list(steps)],
}


def slopes(d0, d1, d2, r0, r1):
    return (d0 - d1) / r0, (d1 - d2) / r1


def curved(late, early, r0, r1):
    return (late - early) / ((r0 + r1) / 2)


def derived(carry, share):
    def derivatives(d0, d1, d2, r0, r1):
        late, early = slopes(d0, d1, d2, r0, r1)
        curve = curved(late, early, r0, r1)
        return torch.stack([late + carry * r0 / 2 * curve, share * curve])

    return derivatives


DERIVATIVES = {
    "is twice": derived(1, 0.5),
    "that in the middle": derived(0, 1),
    "is carried back": derived(-1, 1),
    "nor is the second": derived(0, 0.5),
}

STUDENTS = {
    "ancestral_step": (ANCESTRAL_STEP, hints.ANCESTRAL_STEP),
    "ddim_step": (DDIM_STEP, hints.DDIM_STEP),
    "respaced_betas": (RESPACED_BETAS, hints.RESPACED_BETAS),
    "derivatives": (DERIVATIVES, hints.DERIVATIVES),
}

test_each_mistake_gets_its_hint = students.wrong(STUDENTS)
test_every_hint_has_its_student = students.complete(STUDENTS)
test_a_stub_is_still_to_be_written = students.stubs(STUDENTS)
