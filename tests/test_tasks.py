"""tasks.py without network: what it refuses, and that an unfinished set-up starts over."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "tasks.py"


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """tasks.py as it would run in a fresh clone in tmp_path, with every set-up step faked."""
    spec = importlib.util.spec_from_file_location("tasks_under_test", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pyproject.toml").write_text("[project]\n\n[tool.ruff]\n", encoding="utf-8")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n", encoding="utf-8")
    venv = tmp_path / ".venv"
    monkeypatch.setattr(module, "ROOT", str(tmp_path))
    monkeypatch.setattr(module, "VENV", str(venv))
    monkeypatch.setattr(module, "STAMP", str(venv / "minidit-stamp"))
    monkeypatch.setattr(module, "LOG", str(venv / "install.log"))
    module.steps, module.calls, module.fail_at = [], [], None

    def install(command):
        """Note the step; `venv` leaves a Python behind, and the step in fail_at does not finish."""
        step = command[2]
        module.steps.append(step)
        if step == "venv":
            python = Path(module.venv_python())
            python.parent.mkdir()
            python.touch()
        if step == module.fail_at:
            raise KeyboardInterrupt

    def run(command, **_):
        module.calls.append(command)
        return 5

    monkeypatch.setattr(module, "install", install)
    monkeypatch.setattr(module, "run", run)
    return module


# --- what a fresh machine sees --------------------------------------------------------------------


def test_no_command_and_help_list_the_commands(tasks, capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert tasks.main(arguments) == 0
        printed = capsys.readouterr().out
        assert all(f"\n  {name} " in printed for name in tasks.COMMANDS)
    assert tasks.steps == []


def test_unknown_command_is_one_sentence(tasks, capsys):
    assert tasks.main(["tset"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "tasks.py: no command 'tset'; there are: demo, lab, notebooks, site, test"
    ]
    assert tasks.steps == []


def test_old_python_is_one_sentence(tasks, capsys, monkeypatch):
    monkeypatch.setattr(tasks.sys, "version_info", (3, 8, 18))
    assert tasks.main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs Python 3.10 or newer and this is Python 3.8" in line
    assert tasks.steps == []


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_missing_module_is_one_sentence(tasks, capsys, monkeypatch, module):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    assert tasks.main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no `{module}` module" in line
    assert "apt install python3." in line
    assert not os.path.exists(tasks.VENV)


def test_the_site_is_built_by_the_environments_python(tasks):
    assert tasks.main(["site", "--out", "pages"]) == 5
    script = os.path.join(tasks.ROOT, "notebooks", "pages", "build.py")
    assert tasks.calls == [[tasks.venv_python(), script, "--out", "pages"]]
    assert (SOURCE.parent / os.path.relpath(script, tasks.ROOT)).is_file()


# --- the stamp ------------------------------------------------------------------------------------


def test_first_call_sets_up_and_the_next_starts_at_once(tasks):
    assert tasks.main(["test", "-k", "patches"]) == 5, "the command's exit code is handed on"
    assert tasks.steps == ["venv", "pip"]
    assert tasks.main(["test", "--", "-q"]) == 5
    assert tasks.steps == ["venv", "pip"]
    assert [call[1:] for call in tasks.calls] == [
        ["-m", "pytest", "-k", "patches"],
        ["-m", "pytest", "-q"],
    ]


@pytest.mark.parametrize("step", ["venv", "pip"])
def test_interrupted_set_up_starts_over(tasks, capsys, step):
    tasks.fail_at = step
    assert tasks.main(["demo"]) == 130
    assert tasks.calls == []
    leftover = Path(tasks.VENV) / "half-written"
    leftover.mkdir()

    tasks.fail_at = None
    assert tasks.main(["demo"]) == 5
    assert "starting over" in capsys.readouterr().out
    assert tasks.steps[-2:] == ["venv", "pip"]
    assert not leftover.exists()


def test_interrupted_clearing_is_cleared_further(tasks, monkeypatch):
    tasks.main(["demo"])
    (Path(tasks.ROOT) / "constraints.txt").write_text("torch==2.14.0\n", encoding="utf-8")
    rmtree = tasks.shutil.rmtree

    def interrupted(path, **_):
        rmtree(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks.shutil, "rmtree", interrupted)
    assert tasks.main(["demo"]) == 130
    monkeypatch.setattr(tasks.shutil, "rmtree", rmtree)
    assert tasks.main(["demo"]) == 5
    assert tasks.steps == ["venv", "pip"] * 2


def test_a_killed_start_is_cleared(tasks):
    os.mkdir(tasks.VENV)  # killed before it could write the stamp
    assert tasks.main(["demo"]) == 5


@pytest.mark.parametrize(
    ("name", "text", "again"),
    [
        ("constraints.txt", "torch==2.14.0\n", True),
        ("pyproject.toml", "[project]\ndependencies = []\n\n[tool.ruff]\n", True),
        ("pyproject.toml", "[project]\n\n[tool.ruff]\nline-length = 99\n", False),
    ],
)
def test_changed_requirements_set_up_again_and_tool_settings_do_not(tasks, name, text, again):
    tasks.main(["demo"])
    (Path(tasks.ROOT) / name).write_text(text, encoding="utf-8")
    tasks.main(["demo"])
    assert len(tasks.steps) == (4 if again else 2)


def test_another_python_sets_up_again(tasks, monkeypatch):
    tasks.main(["demo"])
    monkeypatch.setattr(tasks.sys, "version_info", (3, 99, 0))
    tasks.main(["demo"])
    assert len(tasks.steps) == 4


def test_a_vanished_interpreter_sets_up_again(tasks):
    tasks.main(["demo"])
    os.remove(tasks.venv_python())
    tasks.main(["demo"])
    assert len(tasks.steps) == 4


def test_somebody_elses_environment_is_left_alone(tasks, capsys):
    mine = Path(tasks.VENV) / "bin" / "python"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert tasks.main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not made by tasks.py" in line
    assert mine.exists()


# --- starting and ending other programs -----------------------------------------------------------


@pytest.fixture
def real(tasks, monkeypatch):
    """The fixture above with the real `run` and `install` put back."""
    spec = importlib.util.spec_from_file_location("tasks_for_real", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("ROOT", "VENV", "STAMP", "LOG"):
        monkeypatch.setattr(module, name, getattr(tasks, name))
    return module


def test_exit_codes_are_handed_on(real):
    assert real.run([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    if os.name != "nt":
        killed = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
        assert real.run([sys.executable, "-c", killed]) == 128 + 15


def test_a_failed_step_shows_its_end_and_keeps_its_log(real, capsys):
    os.mkdir(real.VENV)
    with pytest.raises(real.Stop, match="install.log"):
        real.install([sys.executable, "-c", "print('no such package'); raise SystemExit(1)"])
    assert "no such package" in capsys.readouterr().err
    assert "no such package" in real.read(real.LOG)


def test_two_calls_at_once_wait_for_each_other(real, capsys, monkeypatch):
    holder = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("tasks", {str(SOURCE)!r})
tasks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tasks)
tasks.VENV = {real.VENV!r}
with tasks.one_at_a_time():
    print("held", flush=True)
    input()
"""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", holder], stdin=pipe, stdout=pipe, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        # the first look finds the lock taken, and instead of sleeping we kill its holder
        monkeypatch.setattr(real.time, "sleep", lambda _: (process.kill(), process.wait()))
        with real.one_at_a_time():
            assert process.poll() is not None
    finally:
        process.kill()
        process.communicate()
    assert "waiting for it" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="Windows does not share the lock")
