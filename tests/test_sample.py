"""DDPM and DDIM against what is known exactly: normal data, straight lines; and guidance."""

import pickle
from copy import deepcopy

import pytest
import torch

from minidit import (
    SAMPLERS,
    SCHEDULES,
    Diffusion,
    Schedule,
    ddim,
    ddpm,
    dpm_adaptive,
    dpm_solver,
    guided,
    linear,
    sample,
    select_steps,
    straight,
)
from minidit.training import generate as generation
from minidit.training.generate import generate

EVERY_SAMPLER = pytest.mark.parametrize("sampler", [ddpm, ddim])
close = torch.testing.assert_close
MEAN, STD = 0.4, 0.25


def exact_denoiser(diffusion):
    """What a perfect network answers for pixels from N(MEAN, STD²): Bayes' rule, no training."""
    schedule = diffusion.schedule
    numbers = schedule.steps.float()

    def model(x, t, y):
        steps = (numbers - t[0]).abs().argmin().repeat(len(t))  # all images are at the same step
        alpha, sigma = (
            table[steps].reshape(-1, 1, 1, 1) for table in (schedule.alpha, schedule.sigma)
        )
        share = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        x0 = MEAN + share * (x.double() - alpha * MEAN)
        eps = (x.double() - alpha * x0) / sigma
        return {"x0": x0, "eps": eps, "v": diffusion.velocity(x0, eps, steps)}[
            diffusion.predict
        ].to(x.dtype)

    return model


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("predict", ["x0", "eps", "v"])
def test_ddim_carries_noise_to_the_data_along_the_exact_path(schedule, predict):
    """For normal data the path is known: a point stays as many deviations from the mean."""
    diffusion = Diffusion(SCHEDULES[schedule](200), predict)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)
    out = sample(ddim(exact_denoiser(diffusion), diffusion, x))
    alpha, sigma = diffusion.schedule.alpha[-1], diffusion.schedule.sigma[-1]
    deviations = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2).sqrt()
    last = (diffusion.schedule.sigma[0] / STD) ** 2  # a share of this is lost in the last step
    close(out, MEAN + STD * deviations, atol=(0.08 + last) * STD, rtol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("variance", ["large", "small"])
def test_ddpm_over_all_steps_draws_from_the_data(schedule, variance):
    diffusion = Diffusion(SCHEDULES[schedule](200), "x0", variance=variance)
    rng, n = torch.Generator().manual_seed(0), 4000
    x = as_noisy_as_it_gets(diffusion.schedule, n, rng)
    out = sample(ddpm(exact_denoiser(diffusion), diffusion, x, generator=rng)).double()
    last = (diffusion.schedule.sigma[0] / STD).item() ** 2  # in the last step nothing is drawn
    assert out.mean().item() == pytest.approx(MEAN, abs=5 * STD / n**0.5)
    assert out.std().item() == pytest.approx(STD, rel=5 / (2 * n) ** 0.5 + 0.02 + last)


def as_noisy_as_it_gets(schedule, n, rng):
    """(n, 1, 1, 1) pixels N(MEAN, STD²) at the last step."""
    alpha, sigma = schedule.alpha[-1].item(), schedule.sigma[-1].item()
    z = torch.randn(n, 1, 1, 1, generator=rng)
    return alpha * MEAN + (alpha**2 * STD**2 + sigma**2) ** 0.5 * z


@pytest.mark.parametrize("schedule", ["linear", "straight"])
@pytest.mark.parametrize("sampler, more", [(ddpm, {}), (ddim, {"eta": 1.0}), (ddim, {"eta": 0.5})])
def test_random_steps_keep_the_marginals_on_the_way(schedule, sampler, more):
    """After each of many steps, the pixels are distributed as the forward process has them."""
    diffusion = Diffusion(SCHEDULES[schedule](), "x0", variance="small")
    rng, n = torch.Generator().manual_seed(0), 4000
    visited = select_steps(diffusion.schedule, "quad112")
    x = as_noisy_as_it_gets(diffusion.schedule, n, rng)
    denoiser = exact_denoiser(diffusion)
    states = list(sampler(denoiser, diffusion, x, steps=visited, generator=rng, **more))
    for k in (0, 20, 80, 110, 111):  # state k has arrived at the step below its own
        alpha, sigma = 1.0, 0.0
        if k < 111:
            there = diffusion.schedule.respace([visited[-k - 2]])
            alpha, sigma = there.alpha.item(), there.sigma.item()
        std = (alpha**2 * STD**2 + sigma**2) ** 0.5
        assert states[k].x.mean().item() == pytest.approx(alpha * MEAN, abs=5 * std / n**0.5)
        assert states[k].x.std().item() == pytest.approx(std, rel=5 / (2 * n) ** 0.5 + 0.02)


def network(x, t, y):
    """Some smooth function of everything that a network is given."""
    label = 0.0 if y is None else y.reshape(-1, 1, 1, 1)
    return torch.sin(3 * x + t.reshape(-1, 1, 1, 1) / 100 + label)


def start(b=3, dtype=torch.float32):
    rng = torch.Generator().manual_seed(5)
    return torch.randn(b, 1, 4, 4, generator=rng, dtype=dtype)


def test_ddim_on_the_straight_line_is_eulers_method():
    diffusion = Diffusion(straight(), "v")
    steps, x = [0, 100, 450, 999], start(dtype=torch.float64)
    out = sample(ddim(network, diffusion, x, steps=steps))
    u = [0.0] + [(step + 1) / 1001 for step in steps]  # time, the image at 0
    for k in (4, 3, 2, 1):
        t = torch.full((3,), float(steps[k - 1]))
        x = x + (u[k - 1] - u[k]) * network(x, t, None)
    close(out, x, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_with_full_eta_is_ddpm_with_the_small_variance(schedule):
    diffusion = Diffusion(SCHEDULES[schedule](), "x0", variance="small")
    noise = torch.randn(20, 3, 1, 4, 4, dtype=torch.float64)
    runs = [
        sample(
            sampler(network, diffusion, start(dtype=torch.float64), steps=20, noise=noise, **more)
        )
        for sampler, more in ((ddpm, {}), (ddim, {"eta": 1.0}))
    ]
    close(runs[0], runs[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [[0, 999], [998, 999], [999], [0], 2])
def test_big_strides_stay_finite(schedule, steps):
    diffusion = Diffusion(SCHEDULES[schedule](), "x0")
    for run in (
        ddim(network, diffusion, start(), steps=steps, eta=1.0),
        ddim(network, diffusion, start(), steps=steps),
        ddpm(network, diffusion, start(), steps=steps),
    ):
        assert sample(run).isfinite().all()


def test_ddim_draws_nothing_without_eta():
    rng = torch.Generator().manual_seed(0)
    before = rng.get_state()
    sample(ddim(network, Diffusion(linear()), start(), steps=5, generator=rng))
    assert torch.equal(rng.get_state(), before)


@EVERY_SAMPLER
def test_a_sampler_yields_every_state(sampler):
    states = list(sampler(network, Diffusion(linear(), "x0"), start(), steps=[0, 10, 500, 999]))
    assert [state.t for state in states] == [999, 500, 10, 0]
    assert all(state.x.shape == state.x0.shape == (3, 1, 4, 4) for state in states)
    assert torch.equal(states[-1].x, states[-1].x0)  # the last step lands on the image
    again = sampler(network, Diffusion(linear(), "x0"), start(), steps=[0, 10, 500, 999])
    assert sample(again).shape == (3, 1, 4, 4)


@EVERY_SAMPLER
@pytest.mark.parametrize(
    "steps, count", [(None, 40), (7, 7), ("7", 7), ([3, 5], 2), ("ddim10", 10)]
)
def test_steps_can_be_chosen(sampler, steps, count):
    states = list(sampler(network, Diffusion(linear(40)), start(), steps=steps))
    assert len(states) == count
    assert [s.t for s in states] == sorted({s.t for s in states}, reverse=True)


@EVERY_SAMPLER
def test_the_network_is_given_the_schedules_own_numbers_and_the_labels(sampler):
    asked = []

    def model(x, t, y):
        asked.append((t.tolist(), y.tolist()))
        return x

    y = torch.tensor([4, 5, 6])
    sample(sampler(model, Diffusion(linear()), start(), y, steps=[20, 700]))
    assert asked == [([700] * 3, [4, 5, 6]), ([20] * 3, [4, 5, 6])]


RANDOM = pytest.mark.parametrize("sampler, more", [(ddpm, {}), (ddim, {"eta": 0.7})])


@RANDOM
def test_the_same_generator_gives_the_same_images(sampler, more):
    def run(seed):
        rng = torch.Generator().manual_seed(seed)
        return sample(
            sampler(network, Diffusion(linear()), start(), steps=6, generator=rng, **more)
        )

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@RANDOM
def test_recorded_noise_is_replayed(sampler, more):
    diffusion, rng = Diffusion(linear()), torch.Generator().manual_seed(1)
    drawn = sample(sampler(network, diffusion, start(), steps=6, generator=rng, **more))
    rng.manual_seed(1)
    noise = [torch.randn(start().shape, generator=rng) for _ in range(6)]
    replayed = sample(sampler(network, diffusion, start(), steps=6, noise=noise, **more))
    assert torch.equal(drawn, replayed)
    noise[2] = noise[2] + 1
    other = sample(sampler(network, diffusion, start(), steps=6, noise=noise, **more))
    assert not torch.equal(drawn, other)


@EVERY_SAMPLER
def test_sampling_leaves_no_graph_and_no_mode_behind(sampler, tiny_dit, awaken):
    model = awaken(tiny_dit())
    states = sampler(
        model, Diffusion(linear()), torch.randn(2, 1, 8, 8), torch.tensor([0, 1]), steps=3
    )
    assert not next(states).x.requires_grad
    assert torch.is_grad_enabled()  # also while the sampler is suspended
    assert not sample(states).requires_grad


@EVERY_SAMPLER
def test_an_images_sample_does_not_depend_on_the_others(sampler, tiny_dit, awaken):
    model, diffusion = awaken(tiny_dit()), Diffusion(linear(), "v")
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    noise = torch.randn(5, 4, 1, 8, 8)
    together = sample(sampler(model, diffusion, x, y, steps=5, noise=noise))
    alone = sample(sampler(model, diffusion, x[2:3], y[2:3], steps=5, noise=noise[:, 2:3]))
    close(together[2:3], alone, atol=1e-4, rtol=1e-4)


# --- guidance -------------------------------------------------------------------------------------


class Counted:
    """A network of 8 output channels (4 and their variances) that remembers what it was asked."""

    null_label = 9

    def __init__(self):
        self.batches = []

    def __call__(self, x, t, y):
        self.batches.append(len(x))
        label = y.reshape(-1, 1, 1, 1) + 1.0
        return torch.cat([torch.sin(x * label), torch.cos(x * label)], dim=1)


def asked():
    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    return x, torch.full((3,), 500.0), torch.tensor([0, 1, 2])


def test_scale_one_is_the_conditional_network_in_one_pass():
    model, (x, t, y) = Counted(), asked()
    assert torch.equal(guided(model, 1.0)(x, t, y), Counted()(x, t, y))
    assert model.batches == [3]


def test_scale_zero_is_the_unconditional_prediction():
    x, t, y = asked()
    out = guided(Counted(), 0.0)(x, t, y)
    null = Counted()(x, t, torch.full_like(y, 9))
    assert torch.equal(out[:, :4], null[:, :4])
    assert torch.equal(out[:, 4:], Counted()(x, t, y)[:, 4:])  # the variance stays conditional


def test_guidance_is_linear_in_its_scale():
    x, t, y = asked()
    at = {scale: guided(Counted(), scale)(x, t, y)[:, :4] for scale in (0.0, 1.0, 2.5)}
    close(at[2.5], at[0.0] + 2.5 * (at[1.0] - at[0.0]))


@pytest.mark.parametrize("copied", [deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_guided_network_can_be_copied_and_pickled(copied):
    model = Counted()
    again = copied(guided(model, 3.0))
    assert torch.equal(again(*asked()), guided(Counted(), 3.0)(*asked()))
    assert model.batches == []  # the copy has a network of its own


def test_both_passes_are_one_batch():
    model = Counted()
    guided(model, 3.0)(*asked())
    assert model.batches == [6]


def test_three_channels_reproduce_the_official_slip():
    x, t, y = asked()
    slip, plain = guided(Counted(), 3.0, channels=3)(x, t, y), Counted()(x, t, y)
    assert torch.equal(slip[:, :3], guided(Counted(), 3.0)(x, t, y)[:, :3])
    assert torch.equal(slip[:, 3:], plain[:, 3:])
    assert not torch.equal(slip[:, 2], plain[:, 2])
    with pytest.raises(ValueError, match="channels=5: the prediction has 4"):
        guided(Counted(), 3.0, channels=5)(x, t, y)


@pytest.mark.parametrize("t, passes", [(99, 3), (100, 6), (500, 6), (700, 6), (701, 3)])
def test_outside_its_interval_guidance_makes_one_pass(t, passes):
    model, (x, _, y) = Counted(), asked()
    times = torch.full((3,), float(t))
    out = guided(model, 3.0, interval=(100, 700))(x, times, y)
    assert model.batches == [passes]
    expected = Counted()(x, times, y) if passes == 3 else guided(Counted(), 3.0)(x, times, y)
    assert torch.equal(out, expected)


def test_each_image_has_its_own_time_in_the_interval():
    x, _, y = asked()
    times = torch.tensor([99.0, 500.0, 701.0])
    out = guided(Counted(), 3.0, interval=(100, 700))(x, times, y)
    assert torch.equal(out[1], guided(Counted(), 3.0)(x, times, y)[1])
    assert torch.equal(out[::2], Counted()(x, times, y)[::2])


def test_a_guided_network_samples(tiny_dit, awaken):
    model = awaken(tiny_dit())
    x, y = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])
    runs = [
        sample(ddim(guided(model, scale), Diffusion(linear(), "v"), x, y, steps=4))
        for scale in (1.0, 4.0)
    ]
    close(runs[0], sample(ddim(model, Diffusion(linear(), "v"), x, y, steps=4)))
    assert not torch.allclose(runs[0], runs[1])


class Named(torch.nn.Module):
    """A network as `Counted`, that can be wrapped."""

    null_label = 9

    def forward(self, x, t, y):
        return torch.sin(x * (y.reshape(-1, 1, 1, 1) + 1))


@pytest.mark.parametrize(
    "wrap", [torch.nn.DataParallel, lambda model: torch.compile(model, backend="eager")]
)
def test_a_wrapped_network_is_guided_like_the_network(wrap):
    close(guided(wrap(Named()), 2.0)(*asked()), guided(Named(), 2.0)(*asked()))


def test_a_function_that_tells_no_null_label_is_not_said_to_lack_dropout():
    with pytest.raises(TypeError, match="no attribute null_label: give the network itself"):
        guided(network, 2.0)


def test_many_images_pass_some_at_a_time(tiny_dit, awaken, monkeypatch):
    """Noise, states and order are those of all at once; only the network sees fewer."""
    model, sizes = awaken(tiny_dit()), []
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    y, process = torch.tensor([0, 1, 2, 0, 1]), Diffusion(straight(), "v")
    whole = list(generate(model, process, y, steps=2, guidance=1.0))
    monkeypatch.setattr(generation, "AT_ONCE", 2)
    parts = list(generate(model, process, y, steps=2, guidance=1.0))
    assert sizes == [5, 5, 2, 2, 1, 2, 2, 1]
    for one, other in zip(whole, parts, strict=True):
        close(one.x, other.x)
        close(one.x0, other.x0)


# --- what numbers are computed in -----------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("learn_sigma", [False, True])
def test_a_network_in_half_precision_samples(sampler, learn_sigma, tiny_dit, awaken):
    model = awaken(tiny_dit(learn_sigma=learn_sigma), std=0.05)
    diffusion = Diffusion(SCHEDULES["vp_sde"](), "v", learn_sigma=learn_sigma)
    x, y = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])

    def run():
        rng = torch.Generator().manual_seed(0)
        return sample(
            SAMPLERS[sampler](guided(model, 2.0), diffusion, x, y, steps=20, generator=rng)
        )

    whole, _ = run(), model.bfloat16()
    assert run().dtype == torch.float32
    close(run(), whole, atol=0.05, rtol=0.05)


@EVERY_SAMPLER
def test_double_precision_reaches_the_network(sampler):
    """Numbers of a process in continuous time are no whole ones."""
    told, schedule = [], SCHEDULES["vp_sde"]()

    def model(x, t, y):
        told.append(t[0].item())
        return x

    sample(sampler(model, Diffusion(schedule), start(dtype=torch.float64), steps=7))
    assert told == schedule.steps[select_steps(schedule, 7)].flip(0).tolist()


# --- no signal at the end -------------------------------------------------------------------------


@pytest.mark.parametrize("predict", ["x0", "v"])
@EVERY_SAMPLER
def test_a_schedule_may_end_with_no_signal(sampler, predict):
    """The linear one, shifted and scaled to α_T = 0 (arXiv 2305.08891, algorithm 1)."""
    alpha = linear().alpha
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    path = "variance_preserving"
    diffusion = Diffusion(Schedule(alpha, (1 - alpha**2).sqrt(), torch.arange(1000), path), predict)
    x = torch.randn(2000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    out = sample(sampler(exact_denoiser(diffusion), diffusion, x, steps=100))
    assert out.mean() == pytest.approx(MEAN, abs=0.02)
    assert out.std() == pytest.approx(STD, abs=0.02)
    with pytest.raises(ValueError, match="ends with no signal"):
        Diffusion(diffusion.schedule, "eps")
    for run in (
        lambda: dpm_adaptive(exact_denoiser(diffusion), diffusion, x),
        lambda: dpm_solver(exact_denoiser(diffusion), diffusion, x, spacing="logsnr"),
        lambda: sampler(exact_denoiser(diffusion), diffusion, x, steps="logsnr20"),
    ):
        with pytest.raises(ValueError, match="can't be walked from"):
            sample(run())


@EVERY_SAMPLER
def test_no_images_are_sampled_to_no_images(sampler):
    diffusion = Diffusion(linear())
    out = sample(sampler(lambda x, t, y: x, diffusion, torch.zeros(0, 1, 4, 4), steps=300))
    assert out.shape == (0, 1, 4, 4)
