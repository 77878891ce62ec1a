"""Changes of a freshly built network that no argument of its constructor makes.

Ablations and the claims about DiT need them: a slip undone or made, an attention replaced. Each
change takes the network and its process, changes the network in place, and draws what is random
from torch's global state, as constructors do.
"""

from collections.abc import Callable

from torch import nn

from minidit.diffusion import Diffusion
from minidit.lab.claims import grow_frequencies, make_aware


def unzero(model: nn.Module, diffusion: Diffusion) -> None:
    """Start the blocks' adaptive layers as any other linear layer, Xavier-uniform, and not at zero.

    That is adaLN-Zero without its zero (DiT, section 3.2), and what an initialisation of all
    linear layers in one sweep does by accident. Raises ValueError for blocks that have none.
    """
    layers = [block.adaln for block in model.blocks if hasattr(block, "adaln")]
    if not layers:
        raise ValueError(
            "model has no adaptive layers; unzero is for block='adaln' or 'adaln_zero'"
        )
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)


SURGERY: dict[str, Callable[..., None]] = {
    "unzero": unzero,
    "aware": make_aware,
    "grow_frequencies": grow_frequencies,
}
