"""Selections of steps: counts, ends, densities, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minidit import SCHEDULES, Diffusion, ddim, linear, sample, select_steps, space_timesteps
from minidit.sampling import SELECTIONS
from minidit.solvers.spacing import beta_steps, log_snr, logsnr_steps, quadratic_steps


@given(st.sampled_from([*SELECTIONS, ""]), st.sampled_from([*SCHEDULES]), st.data())
def test_every_selection_rises_from_end_to_end(name, schedule, data):
    T = data.draw(st.integers(21, 400))
    count = data.draw(st.integers(2, T))
    steps = select_steps(SCHEDULES[schedule](T), f"{name}{count}")
    assert len(steps) == count and steps[0] == 0 and steps[-1] == T - 1
    assert steps == sorted(set(steps)) and all(isinstance(step, int) for step in steps)


@given(st.integers(1, 300), st.data())
def test_evenly_spaced_parts(T, data):
    counts = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=max(1, min(4, T // 3))))
    if max(counts) > T // len(counts):
        with pytest.raises(ValueError, match="can't be had from a part of"):
            space_timesteps(T, counts)
        return
    steps = space_timesteps(T, counts)
    assert len(steps) == sum(counts) and steps == sorted(set(steps))
    assert space_timesteps(T, ",".join(map(str, counts))) == steps
    assert 0 <= steps[0] and steps[-1] < T


def test_strides_follow_beta():
    schedule = linear()
    steps = beta_steps(schedule, 12)
    middle = [(a + b) // 2 for a, b in zip(steps, steps[1:])]
    ratio = torch.tensor(steps).diff() / schedule.betas[middle]
    assert ratio[1:].max() / ratio[1:].min() < 1.3  # one proportion; the first is rounded
    assert steps[1] < 10 < 100 < steps[-1] - steps[-2]


def test_quadratic_and_logsnr_are_dense_near_the_image():
    schedule = linear()
    assert quadratic_steps(schedule, 10) == [round(999 * (k / 9) ** 2) for k in range(10)]
    strides = log_snr(schedule)[logsnr_steps(schedule, 8)].diff()
    assert strides.max() / strides.min() < 1.2


def test_samplers_take_the_rules():
    x, model = torch.ones(1, 1, 2, 2), lambda x, t, y: x
    rules = {"quad9": 9, "beta9": 9, "logsnr9": 9, "ddim10": 10, "3,4": 7, np.int64(9): 9}
    for rule, count in rules.items():
        states = list(ddim(model, Diffusion(linear()), x, steps=rule))
        assert len(states) == count
        assert torch.equal(sample(ddim(model, Diffusion(linear()), x, steps=rule)), states[-1].x)


@pytest.mark.parametrize(
    "rule, sentence",
    [
        ("cubic5", "steps='cubic5' is unknown; choose a number, a list"),
        ("ddim", "steps='ddim' is unknown"),
        ("ddim999", "no whole stride gives 999 of 1000 steps"),
        ("quad1", "1 steps can't be had: choose 2 … 1000"),
        (1, "1 steps can't be had: choose 2 … 1000, or one itself: .999."),
        ("1", "1 steps can't be had"),
        ("10,1", "1 steps can't be had"),  # would be the middle one, in pure noise
        (np.int64(1), "1 steps can't be had"),
        ("beta1001", "1001 steps can't be had"),
        (1001, "1001 steps can't be had: choose 2"),
        (0, "0 steps can't be had"),
    ],
)
def test_refusals(rule, sentence):
    with pytest.raises(ValueError, match=sentence):
        select_steps(linear(), rule)


def test_a_number_of_steps_is_whole():
    with pytest.raises(TypeError, match="steps=2.0 must be a number of steps, a rule or a list"):
        select_steps(linear(), 2.0)
