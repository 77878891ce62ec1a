"""Checks of diffusion and conditioning: right ones pass, and every hint is given for its mistake.

As in test_check.py, the students' versions are written out as a student would.
"""

import students
import torch
from torch import nn
from torch.nn import functional as F

from minidit import Diffusion, check, linear
from minidit import modulate as package_modulate

# --- right, written in other ways than the package's ----------------------------------------------


def jump(x0, t, noise, ab):
    rows = [ab[k] ** 0.5 * x + (1 - ab[k]) ** 0.5 * e for x, k, e in zip(x0, t, noise)]
    return torch.stack(rows)


def bayes(x0, x_t, t, betas):
    """Precisions add: one from the step before, one from x_t."""
    rows = []
    for x, now, k in zip(x0, x_t, t):
        before = (1 - betas[:k]).prod()
        if k == 0:
            rows.append(x)
            continue
        from_x0, from_xt = 1 / (1 - before), (1 - betas[k]) / betas[k]
        pull = from_x0 * before.sqrt() * x + from_xt * now / (1 - betas[k]).sqrt()
        rows.append(pull / (from_x0 + from_xt))
    return torch.stack(rows)


def back_on_the_line(x_t, v, u):
    eps = x_t + (1 - u[:, None]) * v
    return eps - v


def token_by_token(x, shift, scale):
    tokens = [(1 + scale) * x[:, i] + shift for i in range(x.shape[1])]
    return torch.stack(tokens, dim=1)