def test_a_step_that_outlives_its_caller_keeps_the_lock(real):
    with real.one_at_a_time():
        step = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False
        )
    try:
        with open(real.VENV + ".lock") as handle, pytest.raises(BlockingIOError):
            real.lock(handle)
    finally:
        step.kill()
        step.communicate()
    with open(real.VENV + ".lock") as handle:
        real.lock(handle)


# --- notebooks ------------------------------------------------------------------------------------


def notebook(*outputs):
    """A minimal notebook with one executed cell."""
    cell = {
        "cell_type": "code",
        "execution_count": 1,
        "metadata": {"execution": {"iopub.status.busy": "2026-01-01"}, "tags": ["x"]},
        "outputs": list(outputs),
        "source": ["1"],
    }
    metadata = {
        "kernelspec": {"name": "my-env", "display_name": "mine"},
        "language_info": {"name": "python", "version": "3.11.7"},
        "widgets": {"state": {}},
    }
    return {"cells": [cell], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def test_tidy_keeps_what_a_reader_sees(tasks):
    widget = {
        "output_type": "display_data",
        "data": {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0%"},
    }
    result = {"output_type": "execute_result", "data": {"text/plain": "1"}}
    tidied = tasks.tidy(notebook(widget, result))
    assert tidied["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    (cell,) = tidied["cells"]
    assert cell["outputs"] == [result]
    assert cell["metadata"] == {"tags": ["x"]}


def test_printed_lines_are_joined(tasks):
    out, err = ({"output_type": "stream", "name": name} for name in ("stdout", "stderr"))
    lines = [{**out, "text": ["1\n"]}, {**out, "text": ["2\n"]}, {**err, "text": ["3\n"]}]
    (cell,) = tasks.tidy(notebook(*lines))["cells"]
    assert cell["outputs"] == [{**out, "text": ["1\n", "2\n"]}, lines[2]]


def test_tracebacks_lose_the_machine(tasks, monkeypatch):
    monkeypatch.setattr(tasks, "ROOT", os.path.join(os.path.expanduser("~"), "src", "minidit"))
    red = "\x1b[31m"
    lines = [
        f"File {red}{tasks.ROOT}/minidit/dit.py:3{red}, in f",
        "File ~/src/minidit/minidit/dit.py:3, in f",
        f"File {red}{tasks.ROOT}/.venv/lib/python3.11/site-packages/torch/x.py:1{red}",
        "File ~/miniconda/envs/m/lib/python3.11/ast.py:54",
        "ValueError: 3/4 of a patch",
    ]
    error = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": lines}
    (cell,) = tasks.tidy(notebook(error))["cells"]
    assert cell["outputs"][0]["traceback"] == [
        f"File {red}minidit/dit.py:3{red}, in f",
        "File minidit/dit.py:3, in f",
        f"File {red}site-packages/torch/x.py:1{red}",
        "File lib/python3.11/ast.py:54",
        "ValueError: 3/4 of a patch",
    ]


@pytest.fixture
def shelf(tasks):
    """Three notebooks in the fresh clone."""
    folder = Path(tasks.ROOT) / "notebooks"
    folder.mkdir()
    for name in ("00_quickstart", "01_diffusion", "02_patchify"):
        (folder / f"{name}.ipynb").write_text(json.dumps(notebook()), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], ["00_quickstart", "01_diffusion", "02_patchify"]),
        (["02", "notebooks/00_quickstart.ipynb"], ["00_quickstart", "02_patchify"]),
        (["01_diffusion"], ["01_diffusion"]),
    ],
)
def test_notebooks_are_chosen_by_how_they_begin(tasks, shelf, names, chosen):
    assert [Path(path).stem for path in tasks.choose_notebooks(names)] == chosen


