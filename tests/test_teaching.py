"""The course that examples/teaching makes: students find no solution, the grader grades."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
import test_course
import test_solutions

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "teaching" / "course.py"
NOTEBOOKS = test_solutions.NOTEBOOKS

spec = importlib.util.spec_from_file_location("course", SCRIPT)
course = importlib.util.module_from_spec(spec)
spec.loader.exec_module(course)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with a course, made as README.md says."""
    out = tmp_path_factory.mktemp("teaching") / "out"
    done = subprocess.run([sys.executable, SCRIPT, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["grading.zip", "student"]
    return out


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_students_get_all_but_the_solutions(made, path):
    handed_out = made / "student" / "notebooks" / path.name
    nbformat.validate(nbformat.read(handed_out, as_version=4))
    cells, before = (json.loads(p.read_text("utf-8"))["cells"] for p in (handed_out, path))
    texts = test_course.markdown(handed_out)
    assert "<summary>Solution" not in "\n".join(texts)
    for _, _, solution in test_solutions.exercises(test_solutions.cells(path)):
        assert solution.strip() not in "\n".join(texts)
    code, code_before = ([c for c in some if c["cell_type"] == "code"] for some in (cells, before))
    for now, then in zip(code, code_before, strict=True):
        if test_solutions.stubs("".join(then["source"])):
            then = {**then, "outputs": [], "execution_count": None}
        assert now == then
    for text in test_course.markdown(path):  # nothing else is taken out
        rest = re.sub(r"<details><summary>Solution.*?</details>", "", text, flags=re.DOTALL)
        assert not rest.strip() or rest.split() in [kept.split() for kept in texts]
    for link in [link for text in texts for link in test_course.links(text)]:
        assert (handed_out.parent / link.partition("#")[0]).exists(), link


def test_a_cell_with_a_solution_alone_goes():
    solution = "<details><summary>Solution</summary>\n\nx\n</details>\n"
    cells = [{"cell_type": "markdown", "source": [s]} for s in (solution, solution + "\nb\nc")]
    left = json.loads(course.without_solutions(json.dumps({"cells": cells})))["cells"]
    assert [cell["source"] for cell in left] == [["b\n", "c"]]


def test_the_students_project_is_whole(made):
    program = "import minidit; print(minidit.__file__, minidit.load('dit-mnist')[0].null_label)"
    environment = {**os.environ, "PYTHONPATH": str(made / "student")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=made, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(made / "student" / "minidit" / "__init__.py"), "10"]
    for name in ("tasks.py", "constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
        assert (made / "student" / name).is_file()


@pytest.mark.skipif(os.name == "nt", reason="Gradescope starts a bash script")
def test_the_bundle_grades_the_sample_as_gradescope_would(made, tmp_path):
    source = tmp_path / "source"
    with zipfile.ZipFile(made / "grading.zip") as archive:
        archive.extractall(source)
    shutil.copy(source / "run_autograder", tmp_path)
    for name in ("submission", "results", "source/env/bin"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(source / "submission.py", tmp_path / "submission")
    python = source / "env" / "bin" / "python"  # in place of what setup.sh makes
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(source / "package")}
    command = ["bash", tmp_path / "run_autograder"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results" / "results.json").read_text("utf-8"))
    assert results["score"] == 4 and len(results["tests"]) == 5
    subprocess.run(["bash", "-n", source / "setup.sh"], check=True)


def test_a_folder_in_use_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert course.main([str(tmp_path)]) == course.main([str(tmp_path / "thesis.txt")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    first, second = capsys.readouterr().err.splitlines()
    assert "isn't empty; name a new folder" in first and "thesis.txt" in second


def test_half_a_course_is_not_left(tmp_path, capsys, monkeypatch):
    full = OSError("no space left")
    monkeypatch.setattr(course.zipfile, "ZipFile", lambda *_, **__: (_ for _ in ()).throw(full))
    monkeypatch.setattr(course, "STUDENT", ["notebooks/0*.ipynb", "LICENSE"])
    assert course.main([str(tmp_path / "out")]) == 2 and not any((tmp_path / "out").iterdir())
    assert capsys.readouterr().err == "course.py: no space left\n"


def test_the_page_shows_the_exercises_that_there_are():
    page = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    assert course.table() in page, "paste what `python3 examples/teaching/course.py --table` prints"
    listed = re.findall(r"\d `\w+` \d+ min", course.table())
    stated = [e for path in NOTEBOOKS for e in test_solutions.exercises(test_solutions.cells(path))]
    assert len(listed) == len(stated)
    sessions = page.partition("## Six sessions")[2].partition("## Exercises")[0]
    known = {
        f"{path.stem[:2]}.{number}"
        for path in NOTEBOOKS
        for number, *_ in course.EXERCISE.findall("\n".join(test_course.markdown(path)))
    }
    titles = [title for path in NOTEBOOKS for title in test_course.headings(path)]
    assert set(re.findall(r'"([^"]+)"', sessions)) - {"after"} <= {*titles, "Break it"}
    named = re.findall(r"\b\d\d\.\d\b", sessions)
    assert set(named) <= known and len(set(named)) == len(named) > 15
