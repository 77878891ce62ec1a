"""A batch in shares, one after another or on two processes, is the whole batch."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from minidit import Diffusion, Recipe, straight
from minidit.train import Run
from minidit.training.distributed import MODES, DistributedRun
from minidit.weights.checkpoint import Checkpoint

RECIPE = Recipe(steps=4, batch_size=8, warmup=0, optimizer="muon", lr=1e-2)


def images_and_labels():
    rng = torch.Generator().manual_seed(4)
    return torch.randint(256, (12, 1, 8, 8), generator=rng, dtype=torch.uint8), torch.arange(12) % 3


def run_of(tiny_dit, kind=DistributedRun, recipe=RECIPE, **more):
    torch.manual_seed(7)
    return kind(tiny_dit(), Diffusion(straight(), "x0"), *images_and_labels(), recipe, **more)


def gradients(run):
    run.step()  # the final layer starts at zero, and hides the first gradient
    loss = run.backward(torch.Generator().manual_seed(0))
    return loss, torch.cat([p.grad.flatten() for p in run.model.parameters() if p.requires_grad])


def test_one_share_is_the_plain_run_to_the_bit(tiny_dit):
    (loss, grad), (plain_loss, plain) = (
        gradients(run_of(tiny_dit, k)) for k in (DistributedRun, Run)
    )
    assert torch.equal(loss, plain_loss) and torch.equal(grad, plain)


@pytest.mark.parametrize("accumulate", [2, 8])
def test_accumulated_gradients_are_those_of_the_whole_batch(accumulate, tiny_dit):
    plain_loss, plain = gradients(run_of(tiny_dit, Run))
    loss, grad = gradients(run_of(tiny_dit, accumulate=accumulate))
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(loss, plain_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("accumulate", [0, 3])
def test_a_batch_that_does_not_divide_is_refused(accumulate, tiny_dit):
    with pytest.raises(ValueError, match=f"accumulate={accumulate}.*batch_size=8"):
        run_of(tiny_dit, accumulate=accumulate)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_compiled_is_the_network_alone(mode, tiny_dit, monkeypatch):
    """The rest of a step stays as it was: with a compiler that does nothing, to the bit."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda net, mode: compiled.append((net, mode)) or net)
    run = run_of(tiny_dit, compiled=mode)
    assert compiled == [(run.model, mode)]
    (loss, grad), (plain_loss, plain) = gradients(run), gradients(run_of(tiny_dit, Run))
    assert torch.equal(loss, plain_loss) and torch.equal(grad, plain)


def test_graphs_and_accumulated_gradients_are_refused(tiny_dit):
    with pytest.raises(ValueError, match="'reduce-overhead'.*accumulate=2.*'default'"):
        run_of(tiny_dit, accumulate=2, compiled="reduce-overhead")
    with pytest.raises(ValueError, match="compiled='fast'.*reduce-overhead"):
        run_of(tiny_dit, compiled="fast")


PROGRAM = """
    import json, os, sys
    import torch
    from minidit import Diffusion, DiT, Recipe, straight
    from minidit.training import distributed

    torch.set_num_threads(1)
    distributed.join(torch.device("cpu"))
    out, accumulate, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = torch.Generator().manual_seed(4)
    images = torch.randint(256, (12, 1, 8, 8), generator=rng, dtype=torch.uint8)
    torch.manual_seed(7)  # also of what is drawn elsewhere: every process starts alike
    model = DiT(8, 2, 1, 16, 2, 2, num_classes=3, learn_sigma=False)
    recipe = Recipe(steps=4, batch_size=8, warmup=0, optimizer="muon", lr=1e-2)
    run = distributed.DistributedRun(
        model, Diffusion(straight(), "x0"), images, torch.arange(12) % 3, recipe, accumulate
    )
    losses = []
    class Killed(Exception): pass
    def report(step, loss):
        losses.append(loss)
        if step == steps:
            raise Killed
    try:
        run.go(out, save_every=1, report=report)
    except Killed:
        os._exit(0)  # as hard as a kill
    weights = [p.sum().item() for p in run.ema.model.parameters()]
    name = f"{out}/rank-{distributed.rank()}.json"
    with open(name, "w") as file:
        json.dump({"losses": losses, "weights": weights, "writes": run.writes}, file)
    distributed.leave()
"""


def launch(tmp_path, folder, processes, accumulate=1, until=99):
    """Run the program on so many gloo processes; what each has told."""
    program, out = tmp_path / "program.py", tmp_path / folder
    program.write_text(textwrap.dedent(PROGRAM))
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(program)]
    command += [str(out), str(accumulate), str(until)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return [json.loads(path.read_text()) for path in sorted(out.glob("rank-*.json"))]


def test_two_processes_are_one_run_with_the_whole_batch_and_resume(tmp_path):
    (alone,) = launch(tmp_path, "alone", 1)
    both = launch(tmp_path, "both", 2)
    assert [told["writes"] for told in both] == [True, False], "one writes, the other doesn't"
    for told in both:
        assert told["losses"] == pytest.approx(alone["losses"], rel=1e-4)
        assert told["weights"] == pytest.approx(alone["weights"], rel=1e-3, abs=1e-4)
    assert both[0]["weights"] == both[1]["weights"], "to the bit"

    assert launch(tmp_path, "killed", 2, accumulate=2, until=2) == []
    assert Checkpoint(tmp_path / "killed" / "checkpoint.pt").read()["done"] in (1, 2)
    first, second = launch(tmp_path, "killed", 2, accumulate=2)
    assert len(first["losses"]) in (2, 3) and first["weights"] == second["weights"]
    n = len(first["losses"])
    assert first["losses"] == pytest.approx(alone["losses"][-n:], rel=1e-3)
    assert first["weights"] == pytest.approx(alone["weights"], rel=1e-3, abs=1e-4)
