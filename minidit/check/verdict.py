"""What the checks of a student's function share: run it, compare it, and say what is wrong."""

import ast
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from types import UnionType

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
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        return self.message.encode(encoding, "replace").decode(encoding)  # ✗, where it can be shown


def against(
    *table: tuple | str | dict[str, str] | Callable,
    tolerance: float = 1e-4,
    seen: Callable[[Callable], Callable] = lambda fn: fn,
    most: int = 2,
    otherwise: str = "",
) -> Callable[[Callable], Callable[[Callable], Verdict]]:
    """Make the right function, or class, that it decorates a check `check(fn)` of a student's.

    `table`: first the cases, (name, an argument that fn is tried on, …). Then the mistakes, each a
    hint and what makes it of the right function: {piece of its source: what stands there instead},
    or a function of its own. One that does the same as fn in every case is its likeliest cause,
    `otherwise` if none is. Compared are values of seen(fn), so that more than the values of fn may
    count; it raises Fault for what no comparison tells. If no mistake fits, two at once are tried,
    up to `most`, then what any function may get wrong.
    The check keeps what it knows: `check.right`, and `check.mistakes`, from hints to functions.
    """
    cases = {one[0]: one[1:] for one in table if isinstance(one, tuple)}
    mistakes = [one for one in table if not isinstance(one, tuple)]
    same = partial(alike, tolerance=tolerance)

    def outcomes(fn: Callable) -> list:
        return [outcome(seen(fn), case) for case in cases.values()]

    def fits(fn: Callable, got: list) -> bool:
        return all(same(g, outcome(seen(fn), case)) for g, case in zip(got, cases.values()))

    def decorate(right: Callable) -> Callable[[Callable], Verdict]:
        name, source = right.__name__, _source(right)
        hints = dict(zip(mistakes[::2], mistakes[1::2], strict=True))
        edits = {hint: one for hint, one in hints.items() if isinstance(one, dict)}
        causes = hints | {hint: _edited(right, source, edits[hint]) for hint in edits}

        def several(got: list) -> Iterator[tuple[str, Callable]]:
            """Mistakes that are made together."""
            if all(isinstance(one, Tensor | frozenset) for one in got):  # an error tells little
                for few in chain(*(combinations(edits, many) for many in range(2, most + 1))):
                    if wrong := _edited(right, source, *map(edits.get, few)):
                        yield f"{_MANY[len(few)]} mistakes: {'; and '.join(few)}", wrong

        def check(fn: Callable) -> Verdict:
            got, wanted = outcomes(fn), outcomes(right)
            wrong = (found for found in zip(cases, got, wanted) if not same(*found[1:]))
            case, g, w = next(wrong, (None, None, None))
            if case is None:
                listed = "; ".join(cases)
                return Verdict(True, f"✓ {name} is right, on all {len(cases)} inputs: {listed}.")
            if isinstance(g, NotImplementedError):
                return unwritten(name, g)
            tried = chain(causes.items(), several(got))
            hint = next((hint for hint, mistake in tried if fits(mistake, got)), "")
            if not hint and not isinstance(g, Fault):
                hint = _SHAPES if "must match the size" in str(g) else otherwise
            hint = hint or _general(got, fits(fn, got), wanted, same)
            where = ": it" if isinstance(g, Fault) else f". With {case} it"
            message = f"✗ {name} is not right yet{where} {difference(g, w, same)}."
            return Verdict(False, message + (f"\n  The likeliest cause: {hint}." if hint else ""))

        check.__name__ = check.__qualname__ = name
        check.__module__ = right.__module__
        arguments = ", ".join(inspect.signature(right).parameters)
        check.__doc__ = f"Check `fn({arguments})`: {right.__doc__}"
        check.right, check.mistakes = right, causes
        return check

    return decorate


_MANY = ("", "", "two", "three", "four")


def _source(right: Callable) -> str:
    """The source of a function or a class, from `def` or `class` on."""
    lines, _ = inspect.getsourcelines(right)
    return "".join(lines[ast.parse("".join(lines)).body[0].lineno - 1 :])


def _edited(right: Callable, source: str, *edits: dict[str, str]) -> Callable | None:
    """The right function with pieces of its source replaced, all at once; None if they overlap."""
    pieces = {piece: new for edit in edits for piece, new in edit.items()}
    if lost := [piece for piece in pieces if piece not in source]:
        raise ValueError(f"{right.__name__} has no piece {lost[0]!r} that a mistake could change")
    text, many = re.subn("|".join(map(re.escape, pieces)), lambda m: pieces[m[0]], source)
    if many < sum(source.count(piece) for edit in edits for piece in edit):
        return None
    found: dict[str, Callable] = {}
    exec(compile(text, "<a mistake>", "exec"), vars(sys.modules[right.__module__]), found)
    return found[right.__name__]


