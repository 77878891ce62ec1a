"""Long skips: is your version right, and if not, which of these mistakes is it?"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import chain
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

from minidit.check.verdict import Fault, against, waves
from minidit.embed import timestep_embedding
from minidit.patches import patchify, unpatchify
from minidit.training.presets import without_skips
from minidit.uvit import UViT


def _walk(
    partners: Callable[[list[Tensor]], list[Tensor]],
    joined: Callable[..., Tensor] = lambda x, early, block, skip: block(skip(x, early)),
) -> Callable[..., Tensor]:
    """Down and up; the skips take partners(x and all outputs up to the middle), in turn."""

    def walk(x: Tensor, blocks: Sequence[Callable], skips: Sequence[Callable]) -> Tensor:
        walked = [x]
        for block in blocks[: len(skips) + 1]:
            walked.append(block(walked[-1]))
        x = walked[-1]
        for early, block, skip in zip(partners(walked), blocks[len(skips) + 1 :], skips):
            x = joined(x, early, block, skip)
        return x

    return walk


_up_and_down = _walk(lambda walked: walked[-2:0:-1])
_WALKS = {
    "the first that was kept is the first that is taken; take the last one, so that blocks at the "
    "same height meet": _walk(lambda walked: walked[1:-1]),
    "what goes into a block is kept; keep what comes out of it": _walk(
        lambda walked: walked[-3::-1]
    ),
    "a skip joins after its block; it comes before, so that the block works on both": _walk(
        lambda walked: walked[-2:0:-1], lambda x, early, block, skip: skip(block(x), early)
    ),
    "the middle block keeps its output, too; it has no partner": _walk(
        lambda walked: walked[:1:-1]
    ),
    "the skips are left out": lambda x, blocks, skips: reduce(lambda x, f: f(x), blocks, x),
}


# a skip has 2·d² + d parameters, one more feature in an MLP 2·d + 1
@against(
    {f"d = {d}, depth = {n}": (d, n) for d, n in ((4, 8), (64, 12), (512, 12), (1152, 28))},
    "one more feature is counted as one matrix's; it has d weights on the way up, d on the way "
    "down, and a bias",
    lambda d, depth: 4 * d + round((2 * d + 1) * (depth // 2) / (depth + 1)),
    "one more feature is counted as d weights and a bias; it has d up, and d down",
    lambda d, depth: 4 * d + round(d * (2 * d + 1) * (depth // 2) / (depth + 1) / (d + 1)),
    "the d biases of a skip are forgotten",
    lambda d, depth: 4 * d + round(2 * d * d * (depth // 2) / (depth + 1) / (2 * d + 1)),
    "the bias of one more feature is forgotten",
    lambda d, depth: 4 * d + round((2 * d + 1) * (depth // 2) / (depth + 1) / 2),
    "the middle block is forgotten: the MLPs are depth + 1",
    lambda d, depth: 4 * d + round(d / 2),
    "the fraction is cut off; it is rounded",
    lambda d, depth: 4 * d + math.floor(d * (depth // 2) / (depth + 1)),
    "the fraction is rounded up; it is rounded to the nearest",
    lambda d, depth: 4 * d + math.ceil(d * (depth // 2) / (depth + 1)),
    "every block is given a skip; only half of them have one",
    lambda d, depth: 4 * d + round(d * depth / (depth + 1)),
    "only the late blocks get wider; spread it over all",
    lambda d, depth: 4 * d + d,
    "the 4·d features that are there already are forgotten",
    lambda d, depth: inner_width.right(d, depth) - 4 * d,
)
def inner_width(d: int, depth: int) -> int:
    """Features inside the MLPs that make up for skips left out: a number."""
    return int(d * without_skips({"hidden_size": d, "depth": depth})["mlp_ratio"])


def _of_tokens(concat: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """What the weight and the bias do to tokens."""

    def skip(kind: str, weight: Tensor, bias: Tensor) -> Tensor:
        found = concat(kind, weight, bias)
        if not (isinstance(found, tuple | list) and len(found) == 2):
            raise Fault("gives something else, and two tensors are expected: a weight and a bias")
        if not isinstance(found[1], Tensor) or found[1].shape != bias.shape:
            raise Fault(f"gives no bias of the shape {tuple(bias.shape)}; without one it is zeros")
        return F.linear(torch.cat([waves(1, 3, 3), waves(1, 3, 3, start=40)], dim=-1), *found)

    return skip


_LAYER = waves(3, 3, start=11), torch.tensor([0.5, -1.0, 2.0])


def _exchanged(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return weight.roll(len(bias), dims=1), bias


def _instead(only: str, left: Callable, right: Callable) -> Callable[..., tuple[Tensor, Tensor]]:
    """as_concat, with left(m) and right(m) for one kind."""

    def fn(kind: str, m: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = as_concat.right(kind, m, bias)
        return torch.cat([left(m), right(m)], dim=1) if kind == only else weight, bias

    return fn


def _eye(m: Tensor) -> Tensor:
    return torch.eye(len(m))


@against(
    {f"skip={kind!r}": (kind, *_LAYER) for kind in ("add", "add_linear", "linear_add", "none")},
    "the halves are exchanged: x comes first, so its half is the left one",
    lambda kind, m, bias: _exchanged(*as_concat.right(kind, m, bias)),
    "the weight is transposed; F.linear does that itself, x @ weight.T",
    lambda kind, m, bias: as_concat.right(kind, m.T, bias),
    "add_linear has a left half of zeros; x itself goes on, so it is the identity",
    _instead("add_linear", torch.zeros_like, lambda m: m),
    "add_linear has its matrix on the left, too; x itself goes on, so there is the identity",
    _instead("add_linear", lambda m: m, lambda m: m),
    "linear_add has the identity on the right; its matrix stands before the sum, for both",
    _instead("linear_add", lambda m: m, _eye),
    "add_linear and linear_add are exchanged; the names say what comes first",
    lambda kind, m, bias: as_concat.right("_".join(kind.split("_")[::-1]), m, bias),
    "linear_add has the identity on the left; its matrix stands before the sum, for both",
    lambda kind, m, bias: as_concat.right(kind.replace("linear_add", "add_linear"), m, bias),
    "none has the identity on the right; early must not count",
    lambda kind, m, bias: as_concat.right(kind.replace("none", "add"), m, bias),
    "the bias is left out where there is a linear layer",
    lambda kind, m, bias: as_concat.right(kind, m, 0 * bias),
    "add and none get a bias; they have no linear layer",
    lambda kind, m, bias: (as_concat.right(kind, m, bias)[0], bias),
    "the weight isn't (d, 2·d): the halves stand side by side, torch.cat(…, dim=1)",
    lambda kind, m, bias: (torch.cat(as_concat.right(kind, m, bias)[0].chunk(2, dim=1)), bias),
    seen=_of_tokens,
)
def as_concat(kind: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(d, d), (d,) → the (d, 2d) and (d,) of a concat that equals; applied to tokens."""
    eye, none = torch.eye(len(weight)), torch.zeros_like(weight)
    left = weight if kind == "linear_add" else eye
    right = {"add": eye, "none": none}.get(kind, weight)
    return torch.cat([left, right], dim=1), bias * ("linear" in kind)


