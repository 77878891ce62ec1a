"""Weights files: there and back, and every way in which a file can be wrong."""

import hashlib
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from minidit import Diffusion, evaluate, linear, load, official, sample, save, straight, weights
from minidit.evaluate.classifier import Classifier
from minidit.training.generate import generate


@pytest.fixture
def saved(tiny_dit, awaken, tmp_path):
    """A network, its process, and the file that holds them."""
    model, diffusion = awaken(tiny_dit(input_size=(8, 12))), Diffusion(straight(50), "v")
    path = tmp_path / "tiny.safetensors"
    save(model, path, diffusion, {"seed": 3, "command": "as told"})
    return model, diffusion, path


def header_of(path):
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length])["__metadata__"]


def test_there_and_back(saved):
    model, diffusion, path = saved
    again = load(path)
    assert again.model.config == model.config and again.diffusion.config == diffusion.config
    assert again.model.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    assert not again.model.training
    frozen = [name for name, p in again.model.named_parameters() if not p.requires_grad]
    assert frozen == ["pos_embed"]  # so that loaded weights can be trained on
    x, t, y = torch.randn(2, 1, 8, 12), torch.tensor([1.0, 40.0]), torch.tensor([0, 3])
    assert torch.equal(again.model(x, t, y), model(x, t, y))


@pytest.mark.parametrize(
    "wrap", [torch.nn.DataParallel, lambda model: torch.compile(model, backend="eager")]
)
def test_a_wrapped_network_is_saved_as_the_network(wrap, saved, tmp_path):
    model, diffusion, path = saved
    save(wrap(model), tmp_path / "wrapped.safetensors", diffusion)
    ours, theirs = (load(p).model.state_dict() for p in (tmp_path / "wrapped.safetensors", path))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert weights.start_from(wrap(model), path) == []


def test_a_string_is_a_path_too(saved):
    assert load(str(saved[2])).model.config == saved[0].config


def test_a_run_s_folder_means_its_weights_and_a_shipped_name_itself(saved, tmp_path, monkeypatch):
    for folder in ("run", "dit-mnist"):
        save(saved[0], tmp_path / folder / "weights.safetensors", saved[1])
    assert load(tmp_path / "run").model.config == saved[0].config
    assert official.open_weights(str(tmp_path / "run")).diffusion.config == saved[1].config
    monkeypatch.chdir(tmp_path)
    assert weights.find("dit-mnist").parent == weights.shipped_folder()


def test_a_classifier_keeps_its_statistics(tmp_path):
    classifier = Classifier(in_channels=1, num_classes=4, width=2)
    classifier.mean += 3.5
    save(classifier, tmp_path / "classifier.safetensors")
    again = load(tmp_path / "classifier.safetensors")
    assert again.diffusion is None and again.model.mean.dtype == torch.float64
    assert torch.equal(again.model.mean, classifier.mean)


def test_the_header_tells_how_to_build_the_network(saved):
    model, diffusion, path = saved
    header = json.loads(header_of(path)["minidit"])
    assert header["network"] == "DiT" and header["diffusion"] == diffusion.config
    assert header["model"] == model.config | {"input_size": [8, 12]}


def test_the_note_beside_it_tells_where_it_comes_from(saved):
    note = weights.info(saved[2])
    assert note["seed"] == 3 and note["command"] == "as told"
    assert note["sha256"] == hashlib.sha256(saved[2].read_bytes()).hexdigest()
    assert note["bytes"] == saved[2].stat().st_size


def test_nothing_else_is_left_and_saving_again_replaces(saved, awaken):
    model, _, path = saved
    names = {p.name for p in path.parent.iterdir()}
    assert names == {"tiny.safetensors", "tiny.json"}
    awaken(model, std=0.7)
    save(model, path)
    assert {p.name for p in path.parent.iterdir()} == names
    assert torch.equal(load(path).model.final.proj.weight, model.final.proj.weight)


