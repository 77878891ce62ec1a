"""What the checks of a student's function share: run it, compare it, and say what is wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor


@dataclass(frozen=True, repr=False)
class Verdict:
    """True if the function is right; shows itself as what is wrong, and the likeliest cause."""

    right: bool
    message: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.message


def judge(
    name: str,
    fn: Callable,
    reference: Callable,
    cases: dict[str, tuple],
    mistakes: dict[str, Callable],
    tolerance: float = 1e-6,
) -> Verdict:
    """Run `fn` and the reference on every case; name the mistake that explains all outcomes."""
    wanted = [outcome(reference, case) for case in cases.values()]
    got = [outcome(fn, case) for case in cases.values()]
    same = partial(alike, tolerance=tolerance)
    for case, g, w in zip(cases, got, wanted):
        if isinstance(g, NotImplementedError):
            return unwritten(name, g)
        if not same(g, w):
            message = f"✗ {name} is not right yet. With {case} it {difference(g, w, same)}."
            for hint, mistake in mistakes.items():
                if all(map(same, got, [outcome(mistake, c) for c in cases.values()])):
                    message += f"\n  The likeliest cause: {hint}."
                    break
            return Verdict(False, message)
    return Verdict(True, f"✓ {name} is right, on all {len(cases)} inputs: {'; '.join(cases)}.")


def unwritten(name: str, error: NotImplementedError) -> Verdict:
    """The verdict on a stub: neither right nor wrong."""
    return Verdict(False, f"○ {name} is still to be written: {error}")


class _Changed(Exception):
    """The function changed its input in place."""


_APART = (_Changed, NameError, AttributeError)  # a name mistyped explains nothing else


def _own(argument: object) -> object:
    """A copy of what a function might change in place."""
    if isinstance(argument, Tensor):
        return argument.clone()
    return list(argument) if isinstance(argument, list) else argument


def outcome(fn: Callable, case: tuple) -> object:
    """What `fn` returns, or the exception it raises."""
    arguments = [_own(a) for a in case]
    try:
        result = fn(*arguments)
    except Exception as error:
        return error
    if any(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in zip(case, arguments)):
        return _Changed()
    return result


def alike(a: object, b: object, tolerance: float = 0.0) -> bool:
    """Tell whether two outcomes are equal: tensors in shape and value, errors in being errors."""
    if isinstance(a, Exception) or isinstance(b, Exception):
        both = isinstance(a, Exception) and isinstance(b, Exception)
        return both and all(isinstance(a, kind) == isinstance(b, kind) for kind in _APART)
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    # a mistake that leads to NaN is recognised by its NaN; what is right has none
    return torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance, equal_nan=True)


def difference(got: object, wanted: Tensor, same: Callable) -> str:
    """What is wrong with an outcome, as the end of a sentence that starts with "it"."""
    if isinstance(got, _Changed):
        return "changes its input in place; work on a new tensor, or on a clone"
    if isinstance(got, Exception):
        return f"raises {type(got).__name__}: {str(got).strip().partition(chr(10))[0]}"
    if not isinstance(got, Tensor):
        return f"returns a {type(got).__name__}, and a tensor {tuple(wanted.shape)} is expected"
    if got.shape != wanted.shape:
        return f"returns shape {tuple(got.shape)}, and {tuple(wanted.shape)} is expected"
    if wanted.numel() == 1:
        return f"gives {got.item():.10g} instead of {wanted.item():.10g}"
    rows = zip(*(values.reshape(-1, wanted.shape[-1]) for values in (got, wanted)))
    g, w = next((g, w) for g, w in rows if not same(g, w))
    return f"gives the right shape, but a row {_numbers(g)} instead of {_numbers(w)}"


def _numbers(row: Tensor, most: int = 8) -> str:
    shown = ", ".join(f"{float(value):.4g}" for value in row[:most])
    return f"[{shown}{', …' if len(row) > most else ''}]"
