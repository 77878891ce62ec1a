"""The benchmark: both contestants do the same work, and tables come from the file alone."""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minidit import DiT
from minidit.__main__ import main
from minidit.lab import bench
from minidit.lab.bench import contest as contestants
from minidit.lab.bench import find_peers, large_product, median_and_quartiles, power, take_turns
from minidit.lab.bench.contest import TOLERANCE, Contest

TINY = {
    "model": dict(
        input_size=8,
        patch_size=4,
        in_channels=1,
        hidden_size=32,
        depth=2,
        num_heads=2,
        num_classes=3,
    ),
    "batch": (8, 8),
}
NETWORKS = ("DiT", "U-ViT")
CPU = torch.device("cpu")


# --- equal work -----------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_both_compute_the_same(network):
    found = Contest(TINY, network).differences()
    assert set(found) == {"outputs", "loss", "gradients", "samples"}
    assert max(found.values()) < 1e-4


@pytest.mark.parametrize("network", NETWORKS)
def test_losses_stay_together_over_some_steps(network):
    """The same batches for both: what clipping, AdamW and the average do is the same, too."""
    contest = Contest(TINY, network)
    run, rng = contest.runs["package"], torch.Generator()
    ours, theirs = [], []
    for step in range(6):
        x0, t, noise, y = run.inputs(rng.manual_seed(step))
        theirs.append(contest.plain.learn(x0, t, noise, y))
        run.inputs = lambda rng, drawn=(x0, t, noise, y): drawn
        ours.append(run.step().item())
        del run.inputs
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert len(set(ours)) == 6


def test_all_but_the_plain_version_may_be_in_mixed_precision():
    torch.manual_seed(0)
    contest = Contest(TINY, half=True)
    found = {who: call().dtype for who, call in contest.contestants("forward").items()}
    assert found == {"plain": torch.float32, "package": torch.bfloat16}
    exact, half = (float(call()) for call in contest.contestants("training step").values())
    run = contest.runs["package"]
    assert run.recipe.mixed_precision == "always" and 0 < half != exact


def test_a_difference_is_found():
    contest = Contest(TINY)
    with torch.no_grad():
        contest.plain.weights["blocks.1.attn.proj.weight"][0, 0] += 0.5
    with pytest.raises(ArithmeticError, match="outputs"):
        contest.differences()


@pytest.mark.parametrize("network", NETWORKS)
def test_both_cost_the_same(network):
    contest = Contest(TINY, network)
    assert contest.plain.weights.keys() == contest.model.state_dict().keys()
    with FlopCounterMode(display=False) as counter:
        contest.plain.network(*(contest.inputs[k] for k in (0, 1, 3)))
    assert counter.get_total_flops() == contest.flops("forward")


# --- networks of others ---------------------------------------------------------------------------


def official(size):
    """As another module would make a network."""
    return DiT(**size, learn_sigma=False)


def too_much(size):
    return DiT(**size)  # with a learned variance


def test_a_network_of_others_takes_part_in_every_task():
    contest = Contest(TINY, peers={"other": official})
    before = contest.runs["other"].model.network.final.proj.weight.clone()
    for task in contestants.TASKS:
        calls = contest.contestants(task)
        assert list(calls) == ["plain", "package", "other"]
        calls["other"]()
    assert contest.runs["other"].done == 1 and contest.runs["package"].done == 0
    after = contest.runs["other"].model.network.final.proj.weight
    assert not torch.equal(before, after)
    with pytest.raises(
        ValueError, match=r"peer wide answers \(8, 2, 8, 8\) to images \(8, 1, 8, 8"
    ):
        Contest(TINY, peers={"wide": too_much})


def test_networks_of_others_are_found(monkeypatch):
    assert find_peers(["other=test_bench:official"])["other"].__name__ == "official"
    for told in (
        "other",
        "other=test_bench:none",
        "other=no_such_module:network",
        "=:",
        "plain=json:loads",
    ):
        with pytest.raises(ValueError, match=f"peer {told} is not found .*NAME=module:function"):
            find_peers([told])