def test_unknown_notebook_is_one_sentence(tasks, shelf, capsys):
    assert tasks.main(["notebooks", "07"]) == 2
    assert "no notebook begins with '07'" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1])
def test_a_notebook_is_stored_only_if_it_ran(tasks, shelf, monkeypatch, code):
    def run(command, env=None, **_):
        if "nbconvert" not in command:
            return 0
        assert env["MINIDIT_SCALE"] == "smoke"
        folder = command[command.index("--output-dir") + 1]
        ran = notebook({"output_type": "stream", "name": "stdout", "text": ["ran\n"]})
        (Path(folder) / command[command.index("--output") + 1]).write_text(json.dumps(ran))
        return code

    monkeypatch.delenv("MINIDIT_SCALE", raising=False)
    monkeypatch.setattr(tasks, "run", run)
    before = (shelf / "01_diffusion.ipynb").read_bytes()
    assert tasks.main(["notebooks", "01"]) == code
    after = json.loads((shelf / "01_diffusion.ipynb").read_text(encoding="utf-8"))
    assert bool(after["cells"][0]["outputs"]) == (code == 0)
    if code:
        assert (shelf / "01_diffusion.ipynb").read_bytes() == before
    assert sorted(path.name for path in shelf.iterdir()) == [
        "00_quickstart.ipynb",
        "01_diffusion.ipynb",
        "02_patchify.ipynb",
    ]
