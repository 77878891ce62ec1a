"""A student's own classes, a block and a last layer, and a hunt for unused parameters."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from minidit.attention import Attention, Mlp
from minidit.check.verdict import Fault, against, expect, waves
from minidit.dit import DiT
from minidit.patches import linear_layer


def _beside(right: Callable[[], type], *sizes: int) -> Callable[[Callable], Callable]:
    """What is seen of a class: whether it starts as right()(*sizes) does, then its answers.

    Parameters of the same name and shape get the same numbers. Two tensors are compared as one.
    """

    def seen(make: Callable) -> Callable:
        def answer(*inputs: object) -> object:
            with torch.random.fork_rng(devices=[]):
                net, wanted = _made(make, sizes), dict(right()(*sizes).named_parameters())
            mine = dict(net.requires_grad_(False).named_parameters())
            for key in {**mine, **wanted}:
                if fault := _fault(key, mine.get(key), wanted.get(key)):
                    raise Fault(f"{fault}; wanted are {', '.join(wanted)}")
            for k, (_, p) in enumerate(sorted(mine.items())):
                p.copy_(waves(*p.shape, start=1 + 7 * k) * 2 / p.shape[-1] ** 0.5)
            found = net(*inputs)
            return torch.stack([*found]) if isinstance(found, tuple | list) else found

        return answer

    return seen


def _made(make: Callable, sizes: tuple) -> nn.Module:
    try:
        net = make(*sizes)
    except (TypeError, AttributeError) as error:
        hint = "super().__init__() must come first"
        if "__init__() call" not in str(error):
            hint = f"it must take {len(sizes)} numbers and be a class of nn.Module"
        raise Fault(f"raises {type(error).__name__}, made with {sizes}: {error}; {hint}") from error
    if not isinstance(net, nn.Module):
        raise Fault(f"makes a {type(net).__name__}, and a network (nn.Module) is expected")
    return net


def _fault(key: str, mine: Tensor | None, wanted: Tensor | None) -> str:
    """What is wrong with a parameter of a network as it was made; either may be missing."""
    if mine is None:
        return f"has no parameter {key}"
    if wanted is None:
        why = (
            ": the normalisation must have no scale and shift of its own, they come from the "
            "condition; elementwise_affine=False"
        )
        return f"has a parameter {key} too many" + why * ("norm" in key)
    if mine.shape != wanted.shape:
        return f"has {key} of the shape {tuple(mine.shape)}, and {tuple(wanted.shape)} is expected"
    is_loud = mine.any() and not wanted.any()
    return f"has {key} that doesn't start at zero, so a fresh network isn't silent" * bool(is_loud)


_MODULATION = (  # mistakes that both classes can make
    "shift and scale are exchanged; the shift comes first",
    {"shift, scale": "scale, shift"},
    "the tokens are multiplied by scale; the factor is 1 + scale",
    {"(1 + scale)": "scale"},
    "the normalisation is missing",
    {"F.layer_norm(x, x.shape[-1:], eps=1e-6)": "x"},
    "the normalisation has eps = 1e-5, PyTorch's own; the DiT's is 1e-6",
    {"eps=1e-6": "eps=1e-5"},
    "the SiLU before adaln is missing",
    {"F.silu(cond)": "cond"},
)


@against(
    ("two images of three tokens", 2 * waves(2, 3, 8), waves(2, 2, 8, start=90)),
    ("as many images as tokens", 2 * waves(3, 3, 8), waves(3, 2, 8, start=90)),
    ("tokens that hardly differ", 2e-3 * waves(2, 3, 8), waves(2, 2, 8, start=90)),
    *_MODULATION,
    "the MLP sees what attention has added; both are to see the same normalised tokens",
    {"self.mlp(z)": "self.mlp(F.layer_norm(after, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)"},
    "the MLP's tokens are normalised but not modulated; it gets the same as attention",
    {"self.mlp(z)": "self.mlp(F.layer_norm(x, x.shape[-1:], eps=1e-6))"},
    "the SiLU comes before the sum of the condition's tokens; add them up first",
    {"cond.sum(dim=1)": "F.silu(cond).sum(dim=1)", "F.silu(cond)": "cond"},
    "x is not added; both branches are corrections to x",
    {"x + gate1": "gate1"},
    "the gates are forgotten",
    {"gate1 * ": "", "gate2 * ": ""},
    "the gates are exchanged; attention's comes first",
    {"gate1, gate2 =": "gate2, gate1 ="},
    "each gate follows its own vector; shift and scale come first, then both gates",
    {"shift, scale, gate1, gate2": "shift, gate1, scale, gate2"},
    "the condition's tokens are averaged; they are added up",
    {"cond.sum(dim=1)": "cond.mean(dim=1)"},
    "only the first token of the condition, the time, is used; add all of them up",
    {"cond.sum(dim=1)": "cond[:, 0]"},
    seen=_beside(lambda: parallel_block.right, 8, 2),
)
class parallel_block(nn.Module):
    """x (b, n, d), cond (b, m, d) → x + gate1·attention(z) + gate2·mlp(z), (b, n, d).

    z = modulate(norm(x), shift, scale). Its parts are called attn, mlp (those of minidit) and
    adaln: shift, scale and two gates.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.adaln = linear_layer(width, 4 * width, std=0.0)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, d)."""
        cond = cond.sum(dim=1)
        shift, scale, gate1, gate2 = self.adaln(F.silu(cond))[:, None].chunk(4, dim=-1)
        z = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        after = x + gate1 * self.attn(z)
        return after + gate2 * self.mlp(z)


@against(
    ("a wide grid", 2 * waves(2, 6, 8), waves(2, 8, start=90), (2, 3)),
    ("as many images as tokens", 2 * waves(4, 4, 8), waves(4, 8, start=90), (2, 2)),
    ("tokens that hardly differ", 2e-3 * waves(1, 4, 8), waves(1, 8, start=90), (4, 1)),
    *_MODULATION,
    "each token is cut into halves, and with channels last that cuts the patch; put the patches "
    "back first, then cut the channels",
    {"(p1 p2 k c)": "(k p1 p2 c)"},
    "the two images are exchanged; the prediction comes first",
    {"k=2)": "k=2).flip(0)"},
    "the channels stand first inside a patch; here they stand last, (p1 p2 c)",
    {"(p1 p2 k c)": "(k c p1 p2)"},
    "inside a patch, columns come before rows; pixels are read row by row, (p1 p2 c)",
    {"(p1 p2 k c)": "(p2 p1 k c)"},
    "the patches are put back column by column; they are read row by row, (h w)",
    {"b (h w)": "b (w h)"},
    seen=_beside(lambda: final_layer.right, 8, 2, 3),
)
class final_layer(nn.Module):
    """x (b, n, d), cond (b, d), grid → two images (b, c, h·p, w·p).

    Its linear layers are called adaln, shift before scale, and proj, to p·p·2c.
    """

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.adaln = linear_layer(width, 2 * width, std=0.0)
        self.proj = linear_layer(width, patch * patch * 2 * channels, std=0.0)
        self.patch = patch

    def forward(self, x: Tensor, cond: Tensor, grid: tuple[int, int]) -> Tensor:
        """(b, n, d), (b, d), (h, w) → (2, b, c, height, width)."""
        shift, scale = self.adaln(F.silu(cond))[:, None].chunk(2, dim=-1)
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        pattern = "b (h w) (p1 p2 k c) -> k b c (h p1) (w p2)"
        return rearrange(self.proj(x), pattern, h=grid[0], p1=self.patch, p2=self.patch, k=2)


def _names(fn: Callable) -> Callable[..., frozenset]:
    """The names that fn finds in a network of random numbers, or a fresh one, once it is broken."""

    def found(broken: Callable[[DiT], object], fresh: bool = False) -> frozenset:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = DiT(4, 2, 1, 8, depth=2, num_heads=2, num_classes=3, learn_sigma=False)
            for p in () if fresh else net.parameters():
                nn.init.normal_(p, std=0.5)
        broken(net)
        names = fn(net, 2 * waves(2, 1, 4, 4), torch.tensor([10, 700]), torch.tensor([2, 0]))
        expect(names, list | tuple | set | frozenset, "a list of names")
        for name in names:
            expect(name, str, "a list of names")
        return frozenset(names)

    return found


@against(
    ("a right network", lambda net: None),
    (
        "a network of which only the last block counts",
        lambda net: setattr(net.blocks[0], "forward", lambda x, cond, mask: x),
    ),
    (
        "a network that forgets its label",
        lambda net: setattr(net, "condition", lambda t, y: (net.time_embed(t)[:, None], None)),
    ),
    ("a fresh network", lambda net: None, True),
    "a frozen table has no gradient, but isn't learned: leave out what needs none",
    {"p.requires_grad and ": ""},
    "these are the parameters that are used; list the others",
    {"p.requires_grad and p.grad is None": "p.grad is not None"},
    "a fresh network is full of zeros, through which no gradient passes: look for gradients that "
    "are None, not for zeros, or fill the weights with numbers first",
    {"p.grad is None": "(p.grad is None or not p.grad.any())"},
    seen=_names,
    otherwise="what the answer doesn't depend on keeps the gradient None after backward(); the "
    "zeros of a fresh network are gradients, and a frozen table needs none",
)
def unused_parameters(net: nn.Module, x: Tensor, t: Tensor, y: Tensor) -> list[str]:
    """Names of the learned parameters that the answer doesn't need; (b, c, h, w), (b,), (b,)."""
    net(x, t, y).sum().backward()
    return [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]


