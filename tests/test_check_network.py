"""Checks of a student's classes, and of the hunt for unused parameters."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minidit import Attention, Mlp, check
from minidit.blocks import FinalLayer, modulate
from minidit.check import network
from minidit.patches import unpatchify


class Parallel(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.adaln = nn.Linear(width, 4 * width)
        for p in self.adaln.parameters():
            nn.init.zeros_(p)

    def forward(self, x, cond):
        shift, scale, gate1, gate2 = self.adaln(F.silu(cond.sum(1)))[:, None].chunk(4, -1)
        z = self.norm(x) * (1 + scale) + shift
        return x + (gate1 * self.attn(z) + gate2 * self.mlp(z))


class Final(FinalLayer):
    """The package's, and back to images."""

    def __init__(self, width, patch, channels):
        super().__init__(width, patch * patch * 2 * channels, adaptive=True)
        self.patch, self.channels = patch, channels

    def forward(self, x, c, grid):
        image = unpatchify(super().forward(x, c[:, None]), self.patch, grid)
        return image[:, : self.channels], image[:, self.channels :]


def by_graph(net, x, t, y):
    net.zero_grad()
    net(x, t, y).sum().backward()
    return [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]


RIGHT = [("parallel_block", Parallel), ("final_layer", Final), ("unused_parameters", by_graph)]


@pytest.mark.parametrize(("name", "mine"), RIGHT)
def test_right_ones_pass(name, mine):
    before = torch.random.get_rng_state()
    verdict = getattr(check, name)(mine)
    assert verdict and repr(verdict).startswith(f"✓ {name} is right"), verdict
    assert torch.equal(torch.random.get_rng_state(), before)


PARALLEL = [(check.parallel_block, Parallel, *pair) for pair in network._PARALLEL.items()]
FINAL = [(check.final_layer, Final, *pair) for pair in network._FINAL.items()]


@pytest.mark.parametrize(("one", "right", "hint", "mistake"), PARALLEL + FINAL)
def test_each_mistake_gets_its_hint(one, right, hint, mistake):
    class Wrong(right):
        def forward(self, *inputs):
            return mistake(self, *inputs)

    assert repr(one(Wrong)).endswith(f"\n  The likeliest cause: {hint}."), one(Wrong)


class NoStart(nn.Module):
    def __init__(self, width, heads):
        self.adaln = nn.Linear(width, 4 * width)


class OwnNorm(Parallel):
    def __init__(self, width, heads):
        super().__init__(width, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)


class Loud(Parallel):
    def __init__(self, width, heads):
        super().__init__(width, heads)
        nn.init.xavier_uniform_(self.adaln.weight)


class Renamed(Parallel):
    def __init__(self, width, heads):
        super().__init__(width, heads)
        self.vectors, self.adaln = self.adaln, None


class SixVectors(Parallel):
    def __init__(self, width, heads):
        super().__init__(width, heads)
        self.adaln = nn.Linear(width, 6 * width)


class NoAxis(Parallel):
    def forward(self, x, cond):
        shift, scale, gate1, gate2 = self.adaln(F.silu(cond.sum(1))).chunk(4, -1)
        z = modulate(self.norm(x), shift, scale)
        return x + gate1 * self.attn(z) + gate2 * self.mlp(z)


class Nothing(Parallel):
    def forward(self, x, cond):
        pass


WRONG = {
    "super().__init__() must come first": NoStart,
    "elementwise_affine=False": OwnNorm,
    "adaln.weight doesn't start at zero": Loud,
    "a parameter vectors.weight too many": Renamed,
    "adaln.weight has the shape (48, 8), and (32, 8) is expected": SixVectors,
    "takes [:, None]": NoAxis,
    "returns a NoneType": Nothing,
    "must take 2 numbers": lambda: None,
    "makes a str, and a network": lambda width, heads: "a block",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_class_is_told(words):
    verdict = check.parallel_block(WRONG[words])
    assert not verdict and words in repr(verdict), verdict


def by_zeros(net, x, t, y):
    net(x, t, y).sum().backward()
    learned = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    return [n for n, p in learned if p.grad is None or not p.grad.any()]


def and_frozen(net, x, t, y):
    net(x, t, y).sum().backward()
    return [n for n, p in net.named_parameters() if p.grad is None]


def the_used(net, x, t, y):
    return {n for n, _ in net.named_parameters()} - set(by_graph(net, x, t, y)) - {"pos_embed"}


UNUSED = {
    "not for zeros": by_zeros,
    "isn't learned": and_frozen,
    "list the others": the_used,
    "keeps the gradient None": lambda *_: [],
    "gives a int, and a list of names": lambda *_: 3,
    "it gives a Parameter": lambda net, *_: list(net.parameters()),
    "raises ZeroDivisionError": lambda *_: 1 / 0,
    "lists no such name": lambda *_: ["no such name"],
}


@pytest.mark.parametrize("words", UNUSED)
def test_a_wrong_hunt_is_told(words):
    verdict = check.unused_parameters(UNUSED[words])
    assert not verdict and words in repr(verdict), verdict


def stub(*_):
    raise NotImplementedError("exercise 1")


class Unwritten(Parallel):
    forward = stub


@pytest.mark.parametrize("name", [name for name, _ in RIGHT])
def test_a_stub_is_still_to_be_written(name):
    verdict = getattr(check, name)(stub)
    assert not verdict and repr(verdict) == f"○ {name} is still to be written: exercise 1"
    assert repr(check.parallel_block(Unwritten)).startswith("○ parallel_block")
