"""How large and how expensive a network is: parameters, and multiply-accumulates of one image.

The DiT paper's "Gflops" (arXiv 2212.09748, table 4) are billions of multiply-accumulates, half of
what others call FLOPs. As there, only matrix products are counted: of linear layers, convolutions
and attention.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from minidit._validate import unwrapped
from minidit.dit import DIT_SIZES, DiT
from minidit.embed import LabelEmbedder
from minidit.uvit import UViT

PAPER = ("in_context", "cross_attention", "adaln", "adaln_zero")  # the blocks that DiT compares


class Counts(NamedTuple):
    """Of a whole network; `parts` names the multiply-accumulates of every layer that has any."""

    parameters: int  # frozen tables included, as in the paper's numbers
    macs: int
    parts: dict[str, int]


def count(model: nn.Module, inputs: Sequence[Tensor] | None = None) -> Counts:
    """Count a network without computing anything: only shapes pass through it.

    `inputs`: the arguments of one call; by default an image, a time, a label. Weights on the meta
    device, which take no memory, will do.
    """
    model = unwrapped(model)
    inputs = [z.to("meta") for z in (_one_image(model) if inputs is None else inputs)]
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    shapes = {name: tensor.detach().to("meta") for name, tensor in tensors}
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


def table(sizes: Sequence[str] = tuple(DIT_SIZES), blocks: Sequence[str] = PAPER) -> list[dict]:
    """A row for each preset and block: size, block, parameters, macs."""
    rows = []  # all blocks of a network cost the same, so networks of one and two tell the rest
    for size, block in itertools.product(sizes, blocks):
        config = DIT_SIZES[size] | {"block": block}
        with torch.device("meta"):
            one, two = (count(DiT(**config | {"depth": depth})) for depth in (1, 2))
        both = zip(("parameters", "macs"), one, two)
        whole = {what: a + (config["depth"] - 1) * (b - a) for what, a, b in both}
        rows.append({"size": size, "block": block} | whole)
    return rows


def _one_image(model: nn.Module) -> list[Tensor]:
    if not isinstance(model, DiT | UViT):
        told = f"model is a {type(model).__name__}"
        raise TypeError(f"{told}; pass inputs, the arguments of one call")
    x, encoder = torch.zeros(1, model.in_channels, *model.size), model.label_embed
    if encoder is None:
        return [x, torch.zeros(1)]
    labels = isinstance(encoder, LabelEmbedder)
    return [x, torch.zeros(1), torch.zeros(1, dtype=torch.int64) if labels else encoder.empty(1)]
