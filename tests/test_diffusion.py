"""The process: its moments, its three predictions, and where its gradients go."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minidit import SCHEDULES, Diffusion, linear, straight
from minidit.diffusion import discretized_log_likelihood, normal_kl

EVERY_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES)
PREDICTIONS = ["eps", "x0", "v"]
close = torch.testing.assert_close

some_schedule = st.sampled_from(list(SCHEDULES)).map(lambda name: SCHEDULES[name]())
some_times = st.lists(st.integers(0, 999), min_size=2, max_size=2).map(torch.tensor)
some_seed = st.integers(0, 10_000)


def pair(seed=0, shape=(2, 3, 4, 4)):
    """An image and noise in float64, so that only the process's own rounding shows."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(2))


def as_prediction(kind, diffusion, x0, eps, t):
    return {"x0": x0, "eps": eps, "v": diffusion.velocity(x0, eps, t)}[kind]


@EVERY_SCHEDULE
@pytest.mark.parametrize("t", [0, 300, 999])
def test_q_sample_has_the_moments_of_equation_4(schedule, t):
    diffusion, n = Diffusion(SCHEDULES[schedule]()), 50_000
    x0 = torch.full((n, 1, 1, 1), 0.7)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    x_t = diffusion.q_sample(x0, torch.full((n,), t), noise).double()
    alpha, sigma = diffusion.schedule.alpha[t].item(), diffusion.schedule.sigma[t].item()
    assert x_t.mean().item() == pytest.approx(0.7 * alpha, abs=5 * sigma / n**0.5)
    assert x_t.std().item() == pytest.approx(sigma, rel=5 / (2 * n) ** 0.5)


def test_every_image_of_a_batch_has_a_time_of_its_own():
    diffusion = Diffusion(linear())
    x0, noise = pair()
    t = torch.tensor([3, 900])
    together = diffusion.q_sample(x0, t, noise)
    for i in range(2):
        own = slice(i, i + 1)
        close(together[own], diffusion.q_sample(x0[own], t[own], noise[own]))


@given(some_schedule, some_times, some_seed, st.sampled_from(PREDICTIONS))
def test_every_prediction_leads_back_to_image_and_noise(schedule, t, seed, predict):
    diffusion = Diffusion(schedule, predict)
    x0, noise = pair(seed)
    x_t = diffusion.q_sample(x0, t, noise)
    recovered = diffusion.to_x0(x_t, t, diffusion.target(x0, noise, t))
    close(recovered, x0, atol=1e-5, rtol=1e-5)
    close(diffusion.to_eps(x_t, t, x0), noise, atol=1e-5, rtol=1e-5)


def test_the_velocity_is_noise_minus_image_on_the_straight_line():
    x0, noise = pair()
    v = Diffusion(straight(), "v").velocity(x0, noise, torch.tensor([10, 800]))
    close(v, noise - x0)


def test_the_velocity_is_that_of_progressive_distillation_on_the_circle():
    x0, noise = pair()
    diffusion, t = Diffusion(linear(), "v"), torch.tensor([10, 800])
    alpha, sigma = (table[t].reshape(2, 1, 1, 1) for table in (linear().alpha, linear().sigma))
    close(diffusion.velocity(x0, noise, t), alpha * noise - sigma * x0, atol=1e-6, rtol=1e-6)


@EVERY_SCHEDULE
@pytest.mark.parametrize("weight", PREDICTIONS)
def test_one_error_weighs_the_same_however_it_was_predicted(schedule, weight):
    schedule, t = SCHEDULES[schedule](), torch.tensor([100, 700])
    x0, noise = pair()
    x_t = Diffusion(schedule).q_sample(x0, t, noise)
    eps = noise + 0.3 * torch.randn_like(noise)  # what a network might have said
    losses = []
    for predict in PREDICTIONS:
        diffusion = Diffusion(schedule, predict, weight=weight)
        its_x0 = Diffusion(schedule, "eps").to_x0(x_t, t, eps)
        prediction = as_prediction(predict, diffusion, its_x0, eps, t)
        losses.append(diffusion.squared_error(prediction, x0, noise, t))
    close(losses[0], losses[1], rtol=1e-4, atol=0)
    close(losses[0], losses[2], rtol=1e-4, atol=0)
    own = Diffusion(schedule, weight)
    its = as_prediction(weight, own, Diffusion(schedule, "eps").to_x0(x_t, t, eps), eps, t)
    plain = (its - own.target(x0, noise, t)).square().mean(dim=(1, 2, 3))
    close(losses[PREDICTIONS.index(weight)], plain)