@pytest.mark.parametrize("kill_at", [1, 2])
def test_a_kill_between_file_and_note_leaves_something_that_loads(saved, kill_at, monkeypatch):
    model, _, path = saved
    real, calls = os.replace, []

    def replace(*arguments):
        calls.append(arguments)
        if len(calls) == kill_at:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(os, "replace", replace)
    old = model.final.proj.weight.clone()
    with torch.no_grad():
        model.final.proj.weight.add_(1)
    with pytest.raises(KeyboardInterrupt):
        save(model, path)
    expected = old if kill_at == 1 else model.final.proj.weight
    assert torch.equal(load(path).model.final.proj.weight, expected)


def test_what_load_would_refuse_is_not_written(saved, tmp_path):
    model, process, path = saved
    new = tmp_path / "new" / "x.safetensors"
    for link in ("kl-mnist", {}, {"name": "kl-mnist"}):
        with pytest.raises(ValueError, match="autoencoder.*no such file was written"):
            save(model, new, process, autoencoder=link)
    assert not new.parent.exists()
    save(model, new, process, info=weights.info(path) | {"sha256": "of another"})
    assert torch.equal(load(new).model.final.proj.weight, load(path).model.final.proj.weight)


def test_weights_without_a_note_load(saved):
    saved[2].with_suffix(".json").unlink()
    load(saved[2])
    with pytest.raises(
        ValueError, match=r"tiny\.json is missing or no file; `save` writes it beside"
    ):
        weights.info(saved[2])


# --- files that are wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 8, 300, -1])
def test_one_changed_byte_is_noticed(saved, place):
    content = bytearray(saved[2].read_bytes())
    content[place] ^= 1
    saved[2].write_bytes(content)
    with pytest.raises(ValueError, match=r"tiny\.safetensors is damaged: its sha256.*get it again"):
        load(saved[2])


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_noticed(saved, share, noted):
    if not noted:
        saved[2].with_suffix(".json").unlink()
    content = saved[2].read_bytes()
    saved[2].write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"tiny\.safetensors is damaged.*get it again"):
        load(saved[2])


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_a_damaged_note_is_named(saved, text):
    saved[2].with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=r"tiny\.json is damaged"):
        load(saved[2])


class Code:
    def __reduce__(self):
        return os.makedirs, ("pwned",)


@pytest.mark.parametrize("write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_pickle_by_another_name_is_refused_unread(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "disguised.safetensors"
    write({"weights": Code()}, path)
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        load(path)
    assert not (tmp_path / "pwned").exists()


def test_safetensors_of_somebody_else_are_named(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="wasn't written by minidit.save"):
        load(path)


def rewritten(path, tensors=None, **header):
    """The file with other tensors, or another header, and no note that would give it away."""
    metadata = header_of(path)
    old = json.loads(metadata["minidit"])
    path.with_suffix(".json").unlink(missing_ok=True)
    save_file(tensors or load_file(path), path, {"minidit": json.dumps(old | header)})
    return path


def test_weights_of_other_shapes_are_named(saved):
    tensors = load_file(saved[2])
    tensors["final.proj.bias"] = torch.zeros(7)
    with pytest.raises(
        ValueError, match=r"1 tensors; the first is final\.proj\.bias: \(7,\) in the"
    ):
        load(rewritten(saved[2], tensors))


def test_missing_and_surplus_weights_are_named(saved):
    tensors = load_file(saved[2])
    del tensors["final.proj.bias"]
    tensors["stranger"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"in 2 tensors.*final\.proj\.bias: missing in the file"):
        load(rewritten(saved[2], tensors))


def test_a_network_that_is_not_known_is_named(saved):
    with pytest.raises(ValueError, match=r"network='Oracle' is unknown; choose one of"):
        load(rewritten(saved[2], network="Oracle"))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"model": {"hidden_size": 8192, "depth": 28}}, "input_size=.* is more than its"),
        ({"model": {"mlp_ratio": 1e6}}, "doesn't fit the network"),
        ({"model": {"depth": 10**6}}, "depth=1000000 is more than its"),
        ({"model": {"input_size": 10**6}}, "input_size=1000000 is more than its"),
        ({"model": {"num_classes": 10**12}}, "describes no network|doesn't fit"),
        ({"model": {"hidden_size": 10**30}}, "describes no network"),
        ({"model": {"condition": 7}}, "describes no network"),
        ({"model": {"strange": 7}}, "describes no network .*strange"),
        ({"model": 7}, "'model' is no dict"),
        ({"network": 7}, "'network' is no str"),
        ({"diffusion": 7}, "'diffusion' is no dict"),
        ({"diffusion": {"T": 5}}, "'diffusion' has no 'schedule'"),
        ({"diffusion": {"schedule": "linear", "T": 10**8}}, "T=100000000 is more than"),
        ({"diffusion": {"schedule": "linear", "T": "5"}}, "'T' is no int"),
        ({"diffusion": {"schedule": "linear", "strange": 5}}, "describes no network .*strange"),
    ],
)
def test_a_header_costs_neither_time_nor_memory(header, said, saved):
    path = saved[2]
    if isinstance(header.get("model"), dict):
        header = {"model": saved[0].config | header["model"]}
    began = time.perf_counter()
    with pytest.raises(ValueError, match=rf"tiny\.safetensors .*({said})"):
        load(rewritten(path, **header))
    assert time.perf_counter() - began < 5


