"""Nothing that is repeated waits for the device: neither a training step nor a sampler's.

On a GPU the program runs ahead and queues the work; reading a number back makes it wait, and so
does a copy from the processor. Tensors on PyTorch's "meta" device have shapes and no numbers, so
that whatever would read one raises an error, without a GPU.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minidit import SAMPLERS, Diffusion, Recipe, UViT, guided, loop, sample
from minidit.schedule import linear
from minidit.shards import ShardedRun

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
        parts = {k: v for k, v in model.config.items() if k not in ("block", "learn_sigma")}
        model = UViT(**parts | {"depth": 3})
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    recipe = Recipe(5, 4, optimizer=optimizer, times="half")
    run = ShardedRun(
        model.to(META), Diffusion(linear(), "eps", learn_sigma=sigma), images, y, recipe, 2
    )
    run.step()  # brings the schedule's tables to the device, once
    with Copies() as copies, run.products():
        loss = run.step()
    assert loss.device == META and run.done == 2
    assert copies.found == []


@pytest.mark.parametrize("sigma", [False, True], ids=["one pass", "learned sigma"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler(sampler, sigma, tiny_dit):
    model = tiny_dit(learn_sigma=sigma).to(META)
    x, y = torch.zeros(2, 1, 8, 8, device=META), torch.zeros(2, dtype=torch.long, device=META)
    diffusion = Diffusion(linear(), "eps", learn_sigma=sigma)
    steps = 30 if sampler == "euler_maruyama" else 4  # whose steps mustn't be long
    states = SAMPLERS[sampler](guided(model, 2.0), diffusion, x, y, steps=steps)
    assert sample(states).shape == x.shape
