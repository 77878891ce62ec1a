"""A check of a student's own test: does it let sound functions pass, and catch a broken one?

A property test states what must hold for every input. It gets a function and returns True or
False, and knows no right answer to compare with: several sound versions that differ must all pass.
"""

from collections.abc import Callable, Sequence

import torch

from minidit.check.verdict import Verdict, unwritten

SEEDS = 5


def property_test(
    test: Callable[[Callable], bool], sound: Sequence[Callable], broken: Sequence[Callable]
) -> Verdict:
    """Check `test(fn)`: True for each function in `sound`, False for each in `broken`.

    Every function is tried with several seeds of torch's generator, which is put back afterwards.
    A test may raise AssertionError, as in pytest, instead of returning False.
    """
    name = getattr(test, "__name__", "the test")
    for place, fn in enumerate(sound):
        for seed in range(SEEDS):
            got = _run(test, fn, seed)
            if isinstance(got, NotImplementedError):
                return unwritten(name, got)
            if got is not True:
                fault = _fault_with_sound(got, _name(fn), first=place == 0)
                return Verdict(False, f"✗ {name} is not right yet: {fault}.")
    for fn in broken:
        caught = sum(_run(test, fn, seed) is not True for seed in range(SEEDS))
        if caught < SEEDS:
            fault = _fault_with_broken(_name(fn), caught)
            return Verdict(False, f"✗ {name} is not right yet: {fault}.")
    many = f"{len(sound)} sound versions pass" if len(sound) > 1 else "the sound version passes"
    slips = ", ".join(map(_name, broken))
    return Verdict(True, f"✓ {name} is right: {many}, and it catches {slips}, with {SEEDS} seeds.")


def _name(fn: Callable) -> str:
    return getattr(fn, "__name__", repr(fn))


def _fault_with_sound(got: object, fn: str, first: bool) -> str:
    """What is wrong with a test that doesn't say True of a sound function of the name fn."""
    if isinstance(got, Exception):
        return f"with the sound {fn} it raises {type(got).__name__}: {got}"
    if got is not False:
        return f"it returns {got!r}; return True or False"
    if first:
        return f"{fn} fails it, which is sound; is the tolerance that of float32, about 1e-5?"
    return (
        f"{fn} fails it, which is sound, too: it asks for more than the property, perhaps for the "
        "numbers of one version"
    )


def _fault_with_broken(fn: str, caught: int) -> str:
    if caught:
        return (
            f"it catches {fn} with {caught} of {SEEDS} seeds; try more numbers, or inputs that "
            "don't leave it to chance"
        )
    return (
        f"{fn} passes it, which is broken; try inputs that can tell: sides that differ, several "
        "channels, a mean that isn't 0, the first and the last step"
    )


def _run(test: Callable[[Callable], bool], fn: Callable, seed: int) -> object:
    """What the test says of a function: True, False, an exception, or something else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            said = test(fn)
        except AssertionError:
            return False
        except Exception as error:
            return error
    is_truth = isinstance(said, torch.Tensor) and said.dtype == torch.bool and said.numel() == 1
    return bool(said) if is_truth else said
