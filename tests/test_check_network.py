"""Checks of a student's classes, and of the hunt for unused parameters."""

import pytest
import students
import torch
from torch import nn
from torch.nn import functional as F

from minidit import Attention, Mlp, check
from minidit.blocks import FinalLayer, modulate
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

test_right_ones_pass = students.right(RIGHT)


@pytest.mark.parametrize(("name", "mine"), RIGHT)
def test_the_global_generator_stays_as_it_was(name, mine):
    before = torch.random.get_rng_state()
    getattr(check, name)(mine)
    assert torch.equal(torch.random.get_rng_state(), before)


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


class SiluFirst(Parallel):
    def forward(self, x, cond):
        shift, scale, gate1, gate2 = self.adaln(F.silu(cond).sum(1))[:, None].chunk(4, -1)
        z = self.norm(x) * (1 + scale) + shift
        return x + gate1 * self.attn(z) + gate2 * self.mlp(z)


class Unmodulated(Parallel):
    def forward(self, x, cond):
        shift, scale, gate1, gate2 = self.adaln(F.silu(cond.sum(1)))[:, None].chunk(4, -1)
        z = self.norm(x)
        return x + gate1 * self.attn(z * (1 + scale) + shift) + gate2 * self.mlp(z)


class Nothing(Parallel):
    def forward(self, x, cond):
        pass


def by_zeros(net, x, t, y):
    net(x, t, y).sum().backward()
    learned = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    return [n for n, p in learned if p.grad is None or not p.grad.any()]


def and_frozen(net, x, t, y):
    net(x, t, y).sum().backward()
    return [n for n, p in net.named_parameters() if p.grad is None]


def the_used(net, x, t, y):
    return {n for n, _ in net.named_parameters()} - set(by_graph(net, x, t, y)) - {"pos_embed"}


WRONG = [
    ("parallel_block", "super().__init__() must come first", NoStart),
    ("parallel_block", "elementwise_affine=False", OwnNorm),
    ("parallel_block", "adaln.weight that doesn't start at zero", Loud),
    ("parallel_block", "a parameter vectors.weight too many", Renamed),
    ("parallel_block", "adaln.weight of the shape (48, 8), and (32, 8) is expected", SixVectors),
    ("parallel_block", "takes [:, None]", NoAxis),
    ("parallel_block", "the SiLU comes before", SiluFirst),
    ("parallel_block", "normalised but not modulated", Unmodulated),
    ("parallel_block", "returns a NoneType", Nothing),
    ("parallel_block", "must take 2 numbers", lambda: None),
    ("parallel_block", "makes a str, and a network", lambda width, heads: "a block"),
    ("unused_parameters", "not for zeros", by_zeros),
    ("unused_parameters", "isn't learned", and_frozen),
    ("unused_parameters", "list the others", the_used),
    ("unused_parameters", "keeps the gradient None", lambda *_: []),
    ("unused_parameters", "returns a int, and a list of names", lambda *_: 3),
    ("unused_parameters", "it returns a Parameter", lambda net, *_: list(net.parameters())),
    ("unused_parameters", "raises ZeroDivisionError", lambda *_: 1 / 0),
    ("unused_parameters", "lists no such name", lambda *_: ["no such name"]),
]


@pytest.mark.parametrize(("name", "words", "wrong"), WRONG)
def test_what_is_wrong_is_told(name, words, wrong):
    verdict = getattr(check, name)(wrong)
    assert not verdict and words in repr(verdict), verdict


def test_a_forward_pass_that_is_a_stub_is_still_to_be_written():
    class Unwritten(Parallel):
        def forward(self, *_):
            raise NotImplementedError("exercise 1")

    assert repr(check.parallel_block(Unwritten)) == (
        "○ parallel_block is still to be written: exercise 1"
    )
