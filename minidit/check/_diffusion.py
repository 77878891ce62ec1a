"""Checks of a student's own diffusion and conditioning, offered by `check` with all the others."""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit import blocks
from minidit.check import _mistakes_blocks, _mistakes_diffusion
from minidit.check._verdict import Verdict, judge
from minidit.diffusion import Diffusion
from minidit.diffusion import normal_kl as package_kl
from minidit.schedule import Schedule, linear

# --- diffusion, on points of the plane ------------------------------------------------------------


def _process(betas: Tensor) -> Diffusion:
    alpha = (1 - betas.double()).cumprod(dim=0).sqrt()
    sigma = (1 - alpha**2).sqrt()
    return Diffusion(Schedule(alpha, sigma, torch.arange(len(betas)), "variance_preserving"))


def q_sample(fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(x0, t, noise, alphas_cumprod)`: (b, d), (b,), (b, d), (T,) → x_t, (b, d)."""

    def reference(x0: Tensor, t: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
        return _process(linear(100).betas).q_sample(x0, t, noise)

    table = linear(100).alphas_cumprod.float()
    cases = {
        "three points at three steps": (_points(3), torch.tensor([7, 0, 99]), _noise(3), table),
        "two points of the plane": (_points(2), torch.tensor([60, 20]), _noise(2), table),
    }
    return judge("q_sample", fn, reference, cases, _mistakes_diffusion.Q_SAMPLE, tolerance=1e-5)


def posterior_mean(fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(x0, x_t, t, betas)`: (b, d), (b, d), (b,), (T,) → the mean of x_{t-1}, (b, d)."""

    def reference(x0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor) -> Tensor:
        return _process(betas).q_posterior_mean(x0, x_t, t)

    betas = linear(100).betas.float()
    cases = {
        "three points in the middle": (_points(3), _noise(3), torch.tensor([30, 50, 80]), betas),
        "the last two steps": (_points(2), _noise(2), torch.tensor([2, 1]), betas),
        "t = 0": (_points(1), _noise(1), torch.tensor([0]), betas),
    }
    wrong = _mistakes_diffusion.POSTERIOR_MEAN
    return judge("posterior_mean", fn, reference, cases, wrong, tolerance=1e-4)


def x0_from_v(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(x_t, v, u)`: (b, d), (b, d), (b,) → x_0 on the straight line, (b, d)."""
    cases = {
        "three points": (_points(3), _noise(3), torch.tensor([0.25, 0.5, 0.875])),
        "two points of the plane": (_points(2), _noise(2), torch.tensor([0.125, 0.75])),
    }
    right, wrong = _mistakes_diffusion.x0_on_the_line, _mistakes_diffusion.X0_FROM_V
    return judge("x0_from_v", fn, right, cases, wrong, tolerance=1e-5)


def _points(n: int) -> Tensor:
    return torch.tensor([[1.5, -0.5], [0.25, 2.0], [-1.0, 0.75]])[:n]


def _noise(n: int) -> Tensor:
    return torch.tensor([[0.5, -1.25], [2.0, 0.75], [-0.5, 1.0]])[:n]


# --- training -------------------------------------------------------------------------------------


def ema_update(fn: Callable[[Tensor, Tensor, float, int], Tensor]) -> Verdict:
    """Check `fn(average, weights, decay, step)`: both (b, d), steps from 0 → (b, d)."""
    average, weights = _points(3), _noise(3)
    cases = {
        "the first step": (average, weights, 0.9999, 0),
        "a step of the ramp": (average, weights, 0.9999, 40),
        "a step after it": (average, weights, 0.9, 1000),
    }
    right, wrong = _mistakes_diffusion.ema_update, _mistakes_diffusion.EMA_UPDATE
    return judge("ema_update", fn, right, cases, wrong, tolerance=1e-5)


def learned_log_variance(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(fraction, t, betas)`: (b, d) in [-1, 1], (b,), (T,) → log Σ, (b, d)."""

    def reference(fraction: Tensor, t: Tensor, betas: Tensor) -> Tensor:
        return _process(betas).variances(fraction, t, fraction)[1]

    betas, fraction = linear(100).betas.float(), torch.tensor([[-1.0, 0.5], [1.0, -0.25]])
    cases = {
        "steps 3 and 50": (fraction, torch.tensor([3, 50]), betas),
        "step 1": (fraction, torch.tensor([1, 1]), betas),
        "t = 0, where log β̃ is that of t = 1": (0.5 * fraction, torch.tensor([0, 0]), betas),
    }
    wrong = _mistakes_diffusion.LEARNED_LOG_VARIANCE
    return judge("learned_log_variance", fn, reference, cases, wrong, tolerance=1e-3)


def normal_kl(fn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(mean1, log_var1, mean2, log_var2)`, all (b, d): the divergence in nats, (b, d)."""
    means, logs = (_points(3), _noise(3)), (_noise(3).flip(0), _points(3).flip(0))
    zero = torch.zeros(3, 2)
    cases = {
        "three pairs of normals": (means[0], logs[0], means[1], logs[1]),
        "equal variances": (means[0], logs[0], means[1], logs[0]),
        "equal normals": (means[0], logs[0], means[0], logs[0]),
        "distance from the standard normal": (means[0], logs[0], zero, zero),
    }
    return judge("normal_kl", fn, package_kl, cases, _mistakes_diffusion.NORMAL_KL, tolerance=1e-4)


# --- conditioning ---------------------------------------------------------------------------------

_VECTORS = torch.tensor([[0.5, -1.0, 0.25, 2.0], [-0.5, 0.75, 1.5, 1.0], [0.0, 1.0, -2.0, 0.5]])
_TOKENS = torch.stack([_VECTORS.roll(k, 1) * (k + 1) for k in range(3)])  # (3, 3, 4)


def modulate(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(x, shift, scale)`: (b, n, d), (b, d), (b, d) → (b, n, d)."""
    shift, scale = _VECTORS, _VECTORS.flip(1)
    cases = {
        "two images of three tokens": (_TOKENS[:2], shift[:2], scale[:2]),
        "as many images as tokens": (_TOKENS, shift, scale),
        "shift and scale zero": (_TOKENS, 0 * shift, 0 * scale),
    }
    wrong = _mistakes_blocks.MODULATE
    return judge("modulate", fn, blocks.modulate, cases, wrong, tolerance=1e-5)


def adaln_zero_step(fn: Callable[..., Tensor]) -> Verdict:
    """Check `fn(x, branch, shift, scale, gate)`, half a block: (b, n, d), …, (b, d) → (b, n, d)."""

    def branch(x: Tensor) -> Tensor:  # mixes tokens, as attention does
        return x.cumsum(dim=1).sin() + 0.5 * x

    shift, scale, gate = _VECTORS, _VECTORS.flip(1), _VECTORS.roll(1, 1)
    cases = {
        "two images of three tokens": (_TOKENS[:2], branch, shift[:2], scale[:2], gate[:2]),
        "as many images as tokens": (_TOKENS, branch, shift, scale, gate),
        "a gate of zero": (_TOKENS, branch, shift, scale, 0 * gate),
    }
    right, wrong = _mistakes_blocks.half_block, _mistakes_blocks.HALF_BLOCK
    return judge("adaln_zero_step", fn, right, cases, wrong, tolerance=1e-4)


def block_parameters(fn: Callable[[str, int], int]) -> Verdict:
    """Check `fn(block, d)`: the number of parameters of a block of width d, with mlp_ratio 4."""

    def count(block: str, d: int) -> Tensor:
        return torch.tensor([sum(p.numel() for p in blocks.BLOCKS[block](d, 1).parameters())])

    def student(block: str, d: int) -> Tensor:
        return torch.tensor([fn(block, d)])

    cases = {f'"{block}" and d = {d}': (block, d) for d in (8, 12) for block in blocks.BLOCKS}
    wrong = {
        hint: lambda block, d, mistake=mistake: torch.tensor([mistake(block, d)])
        for hint, mistake in _mistakes_blocks.BLOCK_PARAMETERS.items()
    }
    return judge("block_parameters", student, count, cases, wrong)
