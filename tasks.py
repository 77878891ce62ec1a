#!/usr/bin/env python3
"""Set minidit up and run it, from a fresh clone and with nothing but Python.

Standard library only, and written so that an old Python can still read it and be told that it is
too old. The environment in `.venv` is made on the first call. A stamp in it says what it was made
for; without that stamp, or with another one, it is made anew, so an interrupted set-up repairs
itself.
"""

from __future__ import print_function

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.realpath(__file__))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "minidit-stamp")
LOG = os.path.join(VENV, "install.log")
OLDEST = (3, 10)

HELP = """\
usage: python3 tasks.py COMMAND [ARGUMENTS]

  demo        train a small DiT on digits and draw a picture of what it learned
  test        run the tests, and every notebook against its stored outputs
  lab         open the notebooks in JupyterLab
  notebooks   execute the notebooks anew and store them: all, or those named (00, 02_patchify, ...)
  site        make web pages of the notebooks in the folder site/, and check their links

Arguments are handed on: `python3 tasks.py demo --help`, `python3 tasks.py test -k patches`.
The first call makes the environment .venv, which takes a few minutes; the next calls start at once.
"""


class Stop(Exception):
    """The end of the run: one sentence for the reader."""


def main(arguments):
    """Run one command and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    name, extra = arguments[0], arguments[1:]
    if extra[:1] == ["--"]:
        extra = extra[1:]
    if name not in COMMANDS:
        names = ", ".join(sorted(COMMANDS))
        print("tasks.py: no command '{}'; there are: {}".format(name, names), file=sys.stderr)
        return 2
    try:
        check_version(sys.version_info)
        set_up()
        return COMMANDS[name](extra)
    except Stop as stop:
        print("tasks.py: {}".format(stop), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntasks.py: interrupted", file=sys.stderr)
        return 130


# --- the commands ---------------------------------------------------------------------------------


def demo(extra):
    """Train, sample and draw; relative paths in the arguments mean the caller's folder."""
    return run([venv_python(), "-m", "minidit", "demo"] + extra)


def test(extra):
    """Run pytest, as pyproject.toml configures it."""
    return run([venv_python(), "-m", "pytest"] + extra, cwd=ROOT)


def lab(extra):
    """Open JupyterLab on the notebooks' folder."""
    return run([venv_python(), "-m", "jupyterlab", "notebooks"] + extra, cwd=ROOT)


def notebooks(extra):
    """Execute and store the notebooks in order, then check what was stored.

    The scale is `smoke` unless MINIDIT_SCALE says otherwise: the one that the tests compare with.
    """
    paths = choose_notebooks(extra)
    environment = dict(os.environ)
    environment.setdefault("MINIDIT_SCALE", "smoke")
    for number, path in enumerate(paths, 1):
        label = "[{}/{}] {}".format(number, len(paths), os.path.basename(path))
        print(label, "...", flush=True)
        start = time.time()
        code = execute_notebook(path, environment)
        if code:
            print("{} failed; it stays as it was".format(label), file=sys.stderr)
            return code
        print("{} stored after {:.0f} s".format(label, time.time() - start), flush=True)
    chosen = " or ".join(os.path.basename(path)[: -len(".ipynb")] for path in paths)
    return run(
        [venv_python(), "-m", "pytest", "-q", "tests/test_notebooks.py", "-k", chosen], cwd=ROOT
    )


def site(extra):
    """Build the pages from the stored notebooks; relative paths mean the caller's folder."""
    return run([venv_python(), os.path.join(ROOT, "notebooks", "pages", "build.py")] + extra)


COMMANDS = {"demo": demo, "test": test, "lab": lab, "notebooks": notebooks, "site": site}


def run(command, **options):
    """Run a command to its end and return its exit code; a signal becomes 128 plus its number."""
    process = subprocess.Popen(command, **options)
    try:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                pass  # the command got the same Ctrl-C and decides: JupyterLab asks, pytest reports
    finally:
        if process.poll() is None:
            process.terminate()
    return code if code >= 0 else 128 - code


# --- the environment ------------------------------------------------------------------------------


