"""Checks of a student's own classes, a block and a last layer, and of a hunt for unused parameters.

A class is built, its weights are looked at as they start, then filled with numbers, and its answers
are compared. The common mistakes are functions of a right network and its inputs.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from minidit.attention import Attention, Mlp
from minidit.check.verdict import Verdict, alike, difference, outcome, unwritten
from minidit.dit import DiT
from minidit.patches import linear_layer

_SHAPES = (
    "two shapes don't fit: what is made of the condition is (b, d), and takes [:, None] to meet "
    "tokens (b, n, d)"
)


def _judge(
    name: str, make: Callable, right: type, sizes: tuple, cases: dict, mistakes: dict
) -> Verdict:
    """Compare the class `make(*sizes)` with the class `right`, from its start to its answers."""
    with torch.random.fork_rng(devices=[]):
        net, reference = outcome(make, sizes), right(*sizes)
    if isinstance(net, NotImplementedError):
        return unwritten(name, net)
    if fault := _fault_at_the_start(net, reference, sizes):
        return Verdict(False, f"✗ {name} is not right yet: {fault}.")
    _fill(net), _fill(reference)
    same = partial(alike, tolerance=1e-4)
    got = _outcomes(net, cases)
    for case, g, w in zip(cases, got, _outcomes(reference, cases)):
        if isinstance(g, NotImplementedError):
            return unwritten(name, g)
        if not same(g, w):
            message = f"✗ {name} is not right yet. With {case} it {difference(g, w, same)}."
            causes = [_SHAPES] if "must match the size" in str(g) else []
            for hint, mistake in mistakes.items():
                if all(map(same, got, _outcomes(partial(mistake, reference), cases))):
                    causes.append(hint)
            return Verdict(False, message + _likeliest(causes[0]) if causes else message)
    parts = "its parameters, their start, and its answers"
    return Verdict(True, f"✓ {name} is right: {parts} to {'; '.join(cases)}.")


def _likeliest(cause: str) -> str:
    return f"\n  The likeliest cause: {cause}."


def _outcomes(fn: Callable, cases: dict[str, tuple]) -> list:
    def joined(*case: object) -> object:  # two images as one tensor
        answer = fn(*case)
        pair = isinstance(answer, tuple | list) and all(isinstance(a, Tensor) for a in answer)
        return torch.stack(list(answer)) if pair else answer

    return [outcome(joined, case) for case in cases.values()]


def _waves(*shape: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + math.prod(shape)).reshape(shape).float().sin()


def _fill(net: nn.Module) -> None:
    """The same numbers in every parameter of that name and shape."""
    for k, (_, p) in enumerate(sorted(net.requires_grad_(False).named_parameters())):
        p.copy_(_waves(*p.shape, start=1 + 7 * k) * 2 / p.shape[-1] ** 0.5)


def _fault_at_the_start(net: object, reference: nn.Module, sizes: tuple) -> str | None:
    """What is wrong with a network as it was made, or None."""
    if isinstance(net, Exception):
        hint = "; super().__init__() must come first" if "__init__() call" in str(net) else ""
        if isinstance(net, TypeError):
            hint = f"; it must take {len(sizes)} numbers and be a class of nn.Module"
        return f"making it with {sizes} raises {type(net).__name__}: {net}{hint}"
    if not isinstance(net, nn.Module):
        return f"it makes a {type(net).__name__}, and a network (nn.Module) is expected"
    mine, wanted = dict(net.named_parameters()), dict(reference.named_parameters())
    for key in mine:
        if key not in wanted and "norm" in key:
            return (
                f"it has {key}: the normalisation must have no scale and shift of its own, they "
                "come from the condition; elementwise_affine=False"
            )
        if key not in wanted:
            return f"it has a parameter {key} too many; wanted are {', '.join(wanted)}"
    for key, parameter in wanted.items():
        if key not in mine:
            return f"it has no parameter {key}; wanted are {', '.join(wanted)}"
        if mine[key].shape != parameter.shape:
            expected = f"and {tuple(parameter.shape)} is expected"
            return f"{key} has the shape {tuple(mine[key].shape)}, {expected}"
        if not key.startswith(("attn", "mlp")) and mine[key].any():
            return f"{key} doesn't start at zero, so a fresh network isn't silent"
    return None


def _film(x: Tensor, shift: Tensor, scale: Tensor, eps: float | None = 1e-6) -> Tensor:
    """The tokens normalised, unless eps is None, and modulated: (b, n, d), twice (b, d)."""
    x = x if eps is None else F.layer_norm(x, x.shape[-1:], eps=eps)
    return x * (1 + scale[:, None]) + shift[:, None]


_FILM = {  # mistakes that both classes can make
    "shift and scale are exchanged; the shift comes first": dict(order=(1, 0, 2, 3)),
    "the tokens are multiplied by scale; the factor is 1 + scale": dict(minus=1.0),
    "the normalisation is missing": dict(eps=None),
    "the normalisation has eps = 1e-5, PyTorch's own; the DiT's is 1e-6": dict(eps=1e-5),
    "the SiLU before adaln is missing": dict(activation=nn.Identity()),
}

# --- 04: a block in which attention and MLP stand side by side ------------------------------------


class _ParallelBlock(nn.Module):
    """x + gate1·attention(z) + gate2·mlp(z), z = modulate(norm(x), shift, scale)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.adaln = linear_layer(width, 4 * width, std=0.0)

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        *,
        activation: Callable = F.silu,
        order: tuple = (0, 1, 2, 3),
        minus: float = 0.0,
        eps: float | None = 1e-6,
        gated: bool = True,
        side_by_side: bool = True,
        add: Callable = lambda cond: cond.sum(dim=1),
    ) -> Tensor:
        """(b, n, d), (b, m, d) → (b, n, d); what comes after * makes mistakes."""
        vectors = self.adaln(activation(add(cond))).chunk(4, dim=-1)
        shift, scale, gate1, gate2 = (vectors[k] for k in order)
        scale = scale - minus
        gate1, gate2 = (gate1[:, None], gate2[:, None]) if gated else (1, 1)
        after = x + gate1 * self.attn(_film(x, shift, scale, eps))
        return after + gate2 * self.mlp(_film(x if side_by_side else after, shift, scale, eps))