def taken_apart(net: UViT) -> SimpleNamespace:
    """The parts of a U-ViT whose time is a token; what it hasn't got is None."""
    return SimpleNamespace(
        patch_size=net.patch_size,
        grid=net.grid,
        d=net.config["hidden_size"],
        patch_embed=net.patch_embed.proj,
        label_embed=net.label_embed,
        pos_embed=net.pos_embed,
        blocks=[lambda x, block=block: block(x, None) for block in net.blocks],
        skips=list(net.skips),
        norm=net.final.norm,
        last=net.final.proj,
        conv=net.conv_after,
    )


def _of_network(forward: Callable) -> Callable[..., Tensor]:
    """What it makes of the parts of a network in which nothing is random, and nothing zero."""

    def run(config: dict, size: tuple[int, int], labels: bool) -> Tensor:
        config = {"in_channels": 1, "num_classes": 3 * labels, "depth": 4, **config}
        net = UViT(size, patch_size=2, hidden_size=8, num_heads=2, **config).requires_grad_(False)
        for k, p in enumerate(net.parameters()):
            p.copy_((torch.arange(p.numel()) * 1.7 + k).sin().reshape(p.shape) * 0.6)
        x, y = waves(2, config["in_channels"], *size), torch.tensor([2, 0]) if labels else None
        return forward(taken_apart(net), x, torch.tensor([3, 700]), y)

    return run


