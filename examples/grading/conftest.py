"""What `grade.py` starts in the submission's process: notes of the points, and no network."""

import importlib.util
import json
import os
import socket
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SUBMISSION = Path(os.environ.get("GRADING_SUBMISSION", HERE / "submission.py"))
REPORT = os.environ.get("GRADING_REPORT", os.devnull)
HINTS = bool(os.environ.get("GRADING_HINTS", "1"))


def note(content):
    """A line of the report, written at once."""
    with open(REPORT, "a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def points(item):
    """What a test is worth, or None."""
    marker = item.get_closest_marker("points")
    return marker.args[0] if marker else None


def pytest_configure(config):
    """A marker says how much a test is worth."""
    config.addinivalue_line("markers", "points(n): what passing this test is worth")


def pytest_collection_finish(session):
    """Which tests there are is noted before the submission is imported."""
    tests = [item for item in session.items if points(item)]
    note({item.nodeid: {"name": item.name, "max_score": points(item)} for item in tests})


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A submission that reaches for the network fails the test that it does so in."""

    def refuse(*_, **__):
        raise RuntimeError("the network is closed while a submission is graded")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)


@pytest.fixture
def submission(no_network):
    """The student's file as a module, read anew for each test: none can spoil the next."""
    spec = importlib.util.spec_from_file_location("student_submission", SUBMISSION)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        pytest.fail(f"{SUBMISSION.name} can't be imported: {type(error).__name__}: {error}", False)
    return module


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Take note of each test that is worth points."""
    report = yield
    if points(item) and (report.when == "call" or report.failed):
        told = "" if report.passed or not HINTS else call.excinfo.exconly()
        note([item.nodeid, points(item) if report.passed else 0, told])
        if report.failed and not HINTS:
            report.longrepr = "not right yet"
    return report