# of each block: matrices of d², vectors of d, and normalisations with a scale and a shift
_PARTS = {
    "in_context": (12, 9, 2),
    "cross_attention": (16, 13, 3),
    "adaln": (16, 13, 0),
    "adaln_zero": (18, 15, 0),
}


@against(
    *((f'"{block}" and d = {d}', block, d) for d in (8, 12) for block in _PARTS),
    "the biases, and scale and shift of the normalisations, are forgotten",
    {" + biases * d + norms * 2 * d": ""},
    "a normalisation has a scale and a shift, 2·d; you count one of them",
    {"norms * 2 * d": "norms * d"},
    "with cross-attention there are three normalisations, each with a scale and a shift",
    {"norms * 2": "min(norms, 2) * 2"},
    "the biases of the layer that makes shift and scale are forgotten",
    {"biases * d": "(biases if norms else 9) * d"},
    "without adaLN the normalisations have a scale and a shift of their own, 2·d each",
    {" + norms * 2 * d": ""},
    "with adaLN the normalisations have no scale and shift of their own, the condition has",
    {"norms * 2": "(norms or 2) * 2"},
)
def block_parameters(block: str, d: int) -> int:
    """The number of parameters of a block of width d, with mlp_ratio 4."""
    matrices, biases, norms = _PARTS[block]
    return matrices * d * d + biases * d + norms * 2 * d
