"""Schedules: what must hold between their tables, and the formulas of the papers."""

import math
import pickle
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minidit import SCHEDULES, Diffusion, Schedule, cosine, linear, scaled_linear, straight, vp_sde
from minidit.solvers.spacing import continuous

# Those of the lab have tests of their own.
OWN = [name for name in SCHEDULES if name not in ("shifted", "sine")]
EVERY_SCHEDULE = pytest.mark.parametrize("name", OWN)
close = torch.testing.assert_close


@st.composite
def schedules(draw):
    """Any schedule, whole or respaced to at least two steps."""
    T = draw(st.sampled_from([21, 100, 1000]))
    schedule = SCHEDULES[draw(st.sampled_from(OWN))](T)
    if draw(st.booleans()):
        steps = draw(st.sets(st.integers(0, T - 1), min_size=2, max_size=30))
        schedule = schedule.respace(sorted(steps))
    return schedule


@given(schedules())
def test_signal_and_noise_lie_on_their_path(schedule):
    if schedule.path == "straight":
        close(schedule.alpha + schedule.sigma, torch.ones_like(schedule.alpha))
    else:
        close(schedule.alpha**2 + schedule.sigma**2, torch.ones_like(schedule.alpha))


@given(schedules())
def test_the_velocity_crosses_the_path_with_area_one(schedule):
    area = schedule.alpha * schedule.sigma_dot - schedule.sigma * schedule.alpha_dot
    close(area, torch.ones_like(area))


@given(schedules())
def test_signal_falls_and_noise_grows(schedule):
    for falling in (schedule.alpha, -schedule.sigma, schedule.snr):
        assert (falling.diff() < 0).all()
    assert (schedule.alpha > 0).all() and (schedule.sigma > 0).all()


@EVERY_SCHEDULE
def test_the_ends_are_nearly_image_and_nearly_noise(name):
    schedule = SCHEDULES[name]()
    assert len(schedule) == 1000
    assert schedule.alpha[0] > 0.998 and schedule.sigma[0] < 0.05
    left = 0.07 if name.startswith("scaled_linear") else 0.01  # the former leave more, as is known
    assert schedule.alpha[-1] < left and schedule.sigma[-1] > 0.99


@EVERY_SCHEDULE
def test_velocity_is_the_derivative_along_the_path(name):
    schedule = SCHEDULES[name]()
    if schedule.path == "straight":
        length = torch.full((999,), 1 / 1001, dtype=torch.float64)  # time
    else:
        length = torch.atan2(schedule.sigma, schedule.alpha).diff()  # angle
    for table, dot in ((schedule.alpha, schedule.alpha_dot), (schedule.sigma, schedule.sigma_dot)):
        middle = (dot[1:] + dot[:-1]) / 2
        close(table.diff() / length, middle, rtol=0, atol=1e-3)


def test_linear_is_ddpms():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    close(linear().betas, betas, rtol=1e-9, atol=0)
    close(linear().alphas_cumprod, (1 - betas).cumprod(0))
    assert linear().alphas_cumprod[-1].item() == pytest.approx(4.0358e-5, rel=1e-4)


def test_linear_with_fewer_steps_ends_as_noisy():
    close(linear(100).betas[[0, -1]], torch.tensor([1e-3, 0.2], dtype=torch.float64))
    assert linear(100).alpha[-1] < 0.01


def test_cosine_is_nichol_and_dhariwals():
    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 1, 500, 990):
        assert cosine().alphas_cumprod[t].item() == pytest.approx(f(t + 1) / f(0), rel=1e-9)
    assert cosine().betas.max().item() == pytest.approx(0.999, rel=1e-9)


