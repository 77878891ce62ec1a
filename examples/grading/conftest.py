"""Points for a submission: options, a guard against the network, and a results file.

Copy this folder, change `test_submission.py`, and run it where students' code may run: in a
container or on a machine that holds nothing else. A submission runs in the process of its tests, so
this catches mistakes; it doesn't stop somebody who means to cheat.
"""

import importlib.util
import json
import socket
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RESULTS = pytest.StashKey[dict]()


def pytest_addoption(parser):
    """What an instructor may choose."""
    group = parser.getgroup("grading")
    group.addoption("--submission", type=Path, default=HERE / "submission.py", help="the file")
    group.addoption("--results", type=Path, help="write the points to this JSON file")
    group.addoption("--no-hints", action="store_true", help="leave out what is wrong, and why")


def pytest_configure(config):
    """A marker says how much a test is worth."""
    config.addinivalue_line("markers", "points(n): what passing this test is worth")
    config.stash[RESULTS] = {}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A submission that reaches for the network fails the test that it does so in."""

    def refuse(*_, **__):
        raise RuntimeError("the network is closed while a submission is graded")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def submission(request, no_network):
    """The student's file as a module, read anew for each test: none can spoil the next."""
    path = request.config.getoption("--submission")
    spec = importlib.util.spec_from_file_location("student_submission", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        pytest.fail(f"{path.name} can't be imported: {type(error).__name__}: {error}", False)
    return module


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Take note of each test that is worth points."""
    report = yield
    marker = item.get_closest_marker("points")
    if marker and (report.when == "call" or report.failed):
        hidden = item.config.getoption("--no-hints")
        item.config.stash[RESULTS][item.nodeid] = {
            "name": item.name,
            "score": marker.args[0] if report.passed else 0,
            "max_score": marker.args[0],
            "output": "" if report.passed or hidden else call.excinfo.exconly(),
        }
        if report.failed and hidden:
            report.longrepr = "not right yet"
    return report


def pytest_terminal_summary(terminalreporter, config):
    """The sum, and the file: its keys are those that Gradescope reads."""
    tests = list(config.stash[RESULTS].values())
    score, most = (sum(test[key] for test in tests) for key in ("score", "max_score"))
    terminalreporter.write_line(f"points: {score} of {most}")
    path = config.getoption("--results")
    if path is not None:
        path.write_text(json.dumps({"score": score, "tests": tests}, indent=1), encoding="utf-8")
