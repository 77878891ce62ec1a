"""The tests that every check of a student's function has, made of the students that a file lists.

    test_right_ones_pass = students.right(RIGHT)

`RIGHT` are pairs (name of the check, function). `STUDENTS` tell of each check its wrong students,
by words that their hint must hold, and the package's own table of hints: {name: (wrong, table)}.
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
    """Each mistake gets its hint, as the likeliest cause."""
    cases = [(name, words) for name, (wrong, _) in students.items() for words in wrong]

    @pytest.mark.parametrize(("name", "words"), cases)
    def test(name, words):
        verdict = getattr(check, name)(students[name][0][words])
        assert not verdict and f"✗ {name}" in repr(verdict)
        assert words in repr(verdict).partition("likeliest cause")[2], verdict

    return test


def complete(students):
    """Every hint of a table has one student, and no student is without a hint."""

    @pytest.mark.parametrize("name", students)
    def test(name):
        wrong, table = students[name]
        assert len(wrong) == len(table)
        for hint in table:
            assert sum(words in hint for words in wrong) == 1, hint

    return test


def of_the_package(tables):
    """`STUDENTS` for a file that lists none: the mistakes that the package itself keeps."""
    return {name: (table, table) for name, table in tables.items()}


def stubs(names):
    """A stub is no failure but still to be written."""

    @pytest.mark.parametrize("name", names)
    def test(name):
        def stub(*arguments):
            raise NotImplementedError("exercise 1")

        verdict = getattr(check, name)(stub)
        assert not verdict
        assert repr(verdict) == f"○ {name} is still to be written: exercise 1"

    return test
