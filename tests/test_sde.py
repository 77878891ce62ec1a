"""The stochastic equation: rates, convergence, marginals, plain recomputation, refusals."""

import math

import pytest
import torch

from minidit import Diffusion, cosine, euler_maruyama, linear, sample, scaled_linear, straight
from minidit import vp_sde as vp
from minidit.solvers.sde import rate
from minidit.solvers.spacing import between

close = torch.testing.assert_close
MEAN, STD = 0.4, 0.25


def perfect(schedule):
    """The exact ε for pixels from N(MEAN, STD²); u is read off the number it is told."""

    def model(x, number, y):
        there = between(schedule, number[:1].double() / 999 * len(schedule) - 1)
        alpha, sigma = there.alpha.item(), there.sigma.item()
        return sigma * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)

    return model


def noisy(schedule, z):
    """Points z deviations from the mean at the last step."""
    alpha, sigma = schedule.alpha[-1].item(), schedule.sigma[-1].item()
    return alpha * MEAN + (alpha**2 * STD**2 + sigma**2) ** 0.5 * z


def test_rates():
    positions = torch.tensor([0.0, 2.5, 37.0, 39.0], dtype=torch.float64)
    expected = 0.1 + 19.9 * (positions + 1) / 40
    close(rate(vp(40), positions), expected)
    with torch.inference_mode():
        close(rate(vp(40), positions), expected)
    table = rate(linear(40), positions)
    steps = -40 * (1 - linear(40).betas[[0, 2, 3, 37, 39]]).log()
    close(table, torch.stack([steps[0], steps[1:3].mean(), *steps[3:]]))
    close(rate(linear(), torch.arange(1000.0)), 1000 * linear().betas, rtol=0.011, atol=0)


def test_the_ordinary_equation_is_of_first_order():
    """Half the steps' length, half the distance from the exact end: z deviations from the mean."""
    schedule, z = vp(), torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)
    errors = []
    for steps in (100, 200, 400):
        model, x = perfect(schedule), noisy(schedule, z)
        end = sample(euler_maruyama(model, Diffusion(schedule), x, steps=steps, eta=0.0))
        errors.append((end - MEAN - STD * z).abs().max().item())
    assert errors[2] < 0.02 * STD
    assert 0.85 < math.log2(errors[0] / errors[1]) < 1.15
    assert 0.85 < math.log2(errors[1] / errors[2]) < 1.15


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_any_eta_keeps_the_marginals(eta):
    schedule, n, rng = vp(), 4000, torch.Generator().manual_seed(0)
    x = noisy(schedule, torch.randn(n, 1, 1, 1, generator=rng))
    model, diffusion = perfect(schedule), Diffusion(schedule)
    states = list(euler_maruyama(model, diffusion, x, steps=400, eta=eta, generator=rng))
    below = torch.linspace(999, 0, 400, dtype=torch.float64)[1:]  # where state k has arrived
    for k in (80, 280, 384):
        there = between(schedule, below[k : k + 1])
        alpha, sigma = there.alpha.item(), there.sigma.item()
        std = (alpha**2 * STD**2 + sigma**2) ** 0.5
        assert states[k].x.mean().item() == pytest.approx(alpha * MEAN, abs=5 * std / n**0.5)
        assert states[k].x.std().item() == pytest.approx(std, rel=0.08)
    assert states[-1].x.mean().item() == pytest.approx(MEAN, abs=5 * STD / n**0.5)
    assert states[-1].x.std().item() == pytest.approx(STD, rel=0.08)


@pytest.mark.parametrize("make", [linear, scaled_linear])
def test_a_table_of_ddpm_will_do(make):
    """Over all its steps, where β·Δu is -log(1 - β) of the step."""
    diffusion, n, rng = Diffusion(make(300)), 2000, torch.Generator().manual_seed(0)

    def model(x, number, y):
        k = int(number[0])
        alpha, sigma = diffusion.schedule.alpha[k].item(), diffusion.schedule.sigma[k].item()
        return sigma * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)

    x = noisy(diffusion.schedule, torch.randn(n, 1, 1, 1, generator=rng))
    end = sample(euler_maruyama(model, diffusion, x, generator=rng))
    assert end.mean().item() == pytest.approx(MEAN, abs=5 * STD / n**0.5)
    assert end.std().item() == pytest.approx(STD, rel=0.1)


def test_errors_fall_smoothly_with_the_number_of_steps():
    diffusion, errors = Diffusion(scaled_linear()), []
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)

    def model(x, number, y):
        there = between(diffusion.schedule, number[:1].double())
        alpha, sigma = there.alpha.item(), there.sigma.item()
        return sigma * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)

    for steps in (333, 334, 335):  # of which 334 lie at whole positions
        walked = euler_maruyama(
            model, diffusion, noisy(diffusion.schedule, z), steps=steps, eta=0.0
        )
        errors.append((sample(walked) - MEAN - STD * z).abs().max().item())
    assert errors == pytest.approx([3.08e-3] * 3, rel=5e-3)