def test_the_library_s_network_takes_part_where_it_is_installed(monkeypatch):
    class DiTTransformer2DModel(DiT):
        """What the library's answers: an output with a sample."""

        def __init__(self, **told):
            heads, side = told["num_attention_heads"], told["attention_head_dim"]
            size = dict(hidden_size=heads * side, num_heads=heads, depth=told["num_layers"])
            size |= dict(input_size=told["sample_size"], num_classes=told["num_embeds_ada_norm"])
            shape = {key: told[key] for key in ("patch_size", "in_channels")}
            super().__init__(**size, **shape, learn_sigma=False)

        def forward(self, x, t, y):
            return SimpleNamespace(sample=super().forward(x, t, y))

    assert "diffusers" not in find_peers() or find_spec("diffusers")
    library = SimpleNamespace(DiTTransformer2DModel=DiTTransformer2DModel)
    monkeypatch.setitem(sys.modules, "diffusers", library)
    contest = Contest(TINY, peers=find_peers())
    assert contest.contestants("forward")["diffusers"]().shape == (8, 1, 8, 8)


# --- timing ---------------------------------------------------------------------------------------


def test_contestants_take_turns():
    order = []
    calls = {name: lambda name=name: (order.append(name), time.sleep(0.002)) for name in "ab"}
    found = take_turns(calls, 3, CPU, seconds=0.001)
    assert "".join(order[-6:]) == "ababab"
    assert all(len(v) == 3 and min(v) >= 0.002 for v in found.values())


def test_a_turn_is_many_short_calls():
    count = []
    take_turns({"a": lambda: (count.append(1), time.sleep(0.0005))}, 1, CPU, seconds=0.02)
    assert len(count) > 4


def test_median_and_quartiles():
    assert median_and_quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 2.0, 4.0)
    assert median_and_quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_the_ceilings_product_is_float32():
    multiply, flops = large_product(CPU, torch.float32)
    assert flops == 2 * 1024**3
    assert multiply().dtype == torch.float32


# --- tables ---------------------------------------------------------------------------------------


def row(**changes):
    return {
        "size": "small",
        "network": "DiT",
        "task": "training step",
        "batch": 100,
        "FLOPs": 8 * 10**9,
        "seconds": {"plain": [0.2, 0.4, 0.3], "package": [0.1, 0.1, 0.2]},
        "ceiling": {"float32": 160 * 10**9},
    } | changes


HEAD = {
    "revision": "abc",
    "torch": "2.13.0",
    "threads": 2,
    "device": "x86_64",
    "platform": "cpu",
    "vectors": "AVX512",
    "instruction sets": "avx2 avx512f",
    "compiled": False,
}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_page_from_what_was_measured():
    text = bench.page({"rows": [row(), row(ceiling={})]} | HEAD)
    lines = text.splitlines()
    plain, package, *others = map(cells, lines[-4:])
    first = ["small", "DiT", "training step", "100"]
    assert plain == [
        *first, "plain", "300.0 (250.0…350.0)", "2.00 (1.75…3.00)", "27", "17% of 160", "333.3"
    ]  # fmt: skip
    assert package == [
        *first, "package", "100.0 (100.0…150.0)", "", "80", "50% of 160", "1000.0"
    ]  # fmt: skip
    assert [other[-2:] for other in others] == [["–", "333.3"], ["–", "1000.0"]]
    assert "On x86_64 (AVX512 used; avx2 avx512f), 2 threads" in text
    assert "revision abc" in text and "compiled" not in text and "grows" not in text
    compiled = bench.page({"rows": [row()]} | HEAD | {"compiled": "reduce-overhead"})
    assert "in float32 and compiled (reduce-overhead), but for sampling." in compiled
    ceilings = {"float32": 160 * 10**9, "bfloat16": 400 * 10**9}
    half = bench.page({"rows": [row(ceiling=ceilings)]} | HEAD | {"half": True})
    assert "the package in mixed precision." in half
    assert [cells(line)[-2] for line in half.splitlines()[-2:]] == ["17% of 160", "20% of 400"]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_growth_is_a_power():
    rows = [
        row(size=f"tokens {x}", seconds={"package": [y]}) for x, y in ((1, 3), (2, 12), (4, 48))
    ]
    assert (
        power(rows, "tokens") == "2.00" and power(rows, "width") == power(rows[:1], "tokens") == ""
    )
    rows += [row(size=f"depth {n}", seconds={"package": [n]}) for n in (2, 4)]
    text = bench.page({"rows": rows} | HEAD)
    assert text.endswith(": the package's time grows with tokens^2.00, depth^1.00.\n")


# --- the command ----------------------------------------------------------------------------------


