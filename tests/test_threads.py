"""Parts of a batch, computed side by side, give what the whole gives."""

import threading
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minidit import Diffusion, DiT, Recipe, UViT, linear, sample
from minidit.train import Run
from minidit.training import threads as module
from minidit.training.distributed import DistributedRun
from minidit.training.generate import generate
from minidit.training.threads import MOST, in_threads

SMALL = dict(patch_size=4, in_channels=1, hidden_size=16, num_heads=2, num_classes=10)


@pytest.fixture(params=[2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def network(kind=DiT, checkpointing=False):
    torch.manual_seed(0)
    model = kind(8, depth=2, learn_sigma=False, **SMALL)
    model.checkpointing = checkpointing
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return model


def runs(batch, model=network, **more):
    """The same run as one process's in one piece, and in parts."""
    images, labels = torch.rand(32, 1, 8, 8) * 2 - 1, torch.arange(32) % 10
    recipe = Recipe(3, batch, 1e-2, warmup=0, seed=1)
    parts = Diffusion(linear(), "x0"), images, labels, recipe
    return Run(model(), *parts), DistributedRun(model(), *parts, **more)


@pytest.mark.parametrize(
    "model", [network, lambda: network(UViT), lambda: network(checkpointing=True)]
)
@pytest.mark.parametrize("batch, more", [(8, {}), (7, {}), (8, {"accumulate": 2}), (1, {})])
def test_a_step_in_parts_is_the_step(threads, batch, more, model):
    whole, shared = runs(batch, model, **more)
    assert shared.parts == threads
    for _ in range(3):
        assert torch.allclose(whole.step(), shared.step(), atol=1e-6)
    for (name, p), q in zip(whole.model.named_parameters(), shared.model.parameters()):
        if name.endswith("qkv.bias"):  # a bias of the keys changes nothing: its gradient is chance
            p, q = (torch.cat(bias.chunk(3)[::2]) for bias in (p, q))
        assert torch.allclose(p, q, atol=2e-4), name


def test_weights_that_do_not_learn(threads):
    def frozen():
        model = network()
        model.blocks[0].requires_grad_(False)
        return model

    whole, shared = runs(8, frozen)
    before = shared.model.blocks[0].attn.qkv.weight.clone()
    assert torch.allclose(whole.step(), shared.step(), atol=1e-6)
    assert torch.equal(before, shared.model.blocks[0].attn.qkv.weight)


def test_a_step_in_parts_is_the_same_every_time(threads):
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        run = runs(8)[1]
        run.go()
        weights.append(torch.cat([p.flatten() for p in run.model.parameters()]))
    assert torch.equal(*weights)


def test_in_bfloat16_no_thread_waits_for_another(threads):
    """A layer that blocks share is cast anew in each, whether other threads have ended or not."""
    weights, images = [], torch.rand(32, 1, 8, 8) * 2 - 1
    recipe = Recipe(2, 8, 1e-2, warmup=0, mixed_precision="always")
    for late in (False, True):
        torch.manual_seed(0)
        model = DiT(8, depth=4, learn_sigma=False, block="modern", **SMALL)
        for p in model.parameters():
            p.data.add_(0.1 * torch.randn(p.shape))
        first: list[int] = []

        def wait(block, given, first=first):
            first.append(threading.get_ident())
            if threading.get_ident() == first[0]:
                time.sleep(0.05)

        if late:
            model.blocks[2].register_forward_pre_hook(wait)
        DistributedRun(model, Diffusion(linear()), images, torch.arange(32) % 10, recipe).go()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("n", [0, 1, 5, 30])
def test_samples_in_parts_are_the_samples(threads, n):
    model, labels = network(), torch.arange(n) % 10
    parts = sample(generate(model, Diffusion(linear(), "x0"), labels, steps=3))
    torch.set_num_threads(1)
    whole = sample(generate(model, Diffusion(linear(), "x0"), labels, steps=3))
    assert parts.shape == whole.shape and torch.allclose(parts, whole, atol=1e-5)


def test_parts_keep_their_order_the_mode_and_the_number_of_threads(threads):
    # only side by side they get past it
    barrier = threading.Barrier(min(threads, MOST), timeout=20)

    def call(x):
        barrier.wait()
        return x.sum().item(), torch.is_grad_enabled(), torch.get_num_threads()

    found = []
    with torch.no_grad():
        found += in_threads(call, [(torch.ones(k),) for k in range(threads)])
    assert found == [(k, False, 1) for k in range(threads)]
    assert torch.get_num_threads() == threads
    seen = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [threads]


def test_parts_have_the_caller_s_modes(threads):
    def call(x):
        return (x @ x).dtype, torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    parts = [(torch.ones(4, 4),)] * threads
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert in_threads(call, parts) == [(torch.bfloat16, True, False)] * threads
    assert in_threads(call, parts) == [(torch.float32, False, True)] * threads
    with FlopCounterMode(display=False) as counter:
        in_threads(call, parts)
    assert counter.get_total_flops() == threads * 2 * 4**3
    slope = torch.func.grad(lambda x: sum(in_threads(lambda z: z.square().sum(), [(x,), (x,)])))
    assert torch.equal(slope(torch.ones(3)), torch.full((3,), 4.0))


def test_a_worker_that_had_no_work_yet_keeps_its_number():
    """What another thread has set meanwhile is not taken over at the first question."""
    told = []

    def worker():
        module._settle(1)
        settled.set()
        changed.wait(20)
        told.append(torch.get_num_threads())

    settled, changed, before = threading.Event(), threading.Event(), torch.get_num_threads()
    thread = threading.Thread(target=worker)
    thread.start()
    settled.wait(20)
    try:
        torch.set_num_threads(3)
        changed.set()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert told == [1]


def test_an_error_in_a_part_is_the_caller_s(threads):
    def fail(x):
        raise ValueError(f"{len(x)} rows")

    with pytest.raises(ValueError, match="2 rows"):
        in_threads(fail, [(torch.ones(2),), (torch.ones(2),)])
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("mixed", [False, True])
def test_threads_have_the_callers_autocast(mixed):
    layer, parts = torch.nn.Linear(4, 4), [(torch.randn(2, 4),), (torch.randn(2, 4),)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            found = {out.dtype for out in in_threads(layer, parts)}
    finally:
        torch.set_num_threads(before)
    assert found == {torch.bfloat16 if mixed else torch.float32}
