"""Long skips: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor

from minidit.check.verdict import Fault, against, pair, waves
from minidit.embed import timestep_embedding
from minidit.patches import patchify, unpatchify
from minidit.uvit import UViT


@against(
    *((f"d = {d}, depth = {n}", d, n) for d, n in ((4, 8), (64, 12), (512, 12), (1152, 28))),
    "one more feature is counted as one matrix's; it has d weights on the way up, d on the way "
    "down, and a bias",
    {", 2 * d + 1": ", d"},
    "one more feature is counted as d weights and a bias; it has d up, and d down",
    {", 2 * d + 1": ", d + 1"},
    "the d biases of a skip are forgotten",
    {"2 * d * d + d": "2 * d * d"},
    "the middle block is forgotten: the MLPs are depth + 1",
    {"(depth + 1)": "depth"},
    "the fraction is cut off; it is rounded",
    {"round(": "int("},
    "every block is given a skip; only half of them have one",
    {"depth // 2": "depth"},
    "only the late blocks get wider; spread it over all",
    {"(depth + 1)": "(depth // 2)"},
)
def inner_width(d: int, depth: int) -> int:
    """Features inside the MLPs that make up for skips left out: a number."""
    skip, feature = 2 * d * d + d, 2 * d + 1  # parameters of a skip, of one more feature
    return 4 * d + round(depth // 2 * skip / ((depth + 1) * feature))


def _in_one(concat: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """The weight with the bias beside it, (d, 2d + 1)."""

    def both(kind: str, m: Tensor, wanted: Tensor) -> Tensor:
        weight, bias = pair(concat(kind, m, wanted), "a weight and a bias, zeros if there is none")
        if bias.shape != wanted.shape:
            raise Fault(f"gives no bias of the shape {tuple(wanted.shape)}")
        return torch.cat([weight, bias[:, None]], dim=1)

    return both


_LAYER = waves(3, 3, start=11), torch.tensor([0.5, -1.0, 2.0])


@against(
    *((f"skip={kind!r}", kind, *_LAYER) for kind in ("add", "add_linear", "linear_add", "none")),
    "the halves are exchanged: x comes first, so its half is the left one",
    {"[left, right]": "[right, left]"},
    "the weight is transposed; F.linear does that itself, x @ weight.T",
    {"m, eye = weight": "m, eye = weight.T"},
    "add_linear has its matrix on the left, too; x itself goes on, so there is the identity",
    {'"add_linear": (eye, m)': '"add_linear": (m, m)'},
    "add_linear and linear_add are exchanged; the names say what comes first",
    {"add_linear": "linear_add", "linear_add": "add_linear"},
    "linear_add has the identity on the left; its matrix stands before the sum, for both",
    {'"linear_add": (m, m)': '"linear_add": (eye, m)'},
    "the bias is left out where there is a linear layer",
    {'("linear" in kind)': "0"},
    "add and none get a bias; they have no linear layer",
    {'("linear" in kind)': "1"},
    "the weight isn't (d, 2·d): the halves stand side by side, torch.cat(…, dim=1)",
    {"dim=1": "dim=0"},
    seen=_in_one,
)
def as_concat(kind: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(d, d), (d,) → the (d, 2d) and (d,) of a concat that equals."""
    m, eye = weight, torch.eye(len(weight))
    halves = {"add": (eye, eye), "add_linear": (eye, m), "linear_add": (m, m), "none": (eye, 0 * m)}
    left, right = halves[kind]
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


_WIDE = {"in_channels": 3, "depth": 6, "conv": "none", "skip": "add_linear"}
_PLAIN = {"pos_embed": "none", "conv": "none", "skip": "linear_add"}


@against(
    ("labels and five blocks", {}, (4, 4), True),
    ("a wide image without labels", _WIDE, (4, 6), False),
    ("no positions", _PLAIN, (4, 4), True),
    ("a single block", {"depth": 1}, (2, 4), True),
    "the patches come before label and time; the order is label, time, patches",
    {"[*extras, tokens]": "[tokens, *extras]", "x[:, -n:]": "x[:, :n]"},
    "label and time are exchanged; the order is label, time, patches",
    {"[*extras, tokens]": "[*extras[::-1], tokens]"},
    "the time's token is missing",
    {"[*extras, tokens]": "[*extras[:-1], tokens]"},
    "the positions are left out",
    {"x + net.pos_embed": "x"},
    "two tokens are dropped at the end, also where there is no label; keep the last n",
    {"x[:, -n:]": "x[:, 2:]"},
    "the skips are taken in reverse; skips[0] belongs to the first block after the middle",
    {"late, net.skips": "late, net.skips[::-1]"},
    "early and late are exchanged; a skip is called skip(x, early)",
    {"skip(x, kept.pop())": "skip(kept.pop(), x)"},
    "the normalisation before the last layer is left out",
    {"net.norm(x[:, -n:])": "x[:, -n:]"},
    "height and width of the grid are exchanged",
    {"net.grid": "net.grid[::-1]"},
    "conv is called where it is None; then the image stays as it is",
    {"image if net.conv is None else ": ""},
    "pos_embed is added where it is None; then the tokens stay as they are",
    {"x if net.pos_embed is None else ": ""},
    "the first that was kept is the first that is taken; take the last one, so that blocks at the "
    "same height meet",
    {"kept.pop()": "kept.pop(0)"},
    "what goes into a block is kept; keep what comes out of it",
    {"kept.append(x := block(x))": "kept.append(x); x = block(x)"},
    "a skip joins after its block; it comes before, so that the block works on both",
    {"block(skip(x, kept.pop()))": "skip(block(x), kept.pop())"},
    "the skips are left out",
    {"skip(x, kept.pop())": "x"},
    "a shape doesn't fit; look at x.shape after every line: label and time are (b, 1, d), and all "
    "tokens are joined along dim=1",
    {"[*extras, tokens], dim=1": "[*extras, t]"},
    seen=_of_network,
)
def uvit_forward(net: SimpleNamespace, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """A U-ViT's forward pass with what `taken_apart` gives; (b, c, h, w), (b,), (b,) or None."""
    tokens = net.patch_embed(patchify(x, net.patch_size))  # (b, n, d)
    n, half = tokens.shape[1], len(net.skips)
    extras = [] if y is None else [net.label_embed(y)[:, None]]  # (b, 1, d)
    extras.append(timestep_embedding(t, net.d)[:, None])
    x = torch.cat([*extras, tokens], dim=1)  # (b, extras + n, d)
    x = x if net.pos_embed is None else x + net.pos_embed
    (*early, middle), late, kept = net.blocks[: half + 1], net.blocks[half + 1 :], []
    for block in early:
        kept.append(x := block(x))
    x = middle(x)
    for block, skip in zip(late, net.skips):
        x = block(skip(x, kept.pop()))
    x = net.last(net.norm(x[:, -n:]))  # (b, n, p·p·c)
    image = unpatchify(x, net.patch_size, net.grid)  # (b, c, h, w)
    return image if net.conv is None else net.conv(image)
