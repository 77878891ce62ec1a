"""The weights of the package's networks in their plain versions, and their gradients."""

import re

from torch import Tensor, nn

from minidit.dit import DiT
from minidit.lab.bench.plain import PlainDiT, PlainUViT
from minidit.uvit import UViT

PLAIN = {DiT: PlainDiT, UViT: PlainUViT}
_SPELLED = {  # where the two spell a weight differently
    r"^patch_embed\.proj": "patch_embed",
    r"^label_embed\.table": "label_embed",
    r"^time_embed\.mlp": "time_mlp",
    r"^final\.(norm|proj)": r"final_\1",
    r"^final\.adaln": "final_adaln.1",
    r"^conv_after": "conv",
    r"^skips\.(\d+)\.proj": r"skips.\1",
}


def plain_state(state: dict[str, Tensor], patch: int) -> dict[str, Tensor]:
    """Weights of the package's network, or their gradients, under the plain network's names.

    Shapes stay, but for patches: (d, p·p·c) → (d, c, p, p), as a convolution has them.
    """
    found = {}
    for name, z in state.items():
        for ours, theirs in _SPELLED.items():
            name = re.sub(ours, theirs, name)
        if name == "patch_embed.weight":  # (d, p·p·c) → (d, c, p, p)
            found[name] = z.reshape(len(z), patch, patch, -1).permute(0, 3, 1, 2)
        elif ".qkv." in name:  # the rows of q, then of k, then of v
            for part, rows in zip("qkv", z.chunk(3)):
                found[name.replace("qkv", part)] = rows
        else:
            found[name] = z
    return found


def plain(model: DiT | UViT) -> nn.Module:
    """The plain network with the weights of `model`, on its device.

    Raises ValueError for a choice that the papers' own networks don't make.
    """
    network = PLAIN[type(model)](model.config).to(next(model.parameters()).device)
    try:
        network.load_state_dict(plain_state(model.state_dict(), model.patch_size))
    except RuntimeError as error:
        raise ValueError(
            f"this {type(model).__name__} has no plain version ({error}); leave the arguments for "
            "blocks, skips and positions alone, and give it square images, labels and dropout"
        ) from None
    return network
