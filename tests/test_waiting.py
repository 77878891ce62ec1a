"""Nothing that is repeated waits for the device: neither a training step nor a sampler's.

On a GPU the program runs ahead and queues the work; reading a number back makes it wait, and so
does a copy from the processor. Tensors on PyTorch's "meta" device have shapes and no numbers, so
that whatever would read one raises an error, without a GPU.
"""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minidit import (
    SAMPLERS,
    Diffusion,
    Recipe,
    UViT,
    bits_per_dim,
    cosine,
    ddim,
    ddim_invert,
    guided,
    linear,
    sample,
    straight,
    vp_sde,
)
from minidit import (
    train as loop,
)
from minidit.training.distributed import DistributedRun

META = torch.device("meta")


class MetaGenerator(torch.Generator):
    """A generator that says it is on the device; what it draws there has no numbers anyway."""

    device = META


class Copies(TorchDispatchMode):
    """Notes every operation that brings a tensor from one device to another."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1] if func.overloadpacket == torch.ops.aten.copy_ else args[0]
            if source.device != out.device:
                self.found.append(tuple(source.shape))
        return out


@pytest.fixture
def on_meta(monkeypatch):
    """Let training use the device, which has no fused AdamW and no generators."""
    adamw = torch.optim.AdamW
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda *args, fused, **kwargs: adamw(*args, foreach=True, **kwargs)
    )
    monkeypatch.setattr(loop, "step_generator", lambda seed, step, device: MetaGenerator())


def test_reading_would_be_noticed():
    with pytest.raises(RuntimeError):
        torch.zeros((), device=META).item()
    with Copies() as copies:
        torch.zeros(3).to(META)
        torch.zeros(2, device=META).copy_(torch.zeros(2))
    assert copies.found == [(3,), (2,)]


TEXT = {"encoder": "text", "words": ["red", "circle"], "length": 2}
LAYOUT = {"encoder": "layout", "kinds": ["circle"], "colours": ["red", "blue"], "length": 2}
ASKED = {
    "labels": (dict(num_classes=3), torch.tensor([0, 1, 2])),
    "text": (dict(num_classes=0, condition=TEXT), torch.tensor([[1, 2], [2, 0], [0, 0]])),
    "layout": (
        dict(num_classes=0, condition=LAYOUT),
        torch.tensor([[[1, 1, 0.1, 0.1, 0.5, 0.5], [0] * 6]] * 3),
    ),
}


@pytest.mark.parametrize(
    ("network", "optimizer", "asked"),
    [
        ("DiT", "adamw", "labels"),
        ("DiT", "muon", "layout"),
        ("cross-attention", "muon", "text"),
        ("U-ViT", "muon", "labels"),
        ("learned sigma", "adamw", "labels"),
    ],
)
def test_a_training_step(network, optimizer, asked, tiny_dit, on_meta):
    changes, y = ASKED[asked]
    sigma = network == "learned sigma"
    block = "cross_attention" if network == "cross-attention" else "adaln_zero"
    changes = changes | dict(learn_sigma=sigma)
    model = tiny_dit(block=block, **changes)
    if network == "U-ViT":
        own = ("block", "learn_sigma", "time_embed")
        parts = {k: v for k, v in model.config.items() if k not in own}
        model = UViT(**parts | {"depth": 3})
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    recipe = Recipe(5, 4, optimizer=optimizer, times="half")
    run = DistributedRun(
        model.to(META), Diffusion(linear(), "eps", learn_sigma=sigma), images, y, recipe, 2
    )
    run.step()  # brings the schedule's tables to the device, once
    with Copies() as copies, run.products():
        loss = run.step()
    assert loss.device == META and run.done == 2
    assert copies.found == []


def copied(run, steps):
    """The shapes of what a sampler brings to the device in so many steps."""
    with Copies() as copies:
        for state in run(steps=steps):
            assert state.x.device == META
    return sorted(copies.found)


@pytest.mark.parametrize("sigma", [False, True], ids=["one pass", "learned sigma"])
@pytest.mark.parametrize("sampler", [*SAMPLERS, "random ddim", "ddim_invert"])
def test_a_sampler(sampler, sigma, tiny_dit):
    """The schedule's tables are brought there once, whatever the number of steps."""
    model = guided(tiny_dit(learn_sigma=sigma).to(META), 2.0)
    x, y = torch.zeros(2, 1, 8, 8, device=META), torch.zeros(2, dtype=torch.long, device=META)
    diffusion = Diffusion(linear(), "eps", learn_sigma=sigma)
    options = {} if sampler == "ddim_invert" else {"generator": MetaGenerator()}
    if sampler == "random ddim":
        options["eta"] = 1.0
    names = SAMPLERS | {"random ddim": ddim, "ddim_invert": ddim_invert}
    run = partial(names[sampler], model, diffusion, x, y, **options)
    least = 30 if sampler == "euler_maruyama" else 4  # whose steps mustn't be long
    tables = copied(run, least)
    # a respaced process has tables of its own, so both runs bring as many, as long as the steps
    assert all(len(shape) <= 2 for shape in tables) and len(copied(run, least + 2)) == len(tables)


@pytest.mark.parametrize("scale", [1.0, 2.0], ids=["alone", "guided"])
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    ("predict", "schedule"), [("eps", vp_sde), ("x0", cosine), ("v", straight)]
)
def test_what_is_sampled(predict, schedule, asked, scale, tiny_dit):
    changes, y = ASKED[asked]
    model = guided(tiny_dit(**changes).to(META), scale)
    x = torch.zeros(len(y), 1, 8, 8, device=META)
    states = ddim(model, Diffusion(schedule(), predict), x, y.to(META), steps=3, clip=True)
    assert sample(states).shape == x.shape


def test_the_bound(tiny_dit):
    model = tiny_dit(learn_sigma=True).to(META)
    x0, y = torch.zeros(2, 1, 8, 8, device=META), torch.zeros(2, dtype=torch.long, device=META)
    diffusion = Diffusion(linear(), "eps", learn_sigma=True).respace([0, 500, 999])
    assert bits_per_dim(model, diffusion, x0, y, generator=MetaGenerator()).total.shape == (2,)


def test_an_interval_has_to_ask(tiny_dit):
    """A pass is saved where guidance is switched off, and the program must know where that is."""
    model = guided(tiny_dit().to(META), 2.0, interval=(0, 500))
    x, y = torch.zeros(2, 1, 8, 8, device=META), torch.zeros(2, dtype=torch.long, device=META)
    with pytest.raises(RuntimeError, match="meta"):
        sample(ddim(model, Diffusion(linear(), "eps"), x, y, steps=3))


def test_losses_are_read_every_twenty_steps(tiny_dit, on_meta, monkeypatch):
    """All together: those of one by one would have to be waited for one by one."""
    read = []
    monkeypatch.setattr(loop, "_finite_mean", lambda losses, *_: read.append(len(losses)) or 0.0)
    images, y = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2])
    recipe = Recipe(45, 2, warmup=0)
    DistributedRun(tiny_dit().to(META), Diffusion(linear(), "eps"), images, y, recipe).go()
    assert read == [20, 20, 5]