def unwritten(name: str, error: NotImplementedError) -> Verdict:
    """The verdict on a stub: neither right nor wrong."""
    return Verdict(False, f"○ {name} is still to be written: {error}")


class Fault(Exception):
    """What is wrong with a student's version, as the end of a sentence: it …"""


def expect(found: object, kind: type | UnionType, what: str) -> None:
    """Raise Fault unless what a student's version returns is of this kind."""
    if not isinstance(found, kind):
        raise Fault(f"returns a {type(found).__name__}, and {what} is expected")


def pair(found: object, what: str) -> tuple[Tensor, Tensor]:
    """The two tensors of any shape that are to be returned; Fault if they are something else."""
    both = found if isinstance(found, tuple | list) and len(found) == 2 else [None]
    if not all(isinstance(one, Tensor) for one in both):
        raise Fault(f"returns no pair of tensors: {what}")
    return both


_APART = (Fault, NameError, AttributeError)  # a name mistyped explains nothing else
_SHAPES = (
    "two shapes don't fit: what is (b, d), one row for each image, takes [:, None] to meet tokens "
    "(b, n, d), and so does (b,) to meet points (b, d)"
)


def _general(got: list, again: bool, wanted: list, same: Callable) -> str:
    """A cause that any function may have; or "". again: it did the same once more."""
    if any(one is None for one in got):
        return "a `return` is missing"
    if not all(isinstance(one, Tensor) for one in got + wanted):
        return ""
    if any(g.isnan().any() for g in got):
        return (
            "NaN comes from 0/0, from the root or the logarithm of what is negative, or from "
            "numbers that grow without end; print them"
        )
    if not again:
        return "called twice it gives two answers; nothing must be drawn at random here"
    if got[0].dim() > 1 and all(same(g.mT, w) for g, w in zip(got, wanted)):
        return "the last two axes are exchanged"
    if any(g.shape != w.shape for g, w in zip(got, wanted)):
        return ""
    if any(w.is_floating_point() and not g.is_floating_point() for g, w in zip(got, wanted)):
        return "these are whole numbers, and fractions are cut off"
    g, w = (torch.cat([one.double().flatten() for one in many]) for many in (got, wanted))
    factor = (g @ w / (w @ w)).item()
    told = abs(factor - 1) > 0.01 < abs(factor) and all(
        map(same, got, [factor * w for w in wanted])
    )
    return f"it is the right answer times {factor:.3g}" if told else ""


def outcome(fn: Callable, case: tuple) -> object:
    """What `fn` returns, a number as a tensor of shape (); or the exception it raises."""
    arguments = deepcopy(case)  # fn may change them in place
    try:
        result = fn(*arguments)
    except Exception as error:
        is_of_torch = "not implemented for" in str(error)  # of kinds of numbers, and no stub
        return TypeError(*error.args) if is_of_torch else error
    if any(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in zip(case, arguments)):
        return Fault("changes its input in place; work on a new tensor, or on a clone")
    return torch.as_tensor(result) if isinstance(result, int | float) else result


def alike(a: object, b: object, tolerance: float = 0.0) -> bool:
    """Tell whether two outcomes are equal: tensors in shape and value, errors in being errors."""
    if isinstance(a, frozenset):  # of names
        return a == b
    if isinstance(a, Exception) or isinstance(b, Exception):
        both = isinstance(a, Exception) and isinstance(b, Exception)
        return both and all(isinstance(a, kind) == isinstance(b, kind) for kind in _APART)
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    # a mistake that leads to NaN is recognised by its NaN; what is right has none
    return torch.allclose(a.double(), b.double(), rtol=1e-5, atol=tolerance, equal_nan=True)


def difference(got: object, wanted: Tensor | frozenset, same: Callable) -> str:
    """What is wrong with an outcome, as the end of a sentence on it. wanted: of any shape."""
    if isinstance(got, Fault):
        return str(got)
    if isinstance(got, Exception):
        return f"raises {type(got).__name__}: {str(got).strip().partition(chr(10))[0]}"
    if isinstance(got, frozenset):
        names = {"lists": sorted(got - wanted)[:3], "lacks": sorted(wanted - got)[:3]}
        return " and ".join(f"{verb} {', '.join(few)}" for verb, few in names.items() if few)
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
