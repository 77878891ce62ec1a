"""Is your own version right? And if it isn't, what is the likeliest mistake?

`check.patchify(my_patchify)` compares a function with the package's on awkward inputs. The common
mistakes are listed as functions that make them: one that does the same as yours on every input
tells what happened.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from minidit import _mistakes, embed, patches


@dataclass(frozen=True, repr=False)
class Verdict:
    """True if the function is right; shows itself as what is wrong, and the likeliest cause."""

    right: bool
    message: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.message


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
    return _judge("patchify", fn, patches.patchify, cases, _mistakes.PATCHIFY)


def unpatchify(fn: Callable[[Tensor, int, tuple[int, int]], Tensor]) -> Verdict:
    """Check `fn(tokens, patch, (h, w))`: (b, h·w, p·p·c) → (b, c, h·p, w·p)."""
    cases = {
        name: (_counting(b, height // p * (width // p), p * p * c), p, (height // p, width // p))
        for name, (b, c, height, width, p) in _IMAGES.items()
    }
    return _judge("unpatchify", fn, patches.unpatchify, cases, _mistakes.UNPATCHIFY)


def positions(fn: Callable[[int, tuple[int, int]], Tensor]) -> Verdict:
    """Check `fn(dim, (h, w))` → (h·w, dim), the table of `sincos_2d`."""
    cases = {
        "a square grid": (8, (3, 3)),
        "a wide grid": (16, (2, 3)),
        "a tall grid": (16, (5, 2)),
        "a single row": (8, (1, 4)),
    }
    return _judge("positions", fn, embed.sincos_2d, cases, _mistakes.POSITIONS, tolerance=1e-4)


def timestep_embedding(fn: Callable[[Tensor, int], Tensor]) -> Verdict:
    """Check `fn(t, dim)`: (b,) → (b, dim), the sinusoids of a time."""
    cases = {  # small times: float32 must be able to tell even frequencies that grow by mistake
        "whole steps": (torch.tensor([0, 1, 5, 20]), 8),
        "a single step": (torch.tensor([7]), 16),
        "fractions": (torch.tensor([0.25, 3.5, 19.75]), 8),
        "an odd dim": (torch.tensor([3, 12]), 7),
    }
    reference = embed.timestep_embedding
    return _judge("timestep_embedding", fn, reference, cases, _mistakes.TIMES, tolerance=0.01)


def label_dropout(fn: Callable[[Tensor, int, float], Tensor]) -> Verdict:
    """Check `fn(y, null_label, probability)`: (b,) → (b,), labels dropped at random.

    Nothing random is left to chance: torch's generator is seeded here, and put back afterwards.
    """
    null, probability, rounds = 10, 0.25, 40
    y = torch.arange(1000) % 10
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [_outcome(fn, (y, null, probability)) for _ in range(rounds)]
        never, always = (_outcome(fn, (y, null, p)) for p in (0.0, 1.0))
    name = "label_dropout"
    for got in (*drawn, never, always):
        if isinstance(got, NotImplementedError):
            return _unwritten(name, got)
        if isinstance(got, Exception) or not isinstance(got, Tensor) or got.shape != y.shape:
            return Verdict(False, f"✗ {name} is not right yet: it {_difference(got, y, _same)}.")
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


def _judge(
    name: str,
    fn: Callable,
    reference: Callable,
    cases: dict[str, tuple],
    mistakes: _mistakes.Mistakes,
    tolerance: float = 1e-6,
) -> Verdict:
    """Run `fn` and the reference on every case; name the mistake that explains all outcomes."""
    wanted = [_outcome(reference, case) for case in cases.values()]
    got = [_outcome(fn, case) for case in cases.values()]
    same = partial(_same, tolerance=tolerance)
    for case, g, w in zip(cases, got, wanted):
        if isinstance(g, NotImplementedError):
            return _unwritten(name, g)
        if not same(g, w):
            message = f"✗ {name} is not right yet. With {case} it {_difference(g, w, same)}."
            for hint, mistake in mistakes.items():
                if all(map(same, got, [_outcome(mistake, c) for c in cases.values()])):
                    message += f"\n  The likeliest cause: {hint}."
                    break
            return Verdict(False, message)
    return Verdict(True, f"✓ {name} is right, on all {len(cases)} inputs: {'; '.join(cases)}.")


def _unwritten(name: str, error: NotImplementedError) -> Verdict:
    return Verdict(False, f"○ {name} is still to be written: {error}")


class _Changed(Exception):
    """The function changed its input in place."""


def _outcome(fn: Callable, case: tuple) -> object:
    """What `fn` returns, or the exception it raises."""
    arguments = [a.clone() if isinstance(a, Tensor) else a for a in case]
    try:
        result = fn(*arguments)
    except Exception as error:
        return error
    if any(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in zip(case, arguments)):
        return _Changed()
    return result


def _same(a: object, b: object, tolerance: float = 0.0) -> bool:
    if isinstance(a, Exception) or isinstance(b, Exception):
        both = isinstance(a, Exception) and isinstance(b, Exception)
        return both and isinstance(a, _Changed) == isinstance(b, _Changed)
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    return torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance)


def _difference(got: object, wanted: Tensor, same: Callable) -> str:
    if isinstance(got, _Changed):
        return "changes its input in place; work on a new tensor, or on a clone"
    if isinstance(got, Exception):
        return f"raises {type(got).__name__}: {str(got).strip().partition(chr(10))[0]}"
    if not isinstance(got, Tensor):
        return f"returns a {type(got).__name__}, and a tensor {tuple(wanted.shape)} is expected"
    if got.shape != wanted.shape:
        return f"returns shape {tuple(got.shape)}, and {tuple(wanted.shape)} is expected"
    rows = zip(got.flatten(0, -2), wanted.flatten(0, -2))
    g, w = next((g, w) for g, w in rows if not same(g, w))
    return f"gives the right shape, but a row {_numbers(g)} instead of {_numbers(w)}"


def _numbers(row: Tensor, most: int = 8) -> str:
    shown = ", ".join(f"{float(value):.4g}" for value in row[:most])
    return f"[{shown}{', …' if len(row) > most else ''}]"


def _counting(*shape: int) -> Tensor:
    """Every number its own: what lands in the wrong place is seen, and told."""
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
