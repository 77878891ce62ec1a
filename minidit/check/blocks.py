"""Attention, blocks and their steps: is your version right, and if not, which mistake is it?"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from minidit import blocks
from minidit.check.verdict import against, waves


def _split(z: Tensor, heads: int) -> Tensor:
    return rearrange(z, "b n (heads k) -> b heads n k", heads=heads)


def _merge(z: Tensor) -> Tensor:
    return rearrange(z, "b heads n k -> b n (heads k)")


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / q.shape[-1] ** 0.5


def _in_turn(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (rearrange(z, "b n (k heads) -> b heads n k", heads=heads) for z in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)
    return rearrange(out, "b heads n k -> b n (k heads)")


def _input(b: int, n: int, m: int, d: int, heads: int) -> tuple:
    return 2 * waves(b, n, d), 2 * waves(b, m, d, start=50), waves(b, m, d, start=90), heads


@against(
    {
        "two heads": _input(2, 3, 5, 8, 2),
        "as many queries as keys, four heads": _input(2, 4, 4, 8, 4),
        "one head": _input(1, 3, 2, 4, 1),
    },
    "the scores are divided by √d; each head has its own scores, so divide by √(d/heads)",
    lambda q, k, v, heads: attention.right(q / heads**0.5, k, v, heads),
    "the scores are not divided at all; divide them by √(d/heads)",
    lambda q, k, v, heads: attention.right(q * (q.shape[-1] / heads) ** 0.5, k, v, heads),
    "the scores are divided by the width of a head; divide by its root",
    lambda q, k, v, heads: attention.right(q / (q.shape[-1] / heads) ** 0.5, k, v, heads),
    "the softmax runs over the queries; for each query the shares of the keys sum to one",
    lambda q, k, v, heads: _merge(
        _scores(_split(q, heads), _split(k, heads)).softmax(dim=-2) @ _split(v, heads)
    ),
    "there is one head, whatever is asked for",
    lambda q, k, v, heads: attention.right(q, k, v, 1),
    "channels go to the heads in turn; a head owns d/heads neighbours: (heads k), not (k heads)",
    _in_turn,
    "the heads are split by a reshape alone, which mixes tokens; split d into (heads, d/heads), "
    "then exchange the axes of tokens and heads",
    lambda q, k, v, heads: _merge(
        F.scaled_dot_product_attention(
            *(z.reshape(len(z), heads, z.shape[1], -1) for z in (q, k, v))
        )
    ),
    "the heads are still apart; put their answers side by side again, (heads k)",
    lambda q, k, v, heads: _split(attention.right(q, k, v, heads), heads),
)
def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention without linear layers; (b, n, d), twice (b, m, d) → (b, n, d)."""
    return _merge(F.scaled_dot_product_attention(*(_split(z, heads) for z in (q, k, v))))


_THERE = torch.tensor([[True, True, False, False], [True, False, True, True]])
_QUERIES, _KEYS = waves(2, 3, 5), waves(2, 4, 5, start=30)


@against(
    {
        "two sentences of four words at most": (_QUERIES, _KEYS, _THERE),
        "as many queries as keys": (waves(2, 4, 5), _KEYS, _THERE),
        "no padding": (_QUERIES, _KEYS, _THERE | True),
    },
    "the shares are masked after the softmax and no longer sum to one; mask the scores, with -∞",
    lambda q, k, there: _scores(q, k).softmax(dim=-1) * there[:, None],
    "a masked score becomes 0, and e^0 is a share like others; it must become -∞",
    lambda q, k, there: (_scores(q, k) * there[:, None]).softmax(dim=-1),
    "the mask is the wrong way round: True are the keys that are there",
    lambda q, k, there: key_mask.right(q, k, ~there),
    "the mask hides queries; it belongs to the keys, the last axis: there[:, None]",
    lambda q, k, there: _scores(q, k).masked_fill(~there[..., None], float("-inf")).softmax(-1),
    "nothing is masked",
    lambda q, k, there: _scores(q, k).softmax(dim=-1),
    "the softmax runs over the queries; the shares of the keys sum to one, the last axis",
    lambda q, k, there: _scores(q, k).masked_fill(~there[:, None], float("-inf")).softmax(dim=1),
    "the softmax runs over the queries, dim=1; it belongs to the keys, dim=-1",
    lambda q, k, there: _scores(q, k).masked_fill(~there[:, None], -1e9).softmax(dim=1),
    "the scores are not divided by √d",
    lambda q, k, there: key_mask.right(q * q.shape[-1] ** 0.5, k, there),
)
def key_mask(q: Tensor, k: Tensor, there: Tensor) -> Tensor:
    """Shares of attention: (b, n, d), (b, m, d), bools (b, m) → (b, n, m).

    Keys that are not there get a share of 0, and the others sum to one.
    """
    return _scores(q, k).masked_fill(~there[:, None], float("-inf")).softmax(dim=-1)


