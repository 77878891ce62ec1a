"""What the checks of a student's function share: run it, compare it, and say what is wrong."""

import inspect
import math
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations

import torch
from torch import Tensor, nn


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
    cases: dict[str, tuple],
    *mistakes: str | Callable | dict,
    tolerance: float = 1e-4,
    seen: Callable[[Callable], Callable] = lambda fn: fn,
    otherwise: str = "",
) -> Callable[[Callable], Callable[[Callable], Verdict]]:
    """Make the right function that it decorates a check `check(fn)` of a student's version.

    `cases`: a name → the arguments that fn is tried on. `mistakes`: a hint, a function that makes
    this mistake, the next hint, …; or, instead of a function, what to change in the right one: its
    keyword arguments, or, of a class, its pieces. One that does the same as fn in every case is its
    likeliest cause, `otherwise` if none is. Compared are values of seen(fn), so that more than the
    values of fn may count; it raises Fault for what no comparison tells. If no mistake fits, pairs
    of changes are tried, then what any function may get wrong.
    The check keeps what it knows: `check.right`, and `check.mistakes`, from hints to functions.
    """
    same = partial(alike, tolerance=tolerance)

    def outcomes(fn: Callable) -> list:
        return [outcome(seen(fn), case) for case in cases.values()]

    def fits(fn: Callable, got: list) -> bool:
        return all(same(g, outcome(seen(fn), case)) for g, case in zip(got, cases.values()))

    def decorate(right: Callable) -> Callable[[Callable], Verdict]:
        def changed(change: dict) -> Callable:
            is_class = isinstance(right, type)
            return type("Wrong", (right,), change) if is_class else partial(right, **change)

        made = (m if callable(m) else changed(m) for m in mistakes[1::2])
        changes = [pair for pair in zip(mistakes[::2], mistakes[1::2]) if isinstance(pair[1], dict)]
        name, causes = right.__name__, dict(zip(mistakes[::2], made, strict=True))

        def check(fn: Callable) -> Verdict:
            got = outcomes(fn)
            for case, g, w in zip(cases, got, outcomes(right)):
                if isinstance(g, NotImplementedError):
                    return unwritten(name, g)
                if not same(g, w):
                    where = ": it" if isinstance(g, Fault) else f". With {case} it"
                    message = f"✗ {name} is not right yet{where} {difference(g, w, same)}."
                    known = all(isinstance(one, Tensor) for one in got)  # an error tells little
                    pairs = (
                        (f"two mistakes: {a}; and {b}", changed({**x, **y}))
                        for (a, x), (b, y) in combinations(changes, 2)
                        if known and not {*x} & {*y}
                    )
                    tried = chain(causes.items(), pairs)
                    hints = (h for h, one in tried if fits(one, got))
                    last = _SHAPES if "must match the size" in str(g) else otherwise
                    hint = next(hints, "") or ("" if isinstance(g, Fault) else last)
                    hint = hint or _general(got, fits(fn, got), outcomes(right), same)
                    return Verdict(
                        False, message + (f"\n  The likeliest cause: {hint}." if hint else "")
                    )
            return Verdict(
                True, f"✓ {name} is right, on all {len(cases)} inputs: {'; '.join(cases)}."
            )

        check.__name__ = check.__qualname__ = name
        check.__module__ = right.__module__
        taken = inspect.signature(right).parameters.values()
        names = [p.name for p in taken if p.kind is not p.KEYWORD_ONLY]
        check.__doc__ = f"Check `fn({', '.join(names)})`: {right.__doc__}"
        check.right, check.mistakes = right, causes
        return check

    return decorate


def unwritten(name: str, error: NotImplementedError) -> Verdict:
    """The verdict on a stub: neither right nor wrong."""
    return Verdict(False, f"○ {name} is still to be written: {error}")


class Fault(Exception):
    """What is wrong with a student's version, as the end of a sentence: it …"""


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


def network(right: Callable[[], type], *sizes: int) -> Callable[[Callable], Callable]:
    """What `against` sees of a class: whether it starts as right()(*sizes) does, then its answers.

    Parameters of the same name and shape get the same numbers. Two tensors are compared as one.
    """

    def seen(make: Callable) -> Callable:
        def answer(*inputs: object) -> object:
            with torch.random.fork_rng(devices=[]):
                net, wanted = _made(make, sizes), dict(right()(*sizes).named_parameters())
            mine = dict(net.requires_grad_(False).named_parameters())
            for key in {**mine, **wanted}:
                if fault := _fault(key, mine.get(key), wanted.get(key)):
                    raise Fault(f"{fault}; wanted are {', '.join(wanted)}")
            for k, (_, p) in enumerate(sorted(mine.items())):
                p.copy_(waves(*p.shape, start=1 + 7 * k) * 2 / p.shape[-1] ** 0.5)
            found = net(*inputs)
            if not isinstance(found, tuple | list):
                return found
            if len(kinds := {tuple(getattr(one, "shape", ())) for one in found}) > 1:
                raise Fault(f"returns several shapes, {', '.join(map(str, sorted(kinds)))}")
            return torch.stack(list(found))

        return answer

    return seen


def _made(make: Callable, sizes: tuple) -> nn.Module:
    try:
        net = make(*sizes)
    except (TypeError, AttributeError) as error:
        hint = "super().__init__() must come first"
        if "__init__() call" not in str(error):
            hint = f"it must take {len(sizes)} numbers and be a class of nn.Module"
        raise Fault(f"raises {type(error).__name__}, made with {sizes}: {error}; {hint}") from error
    if not isinstance(net, nn.Module):
        raise Fault(f"makes a {type(net).__name__}, and a network (nn.Module) is expected")
    return net


def _fault(key: str, mine: Tensor | None, wanted: Tensor | None) -> str:
    """What is wrong with a parameter of a network as it was made; either may be missing."""
    if mine is None:
        return f"has no parameter {key}"
    if wanted is None:
        why = (
            ": the normalisation must have no scale and shift of its own, they come from the "
            "condition; elementwise_affine=False"
        )
        return f"has a parameter {key} too many" + why * ("norm" in key)
    if mine.shape != wanted.shape:
        return f"has {key} of the shape {tuple(mine.shape)}, and {tuple(wanted.shape)} is expected"
    is_loud = mine.any() and not wanted.any()
    return f"has {key} that doesn't start at zero, so a fresh network isn't silent" * bool(is_loud)
