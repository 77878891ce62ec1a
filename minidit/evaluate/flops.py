"""How large and how expensive a network is: parameters, and multiply-accumulates of one image.

The DiT paper's "Gflops" (arXiv 2212.09748, table 4) are billions of multiply-accumulates, half of
what others call FLOPs. Counted are the matrix products, of linear layers, convolutions and
attention; normalisations, activations and sums are left out, as in the paper's numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minidit.attention import Attention
from minidit.blocks import BLOCKS
from minidit.conditions.encoders import ConditionEncoder
from minidit.dit import DIT_SIZES, DiT
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
    parts: dict[str, int] = {}
    hooks = [
        module.register_forward_hook(_adder(parts, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | Attention)
    ]
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    try:
        torch.func.functional_call(model, shapes, tuple(inputs))
    finally:
        for hook in hooks:
            hook.remove()
    parameters = sum(p.numel() for p in model.parameters())
    return Counts(parameters, sum(parts.values()), parts)


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


def _adder(parts: dict[str, int], name: str):
    def hook(module: nn.Module, arguments: tuple, output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            macs = output.numel() * module.in_features
        elif isinstance(module, nn.Conv2d):
            macs = output.numel() * module.weight[0].numel()
        else:  # attention's own two products, q·kᵀ and the sum of v: (b, n, d) with m keys
            context = arguments[-1] if arguments[-1] is not None else arguments[0]
            macs = 2 * output.numel() * context.shape[1]
        parts[name] = parts.get(name, 0) + macs

    return hook


def _one_image(model: nn.Module) -> list[Tensor]:
    if not isinstance(model, DiT | UViT):
        raise TypeError(
            f"model is a {type(model).__name__}; pass inputs, the arguments of one call"
        )
    x = torch.zeros(1, model.in_channels, *model.size)
    encoder = model.label_embed
    if isinstance(encoder, ConditionEncoder):
        return [x, torch.zeros(1), encoder.empty(1)]
    label = [torch.zeros(1, dtype=torch.int64)] if encoder is not None else []
    return [x, torch.zeros(1), *label]