@pytest.mark.parametrize("T", [20, 1000])
def test_scaled_linear_is_latent_diffusions(T):
    roots = [0.00085**0.5 + k / (T - 1) * (0.012**0.5 - 0.00085**0.5) for k in range(T)]
    betas = torch.tensor([1000 / T * root**2 for root in roots], dtype=torch.float64)
    close(scaled_linear(T).betas, betas, rtol=1e-9, atol=0)
    assert scaled_linear(T).steps.tolist() == list(range(T))
    from_1 = scaled_linear(T, first=1)
    assert torch.equal(from_1.alpha, scaled_linear(T).alpha)
    assert from_1.steps.tolist() == list(range(1, T + 1))


@pytest.mark.parametrize("T", [10, 1000])
def test_vp_sde_has_lost_the_integral_of_its_rate(T):
    """log α = -½·∫β du with β from 0.1 to 20, here by the trapezoidal rule; 999·u is told."""
    schedule = vp_sde(T)
    for k in {0, T // 3, T - 1}:
        u = torch.linspace(0, (k + 1) / T, 5001, dtype=torch.float64)
        lost = -0.5 * torch.trapezoid(0.1 + 19.9 * u, u)
        assert schedule.alpha[k].log().item() == pytest.approx(lost.item(), rel=1e-9)
        assert schedule.steps[k].item() == pytest.approx(999 * u[-1].item())


@EVERY_SCHEDULE
def test_name_and_length_are_enough_to_build_it_again(name):
    schedule = SCHEDULES[name](50)
    again = Diffusion.from_config(Diffusion(schedule).config).schedule
    assert schedule.name == again.name == name
    for table in ("alpha", "sigma", "steps"):
        assert torch.equal(getattr(schedule, table), getattr(again, table))


def test_a_changed_copy_does_not_share_what_was_looked_up():
    schedule, t = linear(50), torch.tensor([0])
    schedule.at("steps", t, t)
    assert replace(schedule, steps=schedule.steps + 1).at("steps", t, t).item() == 1


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: scaled_linear(12), "T=12 makes β reach 1; use at least 13"),
        (lambda: scaled_linear(first=2), "first=2 is unknown"),
        (lambda: vp_sde(0), "T=0 must be at least 1"),
    ],
)
def test_refusals(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_straight_leaves_out_its_two_ends():
    close(straight(3).alpha, torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64))