def _parallel(**changes: object) -> Callable:
    return partial(_ParallelBlock.forward, **changes)


_PARALLEL = {hint: _parallel(**changes) for hint, changes in _FILM.items()} | {
    "the MLP sees what attention has added; both are to see the same normalised tokens": (
        _parallel(side_by_side=False)
    ),
    "x is not added; both branches are corrections to x": (
        lambda net, x, cond: _ParallelBlock.forward(net, x, cond) - x
    ),
    "the gates are forgotten": _parallel(gated=False),
    "the gates are exchanged; attention's comes first": _parallel(order=(0, 1, 3, 2)),
    "the gates come before shift and scale; they come last": _parallel(order=(2, 3, 0, 1)),
    "the condition's tokens are averaged; they are added up": (
        _parallel(add=lambda cond: cond.mean(dim=1))
    ),
    "only the first token of the condition, the time, is used; add all of them up": (
        _parallel(add=lambda cond: cond[:, 0])
    ),
}


def parallel_block(make: type) -> Verdict:
    """Check a class `make(width, heads)`: x (b, n, d), cond (b, m, d) → (b, n, d).

    Its parts are called attn, mlp (those of minidit) and adaln: shift, scale and two gates.
    """
    cases = {
        "two images of three tokens": (2 * _waves(2, 3, 8), _waves(2, 2, 8, start=90)),
        "as many images as tokens": (2 * _waves(3, 3, 8), _waves(3, 2, 8, start=90)),
        "tokens that hardly differ": (2e-3 * _waves(2, 3, 8), _waves(2, 2, 8, start=90)),
    }
    return _judge("parallel_block", make, _ParallelBlock, (8, 2), cases, _PARALLEL)


# --- 05: a last layer with two answers ------------------------------------------------------------


class _FinalLayer(nn.Module):
    """Adaptive normalisation, a linear layer to p·p·2c, and back to two images."""

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.adaln = linear_layer(width, 2 * width, std=0.0)
        self.proj = linear_layer(width, patch * patch * 2 * channels, std=0.0)

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        grid: tuple[int, int],
        *,
        activation: Callable = F.silu,
        order: tuple = (0, 1),
        minus: float = 0.0,
        eps: float | None = 1e-6,
        tokens: str = "b (h w) (p1 p2 c)",
        halve: Callable | None = lambda image: image.chunk(2, dim=1),
    ) -> tuple[Tensor, Tensor]:
        """(b, n, d), (b, d), (h, w) → two images (b, c, height, width); after * come mistakes."""
        vectors = self.adaln(activation(cond)).chunk(2, dim=-1)
        shift, scale = (vectors[k] for k in order[:2])
        x = self.proj(_film(x, shift, scale - minus, eps))  # (b, n, p·p·2c)
        sizes = dict(h=grid[0], w=grid[1], p1=self.patch, p2=self.patch)
        pattern = f"{tokens} -> b c (h p1) (w p2)"
        if halve is None:  # the tokens instead of the image
            return tuple(rearrange(z, pattern, **sizes) for z in x.chunk(2, dim=-1))
        return halve(rearrange(x, pattern, **sizes))


def _final(**changes: object) -> Callable:
    return partial(_FinalLayer.forward, **changes)


