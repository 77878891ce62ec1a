"""Every folded solution in the notebooks, put in the place of its stub, must pass its check.

A notebook is read, not run: of the cells above an exercise only the statements that it needs, by
name, are executed, in a namespace of their own. So a solution that leans on something it is not
given fails here, as it would for a reader; and no network is trained for an exercise on `permute`.
"""

import ast
import contextlib
import io
import json
import re
import symtable
from pathlib import Path

import pytest

from minidit.check.verdict import Verdict

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

FOLDED = re.compile(r"<details><summary>(\w+)</summary>(.*?)</details>", re.DOTALL)
FENCE = re.compile(r"```python\n(.*?)```", re.DOTALL)


# --- finding exercises ----------------------------------------------------------------------------


def cells(path):
    """(kind, source) of every cell of a notebook."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


KINDS = (ast.FunctionDef, ast.ClassDef)


def stubs(source):
    """The functions and classes in a cell that do nothing but raise NotImplementedError."""
    return [n for n in ast.parse(source).body if isinstance(n, KINDS) and is_unwritten(n)]


def is_unwritten(node):
    """Tell whether the last thing that a function, or a class's last method, does is to raise."""
    last = node.body[-1]
    if isinstance(node, ast.ClassDef):
        return isinstance(last, ast.FunctionDef) and is_unwritten(last)
    return ast.unparse(last).startswith("raise NotImplementedError")


def exercises(notebook):
    """(name of the stub, number of its cell, code of the solution) for each exercise, in order."""
    found = []
    for number, (kind, source) in enumerate(notebook):
        if kind == "code":
            found += [[stub.name, number, None] for stub in stubs(source)]
            continue
        for summary, text in FOLDED.findall(source):
            code = "\n".join(FENCE.findall(text))
            if summary == "Solution":
                assert found and found[-1][2] is None, f"a solution without an exercise: {text}"
                assert code, f"the solution of {found[-1][0]} has no code"
                found[-1][2] = code
            else:  # what there is to think about is answered in prose
                assert summary == "Answer" and not code, f"{summary}: neither solution nor answer"
    missing = [name for name, _, code in found if code is None]
    assert not missing, f"no solution for {missing}"
    return found


# --- running one ----------------------------------------------------------------------------------


def names(statement):
    """The module's names in one statement: (those it binds, those it reads at once or later).

    What a function reads, it reads when it is called, so "later" means the latest value.
    """
    table = symtable.symtable(ast.unparse(statement), "<cell>", "exec")
    binds, now, later = set(), set(), set()
    for symbol in table.get_symbols():
        if symbol.is_assigned() or symbol.is_imported():
            binds.add(symbol.get_name())
        if symbol.is_referenced():
            now.add(symbol.get_name())
    if isinstance(statement, ast.AugAssign):  # which symtable takes for an assignment alone
        now.add(ast.unparse(statement.target).split("[")[0].split(".")[0])
    inner = [*table.get_children()]
    while inner:
        scope = inner.pop()
        inner += scope.get_children()
        later |= {s.get_name() for s in scope.get_symbols() if s.is_global() and s.is_referenced()}
    written_into = {
        ast.unparse(node).split("[")[0].split(".")[0]
        for node in ast.walk(statement)
        if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, ast.Store)
    }
    if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        now, later = now | later, set()
    return binds | (written_into & now), now, later


def settles(statement):
    """Tell whether a statement gives its names new values, whatever they were before."""
    plain = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    if isinstance(statement, ast.Assign):
        return all(isinstance(t, (ast.Name, ast.Tuple, ast.List)) for t in statement.targets)
    return isinstance(statement, plain)


def needed(before, target):
    """Those of the statements `before` on which the statements `target` depend, in order."""
    everything = [*before, *target]
    facts = [names(statement) for statement in everything]
    chosen, waiting = set(), []

    def choose(k):
        chosen.add(k)
        _, now, later = facts[k]
        waiting.extend([(name, k) for name in now] + [(name, len(everything)) for name in later])

    for k in range(len(before), len(everything)):
        choose(k)
    while waiting:
        name, place = waiting.pop()
        for k in reversed(range(place)):
            if name in facts[k][0]:
                if k not in chosen:
                    choose(k)
                if settles(everything[k]):
                    break
    return [before[k] for k in sorted(chosen) if k < len(before)]


def solved(source, name, solution):
    """The statements of an exercise's cell, with the stub `name` replaced by its solution."""
    found = []
    for node in ast.parse(source).body:
        is_stub = isinstance(node, KINDS) and node.name == name
        found += ast.parse(solution).body if is_stub else [node]
    return found


