"""tasks.py without network: what it refuses, and that an unfinished set-up starts over."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "tasks.py"


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """tasks.py as it would run in a fresh clone in tmp_path, where other programs are faked."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(SOURCE, tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\n\n[tool.ruff]\n", encoding="utf-8")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location("tasks_under_test", tmp_path / "tasks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.steps_taken, module.calls, module.fail_at = [], [], None
    which = module.shutil.which
    monkeypatch.setattr(module.shutil, "which", lambda name: name != "uv" and which(name) or None)

    def call(command, **_):
        """Note the step; `venv` leaves a Python behind, and the step in fail_at does not finish."""
        step = next(word for word in command if word in ("venv", "pip"))
        module.steps_taken.append(step)
        if step == "venv":
            python = Path(module.venv_python())
            python.parent.mkdir()
            python.touch()
        if step == module.fail_at:
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(module.subprocess, "call", call)
    monkeypatch.setattr(module, "online", lambda: True)
    monkeypatch.setattr(module, "become", lambda command: module.calls.append(command) or 5)
    return module


# --- what a fresh machine sees --------------------------------------------------------------------


def test_no_command_and_help_list_the_commands(tasks, capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert tasks.main(arguments) == 0
        printed = capsys.readouterr().out
        assert all(f"\n  {name} " in printed for name in tasks.COMMANDS)
    assert tasks.steps_taken == []


def test_unknown_command_is_one_sentence(tasks, capsys):
    assert tasks.main(["tset"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "tasks.py: no command 'tset'; there are: demo, lab, notebooks, site, test"
    ]
    assert tasks.steps_taken == []


def test_old_python_is_one_sentence(tasks, capsys, monkeypatch):
    monkeypatch.setattr(tasks.sys, "version_info", (3, 8, 18))
    assert tasks.main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs Python 3.10 or newer and this is Python 3.8" in line
    assert tasks.steps_taken == []


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


def test_only_what_is_written_for_the_caller_runs_in_the_callers_folder(tasks, monkeypatch):
    folders = {}
    for name, (first, *_) in tasks.COMMANDS.items():
        os.chdir(SOURCE.parent)
        tasks.main([name])
        folders[name] = Path.cwd()
        if first != "-m":
            assert (SOURCE.parent / os.path.relpath(first, tasks.ROOT)).is_file()
    here = [name for name, folder in folders.items() if folder == SOURCE.parent]
    assert sorted(here) == ["demo", "site"]
    assert {folders[name] for name in folders if name not in here} == {Path(tasks.ROOT)}


def test_the_demos_threads_sleep_while_they_wait_unless_told_otherwise(tasks, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    tasks.main(["demo"])
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    tasks.main(["test"])
    assert "OMP_WAIT_POLICY" not in os.environ
    tasks.main(["demo"])
    assert os.environ["OMP_WAIT_POLICY"] == "passive"


# --- the stamp ------------------------------------------------------------------------------------


def test_first_call_sets_up_and_the_next_starts_at_once(tasks):
    assert tasks.main(["test", "-k", "patches"]) == 5, "the command's exit code is handed on"
    assert tasks.steps_taken == ["venv", "pip"]
    assert tasks.main(["test", "--", "-q"]) == 5
    assert tasks.steps_taken == ["venv", "pip"]
    assert [call[1:] for call in tasks.calls] == [
        [*tasks.COMMANDS["test"], "-k", "patches"],
        [*tasks.COMMANDS["test"], "-q"],
    ]


def test_jupyterlab_neither_asks_nor_changes_what_it_opens(tasks, monkeypatch):
    """It writes what the kernel and its specification say into a notebook's metadata."""
    from ipykernel.ipkernel import IPythonKernel
    from ipykernel.kernelspec import get_kernel_dict

    tasks.main(["lab"])
    overrides = Path(tasks.VENV, "share", "jupyter", "lab", "settings", "overrides.json")
    (settings,) = json.loads(overrides.read_text()).values()
    assert settings == {"fetchNews": "false", "checkForUpdates": False}
    monkeypatch.setattr(IPythonKernel, "language_info", dict(IPythonKernel.language_info))
    exec(Path(tasks.VENV, "etc", "ipython", "ipython_kernel_config.py").read_text())
    spec = {name: get_kernel_dict()[name] for name in ("display_name", "language")}
    metadata = {"kernelspec": spec | {"name": "python3"}}
    metadata["language_info"] = IPythonKernel.language_info
    for path in sorted((SOURCE.parent / "notebooks").glob("*.ipynb")):
        assert json.loads(path.read_text(encoding="utf-8"))["metadata"] == metadata, path.name


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
    assert tasks.steps_taken[-2:] == ["venv", "pip"]
    assert not leftover.exists()


def test_interrupted_clearing_is_cleared_further(tasks, monkeypatch):
    tasks.main(["demo"])
    (Path(tasks.ROOT) / "constraints.txt").write_text("torch==2.14.0\n", encoding="utf-8")
    rmtree = tasks.shutil.rmtree

    def interrupted(path, **_):
        if os.path.exists(path):
            os.remove(os.path.join(path, "minidit-stamp"))  # the worst order to remove it in
            raise KeyboardInterrupt

    monkeypatch.setattr(tasks.shutil, "rmtree", interrupted)
    assert tasks.main(["demo"]) == 130
    monkeypatch.setattr(tasks.shutil, "rmtree", rmtree)
    assert tasks.main(["demo"]) == 5
    assert tasks.steps_taken == ["venv", "pip"] * 2
    assert not os.path.exists(tasks.VENV + ".tmp")


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
    assert len(tasks.steps_taken) == (4 if again else 2)


def test_another_python_sets_up_again(tasks, monkeypatch):
    tasks.main(["demo"])
    monkeypatch.setattr(tasks.sys, "version_info", (3, 99, 0))
    tasks.main(["demo"])
    assert len(tasks.steps_taken) == 4


def test_a_vanished_interpreter_sets_up_again(tasks):
    tasks.main(["demo"])
    os.remove(tasks.venv_python())
    tasks.main(["demo"])
    assert len(tasks.steps_taken) == 4


def test_a_package_that_vanished_sets_up_again(tasks, monkeypatch):
    packages = Path(tasks.VENV) / "lib" / "python3.11" / "site-packages"
    call = tasks.subprocess.call

    def install(command, **more):
        if "pip" in command:
            for name in ("torch", "torch-2.13.0.dist-info", "einops"):
                (packages / name).mkdir(parents=True)
        return call(command, **more)

    monkeypatch.setattr(tasks.subprocess, "call", install)
    for expected in (2, 2):
        tasks.main(["demo"])
        assert len(tasks.steps_taken) == expected
    (packages / "torch-2.13.0.dist-info").rename(packages / "torch-2.14.0.dist-info")
    tasks.main(["demo"])
    assert len(tasks.steps_taken) == 2, "another version is the user's choice"
    (packages / "einops").rmdir()
    tasks.main(["demo"])
    assert len(tasks.steps_taken) == 4


@pytest.mark.parametrize("garbage", [b"\xff\xfe\x00", b"", b"unfinished\n"])
def test_a_stamp_of_garbage_sets_up_again(tasks, garbage):
    tasks.main(["demo"])
    Path(tasks.STAMP).write_bytes(garbage)
    assert tasks.main(["demo"]) == 5 and len(tasks.steps_taken) == 4


def test_what_cannot_be_written_is_one_sentence(tasks, capsys, monkeypatch):
    Path(tasks.VENV).write_text("no folder")
    assert tasks.main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ".venv in this folder is no folder" in line
    monkeypatch.setattr(tasks, "VENV", os.path.join(tasks.ROOT, "tasks.py", ".venv"))
    assert tasks.main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tasks.py" in line and "may be written" in line


def test_no_network_is_said_first(tasks, capsys, monkeypatch):
    given = []
    monkeypatch.setattr(tasks, "online", lambda: False)
    monkeypatch.setattr(tasks.subprocess, "call", lambda c, env, **_: given.append(env) or 1)
    assert tasks.main(["demo"]) == 2
    printed = capsys.readouterr()
    assert "no network" in printed.out and "no network" in printed.err
    assert given[0]["PIP_RETRIES"] == given[0]["UV_HTTP_RETRIES"] == "0"


def test_somebody_elses_environment_is_left_alone(tasks, capsys):
    mine = Path(tasks.VENV) / "bin" / "python"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert tasks.main(["demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not made by tasks.py" in line
    assert mine.exists()


# --- starting other programs ----------------------------------------------------------------------


def test_uv_is_used_where_there_is_one(tasks, monkeypatch):
    python = tasks.venv_python()
    (make, install) = tasks.steps()
    assert make[1:] == ["-m", "venv", tasks.VENV]
    assert install[:4] == [python, "-m", "pip", "install"]
    monkeypatch.setattr(tasks.shutil, "which", lambda name: f"/opt/{name}")
    (make, install_too) = tasks.steps()
    assert make[:2] == ["/opt/uv", "venv"] and make[-1] == tasks.VENV
    assert install_too[:5] == ["/opt/uv", "pip", "install", "--python", python]
    assert install_too[5:] == install[4:] == ["-q", "-c", "constraints.txt", "-e", ".[dev]"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tasks.main(["demo"]) == 5, "which needs neither venv nor ensurepip"


def test_a_failed_step_ends_the_set_up(tasks, capsys, monkeypatch):
    monkeypatch.setattr(tasks.subprocess, "call", lambda command, **_: 1)
    assert tasks.main(["demo"]) == 2
    assert "the next call starts over" in capsys.readouterr().err
    assert not tasks.is_ready() and tasks.calls == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no exec")
def test_exit_codes_and_signals_are_the_commands_own(tmp_path):
    for code, expected in (("raise SystemExit(3)", 3), ("os.kill(os.getpid(), 15)", -15)):
        become = f"import tasks, sys; tasks.become([sys.executable, '-c', 'import os; {code}'])"
        done = subprocess.run([sys.executable, "-c", become], cwd=SOURCE.parent)
        assert done.returncode == expected


def test_two_calls_at_once_wait_for_each_other(tasks, capsys, monkeypatch):
    holder = """
import tasks
with tasks.one_at_a_time():
    print("held", flush=True)
    input()
"""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", holder]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=tasks.ROOT)
    try:
        assert process.stdout.readline() == "held\n"
        # the first look finds the lock taken, and instead of sleeping we kill its holder
        monkeypatch.setattr(tasks.time, "sleep", lambda _: (process.kill(), process.wait()))
        with tasks.one_at_a_time():
            assert process.poll() is not None
    finally:
        process.kill()
        process.communicate()
    assert "waiting for it" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="Windows does not share the lock")
def test_a_step_that_outlives_its_caller_keeps_the_lock(tasks):
    with tasks.one_at_a_time():
        step = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False
        )
    try:
        with open(tasks.VENV + ".lock") as handle:
            assert not tasks.lock(handle)
    finally:
        step.kill()
        step.communicate()
    with open(tasks.VENV + ".lock") as handle:
        assert tasks.lock(handle)