def test_the_command_stores_what_it_measures(tmp_path, capsys):
    out = tmp_path / "new" / "bench.json"
    arguments = ["bench", "--sizes", "small", "--networks", "DiT", "--repeats", "2", "--batch", "4"]
    arguments += ["--seconds", "0.001", "--threads", "1", "--device", "cpu", "--out", str(out)]
    assert main([*arguments, "--peer", "other=test_bench:official"]) == 0
    results = json.loads(out.read_text())
    assert [r["task"] for r in results["rows"]] == ["forward", "training step", "sampling"]
    assert {"revision", "torch", "threads", "device"} <= results.keys()
    for r in results["rows"]:
        assert r["batch"] == (1 if r["task"] == "sampling" else 4)
        assert all(len(v) == 2 and min(v) > 0 for v in r["seconds"].values())
    assert all(v < TOLERANCE for v in results["rows"][1]["differences"].values())
    assert results["rows"][1]["seconds"].keys() >= {"plain", "package", "other"}
    assert results["vectors"] and isinstance(results["instruction sets"], str)
    page = out.with_suffix(".md").read_text()
    assert page in capsys.readouterr().out and page == bench.page(results)

    out.with_suffix(".md").unlink()
    stored = out.read_bytes()
    assert main(["bench", "--page", "--out", str(out)]) == 0  # nothing is measured
    assert out.with_suffix(".md").read_text() == page and out.read_bytes() == stored
    assert sorted(path.name for path in out.parent.iterdir()) == ["bench.json", "bench.md"]


def test_growth_is_measured(tmp_path, monkeypatch):
    sizes = {f"batch {n}": TINY | {"batch": (n, n)} for n in (1, 64)}
    monkeypatch.setattr(bench, "GROWTH", sizes)
    out = tmp_path / "growth.json"
    arguments = ["bench", "--growth", "--repeats", "2", "--seconds", "0.001", "--device", "cpu"]
    assert main([*arguments, "--threads", "1", "--out", str(out)]) == 0
    one, many = json.loads(out.read_text())["rows"]
    assert many["FLOPs"] == 64 * one["FLOPs"] and min(one["seconds"]["package"]) > 0
    page = out.with_suffix(".md").read_text()
    assert "| batch 64 | DiT | training step | 64 |" in page and "grows with batch^" in page


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--sizes", "huge"], ["huge", "small"]),
        (["--networks", "CNN"], ["CNN", "U-ViT"]),
        (["--seconds", "0"], ["--seconds 0", "above 0"]),
        (["--repeats", "0"], ["--repeats 0", "at least 1"]),
        (["--batch", "0"], ["--batch 0", "at least 1"]),
        (["--threads", "0"], ["--threads 0", "at least 1"]),
        (["--device", "tpu"], ["tpu", "cuda"]),
        (["--compile", "fast"], ["--compile='fast'", "reduce-overhead"]),
        (["--compile", "default", "--growth"], ["--compile", "--growth"]),
        (["--out", "bench.txt"], ["bench.txt", ".json"]),
        (["--page", "--out", "none.json"], ["none.json"]),
        (["--page", "--out", "damaged.json"], ["damaged.json", "measure again"]),
        (["--batch", "4", "--growth"], ["--batch", "--growth"]),
        (["--page", "--growth", "--out", "other.json"], ["other.json", "compiled"]),
        (["--page", "--peer", "a=b:c"], ["--peer", "--page"]),
        (["--peer", "a=no_such_module:c"], ["a=no_such_module:c", "NAME=module:function"]),
    ],
)
def test_errors_are_one_sentence(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "other.json").write_text('{"rows": []}')
    assert main(["bench", *arguments]) == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


@pytest.mark.skipif(torch.__version__ < "2.7", reason="torch 2.6 brings sympy along")
def test_importing_the_package_loads_nothing_heavy():
    """Beyond torch's own: what draws, shows progress or compiles is loaded when it is needed."""
    program = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import minidit\n"
        "new = {name.split('.')[0] for name in sys.modules.keys() - before}\n"
        "own = {'torch', 'numpy', 'triton'}\n"  # the last comes with torch's checkpointing
        "print(*sorted(new - sys.stdlib_module_names - own))\n"
        "print(*[name for name in ('torch._dynamo', 'torch._inductor') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["einops minidit safetensors", ""]
