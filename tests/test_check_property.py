"""The check of a student's own property test: what it accepts, and what it says otherwise."""

import pytest
import torch

from minidit import check


def doubled(x):
    return 2 * x


def added_to_itself(x):
    """As sound, and not the same numbers: it rounds."""
    return (x + x) * (1 + 1e-7)


def squared(x):
    return x * x


SOUND, BROKEN = [doubled, added_to_itself], [squared]


def is_linear(fn):
    x, y = torch.randn(2, 10)
    return torch.allclose(fn(x + y), fn(x) + fn(y), atol=1e-5)


def with_assertions(fn):
    x = torch.randn(10)
    assert torch.allclose(fn(3 * x), 3 * fn(x), atol=1e-5)
    return True


def as_a_tensor(fn):
    x = torch.randn(10)
    return ((fn(-x) + fn(x)).abs() < 1e-5).all()


def broken_ones_may_raise(fn):
    x = -torch.rand(10)
    return fn(x).item() < 0 if (fn(x) > 0).any() else True


@pytest.mark.parametrize("test", [is_linear, with_assertions, as_a_tensor, broken_ones_may_raise])
def test_right_ones_pass(test):
    verdict = check.property_test(test, SOUND, BROKEN)
    assert verdict, verdict
    assert repr(verdict).startswith(f"✓ {test.__name__} is right: 2 sound versions pass")
    assert "catches squared" in repr(verdict)


def test_one_sound_version_is_enough():
    assert "the sound version passes" in repr(check.property_test(is_linear, [doubled], BROKEN))


def nothing(fn):
    fn(torch.ones(2))


def an_answer_to_compare_with(fn):
    x = torch.randn(10)
    return torch.equal(fn(x), 2 * x)


def too_strict(fn):
    x = torch.randn(10)
    return torch.equal(fn(x), x)


def too_tight(fn):
    x = torch.rand(10) + 1
    return bool((fn(x) / 2 - x.double()).abs().max() < 3e-7 * (x.dtype == torch.float64))


def no_difference(fn):
    x = torch.full((3,), 2.0)
    return torch.equal(fn(x), 2 * x) or torch.allclose(fn(x), 2 * x)


def too_little(fn):
    return bool((fn(torch.rand(10)) >= 0).all())


def too_little_of_numbers(fn):
    return fn(3.0) > 0


def by_chance(fn):
    x = 2.0 if torch.rand(()) < 0.5 else 3.0
    return abs(fn(x) - 2 * x) < 1e-3


def bounds_by_chance(fn):
    return bool(abs(fn(torch.randn(100)).mean()) < 0.1)


def of_other_shapes(fn):
    return fn(torch.ones(2)) @ torch.ones(3) > 0


def of_whole_numbers(fn):
    return bool(fn(torch.arange(3)).softmax(dim=0).any())


def yes(fn):
    return "yes"


def by_name(fn):
    return fn.__name__ != "squared"


WRONG = {
    "it returns None; return True or False": nothing,
    "it returns 'yes'": yes,
    "never calls the function": by_name,
    "doubled, which is sound, fails.\n  Perhaps what it states need not hold": too_strict,
    "added_to_itself, which is sound, fails.\n  Perhaps it asks": an_answer_to_compare_with,
    "but passes in double precision": too_tight,
    "squared, which is broken, passes.\n  On these inputs it answers as doubled": no_difference,
    "the test doesn't mind: it states too little": too_little,
    "The test states too little, or needs other inputs": too_little_of_numbers,
    "of 5 seeds; try more numbers": by_chance,
    "of 5 seeds only.\n  The test leaves too much to chance": bounds_by_chance,
    "with the sound doubled it raises RuntimeError": of_other_shapes,
    "with the sound doubled it raises": of_whole_numbers,
}


@pytest.mark.parametrize("words", WRONG)
def test_each_fault_is_named(words):
    verdict = check.property_test(WRONG[words], SOUND, BROKEN)
    assert not verdict and words in repr(verdict), verdict
    assert repr(verdict).startswith(f"✗ {WRONG[words].__name__} is not right yet")
    assert torch.get_default_dtype() == torch.float32


def test_gradients_are_no_values():
    def detached(x):
        return (x.detach() + x) * 1

    def has_a_gradient(fn):
        fn(torch.randn(3, requires_grad=True)).sum().backward()
        return True

    verdict = check.property_test(has_a_gradient, [doubled], [detached])
    assert not verdict and "of its gradients the test states too little" in repr(verdict)


def test_a_stub_is_still_to_be_written():
    def my_property(fn):
        raise NotImplementedError("exercise 3")

    verdict = check.property_test(my_property, SOUND, BROKEN)
    assert not verdict and repr(verdict) == "○ my_property is still to be written: exercise 3"


def test_torchs_generator_is_put_back():
    before = torch.random.get_rng_state()
    assert check.property_test(is_linear, SOUND, BROKEN)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_broken_version_must_be_caught():
    def halved_where_positive(x):
        return torch.where(x > 0, 1.0, 2.0) * x

    verdict = check.property_test(as_a_tensor, SOUND, [squared, halved_where_positive])
    assert verdict and "squared, halved_where_positive" in repr(verdict)
    assert "broken, passes" in repr(
        check.property_test(with_assertions, SOUND, [halved_where_positive])
    )