def normalise(x):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / (x.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()


def step(x, branch, shift, scale, gate):
    return torch.addcmul(x, gate.unsqueeze(1), branch(token_by_token(normalise(x), shift, scale)))


def parameters(block, d):
    count = 3 * d * d + 3 * d + d * d + d + 4 * d * d + 4 * d + 4 * d * d + d
    if block == "in_context":
        return count + 2 * 2 * d
    if block == "cross_attention":
        return count + 4 * (d * d + d) + 3 * 2 * d
    return count + {"adaln": 4, "adaln_zero": 6}[block] * (d * d + d)


def averaged(average, weights, decay, step):
    return average.lerp(weights, 1 - min(decay, (step + 1) / (step + 10)))


def log_variance(fraction, t, betas):
    alpha_bar = torch.cumprod(1 - betas, 0)
    k = t.clamp(min=1)
    small = betas[k] * (1 - alpha_bar[k - 1]) / (1 - alpha_bar[k])
    return torch.lerp(small.log()[:, None], betas[t].log()[:, None], (fraction + 1) / 2)


def divergence(m1, l1, m2, l2):
    normal = torch.distributions.Normal
    first, second = normal(m1, (l1 / 2).exp()), normal(m2, (l2 / 2).exp())
    return torch.distributions.kl_divergence(first, second)


RIGHT = [
    ("q_sample", jump),
    ("posterior_mean", bayes),
    ("x0_from_v", back_on_the_line),
    ("modulate", token_by_token),
    ("modulate", package_modulate),
    ("adaln_zero_step", step),
    ("block_parameters", parameters),
    ("ema_update", averaged),
    ("learned_log_variance", log_variance),
    ("normal_kl", divergence),
]


def test_what_is_checked_is_what_the_package_does():
    process = Diffusion(linear(100), learn_sigma=True)
    betas, t = linear(100).betas.float(), torch.tensor([0, 1, 50])
    x0, x_t, fraction = torch.randn(3, 3, 2).unbind()
    mean = check.posterior_mean.right(x0, x_t, t, betas)
    assert torch.allclose(mean, process.q_posterior_mean(x0, x_t, t), atol=1e-4)
    mine = check.learned_log_variance.right(fraction.tanh(), t, betas)
    assert torch.allclose(mine, process.variances(x0, t, fraction.tanh())[1], atol=1e-3)


# --- wrong, each with the words that its hint must hold -------------------------------------------


def column(ab, t):
    return ab[t].unsqueeze(1)


def posterior(x0, x_t, t, betas, prev=None, swap=False):
    ab = torch.cumprod(1 - betas, 0)
    prev = F.pad(ab, (1, 0), value=1.0)[:-1] if prev is None else prev(ab)
    a = (prev.sqrt() * betas / (1 - ab))[t].unsqueeze(1)
    b = ((1 - betas).sqrt() * (1 - prev) / (1 - ab))[t].unsqueeze(1)
    return b * x0 + a * x_t if swap else a * x0 + b * x_t


def no_roots(x0, x_t, t, betas):
    ab = torch.cumprod(1 - betas, 0)
    prev = F.pad(ab, (1, 0), value=1.0)[:-1]
    a, b = prev * betas / (1 - ab), (1 - betas) * (1 - prev) / (1 - ab)
    return column(a, t) * x0 + column(b, t) * x_t


def no_product(x0, x_t, t, betas):
    alpha = 1 - betas
    prev = F.pad(alpha, (1, 0), value=1.0)[:-1]
    a, b = prev.sqrt() * betas / (1 - alpha), alpha.sqrt() * (1 - prev) / (1 - alpha)
    return column(a, t) * x0 + column(b, t) * x_t


def undivided(x0, x_t, t, betas):
    ab = torch.cumprod(1 - betas, 0)
    prev = F.pad(ab, (1, 0), value=1.0)[:-1]
    return column(prev.sqrt() * betas, t) * x0 + column((1 - betas).sqrt() * (1 - prev), t) * x_t


POSTERIOR_MEAN = {
    "are exchanged": lambda *a: posterior(*a, swap=True),
    "the roots are missing": no_roots,
    "ᾱ_t stands where": lambda *a: posterior(*a, prev=lambda ab: ab),
    "read at -1": lambda *a: posterior(*a, prev=lambda ab: ab.roll(1)),
    "is taken for ᾱ_t": no_product,
    "the division by": undivided,
}


def branch_input(x, shift, scale):
    return token_by_token(normalise(x), shift, scale)


def with_layers(block, d, bias=True, affine=True):
    layers = [nn.Linear(d, 3 * d, bias), nn.Linear(d, d, bias)]
    layers += [nn.Linear(d, 4 * d, bias), nn.Linear(4 * d, d, bias)]
    if block == "cross_attention":
        layers += [nn.Linear(d, d, bias), nn.Linear(d, 2 * d, bias), nn.Linear(d, d, bias)]
    if "adaln" in block:
        layers.append(nn.Linear(d, (6 if "zero" in block else 4) * d, bias))
    if affine:
        layers += [nn.LayerNorm(d) for _ in range(3 if block == "cross_attention" else 2)]
    return sum(p.numel() for layer in layers for p in layer.parameters())


BLOCK_PARAMETERS = {
    "the biases, and": lambda block, d: with_layers(block, d, bias=False, affine=False),
    "without adaLN": lambda block, d: with_layers(block, d, affine=False),
    "with adaLN": with_layers,
}


def interpolated(fraction, t, betas):
    low = log_variance(-torch.ones_like(fraction), t, betas).exp()
    return torch.lerp(low, betas[t][:, None], (fraction + 1) / 2).log()


def log_of_zero(fraction, t, betas):
    return log_variance(fraction, t, betas).masked_fill((t == 0)[:, None], -torch.inf)


def no_division(fraction, t, betas):
    small = betas[t] * (1 - torch.cumprod(1 - betas, 0)[t])
    return torch.lerp(small.log()[:, None], betas[t].log()[:, None], (fraction + 1) / 2)


LEARNED_LOG_VARIANCE = {
    "the number itself": lambda f, t, betas: log_variance(2 * f - 1, t, betas),
    "the ends are exchanged": lambda f, t, betas: log_variance(-f, t, betas),
    "the variances are interpolated": interpolated,
    "the logarithm of 0": log_of_zero,
    "β̃ is not": no_division,
}

WRONG = {
    "learned_log_variance": LEARNED_LOG_VARIANCE,
    "posterior_mean": POSTERIOR_MEAN,
    "block_parameters": BLOCK_PARAMETERS,
}

test_right_ones_pass = students.right(RIGHT)
test_each_mistake_gets_its_hint, test_every_hint_has_its_student = students.wrong(WRONG)


def test_a_wrong_number_is_shown_beside_the_right_one():
    verdict = check.block_parameters(lambda block, d: parameters(block, d) + 1)
    assert "it gives 873 instead of 872" in repr(verdict), verdict
    assert "likeliest" not in repr(verdict)