def test_a_weight_has_a_ceiling_if_asked():
    x0, noise = pair()
    t = torch.tensor([0, 500])
    prediction = noise + 1  # squared error 1
    free = Diffusion(linear(), "eps", weight="x0").squared_error(prediction, x0, noise, t)
    capped = Diffusion(linear(), "eps", weight="x0", max_weight=0.5).squared_error(
        prediction, x0, noise, t
    )
    close(free, ((1 - linear().alphas_cumprod) / linear().alphas_cumprod)[t], rtol=1e-4, atol=0)
    close(capped, free.clamp(max=0.5))


@EVERY_SCHEDULE
def test_the_posterior_mean_of_the_truth_is_where_the_true_chain_was(schedule):
    """With the true x_0 and no noise in between, x_s = μ lies at the posterior's mean."""
    diffusion = Diffusion(SCHEDULES[schedule](), "x0")
    x0, noise = pair()
    t = torch.tensor([1, 600])
    x_t = diffusion.q_sample(x0, t, noise)
    p = diffusion.p_mean_variance(x0, x_t, t)
    s = diffusion.schedule
    for i in range(2):
        mean = s.posterior_mean_x0[t[i]] * x0[i] + s.posterior_mean_xt[t[i]] * x_t[i]
        close(p.mean[i], mean, atol=1e-6, rtol=1e-6)
    assert torch.equal(p.x0, x0)


def test_clipping_keeps_the_foreseen_image_in_range():
    diffusion, x_t = Diffusion(linear()), 3 * torch.randn(2, 1, 4, 4)
    t, output = torch.tensor([900, 900]), torch.randn(2, 1, 4, 4)
    assert diffusion.p_mean_variance(output, x_t, t).x0.abs().max() > 1
    clipped = diffusion.p_mean_variance(output, x_t, t, clip=True)
    assert clipped.x0.abs().max() == 1
    close(clipped.mean, diffusion.q_posterior_mean(clipped.x0, x_t, t))


@pytest.mark.parametrize("variance", ["large", "small"])
def test_fixed_variances(variance):
    diffusion, x = Diffusion(linear(), variance=variance), torch.zeros(3, 1, 2, 2)
    t = torch.tensor([1, 500, 999])
    p = diffusion.p_mean_variance(x, x, t)
    table = linear().betas if variance == "large" else linear().posterior_variance
    close(p.variance[:, 0, 0, 0], table[t].float())
    close(p.log_variance.exp(), p.variance)


def test_a_learned_variance_lies_between_the_two_bounds():
    diffusion = Diffusion(linear(), learn_sigma=True)
    x, t = torch.zeros(3, 1, 1, 1), torch.tensor([1, 500, 999])
    low, high = linear().posterior_variance[t].float(), linear().betas[t].float()
    for fraction, expected in ((-1.0, low), (1.0, high), (0.0, (low * high).sqrt())):
        output = torch.cat([x, torch.full_like(x, fraction)], dim=1)
        p = diffusion.p_mean_variance(output, x, t)
        close(p.variance.flatten(), expected, rtol=1e-5, atol=0)


def answers(output):
    """A network that says the same, whatever it is asked."""
    return lambda x, t, y: output


def test_the_bound_sends_no_gradient_to_the_prediction():
    diffusion = Diffusion(linear(), learn_sigma=True)
    x0, noise = (z.float() for z in pair())
    t = torch.tensor([0, 500])  # the likelihood of pixels, and a divergence
    output = torch.randn(2, 6, 4, 4, requires_grad=True)
    diffusion.loss(answers(output), x0, t, noise).sum().backward()
    simple = torch.autograd.grad(
        diffusion.squared_error(output[:, :3], x0, noise, t).sum(), output
    )[0]
    close(output.grad[:, :3], simple[:, :3])
    assert (output.grad[:, 3:].flatten(1).abs().sum(dim=1) > 0).all()


