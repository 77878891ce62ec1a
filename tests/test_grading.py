"""The example for instructors, copied out of the clone and run as they would run it."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "grading"

RIGHT = """
import torch
from minidit import patchify, timestep_embedding

def x0_from_v(x_t, v, u):
    return x_t - u[:, None] * v

def respaced_betas(alphas_cumprod, steps):
    kept = alphas_cumprod[steps]
    return 1 - torch.cat([kept[:1], kept[1:] / kept[:-1]])
"""
PHONING = """
import socket
from minidit import timestep_embedding

def patchify(images, patch):
    socket.create_connection(("127.0.0.1", 9), timeout=1)
"""


RAW = """
import subprocess, sys
from minidit import timestep_embedding

program = "import _socket; _socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 9))"
if subprocess.call([sys.executable, "-c", program]):
    raise OSError("nothing could be sent")
"""

SUBMISSIONS = {  # by name: the file, or None for the example's own, and options
    "example": (None, []),
    "right": (RIGHT, []),
    "phoning": (PHONING, []),
    "phoning in a process": (RAW, []),
    "hints left out": (PHONING, ["--no-hints"]),
    "no Python": ("def patchify(:", []),
    "leaving": ("raise SystemExit(0)", []),
    "vanishing": ("import os\nos._exit(0)", []),
    "vanishing late": (RIGHT + "def patchify(*_): import os; os._exit(0)", []),
    "endless": (RIGHT + "def x0_from_v(*_): import time; time.sleep(1e6)", ["--seconds"]),
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Every submission graded: {name: (exit code, what is printed, results)}."""
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(EXAMPLE, folder / "hidden", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    found, longest = {}, 0.0
    for name, (source, options) in SUBMISSIONS.items():
        path, results = folder / name / "homework.py", folder / f"{name}.json"
        path.parent.mkdir()
        text = source if source is not None else (EXAMPLE / "submission.py").read_text("utf-8")
        path.write_text(text, encoding="utf-8")
        (path.parent / "conftest.py").write_text("raise SystemExit('a conftest of theirs ran')")
        results.write_text('{"score": 12, "tests": []}')  # of an earlier time
        if name == "endless":  # a limit that one which ends would have kept here and now
            options = [*options, str(round(5 + 2 * longest))]
        command = [sys.executable, "hidden/grade.py", path, "--results", results, *options]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
        longest = max(longest, time.perf_counter() - began)
        printed = (done.stdout + done.stderr).decode("utf-8")
        found[name] = done.returncode, printed, json.loads(results.read_text("utf-8"))
    return found


def scores(results):
    """The points of each test, by what is tested."""
    names = [test["name"].removeprefix("test_part[").rstrip("]") for test in results["tests"]]
    return dict(zip(names, (test["score"] for test in results["tests"])))


def test_the_example_gets_its_points_and_its_hints(graded):
    code, printed, results = graded["example"]
    assert code == 1 and "points: 4 of 12" in printed, printed
    assert scores(results) == {
        "patchify": 0,
        "timestep_embedding": 2,
        "x0_from_v": 0,
        "respaced_betas": 0,
        "test_every_pixel_is_kept": 2,
    }
    said = {test["name"]: test["output"] for test in results["tests"]}
    assert "likeliest cause" in said["test_part[patchify]"]
    assert "still to be written" in said["test_part[x0_from_v]"]
    assert "no function respaced_betas" in said["test_part[respaced_betas]"]


def test_a_right_submission_gets_all_points(graded):
    code, printed, results = graded["right"]
    assert code == 0 and "points: 12 of 12" in printed, printed
    assert results["score"] == sum(test["max_score"] for test in results["tests"]) == 12
    assert {test["output"] for test in results["tests"]} == {""}


def test_the_network_is_closed_and_hints_can_be_left_out(graded):
    _, printed, results = graded["phoning"]
    assert results["score"] == 2 and "the network is closed" in printed, printed
    _, printed, results = graded["hints left out"]
    assert results["score"] == 2 and "network" not in printed, printed
    assert {test["output"] for test in results["tests"]} == {""}


def test_the_system_closes_the_network_or_it_is_said(graded):
    _, printed, results = graded["phoning in a process"]
    assert "this system doesn't close the network" in printed or (
        results["score"] == 0 and "nothing could be sent" in printed
    ), printed


@pytest.mark.parametrize(
    ("name", "score", "said"),
    [
        ("vanishing", 0, "ended before its tests did"),
        ("vanishing late", 0, "ended before its tests did"),
        ("endless", 5, "the submission took more than"),
    ],
)
def test_tests_that_did_not_report_count_zero(graded, name, score, said):
    code, printed, results = graded[name]
    assert code == 1 and f"points: {score} of 12" in printed and said in printed, printed
    assert results["score"] == score and len(results["tests"]) == 5
    assert said in results["tests"][-1]["output"]


@pytest.mark.parametrize("name", ["no Python", "leaving"])
def test_a_submission_that_cannot_be_imported_gets_none(graded, name):
    code, printed, results = graded[name]
    assert (code, results["score"]) == (1, 0), printed
    assert "homework.py can't be imported" in printed


def test_a_limit_that_ends_before_the_tests_are_known_is_named(tmp_path, capfd):
    grade = EXAMPLE / "grade.py"
    command = [sys.executable, str(grade), str(EXAMPLE / "submission.py"), "--seconds", "0.01"]
    assert subprocess.run(command, cwd=tmp_path).returncode == 2
    told = capfd.readouterr().err
    assert "can't be collected: the submission took more than 0.01 seconds" in told
