"""Files are whole or not there, one process at a time writes them, and JSON has its shape."""

import json
import os
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from minidit.weights.checkpoint import Checkpoint
from minidit.weights.files import load_archive, locked, read_json, replacing

needs_locks = pytest.mark.skipif(os.name == "nt", reason="Windows has other locks")


def python(program, *arguments, **options):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=-1, stderr=-1, stdin=-1, **options)


HOLD = """
import sys
from pathlib import Path
from minidit.weights.files import locked, replacing
with {how}(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@needs_locks
def test_a_folder_in_use_is_refused_and_a_killed_holder_s_is_free(tmp_path):
    path = tmp_path / "run" / "run.lock"
    holder = python(HOLD.format(how="locked"), path)
    try:
        assert holder.stdout.readline() == "held\n"
        told = rf"another run writes to .*run, pid {holder.pid}; .*another folder"
        with pytest.raises(OSError, match=told), locked(path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert path.exists()
    with locked(path):
        assert path.read_text() == str(os.getpid())
    assert not path.exists()


@pytest.mark.parametrize("write", [locked, replacing])
def test_a_path_that_can_t_be_is_named(write, tmp_path):
    with pytest.raises(OSError, match="x00/run' has the character NUL"), write(tmp_path / "\0/run"):
        pass


@needs_locks
def test_what_a_killed_writer_left_is_cleared_and_a_living_one_s_is_not(tmp_path):
    path = tmp_path / "x.bin"
    writer = python(HOLD.format(how="replacing"), path)
    (tmp_path / "x.bin.1.part").write_text("half")
    (tmp_path / "other.bin.1.part").write_text("half")
    try:
        assert writer.stdout.readline() == "held\n"
        with replacing(path) as file:
            file.write(b"mine")
        names = {f"x.bin.{writer.pid}.part", "other.bin.1.part", "x.bin"}
        assert {p.name for p in tmp_path.iterdir()} == names
    finally:
        writer.communicate()
    assert writer.returncode == 0 and path.read_bytes() == b""


@needs_locks
def test_waiting_for_a_lock_that_vanishes_ends(tmp_path):
    total, path = [0], tmp_path / "sum.lock"

    def add():
        for _ in range(50):
            with locked(path, wait=True):
                before = total[0]
                total[0] = before + 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total == [200] and not path.exists()


@pytest.fixture
def windows(monkeypatch):
    """Locks as on Windows: of one byte, where the file stands; one that is taken is EACCES."""
    fcntl = pytest.importorskip("fcntl")

    def locking(descriptor, mode, count):
        assert (mode, count, os.lseek(descriptor, 0, os.SEEK_CUR)) == ("NBLCK", 1, 1 << 30)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Namespace(locking=locking, LK_NBLCK="NBLCK"))


def test_on_windows_a_second_holder_is_refused_or_waits(windows, tmp_path):
    path, told = tmp_path / "run.lock", rf"another run writes to .*, pid {os.getpid()};"
    with locked(path):
        with pytest.raises(OSError, match=told), locked(path):
            pass
        assert path.read_text() == str(os.getpid())
        second = threading.Thread(target=lambda: locked(path, wait=True).__enter__())
        second.start()
        second.join(0.3)
        assert second.is_alive()
    second.join(5)
    assert not second.is_alive()
    with replacing(tmp_path / "x") as file:
        file.write(b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"


FULL = """
import resource, signal, sys
import torch
from pathlib import Path
from minidit.weights.checkpoint import Checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    Checkpoint(Path(sys.argv[1])).write({"model": torch.zeros(100_000), "done": 2})
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="no limits of file sizes")
@pytest.mark.parametrize("room", [0, 100, 20_000, 400_100])
def test_a_full_disk_is_one_sentence_and_keeps_the_last_good_checkpoint(tmp_path, room):
    path = tmp_path / "checkpoint.pt"
    Checkpoint(path).write({"done": 1})
    before = path.read_bytes()
    printed, errors = python(FULL, path, room).communicate()
    assert printed.strip() == f"[Errno 27] File too large: '{path}'", errors
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_no_flipped_byte_gives_other_numbers(tmp_path):
    path, state = (
        tmp_path / "a.pt",
        {"a": torch.arange(50.0), "b": torch.ones(3, dtype=torch.int64)},
    )
    torch.save(state, path)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        try:
            found = load_archive(path)
        except Exception:  # noqa: BLE001 - torch raises many kinds
            continue
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items()), place


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"runs": [{"seed": 1}], "note": "x"}', None),
        ('{"runs": []}', None),
        ("[]", "all of it is no dict"),
        ("3", "all of it is no dict"),
        ("", "it is no JSON"),
        ("[" * 50_000, "it is no JSON"),
        ("{}", "all of it has no 'runs'"),
        ('{"runs": {}}', "'runs' is no list"),
        ('{"runs": [3]}', r"'runs'\[0\] is no dict"),
        ('{"runs": [{"seed": 1}, {"seed": "1"}]}', "'seed' is no int"),
        ('{"runs": [], "note": 3}', "'note' is no str"),
    ],
)
def test_json_has_its_shape(text, said, tmp_path):
    path, shape = tmp_path / "x.json", {"runs": [{"seed": int}], "note?": str}
    path.write_text(text, encoding="utf-8")
    if said is None:
        assert read_json(path, shape, "do this") == json.loads(text)
        return
    with pytest.raises(ValueError, match=rf"x\.json is damaged: {said}.*; do this$"):
        read_json(path, shape, "do this")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(ValueError, match="no file; do this"):
        read_json(tmp_path / "x.json", {}, "do this")
    assert Checkpoint(tmp_path / "x.json").read() is None


ADD = """
import sys
from pathlib import Path
from minidit.lab.runner import Experiment, run_experiment
me = sys.argv[2]
variants = {f"{me}{k}": {"a": k} for k in range(40)}
trial = lambda settings, seed: {"sum": settings["a"]}
experiment = Experiment("?", lambda: variants, {"cpu": {}}, trial, {"sum": "d"})
run_experiment("x", experiment, Path(sys.argv[1]))
"""


@needs_locks
def test_two_experiments_into_one_file_lose_no_run(tmp_path):
    for process in [python(ADD, tmp_path, name) for name in "ab"]:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    results = json.loads((tmp_path / "x.json").read_text())
    assert len(results["runs"]) == 80
    assert [path.name for path in Path(tmp_path).iterdir()] == ["x.json"]
