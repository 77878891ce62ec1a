"""Checks of a student's own attention and blocks, offered by `check` with all the others."""

from collections.abc import Callable

import torch
from torch import Tensor

from minidit.check import _mistakes_attention as mistakes
from minidit.check._verdict import Verdict, judge


def _waves(*shape: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + torch.Size(shape).numel()).reshape(shape).float().sin()


def _mix(x: Tensor) -> Tensor:
    """What stands for a block or a branch: (b, n, d), in which tokens see each other."""
    return x.cumsum(dim=1).sin() + 0.5 * x - x.mean(dim=1, keepdim=True)


def _answers(x: Tensor, cond: Tensor) -> Tensor:
    """What stands for cross-attention: (b, n, d), (b, m, d) → (b, n, d)."""
    return (2 * x @ cond.mT).softmax(dim=-1) @ cond


def attention(fn: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> Verdict:
    """Check `fn(q, k, v, heads)`: (b, n, d), twice (b, m, d) → (b, n, d), without linear layers."""
    shapes = {
        "two heads": (2, 3, 5, 8, 2),
        "as many queries as keys, four heads": (2, 4, 4, 8, 4),
        "one head": (1, 3, 2, 4, 1),
    }
    cases = {
        name: (2 * _waves(b, n, d), 2 * _waves(b, m, d, start=50), _waves(b, m, d, start=90), heads)
        for name, (b, n, m, d, heads) in shapes.items()
    }
    return judge("attention", fn, mistakes.attention, cases, mistakes.ATTENTION, tolerance=1e-5)


def key_mask(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(q, k, there)`: (b, n, d), (b, m, d), bools (b, m) → shares of attention (b, n, m).

    Keys that are not there get a share of 0, and the others sum to one.
    """
    there = torch.tensor([[True, True, False, False], [True, False, True, True]])
    cases = {
        "two sentences of four words at most": (_waves(2, 3, 5), _waves(2, 4, 5, start=30), there),
        "as many queries as keys": (_waves(2, 4, 5), _waves(2, 4, 5, start=30), there),
        "no padding": (_waves(2, 3, 5), _waves(2, 4, 5, start=30), there | True),
    }
    return judge("key_mask", fn, mistakes.key_mask, cases, mistakes.KEY_MASK, tolerance=1e-5)


def in_context_step(fn: Callable[..., Tensor]) -> Verdict:
    """Check `fn(x, cond, block)`: (b, n, d), (b, m, d), a function of tokens → (b, n, d)."""
    cases = {
        "three tokens, two of condition": (_waves(2, 3, 4), _waves(2, 2, 4, start=40), _mix),
        "as many of each": (_waves(1, 3, 4), _waves(1, 3, 4, start=40), _mix),
    }
    right, wrong = mistakes.in_context_step, mistakes.IN_CONTEXT_STEP
    return judge("in_context_step", fn, right, cases, wrong, tolerance=1e-5)


def cross_attention_step(fn: Callable[..., Tensor]) -> Verdict:
    """Check `fn(x, cond, attend)`: (b, n, d), (b, m, d) → (b, n, d); norm with eps 1e-6.

    `attend(x, cond)` is attention from x, its first argument, to cond.
    """
    cases = {
        "three tokens, two of condition": (
            _waves(2, 3, 4),
            3 * _waves(2, 2, 4, start=40),
            _answers,
        ),
        "as many of each": (_waves(1, 3, 4), 3 * _waves(1, 3, 4, start=40), _answers),
    }
    right, wrong = mistakes.cross_attention_step, mistakes.CROSS_ATTENTION_STEP
    return judge("cross_attention_step", fn, right, cases, wrong, tolerance=1e-4)


def adaln_step(fn: Callable[..., Tensor]) -> Verdict:
    """Check `fn(x, branch, shift, scale)`: half a block without a gate; (b, n, d), …, (b, d).

    The normalisation before the branch has eps 1e-6 and no weights of its own.
    """
    shift, scale = _waves(3, 4, start=60), _waves(3, 4, start=80)
    cases = {
        "two images of four tokens": (_waves(2, 4, 4), _mix, shift[:2], scale[:2]),
        "as many images as tokens": (_waves(3, 3, 4), _mix, shift, scale),
        "shift and scale zero": (_waves(3, 3, 4), _mix, 0 * shift, 0 * scale),
    }
    return judge("adaln_step", fn, mistakes.adaln_step, cases, mistakes.ADALN_STEP, tolerance=1e-4)
