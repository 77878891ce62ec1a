#!/usr/bin/env python3
"""Set minidit up and run it, from a fresh clone and with nothing but Python.

Standard library only, and written so that an old Python can still read it and be told that it is
too old. The first call makes the environment `.venv`, with uv where there is one. A stamp in it
says what it was made for; without that stamp, or with another one, it is made anew, so an
interrupted set-up repairs itself.
"""

from __future__ import print_function

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.realpath(__file__))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "minidit-stamp")
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

COMMANDS = {  # what the environment's Python is told
    "demo": ["-m", "minidit", "demo"],
    "test": ["-m", "pytest", "-n", "2", "--dist", "loadfile"],  # a notebook's cells stay together
    "lab": ["-m", "jupyterlab", "notebooks"],
    "notebooks": [os.path.join(ROOT, "notebooks", "pages", "store.py")],
    "site": [os.path.join(ROOT, "notebooks", "pages", "build.py")],
}
ANYWHERE = ("demo", "site")  # relative paths in their arguments mean the caller's folder


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
    try:
        if name not in COMMANDS:
            names = ", ".join(sorted(COMMANDS))
            raise Stop("no command '{}'; there are: {}".format(name, names))
        check_version(sys.version_info)
        set_up()
        if name not in ANYWHERE:
            os.chdir(ROOT)
        if name == "demo":
            # Where another program is busy, threads that wait by spinning keep each other from
            # work: a step took sixty times as long. Asleep they wait for next to nothing.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        return become([venv_python()] + COMMANDS[name] + extra)
    except Stop as stop:
        print("tasks.py: {}".format(stop), file=sys.stderr)
        return 2
    except OSError as error:
        way_out = "a clone that may be written, with room on its disk, is needed"
        print("tasks.py: {}; {}".format(error, way_out), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntasks.py: interrupted", file=sys.stderr)
        return 130


def become(command):
    """Turn into a command, so that its signals and its exit code are ours; Windows has to wait."""
    if os.name != "nt":
        os.execv(command[0], command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it gets the same Ctrl-C and decides
    return subprocess.call(command)


# --- the environment ------------------------------------------------------------------------------


def set_up():
    """Make `.venv` unless it is there and was made for this Python, this folder and these pins."""
    if is_ready():
        return
    if not shutil.which("uv"):
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
        os.makedirs(VENV, exist_ok=True)
        write_stamp("unfinished\n")
        # What is started shares the lock; a setting of the user's pip may not lead elsewhere.
        environment, reason = dict(os.environ, PIP_USER="0"), ""
        if not online():
            reason = " pypi.org can't be reached: there seems to be no network."
            print("tasks.py:{} Trying what is at hand ...".format(reason), flush=True)
            environment.update(PIP_RETRIES="0", UV_HTTP_RETRIES="0")  # minutes would pass
        for step in steps():
            if subprocess.call(step, cwd=ROOT, env=environment, close_fds=False):
                told = "the set-up failed, as is said above; the next call starts over."
                raise Stop(told + reason)
        settle_jupyter()
        write_stamp("\n".join([fingerprint()] + installed()))
        print("Set up in {:.0f} s.".format(time.time() - start), flush=True)


def online():
    """Tell whether packages can be had; proxies that are set are asked."""
    import urllib.request

    try:
        urllib.request.urlopen("https://pypi.org/simple/pip/", timeout=10).close()
    except (OSError, ValueError):
        return False
    return True


def steps():
    """Return the commands that make the environment: uv's, which are fast, or Python's own."""
    # From inside a .venv, sys.executable would be the very file that was just removed.
    python, uv = getattr(sys, "_base_executable", sys.executable), shutil.which("uv")
    make, install = [python, "-m", "venv"], [venv_python(), "-m", "pip", "install"]
    if uv:
        make = [uv, "venv", "--allow-existing", "--seed", "--python", python]
        install = [uv, "pip", "install", "--python", venv_python()]
    quiet = [] if sys.stdout.isatty() else ["-q"]
    return [make + [VENV], install + quiet + ["-c", "constraints.txt", "-e", ".[dev]"]]


SETTINGS = {
    # JupyterLab's version is pinned: it needn't ask whether it may fetch news.
    "share/jupyter/lab/settings/overrides.json": (
        '{"@jupyterlab/apputils-extension:notification":'
        ' {"fetchNews": "false", "checkForUpdates": false}}\n'
    ),
    # It writes what the kernel says of itself into a notebook that is opened. Python's version
    # isn't stored, for it differs; a kernel that leaves it out, too, leaves the notebook unchanged.
    "etc/ipython/ipython_kernel_config.py": (
        "from ipykernel.ipkernel import IPythonKernel\n\n"
        'IPythonKernel.language_info.pop("version", None)\n'
    ),
}


def settle_jupyter():
    """Write the environment's own settings for JupyterLab and its kernel."""
    for name, text in SETTINGS.items():
        path = os.path.join(VENV, *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as handle:
            handle.write(text)


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


def venv_python():
    """Return the path of the environment's own Python."""
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return os.path.join(VENV, folder, name)


def fingerprint():
    """Return a hash of all that an installation depends on."""
    requirements = read(os.path.join(ROOT, "pyproject.toml")).split("\n[tool.")[0]
    pins = read(os.path.join(ROOT, "constraints.txt"))
    parts = (requirements, pins, "{}.{}".format(*sys.version_info[:2]), ROOT)
    return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()


def installed():
    """Return what lies where the environment's packages are, without versions."""
    found = []
    for folder, _, _ in os.walk(VENV):
        if os.path.basename(folder) == "site-packages":
            found = os.listdir(folder)
            break
    return sorted(name for name in found if "-" not in name and not name.startswith("_"))


def is_ready():
    """Tell whether `.venv` was finished, for what is asked now, and still has its packages."""
    if not (os.path.isfile(STAMP) and os.path.exists(venv_python())):
        return False
    stamp, _, names = read(STAMP).partition("\n")
    return stamp == fingerprint() and set(names.split("\n")) <= set(installed() + [""])


def clear_venv():
    """Remove a `.venv` that is unfinished or out of date, but never one that somebody else made."""
    rest = VENV + ".tmp"  # renamed first, so that an interruption leaves no half without its stamp
    shutil.rmtree(rest, ignore_errors=True)
    if os.path.lexists(VENV) and not os.path.isdir(VENV):
        raise Stop("the .venv in this folder is no folder: rename or delete it and call again.")
    if os.path.isdir(VENV) and os.listdir(VENV):
        if not os.path.exists(STAMP):
            raise Stop(
                "the .venv in this folder was not made by tasks.py: rename or delete it and call"
                " again, or use what is in it: `python -m minidit demo`, `python -m pytest`."
            )
        print("The .venv is unfinished or out of date: starting over.", flush=True)
        os.rename(VENV, rest)
        shutil.rmtree(rest)


@contextlib.contextmanager
def one_at_a_time():
    """Hold a lock that the system lifts when its holder ends, however it ends."""
    with open(VENV + ".lock", "w") as handle:
        if not lock(handle):
            print("Another call is setting up .venv; waiting for it ...", flush=True)
            while not lock(handle):
                time.sleep(0.5)
        yield


def lock(handle):
    """Take the lock of an open file, or tell that another process holds it.

    Where it can be shared, pip holds it as well: if this process is killed, pip may live on for a
    while, and the next call has to wait for it before it starts over.
    """
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.set_inheritable(handle.fileno(), True)
    except (BlockingIOError, PermissionError):  # held; the second is how Windows says it
        return False
    except OSError:  # some network file systems have no locks
        pass
    return True


def read(path):
    """Return a file's text."""
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read()


def write_stamp(text):
    """Write the stamp; half of one is as good as none."""
    with open(STAMP, "w", encoding="utf-8") as handle:
        handle.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
