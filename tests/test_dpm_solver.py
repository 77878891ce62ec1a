"""DPM-Solver against exact solutions: orders of convergence, all paths, predictions, spacings."""

import math

import pytest
import torch

from minidit import (
    SCHEDULES,
    Diffusion,
    cosine,
    ddim,
    dpm_solver,
    linear,
    sample,
    straight,
    vp_sde,
)
from minidit.diffusion import clip_image
from minidit.solvers.dpm import METHODS, fast_orders, plan
from minidit.solvers.spacing import SPACINGS, between, grid, log_snr, position

close = torch.testing.assert_close
MEAN, STD = 0.4, 0.25
START = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)

# Those of the lab have tests of their own.
OWN = [name for name in SCHEDULES if name not in ("shifted", "sine")]


def perfect(diffusion, mean=MEAN, std=STD):
    """The exact answer for pixels from N(mean, std²), at any moment between two steps."""
    schedule = diffusion.schedule
    low, high = schedule.steps[[0, -1]].tolist()

    def model(x, t, y):
        there = between(schedule, (t[:1].double() - low) / (high - low) * (len(schedule) - 1))
        alpha, sigma = there.alpha.item(), there.sigma.item()
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        x0 = mean + gain * (x - alpha * mean)
        eps = (x - alpha * x0) / sigma
        if diffusion.predict == "v" and diffusion.schedule.path == "straight":
            return eps - x0
        return {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0}[diffusion.predict]

    return model


def exact_end(schedule, x, step=0):
    """A point stays as many deviations from the mean as it has at the start."""

    def moments(k):
        alpha, sigma = schedule.alpha[k], schedule.sigma[k]
        return alpha * MEAN, (alpha**2 * STD**2 + sigma**2).sqrt()

    (mean, std), (end_mean, end_std) = moments(-1), moments(step)
    return end_mean + end_std * (x - mean) / std


def error(diffusion, **how):
    """Distance from the exact end at step 0."""
    states = dpm_solver(perfect(diffusion), diffusion, START, denoise=False, **how)
    return (sample(states) - exact_end(diffusion.schedule, START)).abs().max().item()


@pytest.mark.parametrize("schedule", OWN)
@pytest.mark.parametrize("predict", ["x0", "eps", "v"])
@pytest.mark.parametrize("solve", ["x0", "eps"])
def test_every_path_and_prediction_reaches_the_exact_end(schedule, predict, solve):
    diffusion = Diffusion(SCHEDULES[schedule](), predict)
    for method in METHODS:
        how = dict(steps=60, order=3, method=method, spacing="logsnr", solve=solve)
        assert error(diffusion, **how) < 1e-3, method


