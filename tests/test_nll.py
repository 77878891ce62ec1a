"""Bits per dimension against what is known exactly, DDIM there and back, scales of guidance."""

import copy
import math

import pytest
import torch

from minidit import (
    SCHEDULES,
    Diffusion,
    Schedule,
    ddim,
    guided,
    linear,
    sample,
    space_timesteps,
    straight,
)
from minidit.diffusion import normal_kl
from minidit.evaluate.nll import bits_per_dim, prior_bits
from minidit.solvers import ddim_invert

close = torch.testing.assert_close
MEAN, STD = 0.3, 0.2


def perfect(diffusion):
    """The best predicted image for pixels from N(MEAN, STD²), at whole steps."""
    schedule = diffusion.schedule
    numbers = schedule.steps.tolist()
    alpha_of = dict(zip(numbers, schedule.alpha.tolist()))
    sigma_of = dict(zip(numbers, schedule.sigma.tolist()))

    def model(x, t, y):
        alpha, sigma = alpha_of[t[0].item()], sigma_of[t[0].item()]
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return model


def pixels(n):
    rng = torch.Generator().manual_seed(2)
    return MEAN + STD * torch.randn(n, 1, 8, 8, generator=rng, dtype=torch.float64)


def test_a_perfect_network_comes_close_to_the_entropy():
    """The bound stays above the entropy of the pixels; what it loses, it loses at step 0.

    There its variance is a borrowed one, too small for what is not known of the image.
    """
    x0, rng = pixels(16), torch.Generator().manual_seed(3)
    diffusion = Diffusion(linear(), "x0").respace(space_timesteps(1000, 200))
    found = bits_per_dim(perfect(diffusion), diffusion, x0, clip=False, generator=rng)
    # An 8-bit pixel of width 2/255 under the true density, in bits, for these very pixels.
    density = -((x0 - MEAN) ** 2) / (2 * STD**2) - math.log(STD * math.sqrt(2 * math.pi))
    entropy = -(density + math.log(2 / 255)).mean() / math.log(2)
    assert entropy < found.total.mean() < entropy + 1
    close(found.total, found.prior + found.terms.sum(dim=1))
    assert found.terms.shape == found.x0_error.shape == found.eps_error.shape == (16, 200)
    assert found.x0_error[:, 0].mean() > 100 * found.x0_error[:, -1].mean()


@pytest.mark.parametrize("first, excess", [(0, 0.8), (4, 0.07)])
def test_steps_finer_than_a_pixel_cost_bits(first, excess):
    """On the straight line; beyond a pixel's width, σ = 1/255, which is near the fourth step."""
    diffusion = Diffusion(straight(), "x0").respace(range(first, 1000))
    rng = torch.Generator().manual_seed(0)
    found = bits_per_dim(perfect(diffusion), diffusion, pixels(4), clip=False, generator=rng)
    entropy = math.log2(STD * math.sqrt(2 * math.pi * math.e) * 255 / 2)
    assert found.total.mean() - entropy == pytest.approx(excess, abs=0.05)


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_half_precision_costs_no_bits(learn_sigma, tiny_dit, awaken):
    model = awaken(tiny_dit(learn_sigma=learn_sigma), std=0.05)
    diffusion = Diffusion(straight(30), "x0", learn_sigma=learn_sigma)
    x0, y, noise = pixels(2).float(), torch.tensor([0, 1]), torch.randn(30, 2, 1, 8, 8)
    whole, half = (
        bits_per_dim(network, diffusion, x0, y, noise=noise).total
        for network in (model, copy.deepcopy(model).bfloat16())
    )
    close(half, whole, atol=0, rtol=0.02)


def test_a_wrong_network_pays():
    x0 = pixels(4)
    diffusion = Diffusion(linear(), "x0").respace(range(0, 1000, 50))
    noise = torch.randn(20, *x0.shape, dtype=torch.float64)
    right = bits_per_dim(perfect(diffusion), diffusion, x0, noise=noise)
    wrong = bits_per_dim(lambda x, t, y: -x, diffusion, x0, noise=noise)
    assert (wrong.total > right.total).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_prior_is_the_kl_from_pure_noise(schedule):
    diffusion, x0 = Diffusion(SCHEDULES[schedule](50)), pixels(3)
    alpha, sigma = diffusion.schedule.alpha[-1], diffusion.schedule.sigma[-1]
    kl = normal_kl(alpha * x0, 2 * sigma.log(), torch.zeros(()), torch.zeros(()))
    close(prior_bits(diffusion, x0), kl.flatten(1).mean(dim=1) / math.log(2))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_there_and_back(schedule):
    """Of first order: four times the steps, at most about a quarter of what is lost on the way."""
    diffusion, x0 = Diffusion(SCHEDULES[schedule](), "x0"), pixels(2)
    model, lost = perfect(diffusion), []
    for steps in (25, 100):
        states = list(ddim_invert(model, diffusion, x0, steps=steps))
        assert [s.t for s in states] == sorted(s.t for s in states)
        noise = states[-1].x
        assert noise.mean().abs() < 0.3 and 0.6 < noise.std() < 1.4
        back = sample(ddim(model, diffusion, noise, steps=steps))
        lost.append((back - x0).abs().max())
    assert lost[1] < 0.4 * lost[0] and lost[1] < 0.08


def test_the_way_there_ends_where_the_way_back_begins():
    """At the last step, not beyond it, on a schedule that keeps some signal to the end."""
    diffusion, x0 = Diffusion(SCHEDULES["scaled_linear"](), "x0"), pixels(2)
    alpha, sigma = diffusion.schedule.alpha, diffusion.schedule.sigma
    spread = (alpha**2 * STD**2 + sigma**2).sqrt()  # of x_t; the ODE keeps its quantiles
    exact = alpha[-1] * MEAN + (x0 - alpha[0] * MEAN) * spread[-1] / spread[0]
    off = []
    for steps in (50, 500):
        noise = sample(ddim_invert(perfect(diffusion), diffusion, x0, steps=steps))
        off.append((noise - exact).abs().max().item())
    assert off[1] < 0.2 * off[0] and off[1] < 0.05
    with pytest.raises(ValueError, match="one step can't be walked up"):
        sample(ddim_invert(perfect(diffusion), diffusion, x0, steps=[999]))


def test_the_two_conventions_of_guidance():
    class Network:
        null_label = 2

        def __call__(self, x, t, y):
            return (1.0 + y.reshape(-1, 1, 1, 1)) * x

    x, t, y = torch.randn(2, 4, 3, 3), torch.zeros(2), torch.tensor([0, 1])
    cond, uncond = Network()(x, t, y), Network()(x, t, torch.full_like(y, 2))
    for w in (0.0, 0.4, 3.0):
        ours = guided(Network(), 1 + w)(x, t, y)
        close(ours, cond + w * (cond - uncond))


def test_float64_images_get_float64_tables():
    schedule: Schedule = straight(10)
    t = torch.tensor([3])
    double = schedule.at("alpha", t, torch.zeros(1, dtype=torch.float64))
    single = schedule.at("alpha", t, torch.zeros(1))
    assert double.item() == schedule.alpha[3].item()
    assert single.dtype == torch.float32 and single.item() == schedule.alpha[3].float().item()
