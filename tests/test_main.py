"""The command line, as a user meets it: in a process of its own."""

import csv
import io
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidit import (
    Diffusion,
    DiT,
    Recipe,
    cosine,
    data,
    euler_maruyama,
    linear,
    sample,
    select_steps,
    straight,
    weights,
)
from minidit.__main__ import main
from minidit.cli import terminal
from minidit.train import Loop

TRAIN = ["train", "--data", "digits", "--preset", "demo", "--batch-size", "8", "--threads", "1"]


def command(*arguments, **options):
    """A process of its own, which takes seconds to start: where `main` itself wouldn't do."""
    return subprocess.run(
        [sys.executable, "-m", "minidit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="other C libraries aren't told")
def test_what_a_step_frees_stays_for_the_next():
    def pages(told):
        program = (
            "import resource, torch; from minidit.cli.terminal import keep_memory\n"
            "def touched(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            "def step(): return len([torch.ones(5_000_000) for _ in range(4)])\n"
            f"{told}; step(); step(); before = touched()\n"
            "for _ in range(5): step()\n"
            "print(touched() - before)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        return int(done.stdout)

    assert pages("keep_memory()") < 0.1 * pages("pass")  # none, and thousands


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 60 steps: its weights are bad, but whole."""
    out = tmp_path_factory.mktemp("run")
    assert main([*TRAIN, "--steps", "60", "--save-every", "25", "--out", str(out)]) == 0
    return out


def test_training_leaves_a_checkpoint_a_log_and_weights(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {"checkpoint.pt", "log.csv", "weights.safetensors", "weights.json"}
    with open(trained / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 61))
    assert all(0 < float(row["loss"]) < 1000 for row in rows)
    note = json.loads((trained / "weights.json").read_text())
    assert note["data"] == "digits" and note["recipe"]["steps"] == 60
    assert note["recipe"]["batch_size"] == 8


def test_the_same_command_resumes_after_a_kill_and_ends_bit_equal(trained, tmp_path):
    arguments = [*TRAIN, "--steps", "60", "--save-every", "25", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "minidit", *arguments], stderr=subprocess.DEVNULL
    )
    log = tmp_path / "log.csv"
    while process.poll() is None and not (log.exists() and "\n30," in log.read_text()):
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "weights.json").exists()
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    ours = weights.load(tmp_path / "weights.safetensors").model.state_dict()
    theirs = weights.load(trained / "weights.safetensors").model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (tmp_path / "log.csv").read_text() == (trained / "log.csv").read_text()


def test_other_settings_in_the_same_folder_are_refused(trained, capsys):
    assert main([*TRAIN, "--steps", "60", "--lr", "0.5", "--out", str(trained)]) == 2
    told = capsys.readouterr().err
    assert "another run" in told and "lr" in told


def test_a_run_in_bfloat16_is_another(tmp_path, capsys):
    run = [*TRAIN, "--steps", "2", "--out", str(tmp_path)]
    assert main([*run, "--bfloat16"]) == 0
    note = json.loads((tmp_path / "weights.json").read_text())
    assert note["recipe"]["mixed_precision"] == "always" and "--bfloat16" in note["command"]
    assert main(run) == 2
    told = capsys.readouterr().err
    assert "'mixed_precision': 'always'" in told
    assert told.endswith("; use the same settings, --bfloat16 too, or use another folder\n")


def test_a_run_may_go_on_longer_and_otherwise_if_asked(tmp_path, capsys, monkeypatch):
    start = [*TRAIN, "--save-every", "2", "--out", str(tmp_path)]
    assert main([*start, "--steps", "4"]) == 0
    longer = [*start, "--steps", "6", "--lr", "0.001", "--batch-size", "4"]
    assert main(longer) == 2
    assert "use the same settings, --change, or use another" in capsys.readouterr().err
    for _ in range(2):  # the same command again changes nothing
        assert main([*longer, "--change"]) == 0
    told = "changed after step 4: steps 4 → 6, batch_size 8 → 4, lr 0.002 → 0.001\n"
    assert capsys.readouterr().out.count(told) == 1
    changes = [{"step": 4, "steps": [4, 6], "batch_size": [8, 4], "lr": [0.002, 0.001]}]
    note = json.loads((tmp_path / "weights.json").read_text())
    assert note["changes"] == changes and note["recipe"]["steps"] == 6
    assert [row[:2] for row in (tmp_path / "log.csv").read_text().split()[1:]] == [
        f"{step}," for step in range(1, 7)
    ]
    assert main([*start, "--steps", "3", "--change"]) == 2
    assert "--steps 3 leave nothing to do after the 6 that were taken" in capsys.readouterr().err
    assert main([*longer, "--lr", "0.5", "--change"]) == 2  # no step would have it
    # a call that fails for another reason changes nothing: the run goes on as it was
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    for fault, told in {
        ("--seed", "1"): "of another run: its recipe has {'seed': 0}",
        ("--accumulate", "3"): "choose a batch that divides into as many",
        ("--save-every", "0"): "--save-every 0",
        ("--data", str(tmp_path / "none")): "none",
    }.items():
        assert main([*longer, "--steps", "8", "--change", *fault]) == 2
        assert told in capsys.readouterr().err
        assert (tmp_path / "checkpoint.pt").read_bytes() == kept
    assert main(longer) == 0

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "step", stop)  # once a run has changed, its older plan has ended
    assert main([*longer, "--steps", "8", "--change"]) != 0
    monkeypatch.undo()
    assert main(longer) == 2 and main([*longer, "--steps", "8"]) == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"step,loss\xff\n1,0.5\n", "is no log of a run; move it away"),
        (b"\x00\x01", "is no log of a run"),
        (b"my notes\n", "is no log of a run"),
        (None, "is no file; move it away"),
    ],
)
@pytest.mark.parametrize("name", ["log.csv", "run.lock"])
def test_what_is_no_log_or_lock_is_told_before_the_work(tmp_path, capsys, name, content, told):
    arguments = [*TRAIN, "--steps", "1", "--out", str(tmp_path)]
    if content is None:
        pytest.importorskip("fcntl")  # pipes, too
        os.mkfifo(tmp_path / name)
        done = command(*arguments)  # with a limit of time
        code, told_there = done.returncode, done.stderr
    else:
        (tmp_path / name).write_bytes(content)
        code, told_there = main(arguments), capsys.readouterr().err
    if name == "run.lock" and content is not None:  # of a run that was killed
        assert code == 0
        return
    assert (code, len(told_there.splitlines())) == (2, 1)
    assert f"{tmp_path / name} {told}" in told_there
    assert content is None or (tmp_path / name).read_bytes() == content


def test_of_a_log_what_is_whole_is_kept(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes("step,loss\n1,0.50000\n2,0.4\n\xff,\n3,-0.25000\n4,0.1".encode("latin-1"))
    with terminal.log(path, 9) as report:
        report(4, 0.125)
    assert path.read_text() == "step,loss\n1,0.50000\n3,-0.25000\n4,0.12500\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
def test_pipes_and_circles_as_outputs_are_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.safetensors")
    os.symlink("circle", "circle")
    encode = "encode --weights kl-mnist --data digits --split test --out pipe.safetensors"
    for given, told in (encode, "is no file"), ("sample --labels 1 --out circle/a.png", "written"):
        assert main(given.split()) == 2
        assert told in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_of_pictures_is_trained_on_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("fruit/pears/1.png", "fruit/apples/1.jpg", "fruit/figs/1.jpeg"):
        Path(name).parent.mkdir(parents=True)
        Image.new("RGB", (40, 36), "red").save(name)
    run = [*TRAIN, "--data", "fruit", "--steps", "1", "--out", "run"]
    assert main(run) == 0
    assert "3 colour pictures, 3 of them resized and cropped to 32×32" in capsys.readouterr().out
    assert weights.info("run/weights.safetensors")["classes"] == ["apples", "figs", "pears"]
    draw = "sample --weights run/weights.safetensors --per-class 2 --steps 2 --out drawn.npz"
    assert main(draw.split()) == 0
    drawn = np.load("drawn.npz")
    assert drawn["labels"].tolist() == [0, 1, 2] * 2 and drawn["images"].shape == (6, 32, 32, 3)
    assert main(["evaluate", "--weights", "run/weights.safetensors"]) == 2
    assert "data 'fruit' has no classifier" in capsys.readouterr().err
    Path("fruit/figs/1.jpeg").write_bytes(b"rotten")
    assert main(run) == 2
    assert "1.jpeg can't be read" in capsys.readouterr().err


def test_another_start_is_another_run(trained, tmp_path, capsys):
    given = [*TRAIN, "--steps", "1", "--out", str(tmp_path)]
    assert main(given) == 0 == main(given)
    assert main([*given, "--start", str(trained / "weights.safetensors")]) == 2
    told = capsys.readouterr().err
    assert "of another run: its start has {'sha256': None}" in told
    assert told.endswith("use the same settings, or use another folder\n")  # --change is no help


def test_a_run_outlives_the_weights_it_began_with(trained, tmp_path, capsys):
    start, run = tmp_path / "start.safetensors", tmp_path / "run"
    shutil.copy(trained / "weights.safetensors", start)
    given = [*TRAIN, "--start", str(start), "--out", str(run)]
    assert main([*given, "--steps", "1"]) == 0
    began = {"name": str(start), "sha256": weights.file_sha256(start)}
    assert json.loads((run / "weights.json").read_text())["start"] == began
    shutil.copy(run / "weights.safetensors", start)  # they were trained on
    assert main([*given, "--steps", "1"]) == 2
    assert "; use the same settings, --change, or use another" in capsys.readouterr().err
    assert main([*given, "--steps", "2", "--change"]) == 0
    note = json.loads((run / "weights.json").read_text())
    assert note["start"] == began and note["changes"] == [{"step": 1, "steps": [1, 2]}]
    start.unlink()
    assert main([*TRAIN, "--steps", "3", "--change", "--out", str(run)]) == 0


def test_a_finished_run_called_again_keeps_what_is_known_of_its_weights(tmp_path):
    run, note = [*TRAIN, "--steps", "1", "--out", str(tmp_path)], tmp_path / "weights.json"
    assert main(run) == 0
    weights.add_info(tmp_path, "evaluations", {"frechet": 1.5})
    assert main(run) == 0
    assert json.loads(note.read_text())["evaluations"] == [{"frechet": 1.5}]
    assert main([*run[:-4], "--steps", "2", "--change", "--out", str(tmp_path)]) == 0
    assert "evaluations" not in json.loads(note.read_text())  # these are other weights
    note.write_text("{")
    assert main([*run[:-4], "--steps", "2", "--out", str(tmp_path)]) == 0
    assert json.loads(note.read_text())["recipe"]["steps"] == 2


@pytest.mark.parametrize(
    "network, told",
    [
        ({"num_classes": 0}, "these weights draw (1, 28, 28) of 0; choose another"),
        ({"num_classes": 11}, "--data digits has images (1, 28, 28) of 10 classes, and these"),
        ({"input_size": (28, 14)}, "these weights draw (1, 28, 14) of 10; choose another"),
        ({"in_channels": 2}, "these weights draw (2, 28, 28) of 10; choose another"),
    ],
)
def test_weights_that_do_not_fit_the_data_are_told_before_the_work(network, told, tmp_path, capsys):
    size = dict(input_size=28, patch_size=7, in_channels=1, hidden_size=16, depth=1, num_heads=2)
    path = str(tmp_path / "x.safetensors")
    weights.save(DiT(**size | {"num_classes": 10} | network), path, Diffusion(linear()))
    assert main(["evaluate", "--weights", path, "--data", "digits", "--steps", "2"]) == 2
    assert told in capsys.readouterr().err


def test_samples_as_arrays(trained, tmp_path):
    out = tmp_path / "samples.npz"
    given = ["--weights", str(trained / "weights.safetensors"), "--per-class", "2", "--steps", "3"]
    assert main(["sample", *given, "--seed", "5", "--out", str(out)]) == 0
    with np.load(out, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    assert images.shape == (20, 28, 28) and images.dtype == np.uint8
    assert labels.tolist() == [*range(10)] * 2


@pytest.mark.parametrize(
    "given, told",
    [
        ("sample --labels 3 --per-class 7", "--per-class can't go with --labels; leave one"),
        ("experiment --seeds 3 --scale gpu", "--scale and --seeds can't go with the list"),
        ("bench --page --sizes small --seconds 1", "--sizes and --seconds can't go with --page"),
        (
            "bench --growth --networks DiT --batch 8",
            "--networks and --batch can't go with --growth",
        ),
        ("evaluate --weights dit-scenes --data mnist", "--data mnist: these weights draw scenes"),
    ],
)
def test_an_option_that_another_makes_vain_is_told(given, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(given.split()) == 2
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())


def of_the_package(call):
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: select_steps(linear(), "1"), "1 steps can't be had: choose 2 … 1000"),
        (lambda: select_steps(linear(), "x"), "--steps 'x' is unknown; choose a number, '10,"),
        (lambda: select_steps(linear(), "ddim444"), "--steps 'ddim444': no whole stride"),
        (lambda: walked(cosine()), "more steps don't help, choose another --sampler"),
        (lambda: walked(straight()), "euler_maruyama needs α² + σ² = 1; choose another --sampler"),
        (lambda: Recipe(1, lr=math.inf), "--lr inf must be above 0 and finite"),
        (lambda: Recipe(1, batch_size=0), "--batch-size 0 must be at least 1"),
        (lambda: Recipe(1, muon_lr=0), "muon_lr=0 must be"),  # there is no such option
    ],
)
def test_sentences_of_the_package_name_what_can_be_typed(call, told):
    sentence = terminal.typed(
        of_the_package(call), Namespace(steps=0, lr=0, batch_size=0, name="", out="")
    )
    assert told in sentence and "[999]" not in sentence and "range" not in sentence


def walked(schedule):
    x = torch.zeros(1, 1, 2, 2)
    sample(euler_maruyama(lambda x, t, y: x, Diffusion(schedule, "v"), x, steps=50))


@pytest.mark.skipif(os.name == "nt", reason="of a POSIX shell")
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_faults(trained, tmp_path, closed):
    def run(*arguments):
        line = f'exec "$0" -m minidit "$@" {closed}'
        command = ["sh", "-c", line, sys.executable, *map(str, arguments)]
        return subprocess.run(command, stdout=-1, stderr=-1, timeout=300)

    weights = trained / "weights.safetensors"
    given = ["sample", "--weights", weights, "--labels", "3", "--steps", "2", "--out"]
    assert run(*given, tmp_path / "a.png").returncode == 0
    assert main([*map(str, given), str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    done = run("sample", "--weights", "nope")
    assert done.returncode == 2 and done.stdout == b""


@pytest.mark.skipif(os.name == "nt", reason="of a POSIX shell")
def test_a_reader_that_leaves_ends_it_without_a_word():
    line = f'"{sys.executable}" -m minidit experiment'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} | head -n 1"], capture_output=True
    )
    assert (done.returncode, done.stderr, done.stdout.count(b"\n")) == (141, b"", 1)


def test_samples_depend_on_the_seed_alone(trained, tmp_path):
    def draw(name, seed):
        path = str(tmp_path / name)
        assert main(
            ["sample", "--weights", str(trained / "weights.safetensors"), "--labels", "3,1,4",
             "--sampler", "ddpm", "--steps", "4", "--seed", str(seed), "--out", path]
        ) == 0  # fmt: skip
        with np.load(path) as arrays:
            return arrays["images"]

    first, again, other = draw("a.npz", 1), draw("b.npz", 1), draw("c.npz", 2)
    assert (first == again).all() and (first != other).any()


def test_samples_as_a_film_and_a_strip(trained, tmp_path):
    from PIL import Image

    paths = {name: str(tmp_path / f"{name}.png") for name in ("out", "film", "strip")}
    arguments = [part for name, path in paths.items() for part in (f"--{name}", path)]
    arguments += ["--weights", str(trained / "weights.safetensors"), "--labels", "3,1"]
    assert main(["sample", "--steps", "12", *arguments]) == 0

    out, film, strip = (Image.open(path) for path in paths.values())
    drawn = np.asarray(out.convert("L")).astype(int)  # through a colour map, which may round
    assert drawn.shape == (28, 2 * 28 + 2)
    assert (film.size, film.n_frames) == ((2 * (2 * 28 + 2), 2 * 28), 12)
    film.seek(11)  # the last state is what was drawn, every pixel enlarged to four
    assert abs(np.asarray(film.convert("L"))[::2, ::2] - drawn).max() <= 1
    strip = np.asarray(strip.convert("L"))
    assert strip.shape == (2 * 28 + 2, 9 * 30 - 2), "a row for each image, nine of twelve steps"
    assert (strip[:28, -28:] == drawn[:, :28]).all()
    assert (strip[:28, :28] != strip[:28, -28:]).any()


def test_samples_as_a_picture(trained, tmp_path):
    from matplotlib.image import imread

    out = tmp_path / "new" / "sheet.png"
    arguments = ["--per-class", "1", "--steps", "2", "--guidance", "1", "--out", str(out)]
    assert main(["sample", "--weights", str(trained / "weights.safetensors"), *arguments]) == 0
    assert imread(out).shape[:2] == (28, 10 * 28 + 9 * 2)
    assert [path.name for path in out.parent.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["train", "--data", "cats", "--out", "x"], ["cats", "mnist"]),
        (["train", "--data", "digits", "--preset", "huge", "--out", "x"], ["huge", "demo"]),
        ([*TRAIN, "--steps", "0", "--out", "x"], ["--steps 0", "at least 1"]),
        ([*TRAIN, "--lr", "-1", "--out", "x"], ["--lr -1", "above 0"]),
        ([*TRAIN, "--compile", "fast", "--out", "x"], ["--compile='fast'", "reduce-overhead"]),
        (
            [*TRAIN, "--compile", "reduce-overhead", "--accumulate", "2", "--out", "x"],
            ["--compile 'reduce-overhead'", "--accumulate 2"],
        ),
        (["sample", "--weights", "dit-nobody"], ["dit-nobody", "shipped"]),
        (["sample", "--weights", "WEIGHTS", "--out", "x.gif"], ["x.gif", ".png"]),
        (["sample", "--weights", "WEIGHTS", "--film", "x.gif"], ["--film x.gif", ".png"]),
        (["sample", "--weights", "WEIGHTS", "--strip", "x.npz"], ["--strip x.npz", ".png"]),
        (["sample", "--weights", "WEIGHTS", "--labels", "3,a"], ["3,a", "3,1,4"]),
        (["sample", "--weights", "WEIGHTS", "--labels", "12"], ["12", "0 … 9"]),
        (["sample", "--weights", "WEIGHTS", "--steps", "2000"], ["2000", "1000"]),
        (["sample", "--weights", "WEIGHTS", "--steps", "many"], ["many"]),
        (["sample", "--weights", "WEIGHTS", "--sampler", "magic"], ["magic", "ddim"]),
        (["sample", "--weights", "WEIGHTS", "--per-class", "0"], ["--per-class", "at least 1"]),
        (["sample", "--weights", "WEIGHTS", "--device", "tpu"], ["tpu", "cuda"]),
        (["sample", "--weights", "WEIGHTS", "--steps", "1"], ["1 steps", "2 … 1000"]),
        (["sample", "--weights", "WEIGHTS", "--device", "cpu:x"], ["cpu:x", "cuda"]),
        (["sample", "--weights", "classifier-mnist"], ["classifier-mnist", "dit-mnist"]),
        (["evaluate", "--weights", "classifier-mnist"], ["classifier-mnist", "dit-mnist"]),
        (["evaluate", "--per-class", "0"], ["--per-class 0", "too few"]),
        ([*TRAIN[:-1], "0", "--out", "x"], ["--threads 0", "at least 1"]),
        (["demo", "--out", "demo.jpg"], ["demo.jpg", ".png"]),
        (["classifier", "--data", "digits", "--out", "judge"], ["judge", ".safetensors"]),
        (["experiment", "nothing"], ["nothing", "recipes"]),
        (["classifier", "--data", "cats", "--out", "x.safetensors"], ["cats"]),
    ],
)
def test_errors_are_one_sentence_and_exit_code_2(
    arguments, words, trained, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = [str(trained / "weights.safetensors") if a == "WEIGHTS" else a for a in arguments]
    assert main(arguments) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    for word in words:
        assert word in message
    assert "Traceback" not in message
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("samples*"))


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C otherwise")
def test_an_interrupt_while_importing_leaves_no_traceback():
    command = [sys.executable, "-X", "importtime", "-m", "minidit", "experiment"]
    heard = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # jobs in the background ignore it
    process = subprocess.Popen(command, stdout=-3, stderr=-1, text=True, preexec_fn=heard)
    while "torch." not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGINT and "Traceback" not in errors


HUGE = "99999999999999999999"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["sample", "--guidance", "nan"], "--guidance nan must be a number"),
        ([*TRAIN, "--batch-size", "2147483647", "--out", "x"], "a number of at most 1000000"),
        (["sample", "--guidance", "inf"], "--guidance inf must be a number"),
        (["sample", "--guidance", "1e308"], "--guidance 1e+308 must be a number"),
        (["sample", "--steps", HUGE], f"{HUGE} steps can't be had"),
        (["sample", "--steps", f"quad{HUGE}"], "is unknown; choose a number"),
        (["sample", "--labels", f"3,{HUGE}"], "0 … 9"),
        (["sample", "--out", ""], "--out is empty"),
        (["sample", "--out", "folder.png"], "--out folder.png is a folder"),
        (["sample", "--out", "file/x.png"], "--out file/x.png can't be written"),
        (["sample", "--out", "x.png", "--film", "./x.png"], "must be different files"),
        (["sample", "--film", "x.png", "--strip", "x.png"], "must be different files"),
        (["sample", "--weights", "~/none.safetensors"], os.path.expanduser("~/none")),
        ([*TRAIN, "--out", "x", "--data", ""], "--data is empty"),
        ([*TRAIN, "--out", "x", "--autoencoder", ""], "--autoencoder is empty"),
        ([*TRAIN, "--out", "x", "--start", ""], "--start is empty"),
        ([*TRAIN, "--out", "x", "--data", "nope"], "--data='nope' is unknown"),
        ([*TRAIN, "--out", "x", "--steps", HUGE], f"--steps {HUGE} must be a number"),
        ([*TRAIN, "--out", "x", "--batch-size", HUGE], f"--batch-size {HUGE} must be"),
        ([*TRAIN, "--out", "x", "--seed", HUGE], f"--seed {HUGE} must be a number"),
        ([*TRAIN, "--out", "x", "--lr", "inf"], "--lr inf must be a number"),
        ([*TRAIN, "--out", "x", "--threads", "1000000"], "--threads 1000000 must be"),
        ([*TRAIN, "--out", "file"], "file/weights.safetensors can't be written"),
        (["demo", "--seconds", "inf"], "--seconds inf must be a number"),
        (["evaluate", "--per-class", HUGE], f"--per-class {HUGE} must be a number"),
        (["classifier", "--out", "file/x.safetensors"], "file/x.safetensors can't be written"),
        (["experiment", "recipes", "--out", "file"], "can't be written"),
        (["bench", "--out", "file/x.json"], "can't be written"),
        (["encode", "--data", "digits", "--weights", "kl-cifar10"], "of 3 channels, and those"),
        (["reconstruct", "--data", "nope"], "--data='nope' is unknown"),
        (["reconstruct", "--data", "scenes"], "'scenes' has no classifier"),
        (["reconstruct", "--data", "digits", "--weights", "kl-cifar10"], "images of 3 channels"),
    ],
)  # fmt: skip
def test_options_are_looked_at_before_the_work(arguments, word, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    assert main(arguments) == 2
    message = capsys.readouterr().err.strip()
    assert word in message.splitlines()[-1] and "Traceback" not in message
    assert not (tmp_path / "~").exists() and not list(tmp_path.glob("samples*"))


def test_too_little_memory_is_one_sentence(tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(torch, "randint", refuse)
    assert main([*TRAIN, "--out", str(tmp_path)]) == 2
    assert "not enough memory; ask for less" in capsys.readouterr().err.splitlines()[-1]


def test_samples_that_are_not_finite_are_no_picture(trained, tmp_path, capsys, monkeypatch):
    model, diffusion = weights.load(trained / "weights.safetensors")
    with torch.no_grad():
        model.final.proj.bias[0] = torch.nan
    monkeypatch.setattr(weights, "load", lambda name: (model, diffusion))
    out = tmp_path / "x.png"
    assert main(["sample", "--per-class", "1", "--steps", "2", "--out", str(out)]) == 2
    assert "the samples are not finite" in capsys.readouterr().err and not out.exists()


def test_a_terminal_of_few_characters_gets_question_marks(monkeypatch):
    from minidit.lab import EXPERIMENTS

    question = EXPERIMENTS["recipes"]
    monkeypatch.setitem(EXPERIMENTS, "recipes", replace(question, question="✗ or ✓?"))
    terminal = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr("sys.stdout", terminal)
    assert main(["experiment"]) == 0
    terminal.flush()
    assert b"recipes: ? or ??" in terminal.buffer.getvalue()


def test_two_runs_into_one_folder_are_told_of_each_other(tmp_path):
    arguments = [*TRAIN, "--steps", "100000", "--out", str(tmp_path)]
    first = subprocess.Popen([sys.executable, "-m", "minidit", *arguments], stderr=-3)
    try:
        while not (tmp_path / "log.csv").exists():
            time.sleep(0.05)
        done = command(*arguments)
        assert done.returncode == 2 and f"pid {first.pid};" in done.stderr, done.stderr
    finally:
        first.kill()
        first.wait()


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ([], None),
        (["--compile"], "default"),
        (["--compile", "reduce-overhead"], "reduce-overhead"),
    ],
    ids=["left out", "without a mode", "with one"],
)
def test_what_is_trained_can_be_compiled(given, mode, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda net, mode: asked.append(mode) or net)
    assert main([*TRAIN, "--steps", "1", *given, "--out", str(tmp_path)]) == 0
    assert asked == ([mode] if mode else [])
    note = json.loads((tmp_path / "weights.json").read_text())
    assert (f"--compile {mode}" in note["command"]) == bool(mode)
    other = [] if mode else ["--compile"]
    again = [*TRAIN, "--steps", "2", *other, "--out", str(tmp_path)]
    assert main(again) == 2  # other bits
    assert main([*again, "--change"]) == 0
    changed = json.loads((tmp_path / "weights.json").read_text())["changes"]
    assert changed == [
        {"step": 1, "steps": [1, 2], "compiled": [mode, None if mode else "default"]}
    ]


def test_a_compiler_that_is_missing_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    told = [*TRAIN, "--steps", "1", "--compile", "--out", str(tmp_path)]
    done = command(*told)
    assert done.returncode == 2, done.stderr
    assert "--compile wants a C++ compiler, and finds none; install one" in done.stderr


COMMANDS = "demo train sample evaluate classifier encode reconstruct experiment bench".split()


def test_help_names_every_command_and_gives_examples():
    """And it loads nothing that is heavy: neither the experiments nor what draws figures."""
    program = (
        "import sys, minidit.cli\n"
        "try:\n    minidit.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print({'minidit.lab', 'matplotlib', 'torch._dynamo'} & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("set()\n"), done.stderr
    for word in (*COMMANDS, "examples:"):
        assert word in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_options(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert ("--store" if name == "evaluate" else "--out") in capsys.readouterr().out


def test_the_demo_trains_and_writes_its_picture(tmp_path):
    from matplotlib.image import imread

    out = tmp_path / "demo.png"
    done = command(
        "demo", "--seconds", 6, "--out", out, env=os.environ | {"PYTHONIOENCODING": "utf8"}
    )
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout and "recognises" in done.stdout
    assert "of 600 steps fitted into --seconds 6: more draw better" in done.stdout
    assert "tasks.py lab" in done.stdout
    picture = imread(out)
    assert picture.shape[0] > 500 and picture.std() > 0.1


def test_shipped_weights_are_whole_and_small():
    for name in ("dit-mnist", "classifier-mnist", "classifier-digits"):
        assert name in weights.shipped()
        weights.load(name)
        note = weights.info(name)
        assert note["bytes"] < 12e6
        assert note["command"].startswith("python -m minidit")


def test_the_shipped_weights_draw_what_they_are_told():
    from minidit import ddim, evaluate, guided, sample

    model, diffusion = weights.load("dit-mnist")
    labels = torch.arange(10).repeat(10)
    noise = torch.randn((100, 1, 28, 28), generator=torch.Generator().manual_seed(1))
    images = sample(ddim(guided(model, 2.0), diffusion, noise, labels, steps=25))
    judge = evaluate.classifier("mnist")
    assert evaluate.accuracy(judge, images, labels) >= 0.95
    assert evaluate.frechet_to_real(judge, images) < 3  # of 100 images; of 1,000 it is 0.24
    assert data.to_uint8(images).float().mean().item() == pytest.approx(33.3, abs=8)  # as MNIST's


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        # from Python 3.13 on, argparse leaves the two dashes
        (["--film=--"], "--film " + ("--" if sys.version_info >= (3, 13) else "is empty")),
        (["--out", "a\0.png"], "--out 'a\\x00.png' has the character NUL"),
        (["--out", "~nobody-here/a.png"], "--out ~nobody-here/a.png: there is no such home"),
    ],
)
def test_odd_paths_are_named(options, sentence, capsys):
    assert main(["sample", *options]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("pictured", [["--out", "x.png"], ["--film", "x.png"]])
def test_what_no_picture_can_show_is_told_before_it_is_drawn(pictured, tiny_dit, tmp_path, capsys):
    path, arrays = tmp_path / "two.safetensors", ["--out", str(tmp_path / "x.npz")]
    weights.save(tiny_dit(in_channels=2), path, Diffusion(straight(), "x0"))
    draw = ["sample", "--weights", str(path), "--steps", "2", "--per-class", "1"]
    assert main([*draw, *arrays, *pictured]) == 2
    (told,) = capsys.readouterr().err.splitlines()  # no bar
    assert "draw 2 channels, pictures have 1 or 3; write --out FILE.npz" in told
    assert main([*draw, *arrays]) == 0
    assert np.load(tmp_path / "x.npz")["images"].shape[3] == 2


def test_weights_without_labels_are_named(tiny_dit, tmp_path, capsys):
    path = tmp_path / "plain.safetensors"
    weights.save(tiny_dit(num_classes=0), path, Diffusion(straight(), "x0"))
    assert main(["sample", "--weights", str(path), "--guidance", "1"]) == 2
    assert "have no labels to draw" in capsys.readouterr().err
