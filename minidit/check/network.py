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

    def __init__(self, width: int, many: int) -> None:
        super().__init__()
        self.adaln, self.many = linear_layer(width, many * width, std=0.0), many

    def silu(self, cond: Tensor) -> Tensor:
        return F.silu(cond)

    def norm(self, x: Tensor, eps: float = 1e-6) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=eps)

    def vectors(self, *vectors: Tensor) -> tuple[Tensor, ...]:
        return vectors

    def film(self, cond: Tensor) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
        """(b, d) → a function of tokens (b, n, d), and the gates (b, 1, d)."""
        shift, scale, *gates = self.vectors(*self.adaln(self.silu(cond)).chunk(self.many, dim=-1))
        return lambda x: modulate(self.norm(x), shift, scale), [gate[:, None] for gate in gates]


def _mistakes(kind: type, own: dict[str, dict]) -> list:
    """Hints and classes in turn: `kind` with pieces replaced. b is the shift, s the scale."""
    of_both = {
        "shift and scale are exchanged; the shift comes first": dict(
            vectors=lambda net, b, s, *gates: (s, b, *gates)
        ),
        "the tokens are multiplied by scale; the factor is 1 + scale": dict(
            vectors=lambda net, b, s, *gates: (b, s - 1, *gates)
        ),
        "the normalisation is missing": dict(norm=lambda net, x: x),
        "the normalisation has eps = 1e-5, PyTorch's own; the DiT's is 1e-6": dict(
            norm=lambda net, x: _Film.norm(net, x, eps=1e-5)
        ),
        "the SiLU before adaln is missing": dict(silu=lambda net, cond: cond),
    }
    classes = {hint: type("Wrong", (kind,), pieces) for hint, pieces in (of_both | own).items()}
    return [item for pair in classes.items() for item in pair]


# --- 04: a block in which attention and MLP stand side by side ------------------------------------


class _Parallel(_Film):
    """x + gate1·attention(z) + gate2·mlp(z), z = modulate(norm(x), shift, scale)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, 4)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, x: Tensor, cond: Tensor, in_turn: bool = False) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, d)."""
        film, (gate1, gate2) = self.film(cond.sum(dim=1))
        after = x + gate1 * self.attn(film(x))
        return after + gate2 * self.mlp(film(after if in_turn else x))


@against(
    {
        "two images of three tokens": (2 * waves(2, 3, 8), waves(2, 2, 8, start=90)),
        "as many images as tokens": (2 * waves(3, 3, 8), waves(3, 2, 8, start=90)),
        "tokens that hardly differ": (2e-3 * waves(2, 3, 8), waves(2, 2, 8, start=90)),
    },
    *_mistakes(
        _Parallel,
        {
            "the MLP sees what attention has added; both are to see the same normalised tokens": (
                dict(forward=lambda net, x, cond: _Parallel.forward(net, x, cond, in_turn=True))
            ),
            "x is not added; both branches are corrections to x": dict(
                forward=lambda net, x, cond: _Parallel.forward(net, x, cond) - x
            ),
            "the gates are forgotten": dict(
                vectors=lambda net, b, s, g, h: (b, s, torch.ones_like(g), torch.ones_like(h))
            ),
            "the gates are exchanged; attention's comes first": dict(
                vectors=lambda net, b, s, g, h: (b, s, h, g)
            ),
            "the gates come before shift and scale; they come last": dict(
                vectors=lambda net, g, h, b, s: (b, s, g, h)
            ),
            "the condition's tokens are averaged; they are added up": dict(
                forward=lambda net, x, cond: _Parallel.forward(net, x, cond / cond.shape[1])
            ),
            "only the first token of the condition, the time, is used; add all of them up": dict(
                forward=lambda net, x, cond: _Parallel.forward(net, x, cond[:, :1])
            ),
        },
    ),
    seen=network(_Parallel, 8, 2),
)
def parallel_block(width: int, heads: int) -> nn.Module:
    """A class: x (b, n, d), cond (b, m, d) → (b, n, d).

    Its parts are called attn, mlp (those of minidit) and adaln: shift, scale and two gates.
    """
    return _Parallel(width, heads)


# --- 05: a last layer with two answers ------------------------------------------------------------


class _Final(_Film):
    """Adaptive normalisation, a linear layer to p·p·2c, and back to two images."""

    tokens = "b (h w) (p1 p2 k c)"  # k is 2, the number of images

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__(width, 2)
        self.sizes = dict(p1=patch, p2=patch, c=channels)
        self.proj = linear_layer(width, patch * patch * 2 * channels, std=0.0)

    def forward(self, x: Tensor, cond: Tensor, grid: tuple[int, int]) -> Tensor:
        """(b, n, d), (b, d), (h, w) → two images, (2, b, c, height, width)."""
        x = self.proj(self.film(cond)[0](x))  # (b, n, p·p·2c)
        pattern = f"{self.tokens} -> k b c (h p1) (w p2)"
        return rearrange(x, pattern, h=grid[0], w=grid[1], **self.sizes)


