"""Checks of samplers: right ones pass, and mistakes get their hints."""

from dataclasses import replace

import numpy as np
import students
import torch

from minidit import Schedule, check, ddim, linear, sample
from minidit.diffusion import Diffusion

# --- right, written in other ways than the package's ----------------------------------------------


def by_the_package(predict, x, noises, steps, alphas_cumprod, eta):
    """`ddim` itself; the stand-in for a network is told steps as they are, and no label."""
    alpha, number = alphas_cumprod.double().sqrt(), torch.arange(len(alphas_cumprod))
    schedule = Schedule(alpha, (1 - alpha**2).sqrt(), number, "variance_preserving")
    process = replace(Diffusion(linear()), schedule=schedule)
    options = dict(steps=steps, eta=eta, noise=list(noises.flip(0)))
    return sample(ddim(lambda x, t, y: predict(x, t.long()), process, x, **options))


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


def from_the_top(answer, noises, steps, alphas_cumprod):
    """Above the noisiest level there is no image; each level makes its own x of the one above."""
    image, signals = 0.0, [*alphas_cumprod[steps[:-1]].sqrt(), torch.tensor(0.0)]
    for noise, step, signal in reversed(list(zip(noises, steps, signals))):
        x = signal * image + (1 - signal.square()).sqrt() * noise
        image = answer(x, torch.tensor([step] * len(noise)))
    return image


RIGHT = [
    ("ddim_sampler", by_the_package),
    ("consistency_sampler", from_the_top),
    ("respaced_betas", stride_by_stride),
    ("derivatives", fitted),
]


def test_betas_are_those_of_a_respaced_schedule():
    schedule = linear(100)
    steps = [0, 7, 50, 99]
    mine = check.respaced_betas.right(schedule.alphas_cumprod, steps)
    assert np.allclose(mine, schedule.respace(steps).betas)


# --- wrong, each with the words that its hint must hold -------------------------------------------


def without_its_axis(predict, x, noises, steps, alphas_cumprod, eta):
    t = torch.full((len(x),), steps[-1])
    return alphas_cumprod[t].sqrt() * x


def test_levels_that_lack_an_axis_are_told():
    assert "takes [:, None]" in repr(check.ddim_sampler(without_its_axis))


def products(a, steps, start):
    previous = torch.cat([torch.tensor([start]), a[list(steps)][:-1]])
    return 1 - a[list(steps)] / previous


def single(a):
    return 1 - a / torch.cat([torch.ones(1), a])[:-1]


RESPACED_BETAS = {
    "of single steps": lambda a, steps: torch.stack([single(a)[k] for k in steps]),
    "are added up": lambda a, steps: torch.stack(
        [single(a)[i + 1 : k + 1].sum() for i, k in zip([-1, *steps], steps)]
    ),
    "so its β' is 1 - ᾱ": lambda a, steps: products(
        a, steps, start=1.0 if steps[0] == 0 else a[steps[0] - 1].item()
    ),
    "first entry is missing": lambda a, steps: 1 - a[steps[1:]] / a[steps[:-1]],
    "starts at the first kept step": lambda a, steps: products(a, steps, start=a[steps[0]].item()),
    "read at -1": lambda a, steps: products(a, steps, start=a[steps[-1]].item()),
}


def consistency(mix):
    """A walk in which mix(image, x, ᾱ here, ᾱ below, fresh noise) is the next x."""

    def walk(answer, noises, steps, bar):
        x = noises[-1]
        for k in range(len(steps) - 1, 0, -1):
            image = answer(x, torch.full((len(x),), steps[k]))
            x = mix(image, x, bar[steps[k]], bar[steps[k - 1]], noises[k - 1])
        return answer(x, torch.full((len(x),), steps[0]))

    return walk


def noised(image, level, noise):
    return level.sqrt() * image + (1 - level).sqrt() * noise


CONSISTENCY_SAMPLER = {
    "as in DDIM": consistency(
        lambda image, x, here, below, z: noised(
            image, below, (x - here.sqrt() * image) / (1 - here).sqrt()
        )
    ),
    "where x comes from; the next": consistency(
        lambda image, x, here, below, z: noised(image, here, z)
    ),
    "comes on top": consistency(lambda image, x, here, below, z: image + (1 - below).sqrt() * z),
    "asked again": consistency(lambda image, *_: image),
    "the same noise": lambda answer, noises, *rest: consistency(
        lambda image, x, here, below, z: noised(image, below, noises[-1])
    )(answer, noises, *rest),
}


test_right_ones_pass = students.right(RIGHT)
test_each_mistake_gets_its_hint = students.wrong(
    {"respaced_betas": RESPACED_BETAS, "consistency_sampler": CONSISTENCY_SAMPLER}
)
