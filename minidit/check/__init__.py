"""Is your own version right? And if it isn't, what is the likeliest mistake?

`check.patchify(my_patchify)` compares a function with the package's on awkward inputs. The common
mistakes are listed as functions that make them: one that does the same as yours on every input
tells what happened.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidit import embed, patches
from minidit.check import _mistakes
from minidit.check._attention import (  # noqa: F401 - one public place for all checks
    adaln_step,
    attention,
    cross_attention_step,
    in_context_step,
    key_mask,
)
from minidit.check._conditions import mirrored_layout, word_numbers  # noqa: F401
from minidit.check._diffusion import (  # noqa: F401
    adaln_zero_step,
    block_parameters,
    ema_update,
    learned_log_variance,
    modulate,
    normal_kl,
    posterior_mean,
    q_sample,
    x0_from_v,
)
from minidit.check._guidance import (  # noqa: F401
    guidance,
    guidance_w,
    negative_guidance,
    ramped_guidance,
)
from minidit.check._latents import (  # noqa: F401
    kl_from_standard,
    latent_scale,
    quantise,
    straight_through,
)
from minidit.check._likelihood import grey_probability, variational_term  # noqa: F401
from minidit.check._property import property_test  # noqa: F401
from minidit.check._sampling import (  # noqa: F401
    ancestral_step,
    ddim_step,
    derivatives,
    respaced_betas,
)
from minidit.check._skips import inner_width, long_skip, u_walk  # noqa: F401
from minidit.check._stages import to_pixels, token_count, with_mirrors  # noqa: F401
from minidit.check._verdict import Verdict, alike, difference, judge, outcome, unwritten
from minidit.check.assembly import (  # noqa: F401
    ancestral_sampler,
    as_concat,
    gaussian_score,
    uvit_forward,
)

# (b, c, height, width, patch)
_IMAGES = {
    "a square image of one channel": (1, 1, 4, 4, 2),
    "a wide image": (1, 1, 4, 6, 2),
    "two tall images of three channels": (2, 3, 9, 6, 3),
    "patch 1": (2, 3, 2, 3, 1),
    "one patch for the whole image": (1, 2, 4, 4, 4),
}


def patchify(fn: Callable[[Tensor, int], Tensor]) -> Verdict:
    """Check `fn(images, patch)`: (b, c, h·p, w·p) → (b, h·w, p·p·c)."""
    cases = {name: (_counting(*shape), patch) for name, (*shape, patch) in _IMAGES.items()}
    return judge("patchify", fn, patches.patchify, cases, _mistakes.PATCHIFY)


def unpatchify(fn: Callable[[Tensor, int, tuple[int, int]], Tensor]) -> Verdict:
    """Check `fn(tokens, patch, (h, w))`: (b, h·w, p·p·c) → (b, c, h·p, w·p)."""
    cases = {
        name: (_counting(b, height // p * (width // p), p * p * c), p, (height // p, width // p))
        for name, (b, c, height, width, p) in _IMAGES.items()
    }
    return judge("unpatchify", fn, patches.unpatchify, cases, _mistakes.UNPATCHIFY)


def positions(fn: Callable[[int, tuple[int, int]], Tensor]) -> Verdict:
    """Check `fn(dim, (h, w))` → (h·w, dim), the table of `sincos_2d`."""
    cases = {
        "a square grid": (8, (3, 3)),
        "a wide grid": (16, (2, 3)),
        "a tall grid": (16, (5, 2)),
        "a single row": (8, (1, 4)),
    }
    return judge("positions", fn, embed.sincos_2d, cases, _mistakes.POSITIONS, tolerance=1e-4)


def timestep_embedding(fn: Callable[[Tensor, int], Tensor]) -> Verdict:
    """Check `fn(t, dim)`: (b,) → (b, dim), the sinusoids of a time."""
    cases = {  # small times: float32 must be able to tell even frequencies that grow by mistake
        "whole steps": (torch.tensor([0, 1, 5, 20]), 8),
        "a single step": (torch.tensor([7]), 16),
        "fractions": (torch.tensor([0.25, 3.5, 19.75]), 8),
        "an odd dim": (torch.tensor([3, 12]), 7),
    }
    reference = embed.timestep_embedding
    return judge("timestep_embedding", fn, reference, cases, _mistakes.TIMES, tolerance=0.01)


def label_dropout(fn: Callable[[Tensor, int, float], Tensor]) -> Verdict:
    """Check `fn(y, null_label, probability)`: (b,) → (b,), labels dropped at random.

    Nothing random is left to chance: torch's generator is seeded here, and put back afterwards.
    """
    null, probability, rounds = 10, 0.25, 40
    y = torch.arange(1000) % 10
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [outcome(fn, (y, null, probability)) for _ in range(rounds)]
        never, always = (outcome(fn, (y, null, p)) for p in (0.0, 1.0))
    name = "label_dropout"
    for got in (*drawn, never, always):
        if isinstance(got, NotImplementedError):
            return unwritten(name, got)
        if isinstance(got, Exception) or not isinstance(got, Tensor) or got.shape != y.shape:
            return Verdict(False, f"✗ {name} is not right yet: it {difference(got, y, alike)}.")
    problem = _dropout_problem(torch.stack(drawn), never, always, y, null, probability)
    if problem:
        return Verdict(False, f"✗ {name} is not right yet: {problem}.")
    return Verdict(
        True,
        f"✓ {name} is right: in {rounds} draws of {len(y)} labels a share of {probability} becomes "
        "the null label, each label on its own; with probability 0 none does, with 1 all do.",
    )


def _dropout_problem(
    drawn: Tensor, never: Tensor, always: Tensor, y: Tensor, null: int, probability: float
) -> str | None:
    """The first thing wrong with label dropout, or None. drawn: (rounds, n); the others: (n,)."""
    changed = drawn != y  # (rounds, n)
    share = changed.float().mean().item()
    if not changed.any():
        return "no label is ever dropped"
    wrong = drawn[changed & (drawn != null)]
    if len(wrong):
        what = "a class of its own" if 0 <= wrong[0] < null else "no class"
        return (
            f"dropped labels become {int(wrong[0])}, which is {what}; the classes are "
            f"0 … {null - 1}, so the null label is {null}, one past the last"
        )
    if abs(share - (1 - probability)) < 0.02:
        return f"a share of {share:.2f} is dropped: you keep with probability {probability}"
    if (changed.all(dim=1) | ~changed.any(dim=1)).all():
        return "the whole batch is dropped or kept at once; draw one number for each label"
    if (changed == changed[0]).all():
        return "every call drops the same places; draw anew at each call"
    if abs(share - probability) > 0.02:
        return f"a share of {share:.2f} is dropped instead of {probability}"
    if (never != y).any() or (always != null).any():
        return "with probability 0 every label must stay, and with 1 none"
    return None


def _counting(*shape: int) -> Tensor:
    """Every number its own: what lands in the wrong place is seen, and told."""
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
