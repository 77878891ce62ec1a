"""Checks of the bound's terms: right ones pass, and every hint is given for its mistake."""

import math

import students
import torch

from minidit import Diffusion, check, linear

# --- right, written in other ways than the package's ----------------------------------------------


def exact(x, mean, log_scale):
    """With the error function, and infinity for the ends of the tails."""
    ends = [torch.where(x.abs() > 0.999, x.sign() * math.inf, x + s) for s in (-1 / 255, 1 / 255)]
    low = torch.where(x > 0.999, x - 1 / 255, ends[0])
    high = torch.where(x < -0.999, x + 1 / 255, ends[1])
    normal = torch.distributions.Normal(mean, log_scale.exp())
    return (normal.cdf(high) - normal.cdf(low)).clamp(min=1e-12).log()


def point_by_point(m1, l1, m2, l2, x0, t):
    bits = []
    for k in range(len(t)):
        if t[k] == 0:
            nats = -exact(x0[k], m2[k], l2[k] / 2)
        else:
            true, mine = (
                torch.distributions.Normal(m[k], (log[k] / 2).exp())
                for m, log in ((m1, l1), (m2, l2))
            )
            nats = torch.distributions.kl_divergence(true, mine)
        bits.append(nats.mean() / math.log(2))
    return torch.stack(bits)


RIGHT = [("grey_probability", exact), ("variational_term", point_by_point)]


def test_the_term_is_that_of_the_package():
    torch.manual_seed(0)
    process = Diffusion(linear(100), learn_sigma=True)
    x0 = torch.randint(256, (3, 1, 2, 2)) / 127.5 - 1
    t, output = torch.tensor([0, 40, 7]), torch.randn(3, 2, 2, 2)
    x_t = process.q_sample(x0, t, torch.randn_like(x0))
    p = process.p_mean_variance(output, x_t, t)
    true_log_var = process.schedule.at("posterior_log_variance", t, x0).expand_as(x0)
    true_mean = process.q_posterior_mean(x0, x_t, t)
    flat = [z.flatten(1) for z in (true_mean, true_log_var, p.mean, p.log_variance, x0)]
    mine = check.variational_term.right(*flat, t)
    assert torch.allclose(mine, process.bound(output, x0, x_t, t), atol=1e-5)


# --- wrong, each with the words that its hint must hold -------------------------------------------


def normal(mean, log_scale):
    return torch.distributions.Normal(mean, log_scale.exp())


def interval(half):
    """The tails right, the interval wrong."""

    def fn(x, mean, log_scale):
        high, low = (normal(mean, log_scale).cdf(x + s) for s in (half, -half))
        high, low = high.where(x < 0.999, 1.0), low.where(x > -0.999, 0.0)
        return (high - low).clamp(min=1e-12).log()

    return fn


def no_tails(x, mean, log_scale):
    bell = normal(mean, log_scale)
    return (bell.cdf(x + 1 / 255) - bell.cdf(x - 1 / 255)).clamp(min=1e-12).log()


GREY_PROBABILITY = {
    "of a density": lambda x, mean, log_scale: normal(mean, log_scale).log_prob(x),
    "twice as wide": interval(2 / 255),
    "half as wide": interval(1 / 510),
    "own the tails": no_tails,
    "it is halved": lambda x, mean, log_scale: exact(x, mean, log_scale / 2),
    "take its logarithm": lambda x, mean, log_scale: exact(x, mean, log_scale).exp(),
}


test_right_ones_pass = students.right(RIGHT)
test_each_mistake_gets_its_hint, test_every_hint_has_its_student = students.wrong(
    {"grey_probability": GREY_PROBABILITY}
)
