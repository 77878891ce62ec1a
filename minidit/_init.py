"""Linear layers that own their initialisation, so that nothing afterwards overwrites it."""

from torch import nn


def linear(d_in: int, d_out: int, *, bias: bool = True, std: float | None = None) -> nn.Linear:
    """A linear layer: weights Xavier-uniform, or normal with `std`; `std=0` gives zeros. Bias zero.

    A zero layer is the "Zero" of adaLN-Zero (DiT, section 3.2). It is zeroed here, where it is
    made: initialising "all Linear layers" in a later pass would silently undo it.
    """
    layer = nn.Linear(d_in, d_out, bias=bias)
    if std is None:
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=std) if std > 0 else nn.init.zeros_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
