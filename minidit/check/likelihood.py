"""Terms of the variational bound: is your version right, and if not, which of these is it?"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check.diffusion import best_fraction, learned_log_variance, posterior_mean, q_sample
from minidit.check.verdict import NOISE, POINTS, Fault, against
from minidit.diffusion import discretized_log_likelihood, normal_cdf, normal_kl
from minidit.schedule import linear

_OFF = torch.tensor([[0.01, -0.02, 0.03], [0.0, 0.02, -0.01]])
_PIXELS = torch.tensor([[0, 100, 128], [130, 200, 255]]) / 127.5 - 1


def _interval(x: Tensor, mean: Tensor, log_scale: Tensor, half: float, edge: float) -> Tensor:
    """log P of x ± half, where values beyond ± edge own the tails; all (b, d)."""
    upper, lower = (normal_cdf((x - mean + side) / log_scale.exp()) for side in (half, -half))
    return (upper.where(x < edge, 1.0) - lower.where(x > -edge, 0.0)).clamp(min=1e-12).log()


@against(
    {
        "greys, a narrow normal": (_PIXELS, _PIXELS + _OFF, torch.full((2, 3), -4.0)),
        "greys, a wide normal": (_PIXELS, _PIXELS + 5 * _OFF, torch.full((2, 3), -1.5)),
        "black and white": (_PIXELS.sign(), 0.9 * _PIXELS.sign(), torch.full((2, 3), -2.0)),
    },
    "that is the logarithm of a density, which may exceed 0; a grey value owns an interval",
    lambda x, mean, log_scale: torch.distributions.Normal(mean, log_scale.exp()).log_prob(x),
    "the interval is twice as wide: 256 values from -1 to 1 lie 2/255 apart, so it is x ± 1/255",
    lambda x, mean, log_scale: _interval(x, mean, log_scale, half=2 / 255, edge=0.999),
    "the interval is half as wide: 256 values from -1 to 1 lie 2/255 apart, so it is x ± 1/255",
    lambda x, mean, log_scale: _interval(x, mean, log_scale, half=1 / 510, edge=0.999),
    "the values -1 and 1 own the tails: nothing is darker than black, and that counts as black",
    lambda x, mean, log_scale: _interval(x, mean, log_scale, half=1 / 255, edge=math.inf),
    "log_scale is that of the standard deviation; it is halved as if it were of a variance",
    lambda x, mean, log_scale: discretized_log_likelihood(x, mean, log_scale / 2),
    "that is the probability; take its logarithm",
    lambda x, mean, log_scale: discretized_log_likelihood(x, mean, log_scale).exp(),
    tolerance=0.02,
)
def grey_probability(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P in nats of 8-bit pixels x in [-1, 1]; all (b, d).

    The normal's distribution function may be exact, or the papers' tanh approximation.
    """
    return discretized_log_likelihood(x, mean, log_scale)


def _nll(mean: Tensor, log_var: Tensor, x0: Tensor) -> Tensor:
    return -discretized_log_likelihood(x0, mean, log_var / 2)


def _bits(at_zero: Tensor, after: Tensor, t: Tensor) -> Tensor:
    """Bits per dimension (b,) from the nats (b, d) at t = 0 and at other t."""
    return torch.where(t[:, None] == 0, at_zero, after).mean(dim=1) / math.log(2)


_GREYS = torch.tensor([[0, 100], [130, 200], [90, 255]]) / 127.5 - 1
_MEAN = _GREYS + torch.tensor([[0.02, -0.01], [0.0, 0.03], [-0.02, 0.01]])
_TRUE = (_GREYS + 0.05, torch.tensor([[-5.0, -4.0], [-6.0, -5.5], [-4.5, -5.0]]))


@against(
    {
        "three points, one at t = 0": (
            *_TRUE,
            _MEAN,
            _TRUE[1] + 1,
            _GREYS,
            torch.tensor([5, 0, 1]),
        ),
        "none at t = 0": (*_TRUE, _MEAN, _TRUE[1] - 0.5, _GREYS, torch.tensor([1, 80, 3])),
        "all at t = 0": (*_TRUE, _MEAN, _TRUE[1], _GREYS, torch.tensor([0, 0, 0])),
    },
    "these are nats; divide by ln 2 for bits",
    lambda *terms: variational_term.right(*terms) * math.log(2),
    "the numbers of a point are summed; bits per dimension are their mean",
    lambda *terms: variational_term.right(*terms) * terms[0].shape[1],
    "it is the divergence the other way round: of the true posterior from the network's",
    lambda m1, l1, m2, l2, x0, t: _bits(_nll(m2, l2, x0), normal_kl(m2, l2, m1, l1), t),
    "at t = 0 there is a divergence, too; there it is the likelihood of x0 that counts",
    lambda m1, l1, m2, l2, x0, t: variational_term.right(m1, l1, m2, l2, x0, t + 1),
    "the likelihood is taken at every t; for t > 0 it is the divergence",
    lambda m1, l1, m2, l2, x0, t: variational_term.right(m1, l1, m2, l2, x0, 0 * t),
    "at t = 0 the sign is missing: minus the logarithm of the probability",
    lambda m1, l1, m2, l2, x0, t: _bits(-_nll(m2, l2, x0), normal_kl(m1, l1, m2, l2), t),
    "at t = 0 the log-variance is taken for that of the standard deviation; halve it",
    lambda m1, l1, m2, l2, x0, t: _bits(_nll(m2, 2 * l2, x0), normal_kl(m1, l1, m2, l2), t),
    tolerance=0.02,
)
def variational_term(
    true_mean: Tensor, true_log_var: Tensor, mean: Tensor, log_var: Tensor, x0: Tensor, t: Tensor
) -> Tensor:
    """The bound's term in bits per dimension; five times (b, d), (b,) → (b,).

    For t > 0 the divergence of the true posterior from the network's normal, at t = 0 minus log P
    of the 8-bit values x0 under the network's.
    """
    after = normal_kl(true_mean, true_log_var, mean, log_var)
    return _bits(_nll(mean, log_var, x0), after, t)