def test_a_header_that_is_no_json_is_named(saved):
    saved[2].with_suffix(".json").unlink()
    save_file(load_file(saved[2]), saved[2], {"minidit": '{"network": "Di'})
    with pytest.raises(ValueError, match=r"tiny\.safetensors is damaged: it is no JSON"):
        load(saved[2])


def test_weights_of_half_precision_are_widened_and_integers_refused(saved):
    model, _, path = saved
    tensors = {name: tensor.half() for name, tensor in load_file(path).items()}
    again = load(rewritten(path, tensors)).model
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    again(torch.randn(1, 1, 8, 12), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    for kind in (torch.float8_e4m3fn, torch.float64):  # one of them alone
        tensors["final.proj.weight"] = tensors["final.proj.weight"].to(kind)
        again = load(rewritten(path, tensors)).model
        assert {p.dtype for p in again.parameters()} == {torch.float32}
    tensors["final.proj.bias"][0] = torch.nan
    with pytest.raises(ValueError, match=r"tiny\.safetensors has weights that are not finite"):
        load(rewritten(path, tensors))
    save(model, path)
    tensors = {name: tensor.long() for name, tensor in load_file(path).items()}
    with pytest.raises(ValueError, match=r"tiny\.safetensors has .* in torch\.int64"):
        load(rewritten(path, tensors))


def test_weights_that_are_not_finite_are_not_written(saved):
    model, _, path = saved
    before = path.read_bytes()
    with torch.no_grad():
        model.final.proj.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"not finite, so .*tiny\.safetensors was not written"):
        save(model, path)
    assert path.read_bytes() == before and load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
def test_a_pipe_as_weights_is_not_waited_for(tmp_path):
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"pipe\.safetensors' are unknown"):
        load(path)


@pytest.mark.parametrize("entry", [3, [3], {"a": 1}])
def test_evaluations_that_are_no_list_are_named(saved, entry):
    note = saved[2].with_suffix(".json")
    note.write_text(json.dumps({"evaluations": entry}))
    with pytest.raises(ValueError, match=r"tiny\.json is damaged: 'evaluations'.* is no"):
        weights.add_info(saved[2], "evaluations", {})