def test_the_hybrid_loss_is_the_squared_error_and_the_bound():
    diffusion = Diffusion(linear(), learn_sigma=True)
    x0, noise = (z.float() for z in pair())
    t, output = torch.tensor([0, 500]), torch.randn(2, 6, 4, 4)
    x_t = diffusion.q_sample(x0, t, noise)
    parts = diffusion.squared_error(output[:, :3], x0, noise, t) + diffusion.bound(
        output, x0, x_t, t
    )
    close(diffusion.loss(answers(output), x0, t, noise), parts)


def test_the_loss_of_a_network_that_knows_is_zero():
    x0, noise = pair()
    t = torch.tensor([3, 800])
    for predict in PREDICTIONS:
        diffusion = Diffusion(linear(), predict)
        truth = diffusion.target(x0, noise, t)
        assert diffusion.loss(answers(truth), x0, t, noise).tolist() == [0, 0]


def test_the_network_is_given_the_schedules_own_numbers():
    asked = []

    def model(x, t, y):
        asked.append(t.tolist())
        return x

    x0, noise = pair()
    Diffusion(linear()).respace([0, 250, 999]).loss(model, x0, torch.tensor([2, 1]), noise)
    assert asked == [[999, 250]]


def test_the_bound_is_zero_only_for_the_true_posterior():
    diffusion = Diffusion(linear(), learn_sigma=True)
    x0, noise = pair()
    t = torch.tensor([2, 20])  # later, the two ends of the variance are nearly one
    x_t = diffusion.q_sample(x0, t, noise)
    truth = torch.cat([noise, -torch.ones_like(noise)], dim=1)  # the mean, and the small variance
    close(
        diffusion.bound(truth, x0, x_t, t), torch.zeros(2, dtype=torch.float64), atol=1e-5, rtol=0
    )
    for part in (slice(0, 3), slice(3, 6)):
        wrong = truth.clone()
        wrong[:, part] += 0.5
        assert (diffusion.bound(wrong, x0, x_t, t) > 1e-4).all()


def test_gradient_of_the_bound():
    diffusion = Diffusion(linear(), learn_sigma=True)
    x0, noise = pair(shape=(2, 1, 2, 2))
    t = torch.tensor([0, 400])
    x_t = diffusion.q_sample(x0, t, noise)
    output = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda o: diffusion.bound(o, x0, x_t, t), output)


def test_kl_of_normals_is_the_textbooks():
    inputs = [torch.randn(5, dtype=torch.float64) for _ in range(4)]
    m1, l1, m2, l2 = inputs
    p, q = (torch.distributions.Normal(m, (0.5 * v).exp()) for m, v in ((m1, l1), (m2, l2)))
    close(normal_kl(m1, l1, m2, l2), torch.distributions.kl_divergence(p, q))


@pytest.mark.parametrize("scale", [0.002, 0.05, 0.5])
def test_pixel_likelihoods_add_up_to_one(scale):
    pixels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean in (-1.0, 0.1, 0.9):
        log_scale = torch.tensor(math.log(scale), dtype=torch.float64)
        log_p = discretized_log_likelihood(pixels, torch.tensor(mean), log_scale)
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-6)


@given(
    st.sampled_from(list(SCHEDULES)),
    st.sampled_from(PREDICTIONS),
    st.sampled_from(PREDICTIONS),
    st.booleans(),
    st.sampled_from(["large", "small"]),
    st.sampled_from([5.0, math.inf]),
)
def test_a_process_is_built_again_from_its_config(name, predict, weight, sigma, variance, ceiling):
    diffusion = Diffusion(
        SCHEDULES[name](100),
        predict,
        weight=weight,
        max_weight=ceiling,
        learn_sigma=sigma,
        variance=variance,
    )
    again = Diffusion.from_config(diffusion.config)
    assert again.config == diffusion.config and len(again) == 100
    assert torch.equal(again.schedule.alpha, diffusion.schedule.alpha)
    assert diffusion.respace([0, 50]).config == diffusion.config | {"schedule": "custom", "T": 2}