def set_up():
    """Make `.venv` unless it is there and was made for this Python, this folder and these pins."""
    if is_ready():
        return
    check_modules()
    with one_at_a_time():
        if is_ready():  # the call that held the lock has made it
            return
        clear_venv()
        print(
            "Setting up .venv with Python {}.{} (once; downloads PyTorch and takes a few minutes)"
            " ...".format(*sys.version_info[:2]),
            flush=True,
        )
        start = time.time()
        os.makedirs(VENV)
        write(STAMP, "unfinished\n")
        # From inside a .venv, sys.executable would be the very file that was just removed.
        install([getattr(sys, "_base_executable", sys.executable), "-m", "venv", VENV])
        install([venv_python(), "-m", "pip", "install", "-c", "constraints.txt", "-e", ".[dev]"])
        write(STAMP, fingerprint())
        print("Set up in {:.0f} s.".format(time.time() - start), flush=True)


def check_version(version):
    """Refuse a Python that is too old."""
    if tuple(version[:2]) < OLDEST:
        raise Stop(
            "minidit needs Python {}.{} or newer and this is Python {}.{}: start tasks.py with a"
            " newer one, for example `python3.12 tasks.py demo`.".format(
                *(OLDEST + tuple(version[:2]))
            )
        )


def check_modules():
    """Refuse a Python that cannot make an environment; Debian and Ubuntu package that apart."""
    import importlib.util  # not at the top, where a Python that is too old would stumble over it

    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise Stop(
                "this Python has no `{}` module, which making .venv needs: install it (on Debian"
                " or Ubuntu `sudo apt install python{}.{}-venv`) and call again.".format(
                    module, *sys.version_info[:2]
                )
            )


def fingerprint():
    """Return a hash of all that an installation depends on."""
    digest = hashlib.sha256()
    requirements = read(os.path.join(ROOT, "pyproject.toml")).split("\n[tool.")[0]
    pins = read(os.path.join(ROOT, "constraints.txt"))
    for part in (requirements, pins, "{}.{}".format(*sys.version_info[:2]), ROOT):
        digest.update(part.encode("utf-8") + b"\0")
    return digest.hexdigest() + "\n"


def is_ready():
    """Tell whether `.venv` was finished, and for what is asked now."""
    if not (os.path.exists(STAMP) and os.path.exists(venv_python())):
        return False
    return read(STAMP) == fingerprint()


def clear_venv():
    """Remove a `.venv` that is unfinished or out of date, but never one that somebody else made."""
    if not os.path.isdir(VENV):
        return
    if os.listdir(VENV) and not os.path.exists(STAMP):
        raise Stop(
            "the .venv in this folder was not made by tasks.py: rename or delete it and call again,"
            " or use what is in it: `python -m minidit demo`, `python -m pytest`."
        )
    print("The .venv is unfinished or out of date: starting over.", flush=True)
    if os.path.exists(STAMP):
        write(STAMP, "unfinished\n")
    for name in os.listdir(VENV):  # the stamp goes last: until then this is known to be ours
        path = os.path.join(VENV, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif path != STAMP:
            os.remove(path)
    shutil.rmtree(VENV)


def install(command):
    """Run one step of the set-up, showing its last line where there is a terminal."""
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_USER="0")
    width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else 0
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        close_fds=False,  # it shares the lock
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines = []
    try:
        for line in iter(process.stdout.readline, b""):
            lines.append(line.decode("utf-8", "replace").rstrip())
            if width:
                print("\r" + lines[-1].strip()[:width].ljust(width), end="", flush=True)
        code = process.wait()
    finally:
        if width:
            print("\r" + " " * width + "\r", end="", flush=True)
        if process.poll() is None:
            process.terminate()
            process.wait()
    write(LOG, "\n".join(lines) + "\n")
    if code:
        print("\n".join(lines[-15:]), file=sys.stderr)
        raise Stop(
            "the set-up failed, its last lines are above and all of them in .venv/install.log;"
            " the next call starts over."
        )


@contextlib.contextmanager
def one_at_a_time():
    """Hold a lock that the system lifts when its holder ends, however it ends."""
    told = False
    with open(VENV + ".lock", "w") as handle:
        while True:
            try:
                lock(handle)
                break
            except (BlockingIOError, PermissionError):  # held; the second is how Windows says it
                if not told:
                    print("Another call is setting up .venv; waiting for it ...", flush=True)
                told = True
                time.sleep(0.5)
            except OSError:  # some network file systems have no locks
                break
        yield


