"""A check of a student's own test: does it let sound functions pass, and catch a broken one?

A property test states what must hold for every input. It gets a function and returns True or
False, and knows no right answer to compare with: several sound versions that differ must all pass.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps

import torch

from minidit.check.verdict import Verdict, alike, unwritten

SEEDS = 5


def property_test(
    test: Callable[[Callable], bool], sound: Sequence[Callable], broken: Sequence[Callable]
) -> Verdict:
    """Check `test(fn)`: True for each function in `sound`, False for each in `broken`.

    Every function is tried with several seeds of torch's generator, which is put back afterwards.
    A test may raise AssertionError, as in pytest, instead of returning False.
    """
    name = _name(test, "the test")
    try:
        fault = next(_faults(test, sound, broken), "")
    except NotImplementedError as error:
        return unwritten(name, error)
    if fault:
        return Verdict(False, f"✗ {name} is not right yet: {fault}.")
    many = f"{len(sound)} sound versions pass" if len(sound) > 1 else "the sound version passes"
    slips = ", ".join(map(_name, broken))
    return Verdict(True, f"✓ {name} is right: {many}, and it catches {slips}, with {SEEDS} seeds.")


def _name(fn: Callable, otherwise: str = "") -> str:
    return getattr(fn, "__name__", otherwise or repr(fn))


def _faults(test: Callable, sound: Sequence[Callable], broken: Sequence[Callable]) -> Iterator[str]:
    """What is wrong with a test, the most telling first."""
    known = {}
    for fn in sound:
        runs = [_run(test, fn, seed) for seed in range(SEEDS)]
        for said, answers in runs:
            if isinstance(said, Exception):
                line = str(said).strip().partition("\n")[0][:120]
                yield f"with the sound {_name(fn)} it raises {type(said).__name__}: {line}"
            if not isinstance(said, bool):
                line = repr(said).partition("\n")[0][:120]
                yield f"it returns {line}; return True or False"
            if not answers:
                yield "it never calls the function that it is given"
        if (passed := sum(said for said, _ in runs)) < SEEDS:
            why = _why_sound_fails(test, fn, passed, is_first=not known)
            yield f"{_name(fn)}, which is sound, {why}"
        known[_name(fn)] = runs[0][1]
    for fn in broken:
        runs = [_run(test, fn, seed) for seed in range(SEEDS)]
        caught = sum(said is not True for said, _ in runs)
        if not caught:
            why = _why_broken_passes(runs[0][1], known)
            yield f"{_name(fn)}, which is broken, passes.\n  {why}"
        elif caught < SEEDS:
            yield (
                f"it catches {_name(fn)} with {caught} of {SEEDS} seeds; try more numbers, or "
                "inputs that don't leave it to chance"
            )


def _why_sound_fails(test: Callable, fn: Callable, passed: int, is_first: bool) -> str:
    if passed:
        return (
            f"passes with {passed} of {SEEDS} seeds only.\n  The test leaves too much to chance, "
            "or is tighter than float32 rounds; widen its bounds, or take more numbers"
        )
    if all(_run(test, fn, seed, double=True)[0] is True for seed in (0, 1)):
        return (
            "fails, but passes in double precision.\n  The tolerance is tighter than float32 "
            "rounds; take about 1e-5, or 1e-4 after many steps"
        )
    what = "what it states need not hold" if is_first else "it asks for more than the property"
    return f"fails.\n  Perhaps {what}, or it wants the numbers of one version, to the last bit"


def _why_broken_passes(answers: list, known: dict[str, list]) -> str:
    """known: what the sound versions answered on the same inputs."""
    other = (
        "other inputs: sides that differ, several channels or heads, a mean that isn't 0, uneven "
        "steps, the first and the last step, another mode"
    )
    if not all(isinstance(a, torch.Tensor) for a in answers):
        return f"The test states too little, or needs {other}"
    for name, wanted in known.items():
        if len(wanted) == len(answers) and all(map(alike, answers, wanted, [1e-4] * len(wanted))):
            if any(a.requires_grad for a in answers):
                return (
                    f"Its values are those of {name}; of its gradients the test states too little"
                )
            return f"On these inputs it answers as {name} does, so nothing can tell; try {other}"
    return (
        f"On these inputs it does answer otherwise than {', '.join(known)}, and the test doesn't "
        "mind: it states too little; say what else must hold"
    )


def _run(test: Callable[[Callable], bool], fn: Callable, seed: int, double: bool = False) -> tuple:
    """(What the test says of fn: True, False, an error or something else; what fn answered)."""
    answers, precision = [], torch.get_default_dtype()

    @wraps(fn)
    def watched(*arguments: object, **named: object) -> object:
        found = fn(*arguments, **named)
        answers.extend(found if isinstance(found, tuple | list) else [found])
        return found

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64 if double else precision)
        try:
            said = test(watched)
        except AssertionError:
            said = False
        except Exception as error:
            if isinstance(error, NotImplementedError) and "not implemented for" not in str(error):
                raise  # a stub; torch raises the same for kinds of numbers
            said = error
        finally:
            torch.set_default_dtype(precision)
    is_truth = isinstance(said, torch.Tensor) and said.dtype == torch.bool and said.numel() == 1
    return (bool(said) if is_truth else said), answers
