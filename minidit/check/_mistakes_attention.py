"""Common mistakes about attention and the blocks around it, as functions; see `_mistakes`."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from minidit.check._mistakes import Mistakes

# --- attention ------------------------------------------------------------------------------------

_SPLIT = "b n (heads k) -> b heads n k"


def _attend(
    split: str = _SPLIT,
    scale: Callable[[int, int], float] = lambda k, d: k**-0.5,
    over: int = -1,
    many: bool = True,
) -> Callable:
    """Attention; `scale` from the widths of a head and of all, `over`: the axis of the softmax."""

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        heads = heads if many else 1
        d = q.shape[-1]
        q, k, v = (rearrange(z, split, heads=heads) for z in (q, k, v))
        weights = (q @ k.mT * scale(q.shape[-1], d)).softmax(dim=over)  # (b, heads, n, m)
        left, right = split.split(" -> ")
        return rearrange(weights @ v, f"{right} -> {left}", heads=heads)

    return attention


attention = _attend()


def _cut(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The axes are split by a reshape alone."""
    cut = (z.reshape(len(z), heads, z.shape[1], -1) for z in (q, k, v))
    return F.scaled_dot_product_attention(*cut).transpose(1, 2).flatten(2)


def _apart(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return rearrange(attention(q, k, v, heads), "b n (heads k) -> b heads n k", heads=heads)


ATTENTION: Mistakes = {
    "the scores are divided by √d; each head has its own scores, so divide by √(d/heads)": (
        _attend(scale=lambda k, d: d**-0.5)
    ),
    "the scores are not divided at all; divide them by √(d/heads)": _attend(scale=lambda k, d: 1.0),
    "the scores are divided by the width of a head; divide by its root": (
        _attend(scale=lambda k, d: 1 / k)
    ),
    "the softmax runs over the queries; for each query the shares of the keys sum to one": (
        _attend(over=-2)
    ),
    "there is one head, whatever is asked for": _attend(many=False),
    "channels go to the heads in turn; a head owns d/heads neighbours: (heads k), not (k heads)": (
        _attend(split="b n (k heads) -> b heads n k")
    ),
    "the heads are split by a reshape alone, which mixes tokens; split d into (heads, d/heads), "
    "then exchange the axes of tokens and heads": _cut,
    "the heads are still apart; put their answers side by side again, (heads k)": _apart,
}

# --- which keys are there -------------------------------------------------------------------------


def key_mask(q: Tensor, k: Tensor, there: Tensor) -> Tensor:
    """The shares of attention with padding among the keys: (b, n, d), (b, m, d), (b, m)."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill(~there[:, None], float("-inf")).softmax(dim=-1)  # (b, n, m)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / q.shape[-1] ** 0.5


KEY_MASK: Mistakes = {
    "the shares are masked after the softmax and no longer sum to one; mask the scores, with -∞": (
        lambda q, k, there: _scores(q, k).softmax(dim=-1) * there[:, None]
    ),
    "a masked score becomes 0, and e^0 is a share like others; it must become -∞": (
        lambda q, k, there: (_scores(q, k) * there[:, None]).softmax(dim=-1)
    ),
    "the mask is the wrong way round: True are the keys that are there": (
        lambda q, k, there: key_mask(q, k, ~there)
    ),
    "the mask hides queries; it belongs to the keys, the last axis: there[:, None]": (
        lambda q, k, there: _scores(q, k).masked_fill(~there[..., None], float("-inf")).softmax(-1)
    ),
    "nothing is masked": lambda q, k, there: _scores(q, k).softmax(dim=-1),
    "the scores are not divided by √d": lambda q, k, there: key_mask(
        q * q.shape[-1] ** 0.5, k, there
    ),
}

# --- steps of blocks ------------------------------------------------------------------------------


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def in_context_step(x: Tensor, cond: Tensor, block: Callable[[Tensor], Tensor]) -> Tensor:
    """The condition's tokens in front, through the block, and away: (b, n, d), (b, m, d)."""
    return block(torch.cat([cond, x], dim=1))[:, cond.shape[1] :]


IN_CONTEXT_STEP: Mistakes = {
    "the condition's tokens are still there; what leaves are the image's n tokens": (
        lambda x, cond, block: block(torch.cat([cond, x], dim=1))
    ),
    "the wrong tokens are taken away: the condition stands in front, so drop the first m": (
        lambda x, cond, block: block(torch.cat([cond, x], dim=1))[:, : x.shape[1]]
    ),
    "the condition stands behind the image; here it comes first": (
        lambda x, cond, block: block(torch.cat([x, cond], dim=1))[:, : x.shape[1]]
    ),
    "the block never sees the condition": lambda x, cond, block: block(x),
    "the condition is added to every token; it joins the sequence as tokens of its own": (
        lambda x, cond, block: block(x + cond.sum(dim=1, keepdim=True))
    ),
}


def cross_attention_step(x: Tensor, cond: Tensor, attend: Callable) -> Tensor:
    """x + attend(norm(x), cond): (b, n, d), (b, m, d) → (b, n, d)."""
    return x + attend(_norm(x), cond)


CROSS_ATTENTION_STEP: Mistakes = {
    "x is not added; what is looked up is a correction to x": (
        lambda x, cond, attend: attend(_norm(x), cond)
    ),
    "the normalisation is missing": lambda x, cond, attend: x + attend(x, cond),
    "the roles are exchanged: the image asks, so it comes first in attend": (
        lambda x, cond, attend: x + attend(cond, _norm(x))
    ),
    "the image asks itself; the second argument of attend is the condition": (
        lambda x, cond, attend: x + attend(_norm(x), _norm(x))
    ),
    "the condition is normalised, too; it is taken as it comes": (
        lambda x, cond, attend: x + attend(_norm(x), _norm(cond))
    ),
    "the normalised x is what the answer is added to; add it to x itself": (
        lambda x, cond, attend: _norm(x) + attend(_norm(x), cond)
    ),
}


def adaln_step(x: Tensor, branch: Callable, shift: Tensor, scale: Tensor) -> Tensor:
    """x + branch(modulate(norm(x), shift, scale)): half of an adaLN block. (b, n, d), (b, d)."""
    return x + branch(_norm(x) * (1 + scale[:, None]) + shift[:, None])


ADALN_STEP: Mistakes = {
    "x is multiplied by scale; the factor is 1 + scale, so that zero changes nothing": (
        lambda x, branch, shift, scale: adaln_step(x, branch, shift, scale - 1)
    ),
    "shift and scale are exchanged": (
        lambda x, branch, shift, scale: adaln_step(x, branch, scale, shift)
    ),
    "x is not added; the branch is a correction to x": (
        lambda x, branch, shift, scale: adaln_step(x, branch, shift, scale) - x
    ),
    "the normalisation is missing": (
        lambda x, branch, shift, scale: x + branch(x * (1 + scale[:, None]) + shift[:, None])
    ),
    "the modulation comes after the branch; it belongs between norm and branch": (
        lambda x, branch, shift, scale: x + branch(_norm(x)) * (1 + scale[:, None]) + shift[:, None]
    ),
    "the modulation comes before the normalisation, which undoes it": (
        lambda x, branch, shift, scale: x + branch(_norm(x * (1 + scale[:, None]) + shift[:, None]))
    ),
}
