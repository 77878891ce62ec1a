"""Masked keys and the size of a block: is your version right, and if not, which mistake is it?"""

import torch
from torch import Tensor

from minidit import blocks
from minidit.check.verdict import against, waves


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / q.shape[-1] ** 0.5


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


_MATRICES = {"in_context": 12, "cross_attention": 16, "adaln": 16, "adaln_zero": 18}  # of d²
_BIASES = {"in_context": 9, "cross_attention": 13, "adaln": 13, "adaln_zero": 15}  # of d
_NORMS = {"in_context": 2, "cross_attention": 3, "adaln": 2, "adaln_zero": 2}


@against(
    {f'"{block}" and d = {d}': (block, d) for d in (8, 12) for block in _MATRICES},
    "the biases, and scale and shift of the normalisations, are forgotten",
    lambda block, d: _MATRICES[block] * d * d,
    "a normalisation has a scale and a shift, 2·d; you count one of them",
    lambda block, d: block_parameters.right(block, d) - d * _NORMS[block] * ("ada" not in block),
    "with cross-attention there are three normalisations, each with a scale and a shift",
    lambda block, d: block_parameters.right(block, d) - 2 * d * (block == "cross_attention"),
    "the biases of the layer that makes shift and scale are forgotten",
    lambda block, d: (
        block_parameters.right(block, d) - d * {"adaln": 4, "adaln_zero": 6}.get(block, 0)
    ),
    "without adaLN the normalisations have a scale and a shift of their own, 2·d each",
    lambda block, d: _MATRICES[block] * d * d + _BIASES[block] * d,
    "with adaLN the normalisations have no scale and shift of their own, the condition has",
    lambda block, d: _MATRICES[block] * d * d + (_BIASES[block] + 2 * _NORMS[block]) * d,
)
def block_parameters(block: str, d: int) -> int:
    """The number of parameters of a block of width d, with mlp_ratio 4."""
    return sum(p.numel() for p in blocks.BLOCKS[block](d, 1).parameters())