def _mix(x: Tensor) -> Tensor:
    """What stands for a block or a branch: (b, n, d), in which tokens see each other."""
    return x.cumsum(dim=1).sin() + 0.5 * x - x.mean(dim=1, keepdim=True)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


_PAIRS = {
    "three tokens, two of condition": (waves(2, 3, 4), 3 * waves(2, 2, 4, start=40)),
    "as many of each": (waves(1, 3, 4), 3 * waves(1, 3, 4, start=40)),
}


@against(
    {name: (*pair, _mix) for name, pair in _PAIRS.items()},
    "the condition's tokens are still there; what leaves are the image's n tokens",
    lambda x, cond, block: block(torch.cat([cond, x], dim=1)),
    "the wrong tokens are taken away: the condition stands in front, so drop the first m",
    lambda x, cond, block: block(torch.cat([cond, x], dim=1))[:, : x.shape[1]],
    "the condition stands behind the image; here it comes first",
    lambda x, cond, block: block(torch.cat([x, cond], dim=1))[:, : x.shape[1]],
    "the block never sees the condition",
    lambda x, cond, block: block(x),
    "the condition is added to every token; it joins the sequence as tokens of its own",
    lambda x, cond, block: block(x + cond.sum(dim=1, keepdim=True)),
)
def in_context_step(x: Tensor, cond: Tensor, block: Callable[[Tensor], Tensor]) -> Tensor:
    """(b, n, d), (b, m, d), a function of tokens → (b, n, d)."""
    return block(torch.cat([cond, x], dim=1))[:, cond.shape[1] :]


def _attend(x: Tensor, cond: Tensor) -> Tensor:
    return (2 * x @ cond.mT).softmax(dim=-1) @ cond


@against(
    {name: (*pair, _attend) for name, pair in _PAIRS.items()},
    "x is not added; what is looked up is a correction to x",
    lambda x, cond, attend: attend(_norm(x), cond),
    "the normalisation is missing",
    lambda x, cond, attend: x + attend(x, cond),
    "the roles are exchanged: the image asks, so it comes first in attend",
    lambda x, cond, attend: x + attend(cond, _norm(x)),
    "the image asks itself; the second argument of attend is the condition",
    lambda x, cond, attend: x + attend(_norm(x), _norm(x)),
    "the condition is normalised, too; it is taken as it comes",
    lambda x, cond, attend: x + attend(_norm(x), _norm(cond)),
    "the normalised x is what the answer is added to; add it to x itself",
    lambda x, cond, attend: _norm(x) + attend(_norm(x), cond),
)
def cross_attention_step(x: Tensor, cond: Tensor, attend: Callable) -> Tensor:
    """x + attend(norm(x), cond), the norm with eps 1e-6; (b, n, d), (b, m, d) → (b, n, d)."""
    return x + attend(_norm(x), cond)


_VECTORS = torch.tensor([[0.5, -1.0, 0.25, 2.0], [-0.5, 0.75, 1.5, 1.0], [0.0, 1.0, -2.0, 0.5]])
_TOKENS = torch.stack([_VECTORS.roll(k, 1) * (k + 1) for k in range(3)])  # (3, 3, 4)
_SHIFT, _SCALE, _GATE = _VECTORS, _VECTORS.flip(1), _VECTORS.roll(1, 1)
_MODULATED = {
    "two images of three tokens": (_TOKENS[:2], _SHIFT[:2], _SCALE[:2]),
    "as many images as tokens": (_TOKENS, _SHIFT, _SCALE),
    "shift and scale zero": (_TOKENS, 0 * _SHIFT, 0 * _SCALE),
}


