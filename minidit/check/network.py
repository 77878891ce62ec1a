"""A student's own classes, a block and a last layer, and a hunt for unused parameters."""

from collections.abc import Callable, Iterable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from minidit.attention import Attention, Mlp
from minidit.blocks import modulate
from minidit.check.verdict import Fault, against, network, waves
from minidit.dit import DiT
from minidit.patches import linear_layer


class _Film(nn.Module):
    """Adaptive normalisation in pieces, any of which a mistake can replace."""

    silu = staticmethod(F.silu)
    eps = 1e-6

    def __init__(self, width: int, many: int) -> None:
        super().__init__()
        self.adaln, self.many = linear_layer(width, many * width, std=0.0), many

    def norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)

    def vectors(self, *vectors: Tensor) -> tuple[Tensor, ...]:
        return vectors

    def film(self, cond: Tensor) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
        """(b, d) → a function of tokens (b, n, d), and the gates (b, 1, d)."""
        shift, scale, *gates = self.vectors(*self.adaln(self.silu(cond)).chunk(self.many, dim=-1))
        return lambda x: modulate(self.norm(x), shift, scale), [gate[:, None] for gate in gates]


_MISTAKES = (  # that both classes can make; b is the shift, s the scale, g and h are gates
    "shift and scale are exchanged; the shift comes first",
    {"vectors": lambda net, b, s, *gates: (s, b, *gates)},
    "the tokens are multiplied by scale; the factor is 1 + scale",
    {"vectors": lambda net, b, s, *gates: (b, s - 1, *gates)},
    "the normalisation is missing",
    {"norm": lambda net, x: x},
    "the normalisation has eps = 1e-5, PyTorch's own; the DiT's is 1e-6",
    {"eps": 1e-5},
    "the SiLU before adaln is missing",
    {"silu": lambda net, cond: cond},
)


def _forward(change: Callable) -> dict:
    """A class whose answer is change(that of the right one, the inputs, …)."""
    return {"forward": lambda net, *inputs: change(super(type(net), net).forward, *inputs)}


@against(
    {
        "two images of three tokens": (2 * waves(2, 3, 8), waves(2, 2, 8, start=90)),
        "as many images as tokens": (2 * waves(3, 3, 8), waves(3, 2, 8, start=90)),
        "tokens that hardly differ": (2e-3 * waves(2, 3, 8), waves(2, 2, 8, start=90)),
    },
    *_MISTAKES,
    "the MLP sees what attention has added; both are to see the same normalised tokens",
    {"seen_by_mlp": lambda net, film, x, after: film(after)},
    "the MLP's tokens are normalised but not modulated; it gets the same as attention",
    {"seen_by_mlp": lambda net, film, x, after: net.norm(x)},
    "the MLP gets x as it is; it gets the same normalised and modulated tokens as attention",
    {"seen_by_mlp": lambda net, film, x, after: x},
    "the SiLU comes before the sum of the condition's tokens; add them up first",
    _forward(lambda right, x, cond: right(x, F.silu(cond))) | {"silu": lambda net, cond: cond},
    "x is not added; both branches are corrections to x",
    _forward(lambda right, x, cond: right(x, cond) - x),
    "the gates are forgotten",
    {"vectors": lambda net, b, s, g, h: (b, s, torch.ones_like(g), torch.ones_like(h))},
    "the gates are exchanged; attention's comes first",
    {"vectors": lambda net, b, s, g, h: (b, s, h, g)},
    "each gate follows its own vector; shift and scale come first, then both gates",
    {"vectors": lambda net, b, g, s, h: (b, s, g, h)},
    "both branches have the gate of attention; the MLP has its own",
    {"vectors": lambda net, b, s, g, h: (b, s, g, g)},
    "1 is added to the gates; only the scale has it",
    {"vectors": lambda net, b, s, g, h: (b, s, 1 + g, 1 + h)},
    "the gates come before shift and scale; they come last",
    {"vectors": lambda net, g, h, b, s: (b, s, g, h)},
    "the condition's tokens are averaged; they are added up",
    _forward(lambda right, x, cond: right(x, cond / cond.shape[1])),
    "only the first token of the condition, the time, is used; add all of them up",
    _forward(lambda right, x, cond: right(x, cond[:, :1])),
    seen=network(lambda: parallel_block.right, 8, 2),
)
class parallel_block(_Film):
    """x (b, n, d), cond (b, m, d) → x + gate1·attention(z) + gate2·mlp(z), (b, n, d).

    z = modulate(norm(x), shift, scale). Its parts are called attn, mlp (those of minidit) and
    adaln: shift, scale and two gates.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, 4)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)

    def seen_by_mlp(self, film: Callable, x: Tensor, after: Tensor) -> Tensor:
        """What the MLP gets, made of x, or of x after attention; all (b, n, d)."""
        return film(x)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, d)."""
        film, (gate1, gate2) = self.film(cond.sum(dim=1))
        after = x + gate1 * self.attn(film(x))
        return after + gate2 * self.mlp(self.seen_by_mlp(film, x, after))


