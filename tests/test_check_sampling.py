"""Checks of samplers: right ones pass, and every hint is given for its mistake."""

from dataclasses import replace

import numpy as np
import students
import torch

from minidit import check, ddim, linear
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
        first = next(
            ddim(lambda x, t, y, e=e: e[None], replace(process, schedule=schedule), x[None])
        )
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


RIGHT = [
    ("ancestral_step", point_by_point),
    ("respaced_betas", stride_by_stride),
    ("derivatives", fitted),
]


def test_the_packages_ddim_passes_where_its_levels_are_between_image_and_noise():
    x, eps = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    now, after = torch.tensor([0.1, 0.4, 0.8]), torch.tensor([0.3, 0.5, 0.9])
    mine = check.ddim_step.right(x, eps, now, after)
    assert torch.allclose(by_the_package(x, eps, now, after), mine, atol=1e-5)


def test_betas_are_those_of_a_respaced_schedule():
    schedule = linear(100)
    steps = [0, 7, 50, 99]
    mine = check.respaced_betas.right(schedule.alphas_cumprod, steps)
    assert np.allclose(mine, schedule.respace(steps).betas)


# --- wrong, each with the words that its hint must hold -------------------------------------------


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


test_right_ones_pass = students.right(RIGHT)
test_each_mistake_gets_its_hint, test_every_hint_has_its_student = students.wrong(
    {"respaced_betas": RESPACED_BETAS}
)
