"""What the checks of a student's function share: run it, compare it, and say what is wrong."""

import inspect
import math
from collections.abc import Callable
from copy import deepcopy
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


def against(
    cases: dict[str, tuple],
    *mistakes: str | Callable,
    tolerance: float = 1e-4,
    seen: Callable[[Callable], Callable] = lambda fn: fn,
) -> Callable[[Callable], Callable[[Callable], Verdict]]:
    """Make the right function that it decorates a check `check(fn)` of a student's version.

    `cases`: a name → the arguments that fn is tried on. `mistakes`: a hint, a function that makes
    this mistake, the next hint, …; one that does the same as fn in every case is its likeliest
    cause. Compared are values of seen(fn), so that more than the values of fn may count.
    The check keeps what it knows: `check.right`, and `check.mistakes`, from hints to functions.
    """
    causes = dict(zip(mistakes[::2], mistakes[1::2], strict=True))
    same = partial(alike, tolerance=tolerance)

    def outcomes(fn: Callable) -> list:
        return [outcome(seen(fn), case) for case in cases.values()]

    def decorate(right: Callable) -> Callable[[Callable], Verdict]:
        name = right.__name__

        def check(fn: Callable) -> Verdict:
            got = outcomes(fn)
            for case, g, w in zip(cases, got, outcomes(right)):
                if isinstance(g, NotImplementedError):
                    return unwritten(name, g)
                if not same(g, w):
                    message = f"✗ {name} is not right yet. With {case} it {difference(g, w, same)}."
                    for hint, mistake in causes.items():
                        if all(map(same, got, outcomes(mistake))):
                            return Verdict(False, f"{message}\n  The likeliest cause: {hint}.")
                    return Verdict(False, message)
            return Verdict(
                True, f"✓ {name} is right, on all {len(cases)} inputs: {'; '.join(cases)}."
            )

        check.__name__ = check.__qualname__ = name
        check.__module__ = right.__module__
        check.__doc__ = (
            f"Check `fn({', '.join(inspect.signature(right).parameters)})`: {right.__doc__}"
        )
        check.right, check.mistakes = right, causes
        return check

    return decorate


def judge(
    name: str,
    fn: Callable,
    reference: Callable,
    cases: dict[str, tuple],
    mistakes: dict,
    tolerance: float = 1e-4,
) -> Verdict:
    """`against`, where what is compared differs from check to check."""

    def right(*arguments):
        """The reference."""
        return reference(*arguments)

    right.__name__ = name
    return against(
        cases, *(part for pair in mistakes.items() for part in pair), tolerance=tolerance
    )(right)(fn)


def unwritten(name: str, error: NotImplementedError) -> Verdict:
    """The verdict on a stub: neither right nor wrong."""
    return Verdict(False, f"○ {name} is still to be written: {error}")


class _Changed(Exception):
    """The function changed its input in place."""


_APART = (_Changed, NameError, AttributeError)  # a name mistyped explains nothing else


def outcome(fn: Callable, case: tuple) -> object:
    """What `fn` returns, a number as a tensor of shape (); or the exception it raises."""
    arguments = deepcopy(case)  # fn may change them in place
    try:
        result = fn(*arguments)
    except Exception as error:
        return error
    if any(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in zip(case, arguments)):
        return _Changed()
    return torch.as_tensor(result) if isinstance(result, int | float) else result


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
    """What is wrong with an outcome, as the end of a sentence on it. wanted: of any shape."""
    if isinstance(got, _Changed):
        return "changes its input in place; work on a new tensor, or on a clone"
    if isinstance(got, Exception):
        return f"raises {type(got).__name__}: {str(got).strip().partition(chr(10))[0]}"
    if not isinstance(got, Tensor):
        expected = f"tensor {tuple(wanted.shape)}" if wanted.dim() else "number"
        return f"returns a {type(got).__name__}, and a {expected} is expected"
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


def waves(*shape: int, start: int = 0) -> Tensor:
    """Numbers in [-1, 1] that never repeat, in any shape: the sines of start, start + 1, …"""
    return torch.arange(start, start + math.prod(shape)).reshape(shape).float().sin()


# points of the plane and noise for them, (3, 2)
POINTS = torch.tensor([[1.5, -0.5], [0.25, 2.0], [-1.0, 0.75]])
NOISE = torch.tensor([[0.5, -1.25], [2.0, 0.75], [-0.5, 1.0]])