def _with_gradient(loss_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Every point's loss and the gradient of its output, (b, 1 + 2d)."""

    def run(output: Tensor, *rest: object) -> Tensor:
        leaf = output.clone().requires_grad_()
        loss = loss_of(leaf, *rest)
        if not isinstance(loss, Tensor) or loss.shape != output.shape[:1]:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise Fault(
                f"gives a loss of {shape}; one number for each point, {len(output)}, is due"
            )
        (gradient,) = torch.autograd.grad(loss.sum() + 0 * leaf.sum(), leaf)
        return torch.cat([loss.detach()[:, None], gradient], dim=1)

    return run


def _terms(eps: Tensor, o: Tensor, x0: Tensor, noise: Tensor, t: Tensor, betas: Tensor) -> tuple:
    """What `variational_term` takes, of a network's output eps, o."""
    bar = (1 - betas).cumprod(dim=0)
    x_t = q_sample.right(x0, t, noise, bar)
    guess = (x_t - (1 - bar[t, None]).sqrt() * eps) / bar[t, None].sqrt()
    true, mean = (posterior_mean.right(x, x_t, t, betas) for x in (x0, guess))
    smallest = learned_log_variance.right(-torch.ones_like(o), t, betas)
    return true, smallest, mean, learned_log_variance.right(o, t, betas), x0, t


def _in_the_variance(eps: Tensor, o: Tensor, t: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """The o by which Σ is interpolated as it is."""
    low, high = (learned_log_variance.right(o * 0 + end, t, betas).exp() for end in (-1, 1))
    return eps.detach(), best_fraction.right((o + 1) / 2 * (high - low), t, betas)


_BETAS = linear(100).betas.float()
_OUTPUT = torch.cat([NOISE + 0.3 * POINTS.flip(0), POINTS.sin()], dim=1)


@against(
    {
        "steps 3, 20 and 80": (_OUTPUT, POINTS, NOISE, torch.tensor([3, 20, 80]), _BETAS, 1.0),
        "scale 5": (_OUTPUT, POINTS, NOISE, torch.tensor([2, 5, 50]), _BETAS, 5.0),
    },
    "the prediction isn't detached before it enters the bound, so that both losses teach it",
    {"halves": lambda eps, o, *_: (eps, o)},
    "the variance is detached, not the prediction: Σ learns nothing",
    {"halves": lambda eps, o, *_: (eps, o.detach())},
    "both halves are detached: Σ learns nothing",
    {"halves": lambda eps, o, *_: (eps.detach(), o.detach())},
    "the share is o itself; o runs from -1 to 1, and v = (o + 1)/2",
    {"halves": lambda eps, o, *_: (eps.detach(), 2 * o - 1)},
    "the ends are exchanged: v = 0 is the small variance",
    {"halves": lambda eps, o, *_: (eps.detach(), -o)},
    "Σ is interpolated as it is; it lies between the ends in the logarithm",
    {"halves": _in_the_variance},
    "it is the divergence the other way round: of the network's normal from the true one",
    {"bits": lambda m1, l1, m2, l2, *rest: variational_term.right(m2, l2, m1, l1, *rest)},
    "the bound's term is in nats; divide it by ln 2 for bits",
    {"bits": lambda *terms: variational_term.right(*terms) * math.log(2)},
    "the bound's term is summed over the numbers of a point; it is their mean",
    {"bits": lambda *terms: variational_term.right(*terms) * terms[0].shape[1]},
    "`scale` is left out",
    lambda *inputs: hybrid_loss.right(*inputs[:-1], 1.0),
    "the likelihood of pixels is for t = 0; here it is the divergence",
    {"bits": lambda *terms: variational_term.right(*terms[:-1], 0 * terms[-1])},
    "L_simple, the squared error of the noise, is missing",
    {"simple": 0.0},
    tolerance=1e-3,
    seen=_with_gradient,
)
def hybrid_loss(
    output: Tensor,
    x0: Tensor,
    noise: Tensor,
    t: Tensor,
    betas: Tensor,
    scale: float,
    *,
    halves: Callable[..., tuple] = lambda eps, o, t, betas: (eps.detach(), o),
    bits: Callable[..., Tensor] = variational_term.right,
    simple: float = 1.0,
) -> Tensor:
    """L_simple + scale · L_t in bits; (b, 2d), (b, d), (b, d), (b,), (T,), a factor → (b,).

    `output`: the noise predicted and the numbers of the variance; t > 0. Each case shows, for each
    point, its loss and then the gradient of `output`.
    """
    eps, o = output.chunk(2, dim=1)
    bound = bits(*_terms(*halves(eps, o, t, betas), x0, noise, t, betas))
    return simple * (eps - noise).square().mean(dim=1) + scale * bound
