"""Common mistakes about conditioning blocks, as functions; see `_mistakes`."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from minidit.check._mistakes import Mistakes

# --- adaptive normalisation -----------------------------------------------------------------------


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


MODULATE: Mistakes = {
    "x is multiplied by scale; the factor is 1 + scale, so that zero changes nothing": (
        lambda x, shift, scale: x * scale[:, None] + shift[:, None]
    ),
    "shift and scale are exchanged": lambda x, shift, scale: _modulate(x, scale, shift),
    "the shift is added before x is scaled": (
        lambda x, shift, scale: (x + shift[:, None]) * (1 + scale[:, None])
    ),
    "shift and scale meet the wrong axis; [:, None] gives all tokens of an image the same": (
        lambda x, shift, scale: x * (1 + scale) + shift
    ),
    "x is normalised here; modulate takes it as it comes": (
        lambda x, shift, scale: _modulate(_norm(x), shift, scale)
    ),
}


def half_block(x: Tensor, branch: Callable, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
    """x + gate·branch(modulate(norm(x), shift, scale)): half of an adaLN-Zero block. (b, n, d)."""
    return x + gate[:, None] * branch(_modulate(_norm(x), shift, scale))


def _scaled_by_zero(x, branch, shift, scale, gate):
    return x + gate[:, None] * branch(_norm(x) * scale[:, None] + shift[:, None])


HALF_BLOCK: Mistakes = {
    "the gate is forgotten": (
        lambda x, branch, shift, scale, gate: x + branch(_modulate(_norm(x), shift, scale))
    ),
    "x is not added; the branch is a correction to x": (
        lambda x, branch, shift, scale, gate: (
            gate[:, None] * branch(_modulate(_norm(x), shift, scale))
        )
    ),
    "x goes through the gate, too; only the branch does": (
        lambda x, branch, shift, scale, gate: (
            gate[:, None] * (x + branch(_modulate(_norm(x), shift, scale)))
        )
    ),
    "the gate is 1 + gate; it must close the branch when it is zero": (
        lambda x, branch, shift, scale, gate: half_block(x, branch, shift, scale, 1 + gate)
    ),
    "the gate stands before the branch; it comes after it": (
        lambda x, branch, shift, scale, gate: (
            x + branch(gate[:, None] * _modulate(_norm(x), shift, scale))
        )
    ),
    "the normalisation is missing": (
        lambda x, branch, shift, scale, gate: x + gate[:, None] * branch(_modulate(x, shift, scale))
    ),
    "the modulation comes before the normalisation, which undoes it": (
        lambda x, branch, shift, scale, gate: (
            x + gate[:, None] * branch(_norm(_modulate(x, shift, scale)))
        )
    ),
    "the normalised x is what the branch is added to; add it to x itself": (
        lambda x, branch, shift, scale, gate: (
            _norm(x) + gate[:, None] * branch(_modulate(_norm(x), shift, scale))
        )
    ),
    "the branch is scaled by scale; the factor is 1 + scale": _scaled_by_zero,
    "shift and scale are exchanged": (
        lambda x, branch, shift, scale, gate: half_block(x, branch, scale, shift, gate)
    ),
}

# --- sizes ----------------------------------------------------------------------------------------

_MATRICES = {"in_context": 12, "cross_attention": 16, "adaln": 16, "adaln_zero": 18}  # of d²
_BIASES = {"in_context": 9, "cross_attention": 13, "adaln": 13, "adaln_zero": 15}  # of d
_NORMS = {"in_context": 2, "cross_attention": 3, "adaln": 2, "adaln_zero": 2}

BLOCK_PARAMETERS: Mistakes = {
    "the biases, and scale and shift of the normalisations, are forgotten": (
        lambda block, d: _MATRICES[block] * d * d
    ),
    "without adaLN the normalisations have a scale and a shift of their own, 2·d each": (
        lambda block, d: _MATRICES[block] * d * d + _BIASES[block] * d
    ),
    "with adaLN the normalisations have no scale and shift of their own, the condition has": (
        lambda block, d: _MATRICES[block] * d * d + (_BIASES[block] + 2 * _NORMS[block]) * d
    ),
}
