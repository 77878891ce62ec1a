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
import torch
from minidit import patchify, timestep_embedding

def q_sample(x0, t, noise, alphas_cumprod):
    kept = alphas_cumprod[t][:, None]
    return kept.sqrt() * x0 + (1 - kept).sqrt() * noise

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


SUBMISSIONS = {  # by name: the file, or None for the example's own, and options
    "example": (None, []),
    "right": (RIGHT, []),
    "phoning": (PHONING, []),
    "hints left out": (PHONING, ["--no-hints"]),
    "no Python": ("def patchify(:", []),
    "leaving": ("raise SystemExit(0)", []),
}
RUN_ALL = """
import contextlib, json, sys, pytest
for name, arguments in json.load(sys.stdin).items():
    with open(name + ".txt", "w", encoding="utf-8") as out, contextlib.redirect_stdout(out):
        code = pytest.main(arguments)
    with open(name + ".code", "w") as file:
        file.write(str(int(code)))
"""


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Every submission graded in one process: {name: (exit code, what is printed, results)}."""
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(EXAMPLE, folder / "hidden", ignore=shutil.ignore_patterns("__pycache__"))
    runs = {}
    for name, (source, options) in SUBMISSIONS.items():
        runs[name] = [
            "-q",
            "-p",
            "no:cacheprovider",
            "hidden",
            "--results",
            f"{name}.json",
            *options,
        ]
        if source is not None:
            (folder / name).mkdir()
            (folder / name / "homework.py").write_text(source, encoding="utf-8")
            runs[name] += ["--submission", f"{name}/homework.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(runs),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: (
            int((folder / f"{name}.code").read_text()),
            (folder / f"{name}.txt").read_text(encoding="utf-8"),
            json.loads((folder / f"{name}.json").read_text(encoding="utf-8")),
        )
        for name in runs
    }


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
        "q_sample": 0,
        "respaced_betas": 0,
        "test_every_pixel_is_kept": 2,
    }
    said = {test["name"]: test["output"] for test in results["tests"]}
    assert "likeliest cause" in said["test_part[patchify]"]
    assert "still to be written" in said["test_part[q_sample]"]
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


@pytest.mark.parametrize("name", ["no Python", "leaving"])
def test_a_submission_that_cannot_be_imported_gets_none(graded, name):
    code, printed, results = graded[name]
    assert (code, results["score"]) == (1, 0), printed
    assert "homework.py can't be imported" in printed