def _is_none(x: Tensor) -> Tensor:
    raise TypeError("'NoneType' object is not callable")


def _no_middle(net: SimpleNamespace) -> dict:
    half = len(net.skips)
    return {"blocks": [*net.blocks[:half], lambda x: x, *net.blocks[half + 1 :]]}


@against(
    {
        "labels and five blocks": ({}, (4, 4), True),
        "a wide image without labels": (
            {"in_channels": 3, "depth": 6, "conv": "none", "skip": "add_linear"},
            (4, 6),
            False,
        ),
        "no positions": (
            {"pos_embed": "none", "conv": "none", "skip": "linear_add"},
            (4, 4),
            True,
        ),
        "a single block": ({"depth": 1}, (2, 4), True),
    },
    "the patches come before label and time; the order is label, time, patches",
    {"first": False, "patches": lambda x, n: x[:, :n]},
    "label and time are exchanged; the order is label, time, patches",
    {"extras": lambda extras: extras[::-1]},
    "the time's token is missing",
    {"extras": lambda extras: extras[:-1]},
    "the positions are left out",
    {"change": lambda net: {"pos_embed": None}},
    "two tokens are dropped at the end, also where there is no label; keep the last n",
    {"patches": lambda x, n: x[:, 2:]},
    "one token is dropped at the end, also where there is a label; keep the last n",
    {"patches": lambda x, n: x[:, 1:]},
    "the first n tokens become the image; the patches are the last n",
    {"patches": lambda x, n: x[:, :n]},
    "the skips are taken in reverse; skips[0] belongs to the first block after the middle",
    {"change": lambda net: {"skips": net.skips[::-1]}},
    "the middle block is left out",
    {"change": _no_middle},
    "early and late are exchanged; a skip is called skip(x, early)",
    {"change": lambda net: {"skips": [lambda x, e, skip=skip: skip(e, x) for skip in net.skips]}},
    "the normalisation before the last layer is left out",
    {"change": lambda net: {"norm": lambda x: x}},
    "the convolution at the end is left out",
    {"change": lambda net: {"conv": None}},
    "height and width of the grid are exchanged",
    {"change": lambda net: {"grid": net.grid[::-1]}},
    "conv is called where it is None; then the image stays as it is",
    {"change": lambda net: {"conv": net.conv or _is_none}},
    "pos_embed is added where it is None; then the tokens stay as they are",
    {"change": lambda net: {"pos_embed": "None" if net.pos_embed is None else net.pos_embed}},
    *chain(*((hint, {"walk": walk}) for hint, walk in _WALKS.items())),
    "a shape doesn't fit; look at x.shape after every line: label and time are (b, 1, d), and all "
    "tokens are joined along dim=1",
    lambda net, x, t, y: torch.cat([t, x]),
    seen=_of_network,
)
def uvit_forward(
    net: SimpleNamespace,
    x: Tensor,
    t: Tensor,
    y: Tensor | None,
    *,
    change: Callable[[SimpleNamespace], dict] = lambda net: {},
    extras: Callable[[list[Tensor]], list[Tensor]] = lambda extras: extras,
    patches: Callable[[Tensor, int], Tensor] = lambda x, n: x[:, -n:],
    first: bool = True,
    walk: Callable[..., Tensor] = _up_and_down,
) -> Tensor:
    """A U-ViT's forward pass with what `taken_apart` gives; (b, c, h, w), (b,), (b,) or None."""
    net = SimpleNamespace(**{**vars(net), **change(net)})
    tokens = net.patch_embed(patchify(x, net.patch_size))  # (b, n, d)
    before = [] if y is None else [net.label_embed(y)[:, None]]  # (b, 1, d)
    before = extras([*before, timestep_embedding(t, net.d)[:, None]])
    x = torch.cat([*before, tokens] if first else [tokens, *before], dim=1)  # (b, extras + n, d)
    x = walk(x if net.pos_embed is None else x + net.pos_embed, net.blocks, net.skips)
    x = net.last(net.norm(patches(x, tokens.shape[1])))  # (b, n, p·p·c)
    image = unpatchify(x, net.patch_size, net.grid)  # (b, c, h, w)
    return image if net.conv is None else net.conv(image)