def attempt(notebook, name, number, solution):
    """What the check says of a solution: (value of the cell's last line, what the cell prints)."""
    before = [
        statement
        for kind, source in notebook[:number]
        if kind == "code"
        for statement in ast.parse(source).body
    ]
    body = solved(notebook[number][1], name, solution)
    space, printed = {"__name__": "exercise"}, io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(ast.Module(needed(before, body), []), f"<above {name}>", "exec"), space)
    last = body.pop() if isinstance(body[-1], ast.Expr) else ast.parse("None").body[0]
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), f"<{name}>", "exec"), space)
        value = eval(compile(ast.Expression(last.value), f"<{name}>", "eval"), space)
    return value, printed.getvalue()


def passes(value, printed):
    """Tell whether a check, returned or printed, found everything right."""
    if value is None:
        return "✓" in printed and not {"✗", "○"} & set(printed)
    return value is True or isinstance(value, Verdict) and value.right


ALL = [
    pytest.param(path, *exercise, id=f"{path.stem[:2]}-{exercise[0]}")
    for path in NOTEBOOKS
    for exercise in exercises(cells(path))
]


@pytest.mark.parametrize(("path", "name", "number", "solution"), ALL)
def test_solution_passes_its_check(path, name, number, solution):
    value, printed = attempt(cells(path), name, number, solution)
    assert passes(value, printed), f"{value!r}\n{printed}"


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_every_notebook_has_exercises(path):
    """All but the first, which only shows what is to come."""
    assert len(exercises(cells(path))) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_states_difficulty_and_minutes(path):
    text = "\n".join(source for kind, source in cells(path) if kind == "markdown")
    stated = re.findall(r"\*\*\w+ (\d+)\*\* \((?:easy|medium|hard), \d+ minutes\)\.", text)
    assert [int(number) for number in stated] == [*range(1, len(exercises(cells(path))) + 1)]


# --- does this file notice anything? --------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name", "number", "solution"), [p for p in ALL if p.id == "01-my_x0_from_v"]
)
@pytest.mark.parametrize("old, new", [(" - u", " + u"), ("u[:, None] * v", "u * v")])
def test_a_spoiled_solution_of_a_notebook_is_noticed(path, name, number, solution, old, new):
    spoiled = solution.replace(old, new)
    assert spoiled != solution
    value, printed = attempt(cells(path), name, number, spoiled)
    assert not passes(value, printed) and "✗ x0_from_v" in repr(value)


MADE_UP = [
    ("code", "import math\n\nunused = 1 / 0"),
    ("code", "base = math.pi\nbase = base / math.pi\ntable = {}\ntable['two'] = base + 1"),
    ("code", "def right(x):\n    return x == table['two']"),
    (
        "code",
        "def my_two():\n    raise NotImplementedError('exercise 1')\n\n\n"
        "print('✓' if right(my_two()) else '✗')",
    ),
    ("markdown", "<details><summary>Solution</summary>\n\n```python\n{}\n```\n</details>"),
]


def made_up(solution):
    """The verdict on a solution of a made-up exercise."""
    notebook = [(kind, source.replace("{}", solution, 1)) for kind, source in MADE_UP]
    notebook[1] = MADE_UP[1]  # its {} is a dictionary
    ((name, number, code),) = exercises(notebook)
    return passes(*attempt(notebook, name, number, code))


def test_what_an_exercise_needs_is_run_and_nothing_else():
    assert made_up("def my_two():\n    return math.sqrt(4)")


def test_a_wrong_solution_is_noticed():
    assert not made_up("def my_two():\n    return 3")


@pytest.mark.parametrize("solution", ["def my_two():\n    return unknown", "def mine():\n    pass"])
def test_a_solution_that_does_not_run_is_noticed(solution):
    with pytest.raises(NameError):
        made_up(solution)


@pytest.mark.parametrize(
    ("value", "printed", "right"),
    [
        (True, "", True),
        (False, "", False),
        (Verdict(True, "✓"), "", True),
        (Verdict(False, "○ still to be written"), "", False),
        (1.0, "✓", False),
        (None, "", False),
        (None, "✓ one\n✗ the other", False),
        (None, "✓ one\n○ the other", False),
        (None, "✓ one", True),
    ],
)
def test_what_counts_as_passing(value, printed, right):
    assert passes(value, printed) == right


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda n: n[:4], "no solution for"),
        (lambda n: n[:3] + n[4:], "a solution without an exercise"),
        (lambda n: n + n[4:], "a solution without an exercise"),
        (lambda n: [*n[:4], ("markdown", n[4][1].replace("```", "~~~"))], "has no code"),
        (lambda n: [*n, ("markdown", n[4][1].replace("Solution", "Answer"))], "neither"),
        (lambda n: [*n, ("markdown", n[4][1].replace("Solution", "Hint"))], "neither"),
    ],
)
def test_an_exercise_that_is_not_whole_is_noticed(spoil, words):
    with pytest.raises(AssertionError, match=words):
        exercises(spoil(MADE_UP))
