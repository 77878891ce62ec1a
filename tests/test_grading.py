"""The example for instructors, copied out of the clone and run as they would run it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "grading"

RIGHT = """
from minidit import patchify, timestep_embedding

def q_sample(x0, t, noise, alphas_cumprod):
    kept = alphas_cumprod[t][:, None]
    return kept.sqrt() * x0 + (1 - kept).sqrt() * noise

def ddim_step(x, eps, now, after):
    now, after = now[:, None], after[:, None]
    x0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
    return after.sqrt() * x0 + (1 - after).sqrt() * eps
"""
PHONING = """
import socket
from minidit import timestep_embedding

def patchify(images, patch):
    socket.create_connection(("127.0.0.1", 9), timeout=1)
"""


@pytest.fixture
def grade(tmp_path):
    """Grade a submission: (exit code, what is printed, the results file)."""
    folder = tmp_path / "course"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def run(source, *options):
        results = tmp_path / "results.json"
        command = [sys.executable, "-m", "pytest", "-q", str(folder), "--results", str(results)]
        if source is not None:
            (tmp_path / "homework.py").write_text(source, encoding="utf-8")
            command += ["--submission", str(tmp_path / "homework.py")]
        done = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        written = json.loads(results.read_text(encoding="utf-8")) if results.exists() else None
        return done.returncode, done.stdout + done.stderr, written

    return run


def scores(results):
    """The points of each test, by what is tested."""
    names = [test["name"].removeprefix("test_part[").rstrip("]") for test in results["tests"]]
    return dict(zip(names, (test["score"] for test in results["tests"])))


def test_the_example_gets_its_points_and_its_hints(grade):
    code, printed, results = grade(None)
    assert code == 1 and "points: 4 of 12" in printed, printed
    assert scores(results) == {
        "patchify": 0,
        "timestep_embedding": 2,
        "q_sample": 0,
        "ddim_step": 0,
        "test_every_pixel_is_kept": 2,
    }
    said = {test["name"]: test["output"] for test in results["tests"]}
    assert "likeliest cause" in said["test_part[patchify]"]
    assert "still to be written" in said["test_part[q_sample]"]
    assert "no function ddim_step" in said["test_part[ddim_step]"]


def test_a_right_submission_gets_all_points(grade):
    code, printed, results = grade(RIGHT)
    assert code == 0 and "points: 12 of 12" in printed, printed
    assert results["score"] == sum(test["max_score"] for test in results["tests"]) == 12
    assert {test["output"] for test in results["tests"]} == {""}


def test_the_network_is_closed_and_hints_can_be_left_out(grade):
    _, printed, results = grade(PHONING)
    assert results["score"] == 2 and "the network is closed" in printed, printed
    _, printed, results = grade(PHONING, "--no-hints")
    assert results["score"] == 2 and "network" not in printed, printed
    assert {test["output"] for test in results["tests"]} == {""}


@pytest.mark.parametrize("source", ["def patchify(:", "raise SystemExit(0)"])
def test_a_submission_that_cannot_be_imported_gets_none(grade, source):
    code, printed, results = grade(source)
    assert (code, results["score"]) == (1, 0), printed
    assert "homework.py can't be imported" in printed