@against(
    {
        "a wide grid": (2 * waves(2, 6, 8), waves(2, 8, start=90), (2, 3)),
        "as many images as tokens": (2 * waves(4, 4, 8), waves(4, 8, start=90), (2, 2)),
        "tokens that hardly differ": (2e-3 * waves(1, 4, 8), waves(1, 8, start=90), (4, 1)),
    },
    *_MISTAKES,
    "each token is cut into halves, and with channels last that cuts the patch; put the patches "
    "back first, then cut the channels",
    {"tokens": "b (h w) (k p1 p2 c)"},
    "the two images are exchanged; the prediction comes first",
    _forward(lambda right, *inputs: right(*inputs).flip(0)),
    "both images are still in one tensor; return two",
    _forward(lambda right, *inputs: torch.cat([*right(*inputs)], dim=1)),
    "the channels stand first inside a patch; here they stand last, (p1 p2 c)",
    {"tokens": "b (h w) (k c p1 p2)"},
    "inside a patch, columns come before rows; pixels are read row by row, (p1 p2 c)",
    {"tokens": "b (h w) (p2 p1 k c)"},
    "the patches are put back column by column; they are read row by row, (h w)",
    {"tokens": "b (w h) (p1 p2 k c)"},
    seen=network(lambda: final_layer.right, 8, 2, 3),
)
class final_layer(_Film):
    """x (b, n, d), cond (b, d), grid → two images (b, c, h·p, w·p).

    Its linear layers are called adaln, shift before scale, and proj, to p·p·2c.
    """

    tokens = "b (h w) (p1 p2 k c)"  # k is 2, the number of images

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__(width, 2)
        self.sizes = dict(p1=patch, p2=patch, c=channels)
        self.proj = linear_layer(width, patch * patch * 2 * channels, std=0.0)

    def forward(self, x: Tensor, cond: Tensor, grid: tuple[int, int]) -> Tensor:
        """(b, n, d), (b, d), (h, w) → (2, b, c, height, width)."""
        x = self.proj(self.film(cond)[0](x))  # (b, n, p·p·2c)
        pattern = f"{self.tokens} -> k b c (h p1) (w p2)"
        return rearrange(x, pattern, h=grid[0], w=grid[1], **self.sizes)


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
        many = isinstance(names, Iterable) and not isinstance(names, str | Tensor)
        names = list(names) if many else [names]
        if odd := [name for name in names if not isinstance(name, str) or not many]:
            raise Fault(f"gives a {type(odd[0]).__name__}, and a list of names is expected")
        return frozenset(names)

    return found


_ZEROS = (
    "a fresh network is full of zeros, through which no gradient passes: look for gradients that "
    "are None, not for zeros, or fill the weights with numbers first"
)


@against(
    {
        "a right network": (lambda net: None,),
        "a network of which only the last block counts": (
            lambda net: setattr(net.blocks[0], "forward", lambda x, cond, mask: x),
        ),
        "a network that forgets its label": (
            lambda net: setattr(net, "condition", lambda t, y: (net.time_embed(t)[:, None], None)),
        ),
        "a fresh network": (lambda net: None, True),
    },
    "a frozen table has no gradient, but isn't learned: leave out what needs none",
    {"listed": lambda p: p.grad is None},
    "these are the parameters that are used; list the others",
    {"listed": lambda p: p.grad is not None},
    _ZEROS,
    {"listed": lambda p: p.requires_grad and (p.grad is None or not p.grad.any())},
    f"a frozen table isn't learned, so leave it out; and {_ZEROS}",
    {"listed": lambda p: p.grad is None or not p.grad.any()},
    seen=_names,
    otherwise="what the answer doesn't depend on keeps the gradient None after backward(); the "
    "zeros of a fresh network are gradients, and a frozen table needs none",
)
def unused_parameters(
    net: nn.Module,
    x: Tensor,
    t: Tensor,
    y: Tensor,
    *,
    listed: Callable[[nn.Parameter], bool] = lambda p: p.requires_grad and p.grad is None,
) -> list[str]:
    """Names of the learned parameters that the answer doesn't need; (b, c, h, w), (b,), (b,)."""
    net(x, t, y).sum().backward()
    return [name for name, p in net.named_parameters() if listed(p)]
