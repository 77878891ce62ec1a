"""The tests that every check of a student's function has, made of the students that a file lists.

`RIGHT`: pairs (name of a check, function). `WRONG`: a check's name → wrong students, each by words
that its hint must hold. They make a mistake in another way than the package does, whose own
mistakes, all of them, are tried in test_check.py.
"""

import pytest

from minidit import check


def right(pairs):
    """Right ones pass, however they are written."""

    @pytest.mark.parametrize(("name", "fn"), pairs)
    def test(name, fn):
        verdict = getattr(check, name)(fn)
        assert verdict and repr(verdict).startswith(f"✓ {name} is right"), verdict

    return test


def wrong(students):
    """Each mistake gets its hint, in whichever way it is made."""

    @pytest.mark.parametrize(("name", "words"), [(n, w) for n in students for w in students[n]])
    def test(name, words):
        verdict = getattr(check, name)(students[name][words])
        assert not verdict and f"✗ {name}" in repr(verdict)
        assert words in repr(verdict).partition("likeliest cause")[2], verdict

    return test