def lock(handle):
    """Take the lock of an open file or raise OSError at once.

    Where it can be shared, pip holds it as well: if this process is killed, pip may live on for a
    while, and the next call has to wait for it before it starts over.
    """
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.set_inheritable(handle.fileno(), True)


def venv_python():
    """Return the path of the environment's own Python."""
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return os.path.join(VENV, folder, name)


# --- notebooks ------------------------------------------------------------------------------------


def choose_notebooks(names):
    """Return the paths of the named notebooks, or of all, in order."""
    paths = sorted(glob.glob(os.path.join(ROOT, "notebooks", "[0-9]*.ipynb")))
    chosen = []
    for name in names:
        beginning = os.path.basename(name)
        found = [path for path in paths if os.path.basename(path).startswith(beginning)]
        if not found:
            there = ", ".join(os.path.basename(path) for path in paths) or "none"
            raise Stop("no notebook begins with '{}'; there are: {}".format(beginning, there))
        chosen += found
    if not (chosen or paths):
        raise Stop("there are no notebooks in the folder notebooks/")
    return sorted(set(chosen)) or paths


def execute_notebook(path, environment):
    """Execute one notebook and store it in place; if a cell fails, leave the file as it was."""
    name = os.path.basename(path)
    folder = tempfile.mkdtemp(prefix="minidit-")
    try:
        command = [venv_python(), "-m", "nbconvert", "--to", "notebook", "--execute", path]
        command += ["--output-dir", folder, "--output", name, "--log-level", "WARN"]
        command += ["--ExecutePreprocessor.kernel_name=python3", "--ExecutePreprocessor.timeout=-1"]
        command += ["--ExecutePreprocessor.extra_arguments=--log-level=ERROR"]  # for the kernel
        code = run(command, cwd=ROOT, env=environment)
        if code == 0:
            executed = json.loads(read(os.path.join(folder, name)))
            write(
                path,
                json.dumps(tidy(executed), indent=1, ensure_ascii=False, sort_keys=True) + "\n",
            )
        return code
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tidy(notebook):
    """Drop what only the machine that ran it knows, so that two runs store the same file."""
    language = notebook["metadata"].get("language_info", {})
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {key: language[key] for key in language if key != "version"},
    }
    for cell in notebook["cells"]:
        for key in ("execution", "ExecuteTime"):  # when each cell started and ended
            cell["metadata"].pop(key, None)
        outputs = joined([output for output in cell.get("outputs", []) if not is_widget(output)])
        for output in outputs:
            if output["output_type"] == "error":
                output["traceback"] = [without_machine(line) for line in output["traceback"]]
        if "outputs" in cell:
            cell["outputs"] = outputs
    return notebook


def is_widget(output):
    """Tell a live widget, such as a progress bar, of which a stored notebook can show nothing."""
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def joined(outputs):
    """Join printed lines that follow each other; how they were cut up is a matter of timing."""
    kept = []
    for output in outputs:
        before = kept[-1] if kept else {}
        if output["output_type"] == "stream" and output["name"] == before.get("name"):
            before["text"] = before["text"] + output["text"]
        else:
            kept.append(output)
    return kept


def without_machine(text):
    """Shorten the paths in a traceback to what they are on every machine."""
    for library in ("site-packages", r"lib[/\\]python3\.\d+"):
        text = re.sub(r"(?:~|\b[A-Za-z]:)?[/\\][^\s\x1b'\"]*?(" + library + r")[/\\]", r"\1/", text)
    home = os.path.expanduser("~")
    for root in (ROOT, ROOT.replace(home, "~", 1)):
        text = text.replace(root + os.sep, "")
    return text


# --- files ----------------------------------------------------------------------------------------


def read(path):
    """Return a file's text."""
    with open(path, encoding="utf-8") as handle:
        return handle.read()


def write(path, text):
    """Write a file so that there is never half of it: under another name first, then renamed."""
    with open(path + ".part", "w", encoding="utf-8", newline="\n") as handle:
        handle.write(text)
    os.replace(path + ".part", path)


def end_on_terminate(*_):
    """Unwind as Ctrl-C does, so that what was started ends, too."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end_on_terminate)
    sys.exit(main(sys.argv[1:]))