@against(
    _MODULATED,
    "x is multiplied by scale; the factor is 1 + scale, so that zero changes nothing",
    lambda x, shift, scale: x * scale[:, None] + shift[:, None],
    "shift and scale are exchanged",
    lambda x, shift, scale: blocks.modulate(x, scale, shift),
    "the shift is added before x is scaled",
    lambda x, shift, scale: (x + shift[:, None]) * (1 + scale[:, None]),
    "shift and scale meet the wrong axis; [:, None] gives all tokens of an image the same",
    lambda x, shift, scale: x * (1 + scale) + shift,
    "x is normalised here; modulate takes it as it comes",
    lambda x, shift, scale: blocks.modulate(_norm(x), shift, scale),
)
def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x scaled by 1 + scale, then shifted; (b, n, d), (b, d), (b, d) → (b, n, d)."""
    return blocks.modulate(x, shift, scale)


_OPEN = torch.ones(1, 1)  # the gate of a block that has none
# of both kinds of steps: f is the branch, b the shift, s the scale, g the gate
_MISTAKES = (
    "x is not added; the branch is a correction to x",
    lambda x, f, b, s, g=_OPEN: g[:, None] * f(blocks.modulate(_norm(x), b, s)),
    "the normalisation is missing",
    lambda x, f, b, s, g=_OPEN: x + g[:, None] * f(blocks.modulate(x, b, s)),
    "the modulation comes before the normalisation, which undoes it",
    lambda x, f, b, s, g=_OPEN: x + g[:, None] * f(_norm(blocks.modulate(x, b, s))),
    "the modulation comes after the branch; it belongs between norm and branch",
    lambda x, f, b, s, g=_OPEN: x + g[:, None] * blocks.modulate(f(_norm(x)), b, s),
    "x is multiplied by scale; the factor is 1 + scale, so that zero changes nothing",
    lambda x, f, b, s, g=_OPEN: adaln_zero_step.right(x, f, b, s - 1, g),
    "shift and scale are exchanged",
    lambda x, f, b, s, g=_OPEN: adaln_zero_step.right(x, f, s, b, g),
    "the normalised x is what the branch is added to; add it to x itself",
    lambda x, f, b, s, g=_OPEN: _norm(x) + g[:, None] * f(blocks.modulate(_norm(x), b, s)),
)


@against(
    {name: (x, _mix, *vectors) for name, (x, *vectors) in _MODULATED.items()},
    *_MISTAKES,
)
def adaln_step(x: Tensor, branch: Callable, shift: Tensor, scale: Tensor) -> Tensor:
    """Half a block, no gate; its norm: eps 1e-6, no weights; (b, n, d), …, (b, d) → (b, n, d)."""
    return x + branch(blocks.modulate(_norm(x), shift, scale))


@against(
    {
        "two images of three tokens": (_TOKENS[:2], _mix, _SHIFT[:2], _SCALE[:2], _GATE[:2]),
        "as many images as tokens": (_TOKENS, _mix, _SHIFT, _SCALE, _GATE),
        "a gate of zero": (_TOKENS, _mix, _SHIFT, _SCALE, 0 * _GATE),
    },
    *_MISTAKES,
    "the gate is forgotten",
    lambda x, f, b, s, g: adaln_step.right(x, f, b, s),
    "x goes through the gate, too; only the branch does",
    lambda x, f, b, s, g: g[:, None] * (x + f(blocks.modulate(_norm(x), b, s))),
    "the gate is 1 + gate; it must close the branch when it is zero",
    lambda x, f, b, s, g: adaln_zero_step.right(x, f, b, s, 1 + g),
    "the gate stands before the branch; it comes after it",
    lambda x, f, b, s, g: x + f(g[:, None] * blocks.modulate(_norm(x), b, s)),
)
def adaln_zero_step(
    x: Tensor, branch: Callable, shift: Tensor, scale: Tensor, gate: Tensor
) -> Tensor:
    """Half a block; (b, n, d), …, three times (b, d) → (b, n, d)."""
    return x + gate[:, None] * branch(blocks.modulate(_norm(x), shift, scale))


_MATRICES = {"in_context": 12, "cross_attention": 16, "adaln": 16, "adaln_zero": 18}  # of d²
_BIASES = {"in_context": 9, "cross_attention": 13, "adaln": 13, "adaln_zero": 15}  # of d
_NORMS = {"in_context": 2, "cross_attention": 3, "adaln": 2, "adaln_zero": 2}


@against(
    {f'"{block}" and d = {d}': (block, d) for d in (8, 12) for block in blocks.BLOCKS},
    "the biases, and scale and shift of the normalisations, are forgotten",
    lambda block, d: _MATRICES[block] * d * d,
    "without adaLN the normalisations have a scale and a shift of their own, 2·d each",
    lambda block, d: _MATRICES[block] * d * d + _BIASES[block] * d,
    "with adaLN the normalisations have no scale and shift of their own, the condition has",
    lambda block, d: _MATRICES[block] * d * d + (_BIASES[block] + 2 * _NORMS[block]) * d,
)
def block_parameters(block: str, d: int) -> int:
    """The number of parameters of a block of width d, with mlp_ratio 4."""
    return sum(p.numel() for p in blocks.BLOCKS[block](d, 1).parameters())
