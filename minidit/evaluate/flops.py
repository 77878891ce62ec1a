"""How large and how expensive a network is: parameters, and multiply-accumulates of one image.

The DiT paper's "Gflops" (arXiv 2212.09748, table 4) are billions of multiply-accumulates, half of
what others call FLOPs. Counted are the matrix products, those of linear layers, convolutions and
attention; normalisations, activations and sums are left out, as in the paper's numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from minidit.blocks import BLOCKS
from minidit.dit import DIT_SIZES, DiT
from minidit.embed import LabelEmbedder
from minidit.uvit import UViT


class Counts(NamedTuple):
    """Of a whole network; `parts` names the multiply-accumulates of every layer that has any."""

    parameters: int  # frozen tables included, as in the paper's numbers
    macs: int
    parts: dict[str, int]


def count(model: nn.Module, inputs: Sequence[Tensor] | None = None) -> Counts:
    """Count a network without computing anything: only shapes pass through it.

    `inputs`: the arguments of one call; by default one image, one time and one label.
    Its weights may be anywhere, also on the meta device, where they take no memory.
    """
    inputs = [z.to("meta") for z in (_one_image(model) if inputs is None else inputs)]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    with FlopCounterMode(display=False) as counter:  # a multiplication and its addition are two
        torch.func.functional_call(model, shapes, tuple(inputs))
    counts = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    macs = counts.pop("Global", 0)
    parts = dict(counts)
    for name, inner in counts.items():  # what a layer does is part of what is around it
        around = [name[:k] for k, letter in enumerate(name) if letter == "." and name[:k] in parts]
        if around:
            parts[around[-1]] -= inner
    parts = {name.partition(".")[2]: own for name, own in parts.items() if own}
    return Counts(sum(p.numel() for p in model.parameters()), macs, parts)


def table(
    sizes: Sequence[str] = tuple(DIT_SIZES), blocks: Sequence[str] = tuple(BLOCKS)
) -> list[dict]:
    """A row for each preset and block: size, block, parameters, macs.

    All blocks of a network cost the same, so networks of one and two blocks tell the rest.
    """
    rows = []
    for size in sizes:
        for block in blocks:
            config = DIT_SIZES[size] | {"block": block}
            with torch.device("meta"):
                one, two = (count(DiT(**config | {"depth": depth})) for depth in (1, 2))
            row = {"size": size, "block": block}
            for what in ("parameters", "macs"):
                first, second = getattr(one, what), getattr(two, what)
                row[what] = first + (config["depth"] - 1) * (second - first)
            rows.append(row)
    return rows


def _one_image(model: nn.Module) -> list[Tensor]:
    if not isinstance(model, DiT | UViT):
        raise TypeError(
            f"model is a {type(model).__name__}; pass inputs, the arguments of one call"
        )
    x = torch.zeros(1, model.in_channels, *model.size)
    encoder = model.label_embed
    if encoder is None:
        return [x, torch.zeros(1)]
    labels = isinstance(encoder, LabelEmbedder)
    return [x, torch.zeros(1), torch.zeros(1, dtype=torch.int64) if labels else encoder.empty(1)]