@pytest.mark.parametrize("method", ["multistep", "singlestep"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("solve", ["x0", "eps"])
def test_order_of_convergence(method, order, solve):
    """Half the step, 2^order times smaller an error; on the smooth straight line.

    The third-order multistep formula of the papers' code has half the second derivative, so it
    is of second order, with a smaller error.
    """
    diffusion = Diffusion(straight(), "v")
    how = dict(order=order, method=method, spacing="logsnr", solve=solve, taylor=True)
    coarse, fine = (error(diffusion, steps=steps, **how) for steps in (72, 144))
    expected = 2 if (method, order) == ("multistep", 3) else order
    assert math.log2(coarse / fine) > expected - 0.25


OFFICIAL = dict(spacing="time", lower_order_final=False)  # what the papers' codes do by default


@pytest.mark.parametrize(
    "how, at_10, at_20",
    [
        (OFFICIAL, 1.385, 1.241),
        (OFFICIAL | dict(order=1), 0.723, 0.861),
        (OFFICIAL | dict(lower_order_final=True), 0.785, 0.954),
        (OFFICIAL | dict(spacing="logsnr"), 1.032, 1.014),
        ({}, 1.016, 1.014),
        (dict(positions=lambda n: torch.linspace(0, 999, n).tolist()), 0.785, 1.241),
        (dict(denoise=False), 1.023, 1.013),
        (dict(order=3), 1.154, 1.009),
    ],
)
def test_few_steps_keep_the_spread(how, at_10, at_20):
    """Of pixels N(0, ½²), in units of the true one, from one deviation on."""
    diffusion = Diffusion(linear(), "x0")
    near, far = (
        (s.alpha**2 / 4 + s.sigma**2).sqrt().reshape(1, 1, 1, 1)
        for s in (diffusion.schedule.respace([k]) for k in (0, 999))
    )
    end = near.item() if how.get("denoise") is False else 0.5
    for steps, expected in ((10, at_10), (20, at_20)):
        how = how | {"steps": how.get("positions", lambda n: n)(steps)}
        options = {key: value for key, value in how.items() if key != "positions"}
        found = sample(dpm_solver(perfect(diffusion, 0.0, 0.5), diffusion, far, **options))
        assert found.item() / end == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("schedule", OWN)
def test_order_one_is_ddim(schedule):
    diffusion = Diffusion(SCHEDULES[schedule](), "v")
    steps = [0, 40, 300, 720, 999]
    model = perfect(diffusion)
    ours = list(dpm_solver(model, diffusion, START, steps=steps, order=1))
    theirs = list(ddim(model, diffusion, START, steps=steps))
    told = diffusion.schedule.steps[steps[::-1]].tolist()
    assert [state.t for state in ours] == told
    assert [state.t for state in theirs] == told
    for a, b in zip(ours, theirs):
        close(a.x, b.x, atol=1e-12, rtol=0)
        close(a.x0, b.x0, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("order, steps", [(2, 7), (2, 20), (3, 9), (3, 11), (3, 13)])
def test_as_many_evaluations_as_asked_for(method, denoise, order, steps):
    diffusion, evaluated = Diffusion(linear(), "x0"), []

    def model(x, t, y):
        evaluated.append(t[0].item())
        return 0.5 * x

    how = dict(steps=steps, order=order, method=method, denoise=denoise)
    sample(dpm_solver(model, diffusion, START.float(), **how))
    whole = (steps - denoise) // order * order + denoise
    assert len(evaluated) == (whole if method == "singlestep" else steps)
    assert evaluated == sorted(evaluated, reverse=True)
    assert evaluated[0] == 999 and (evaluated[-1] == 0) == denoise


def test_with_denoise_the_last_state_is_the_clean_image():
    diffusion = Diffusion(cosine(), "eps")
    *_, last = dpm_solver(perfect(diffusion), diffusion, START, steps=12)
    assert last.t == 0 and torch.equal(last.x, last.x0)


@pytest.mark.parametrize("rule", ["quad12", "beta12", "logsnr12", "ddim10", [0, 3.5, 80, 600, 999]])
def test_steps_may_be_a_rule_or_positions(rule):
    diffusion = Diffusion(linear(), "eps")
    states = list(dpm_solver(perfect(diffusion), diffusion, START, steps=rule, order=3))
    assert len(states) == (5 if isinstance(rule, list) else int(rule[-2:]))
    assert [s.t for s in states] == sorted({s.t for s in states}, reverse=True)


def test_a_learned_variance_is_ignored_and_labels_are_handed_on():
    diffusion = Diffusion(linear(), "eps", learn_sigma=True)
    y = torch.tensor([3] * 9)

    def model(x, t, given):
        assert given is y
        return torch.cat([perfect(Diffusion(linear()))(x, t, given), torch.full_like(x, 9)], dim=1)

    ours = sample(dpm_solver(model, diffusion, START, y, steps=10))
    plain = sample(dpm_solver(perfect(Diffusion(linear())), Diffusion(linear()), START, steps=10))
    assert torch.equal(ours, plain)


@pytest.mark.parametrize("solve", ["x0", "eps"])
def test_clipping_keeps_images_in_range(solve):
    diffusion = Diffusion(linear(), "x0")
    for clip in (True, 0.9):
        states = list(
            dpm_solver(lambda x, t, y: 3 * x, diffusion, START, steps=8, solve=solve, clip=clip)
        )
        assert max(state.x0.abs().max() for state in states) <= 1


def test_dynamic_thresholding_of_one_image():
    image = torch.tensor([-4.0, 0.0, 1.0, 2.0, 3.0]).reshape(1, 1, 1, 5)
    clipped = clip_image(torch.cat([image, image / 10]), 0.75)
    close(clipped[0].flatten(), torch.tensor([-1.0, 0.0, 1 / 3, 2 / 3, 1.0]))  # s = 3
    close(clipped[1], image[0] / 10)  # already in range
    with pytest.raises(ValueError, match="clip=1.5 is out of range"):
        clip_image(image, 1.5)


@pytest.mark.parametrize("schedule", OWN)
def test_between_the_steps(schedule):
    schedule = SCHEDULES[schedule](200)
    whole = between(schedule, torch.arange(200, dtype=torch.float64))
    close(whole.alpha, schedule.alpha, atol=1e-14, rtol=1e-12)
    close(whole.sigma, schedule.sigma, atol=1e-14, rtol=1e-11)
    positions = torch.linspace(0, 199, 777, dtype=torch.float64)
    there = between(schedule, positions)
    close(position(schedule, log_snr(there)), positions, atol=1e-8, rtol=1e-9)
    total = (
        there.alpha + there.sigma
        if schedule.path == "straight"
        else there.alpha**2 + there.sigma**2
    )
    close(total, torch.ones(777, dtype=torch.float64), atol=1e-14, rtol=0)


def test_in_continuous_time_between_is_exact():
    """The same moments, whether they are steps of a table or lie between those of a coarser one."""
    fine, coarse = vp_sde(1000), vp_sde(10)
    nodes = torch.arange(1000, dtype=torch.float64)
    there = between(coarse, (nodes + 1) / 100 - 1)
    for table in ("alpha", "sigma", "steps"):
        close(getattr(there, table), getattr(fine, table), atol=1e-12, rtol=1e-12)
    close(position(coarse, log_snr(fine)), (nodes + 1) / 100 - 1, atol=1e-12, rtol=0)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_spacings(spacing):
    schedule = cosine(500)
    nodes = grid(schedule, spacing, 13)
    assert len(nodes) == 14 and nodes[0] == pytest.approx(499) and nodes[-1] == pytest.approx(0)
    assert (nodes.diff() < 0).all()
    even = {
        "time": nodes,
        "quadratic": ((nodes + 1) / 500).sqrt(),
        "logsnr": log_snr(between(schedule, nodes)),
    }[spacing]
    close(even.diff(), even.diff().mean().expand(13), atol=1e-9, rtol=0)


@pytest.mark.parametrize("count", range(2, 30))
@pytest.mark.parametrize("order", [2, 3])
def test_fast_orders_use_every_evaluation(order, count):
    orders = fast_orders(count, order)
    assert sum(orders) == count and orders == sorted(orders, reverse=True)
    assert set(orders) <= set(range(1, order + 1))


@pytest.mark.parametrize(
    "how, sentence",
    [
        (dict(order=4), "order=4 is unknown"),
        (dict(method="slow"), "method='slow' is unknown"),
        (dict(spacing="log"), "spacing='log' is unknown"),
        (dict(solve="v"), "solve='v' is unknown"),
        (dict(steps=0), "steps=0 is too few or too many"),
        (dict(steps=1001), "steps=1001 is too few or too many"),
        (dict(steps=2, order=3, method="singlestep"), "too few.*singlestep.*order=3"),
        (dict(steps=6, order=3, method="singlestep", solve="eps"), "a step of 9.66 in λ"),
        (dict(steps=[5], denoise=False), "must rise within 0 … 999, 2 at least"),
        (dict(steps=[]), "must rise within 0 … 999, 1 at least"),
        (dict(steps=[5, 5]), "must rise"),
        (dict(steps=[5, 1000]), "must rise within 0 … 999"),
        (dict(steps="cubic5"), "steps='cubic5' is unknown"),
    ],
)
def test_refusals(how, sentence):
    diffusion = Diffusion(linear(), "eps")
    with pytest.raises(ValueError, match=sentence):
        sample(dpm_solver(perfect(diffusion), diffusion, START, **how))


def test_plan_of_the_default():
    nodes, strides = plan(linear(), 5)
    assert torch.equal(nodes, grid(linear(), "logsnr", 4))
    assert plan(linear(), 5, spacing="time")[0].tolist() == [999, 749.25, 499.5, 249.75, 0]
    assert strides == [1, 1, 1, 1]


@pytest.mark.parametrize("method", ["multistep", "singlestep", "fast"])
def test_a_single_step_gives_the_clean_image_as_ddim_does(method):
    diffusion = Diffusion(linear(), "eps")
    model = perfect(diffusion)
    one = sample(dpm_solver(model, diffusion, START, steps=[999], method=method))
    close(one, sample(ddim(model, diffusion, START, steps=[999])))