@pytest.mark.skipif(os.name == "nt", reason="no limits of file sizes")
def test_a_full_disk_keeps_weights_and_note(saved):
    model, process, path = saved
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    resource = pytest.importorskip("resource")
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for room in (100, 2000, len(before["tiny.safetensors"]) - 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
            with pytest.raises(OSError, match=r"too large.*tiny\."):
                save(model, path, process, {"seed": 4})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


@pytest.mark.skipif(torch.__version__ < "2.9", reason='older ones load it for the device "meta"')
def test_loading_imports_no_compiler():
    program = "import sys, minidit; minidit.load('dit-mnist'); print('sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_an_unknown_name_lists_what_there_is(tmp_path):
    for name in ("dit-mars", tmp_path / "missing.safetensors"):
        with pytest.raises(ValueError, match="are unknown; shipped are .* or give the path"):
            load(name)


def test_what_cannot_be_saved_is_said(saved, tmp_path, tiny_dit):
    with pytest.raises(TypeError, match=r"model is a Linear; weights files hold one of \["):
        save(torch.nn.Linear(2, 2), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.bin' must end in \.safetensors"):
        save(tiny_dit(), tmp_path / "x.bin")
    with pytest.raises(ValueError, match="schedule.name='custom' is unknown; choose one of"):
        save(tiny_dit(), tmp_path / "x.safetensors", Diffusion(linear()).respace([0, 5]))
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize("name", weights.shipped())
def test_shipped_weights_load_and_are_small(name):
    path = weights.shipped_folder() / f"{name}.safetensors"
    assert path.stat().st_size < 12e6
    assert weights.info(name)["sha256"] and load(name).model is not None
    assert " /" not in weights.info(name)["command"], "a path that is on one machine alone"


def test_a_start_from_other_weights_takes_what_fits(tiny_dit, awaken, tmp_path):
    torch.manual_seed(0)
    labels, path = tiny_dit(), tmp_path / "labels.safetensors"
    awaken(labels)
    save(labels, path, Diffusion(linear()))
    words = dict(encoder="text", words=["red", "blue"], length=3, depth=1)
    told = tiny_dit(num_classes=0, condition=words)
    before = {key: tensor.clone() for key, tensor in told.state_dict().items()}
    fresh = weights.start_from(told, path)
    assert fresh and all(key.startswith("label_embed.") for key in fresh)
    for key, tensor in told.state_dict().items():
        source = before if key in fresh else labels.state_dict()
        assert torch.equal(tensor, source[key]), key
    assert not torch.equal(before["final.proj.weight"], told.state_dict()["final.proj.weight"])
    awaken(told)
    save(told, tmp_path / "told.safetensors", Diffusion(linear()))
    again = tiny_dit(num_classes=0, condition=words)
    assert weights.start_from(again, tmp_path / "told.safetensors") == [], "the same kind: all"
    boxes = dict(encoder="layout", kinds=["one"], colours=["red"], length=3, depth=1)
    fresh = weights.start_from(
        tiny_dit(num_classes=0, condition=boxes), tmp_path / "told.safetensors"
    )
    assert any(key.startswith("label_embed.blocks.") for key in fresh), "another language"
    assert "final.proj.weight" not in fresh and "label_embed.norm.weight" not in fresh


def test_a_start_from_weights_of_which_nothing_fits_is_refused(tiny_dit, tmp_path):
    path = tmp_path / "classifier.safetensors"
    save(Classifier(), path)
    with pytest.raises(ValueError, match="start=.*classifier.*leave it out"):
        weights.start_from(tiny_dit(), path)


@pytest.mark.parametrize("name", ["dit-mnist", "uvit-mnist"])
def test_shipped_weights_draw_digits_that_are_recognised(name):
    model, diffusion = load(name)
    labels = torch.arange(100) % 10
    images = sample(generate(model, diffusion, labels, guidance=2.0, steps=10))
    assert evaluate.accuracy(evaluate.classifier("mnist"), images, labels) > 0.95


@pytest.mark.parametrize("content", ["null", '"abc"', "3", "[]", "{broken", ""])
def test_stored_results_that_are_none_are_told_by_name(content, tmp_path, monkeypatch):
    assert weights.results("claims")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "claims.json").write_text(content)
    monkeypatch.setattr(weights, "shipped_folder", lambda: tmp_path / "weights")
    with pytest.raises(ValueError, match="claims.json is damaged"):
        weights.results("claims")
    with pytest.raises(ValueError, match="no.json is missing"):
        weights.results("no")