_FINAL = {hint: _final(**changes) for hint, changes in _FILM.items()} | {
    "each token is cut into halves, and with channels last that cuts the patch; put the patches "
    "back first, then cut the channels": _final(halve=None),
    "the two images are exchanged; the prediction comes first": (
        _final(halve=lambda image: image.chunk(2, dim=1)[::-1])
    ),
    "both images are still in one tensor; return two": _final(halve=lambda image: image),
    "the channels stand first inside a patch; here they stand last, (p1 p2 c)": (
        _final(tokens="b (h w) (c p1 p2)")
    ),
    "inside a patch, columns come before rows; pixels are read row by row, (p1 p2 c)": (
        _final(tokens="b (h w) (p2 p1 c)")
    ),
    "the patches are put back column by column; they are read row by row, (h w)": (
        _final(tokens="b (w h) (p1 p2 c)")
    ),
}


def final_layer(make: type) -> Verdict:
    """Check a class `make(width, patch, channels)`: x (b, n, d), cond (b, d), grid → two images.

    Its linear layers are called adaln, shift before scale, and proj. Images: (b, c, h·p, w·p).
    """
    cases = {
        "a wide grid": (2 * _waves(2, 6, 8), _waves(2, 8, start=90), (2, 3)),
        "as many images as tokens": (2 * _waves(4, 4, 8), _waves(4, 8, start=90), (2, 2)),
        "tokens that hardly differ": (2e-3 * _waves(1, 4, 8), _waves(1, 8, start=90), (4, 1)),
    }
    return _judge("final_layer", make, _FinalLayer, (8, 2, 3), cases, _FINAL)


# --- 05: parameters that do nothing ---------------------------------------------------------------


class _OnlyTheLastBlock(DiT):
    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """(b, c, h, w), (b,), (b,) → (b, c, h, w)."""
        kept, self.blocks = self.blocks, self.blocks[-1:]
        answer = super().forward(x, t, y)
        self.blocks = kept
        return answer


class _NoLabel(DiT):
    def condition(self, t: Tensor, y: Tensor | None) -> tuple[Tensor, None]:
        """(b,), (b,) → (b, 1, d)."""
        return self.time_embed(t)[:, None], None


def _network(kind: type, filled: bool = True) -> DiT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = kind(4, 2, 1, 8, depth=2, num_heads=2, num_classes=3, learn_sigma=False)
        for p in net.parameters() if filled else ():
            nn.init.normal_(p, std=0.5)
    return net


def _listed(fn: Callable, *inputs: object) -> list:
    found = fn(*inputs)
    many = isinstance(found, Iterable) and not isinstance(found, str | Tensor)
    return list(found) if many else [found]


def unused_parameters(fn: Callable[..., Iterable[str]]) -> Verdict:
    """Check `fn(net, x, t, y)` → names of the learned parameters that the answer doesn't need."""
    name, wrong = "unused_parameters", "✗ unused_parameters is not right yet. "
    networks = {
        "a right network": (_network(DiT), None),
        "a network of which only the last block counts": (_network(_OnlyTheLastBlock), "blocks.0."),
        "a network that forgets its label": (_network(_NoLabel), "label_embed."),
        "a fresh network": (_network(DiT, filled=False), None),
    }
    inputs = 2 * _waves(2, 1, 4, 4), torch.tensor([10, 700]), torch.tensor([2, 0])
    for case, (net, prefix) in networks.items():
        got = outcome(partial(_listed, fn, net), inputs)
        if isinstance(got, NotImplementedError):
            return unwritten(name, got)
        if isinstance(got, Exception):
            return Verdict(False, f"{wrong}With {case} it {difference(got, inputs[0], alike)}.")
        if odd := [item for item in got if not isinstance(item, str)]:
            said = f"it gives a {type(odd[0]).__name__}, and a list of names is expected"
            return Verdict(False, f"{wrong}With {case} {said}.")
        everything = {key: p.requires_grad for key, p in net.named_parameters()}
        wanted = {key for key in everything if prefix and key.startswith(prefix)}
        if cause := _cause(set(got), wanted, everything, fresh="fresh" in case):
            most, least = sorted(set(got) - wanted)[:3], sorted(wanted - set(got))[:3]
            said = " and ".join(
                f"{verb} {', '.join(few)}"
                for verb, few in (("lists", most), ("lacks", least))
                if few
            )
            return Verdict(False, f"{wrong}With {case} it {said}.{cause}")
    return Verdict(True, f"✓ {name} is right, with {'; '.join(networks)}.")


def _cause(got: set[str], wanted: set[str], everything: dict[str, bool], fresh: bool) -> str:
    """Why the names found are not those wanted, as a line; "" if they are."""
    learned = {key for key, is_learned in everything.items() if is_learned}
    if got == wanted:
        return ""
    if got & learned == wanted and got <= {*everything}:
        cause = "a frozen table has no gradient, but isn't learned: leave out what needs none"
    elif got & learned == learned - wanted:
        cause = "these are the parameters that are used; list the others"
    elif fresh:
        cause = (
            "a fresh network is full of zeros, through which no gradient passes: look for "
            "gradients that are None, not for zeros, or fill the weights with numbers first"
        )
    else:
        cause = "what the answer doesn't depend on keeps the gradient None after backward()"
    return _likeliest(cause)