@given(schedules())
def test_posterior_is_bayes_rule(schedule):
    """q(x_s | x_t, x_0) ∝ q(x_t | x_s)·q(x_s | x_0): precisions add, means are weighed by them."""
    later = slice(1, None)  # at t = 0 the step before is the image itself
    ratio = (schedule.alpha / schedule.alpha_prev)[later]
    noise = schedule.step_variance[later]
    precision = ratio**2 / noise + 1 / schedule.sigma_prev[later] ** 2
    close(schedule.posterior_variance[later], 1 / precision, rtol=1e-6, atol=0)
    from_xt = ratio / noise / precision
    from_x0 = schedule.alpha_prev[later] / schedule.sigma_prev[later] ** 2 / precision
    close(schedule.posterior_mean_xt[later], from_xt, rtol=1e-6, atol=1e-12)
    close(schedule.posterior_mean_x0[later], from_x0, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("make", [linear, cosine])
def test_posterior_is_ddpms_equation_7(make):
    schedule = make()
    betas, bar = schedule.betas, schedule.alphas_cumprod
    bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    close(schedule.step_variance, betas)
    close(schedule.posterior_variance, betas * (1 - bar_prev) / (1 - bar))
    close(schedule.posterior_mean_x0, betas * bar_prev.sqrt() / (1 - bar))
    close(schedule.posterior_mean_xt, (1 - bar_prev) * (1 - betas).sqrt() / (1 - bar))


@given(schedules())
def test_posterior_mean_of_a_noisy_image_has_the_earlier_steps_signal(schedule):
    """E[x_s] over x_t = α_t·x_0 + σ_t·ε is α_s·x_0."""
    signal = schedule.posterior_mean_x0 + schedule.posterior_mean_xt * schedule.alpha
    close(signal, schedule.alpha_prev)


@given(schedules())
def test_posterior_variance_lies_between_zero_and_that_of_the_step(schedule):
    assert schedule.posterior_variance[0] == 0
    later = schedule.posterior_variance[1:]
    assert (later > 0).all() and (later < schedule.step_variance[1:]).all()


@given(schedules())
def test_the_first_log_variance_is_borrowed_from_the_second(schedule):
    log_variance = schedule.posterior_log_variance
    assert log_variance[0] == log_variance[1] and log_variance.isfinite().all()
    close(log_variance[1:].exp(), schedule.posterior_variance[1:])
    close(schedule.large_variance[1:], schedule.step_variance[1:])
    close(schedule.large_variance[0], schedule.posterior_variance[1])
    close(schedule.log_step_variance.exp(), schedule.step_variance)


@given(st.data())
def test_respacing_keeps_signal_noise_and_numbers_and_composes(data):
    schedule = SCHEDULES[data.draw(st.sampled_from(OWN))](100)
    outer = sorted(data.draw(st.sets(st.integers(0, 99), min_size=1)))
    inner = sorted(data.draw(st.sets(st.integers(0, len(outer) - 1), min_size=1)))
    picked = [outer[i] for i in inner]
    once = schedule.respace(picked)
    twice = schedule.respace(outer).respace(inner)
    for table in ("alpha", "sigma", "steps"):
        assert torch.equal(getattr(once, table), getattr(twice, table))
    assert torch.equal(once.alpha, schedule.alpha[picked])
    assert torch.equal(once.steps, schedule.steps[picked])
    assert once.path == schedule.path


def test_respacing_to_all_steps_changes_nothing():
    schedule = linear(50)
    same = schedule.respace(range(50))
    assert torch.equal(same.betas, schedule.betas) and torch.equal(same.steps, schedule.steps)


def test_a_respaced_schedule_is_custom_for_its_name_alone_would_not_bring_it_back():
    assert linear(50).name == "linear" and linear(50).respace([0, 49]).name == "custom"


def test_at_gives_float32_entries_that_multiply_images():
    schedule, x = linear(), torch.zeros(3, 1, 2, 2)
    entries = schedule.at("alpha", torch.tensor([5, 0, 999]), x)
    assert entries.shape == (3, 1, 1, 1) and entries.dtype == torch.float32
    close(entries.flatten(), schedule.alpha[[5, 0, 999]].float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_steps_of_few_bits_are_steps(dtype):
    schedule, x, t = linear(), torch.zeros(3, 1), torch.tensor([5, 0, 99])
    assert torch.equal(schedule.at("alpha", t.to(dtype), x), schedule.at("alpha", t, x))


def test_a_schedule_can_have_one_step():
    schedule = straight(1)
    assert len(schedule) == 1 and schedule.posterior_log_variance.isfinite().all()


def test_a_schedule_cannot_be_changed():
    with pytest.raises(AttributeError):
        linear(50).alpha = torch.zeros(50)
    assert isinstance(linear(50), Schedule)


@EVERY_SCHEDULE
def test_every_schedule_survives_pickling(name):
    schedule, u = SCHEDULES[name](40), torch.linspace(0, 1, 5, dtype=torch.float64)
    copy = pickle.loads(pickle.dumps(schedule))
    assert copy.name == name and torch.equal(copy.alpha, schedule.alpha)
    if schedule.log_alpha is not None:
        assert torch.equal(copy.log_alpha(u), schedule.log_alpha(u))


def test_a_lambda_is_copied():
    process = Diffusion(continuous(lambda u: -u))
    assert torch.equal(deepcopy(process).schedule.alpha, process.schedule.alpha)


def test_an_empty_batch_has_an_empty_answer():
    empty = torch.zeros(0, 1, 4, 4)
    alpha, sigma = linear().at("alpha sigma", torch.zeros(0, dtype=torch.int64), empty)
    assert alpha.shape == sigma.shape == (0, 1, 1, 1)