@against(
    {
        "a wide grid": (2 * waves(2, 6, 8), waves(2, 8, start=90), (2, 3)),
        "as many images as tokens": (2 * waves(4, 4, 8), waves(4, 8, start=90), (2, 2)),
        "tokens that hardly differ": (2e-3 * waves(1, 4, 8), waves(1, 8, start=90), (4, 1)),
    },
    *_mistakes(
        _Final,
        {
            "each token is cut into halves, and with channels last that cuts the patch; put the "
            "patches back first, then cut the channels": dict(tokens="b (h w) (k p1 p2 c)"),
            "the two images are exchanged; the prediction comes first": dict(
                forward=lambda net, *inputs: _Final.forward(net, *inputs).flip(0)
            ),
            "both images are still in one tensor; return two": dict(
                forward=lambda net, *inputs: torch.cat([*_Final.forward(net, *inputs)], dim=1)
            ),
            "the channels stand first inside a patch; here they stand last, (p1 p2 c)": dict(
                tokens="b (h w) (k c p1 p2)"
            ),
            "inside a patch, columns come before rows; pixels are read row by row, (p1 p2 c)": dict(
                tokens="b (h w) (p2 p1 k c)"
            ),
            "the patches are put back column by column; they are read row by row, (h w)": dict(
                tokens="b (w h) (p1 p2 k c)"
            ),
        },
    ),
    seen=network(_Final, 8, 2, 3),
)
def final_layer(width: int, patch: int, channels: int) -> nn.Module:
    """A class: x (b, n, d), cond (b, d), grid → two images (b, c, h·p, w·p).

    Its linear layers are called adaln, shift before scale, and proj.
    """
    return _Final(width, patch, channels)


# --- 05: parameters that do nothing ---------------------------------------------------------------


def _names(fn: Callable) -> Callable[..., frozenset]:
    """The names that fn finds in a network of random numbers, or a fresh one, when it is broken."""

    def found(breaks: Callable[[DiT], None], fresh: bool = False) -> frozenset:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = DiT(4, 2, 1, 8, depth=2, num_heads=2, num_classes=3, learn_sigma=False)
            for p in () if fresh else net.parameters():
                nn.init.normal_(p, std=0.5)
        breaks(net)
        names = fn(net, 2 * waves(2, 1, 4, 4), torch.tensor([10, 700]), torch.tensor([2, 0]))
        many = isinstance(names, Iterable) and not isinstance(names, str | Tensor)
        names = list(names) if many else [names]
        if not many or not all(isinstance(name, str) for name in names):
            raise Fault(f"gives a {type(names[0]).__name__}, and a list of names is expected")
        return frozenset(names)

    return found


def _only_the_last_block(net: DiT) -> None:
    net.blocks[0].forward = lambda x, cond, mask: x


def _no_label(net: DiT) -> None:
    net.condition = lambda t, y: (net.time_embed(t)[:, None], None)


def _listed(listed: Callable[[nn.Parameter], bool]) -> Callable[..., list[str]]:
    """The hunt that lists these of the parameters, after a backward pass."""

    def hunt(net: nn.Module, x: Tensor, t: Tensor, y: Tensor) -> list[str]:
        net(x, t, y).sum().backward()
        return [name for name, p in net.named_parameters() if listed(p)]

    return hunt


_ZEROS = (
    "a fresh network is full of zeros, through which no gradient passes: look for gradients that "
    "are None, not for zeros, or fill the weights with numbers first"
)


@against(
    {
        "a right network": (lambda net: None,),
        "a network of which only the last block counts": (_only_the_last_block,),
        "a network that forgets its label": (_no_label,),
        "a fresh network": (lambda net: None, True),
    },
    "a frozen table has no gradient, but isn't learned: leave out what needs none",
    _listed(lambda p: p.grad is None),
    "these are the parameters that are used; list the others",
    _listed(lambda p: p.grad is not None),
    _ZEROS,
    _listed(lambda p: p.requires_grad and (p.grad is None or not p.grad.any())),
    f"a frozen table isn't learned, so leave it out; and {_ZEROS}",
    _listed(lambda p: p.grad is None or not p.grad.any()),
    seen=_names,
    otherwise="what the answer doesn't depend on keeps the gradient None after backward()",
)
def unused_parameters(net: nn.Module, x: Tensor, t: Tensor, y: Tensor) -> list[str]:
    """Names of the learned parameters that the answer doesn't need; (b, c, h, w), (b,), (b,)."""
    return _listed(lambda p: p.requires_grad and p.grad is None)(net, x, t, y)