def test_cosine_is_walked_from_its_last_step_but_one():
    x = torch.zeros(1, 1, 2, 2)
    steps = list(range(999))
    assert sample(euler_maruyama(network, Diffusion(cosine()), x, steps=steps)).isfinite().all()


def network(x, number, y):
    return torch.sin(3 * x + number.reshape(-1, 1, 1, 1) / 300)


@pytest.mark.parametrize("steps, eta, seed", [(13, 1.0, 0), (40, 0.0, 1), (75, 0.6, 2)])
def test_any_walk_equals_the_plain_one(steps, eta, seed):
    """The drift and the noise of the paper, moment by moment, with numbers of its own."""
    rng = torch.Generator().manual_seed(seed)
    draws = torch.randn(steps, 3, 2, 4, 5, generator=rng, dtype=torch.float64)
    start, noise = draws[0], draws[1:]
    x = start
    for k in range(steps):
        u = 1 - k * (1 - 1e-3) / (steps - 1)
        du = (1 - 1e-3) / (steps - 1) if k < steps - 1 else u
        beta = 0.1 + 19.9 * u
        sigma = math.sqrt(1 - math.exp(-0.1 * u - 19.9 / 2 * u**2))
        eps = network(x, torch.full((3,), 999 * u, dtype=torch.float64), None)
        score = -eps / sigma
        drift = -beta / 2 * x - (1 + eta**2) / 2 * beta * score
        x = x - drift * du
        if k < steps - 1:
            x = x + eta * math.sqrt(beta * du) * noise[k]
    ours = sample(
        euler_maruyama(network, Diffusion(vp()), start, steps=steps, eta=eta, noise=noise)
    )
    close(ours, x, atol=1e-9, rtol=1e-9)


def test_what_the_network_is_told_and_what_is_yielded():
    told, y = [], torch.tensor([3, 1])

    def model(x, number, given):
        assert given is y
        told.append(number.tolist())
        return torch.cat([x, torch.full_like(x, 9)], dim=1)  # a learned variance is ignored

    x = torch.randn(2, 1, 4, 4)
    diffusion, visited = Diffusion(vp(), learn_sigma=True), [9, 249, 499, 699, 849, 999]
    states = list(euler_maruyama(model, diffusion, x, y, steps=visited, clip=True))
    assert [state.t for state in states] == pytest.approx(
        [999 * (k + 1) / 1000 for k in visited[::-1]]
    )
    assert told == [[pytest.approx(state.t)] * 2 for state in states]
    assert max(state.x0.abs().max() for state in states) <= 1
    assert all(state.x.shape == state.x0.shape == x.shape for state in states)


def test_noise_is_drawn_from_the_generator_or_replayed():
    x, rng = torch.randn(2, 1, 4, 4), torch.Generator().manual_seed(1)
    drawn = sample(euler_maruyama(network, Diffusion(vp()), x, steps=30, generator=rng))
    noise = torch.randn(29, *x.shape, generator=rng.manual_seed(1))
    replayed = sample(euler_maruyama(network, Diffusion(vp()), x, steps=30, noise=noise))
    close(drawn, replayed, atol=0, rtol=0)
    assert not torch.allclose(
        drawn, sample(euler_maruyama(network, Diffusion(vp()), x, steps=30, noise=noise + 1))
    )
    before = rng.get_state()
    sample(euler_maruyama(network, Diffusion(vp()), x, steps=30, eta=0.0, generator=rng))
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize(
    "schedule, how, sentence",
    [
        (straight(), {}, "needs α² \\+ σ² = 1; on the straight line take ddim"),
        (vp(), dict(eta=2.0), "eta=2.0 is out of range"),
        (
            vp(),
            dict(steps=3),
            "the step from 999 has β·Δu = 9.99, and above 4 the method runs away",
        ),
        (cosine(), {}, r"the step from 999 .* leave out the noisiest: steps=list\(range\(999\)\)"),
        (vp(), dict(steps=20, noise=torch.zeros(18, 2, 1, 4, 4)), "must hold 19 draws"),
        (vp(), dict(steps=20, noise=torch.zeros(19, 2, 1, 4, 3)), "must hold 19 draws of .2, 1, 4"),
        (vp(), dict(steps=1001), "too few or too many"),
    ],
)
def test_refusals(schedule, how, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample(euler_maruyama(network, Diffusion(schedule), torch.zeros(2, 1, 4, 4), **how))


def test_half_precision_is_left_for_the_walk():
    x = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()

    def walked(x):
        states = euler_maruyama(lambda x, t, y: x / 2, Diffusion(linear()), x, steps=300, eta=0.0)
        return sample(states)

    assert walked(x).dtype == torch.float32
    assert torch.equal(walked(x), walked(x.float()))
