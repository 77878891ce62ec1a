"""Who attends to whom: `scaled_dot_product_attention` hides it, so it is computed once more."""

import torch
from einops import rearrange
from torch import Tensor, nn

from minidit._validate import unwrapped
from minidit.attention import Attention


def attention_weights(
    attention: Attention, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """softmax(q kᵀ / √k) of one layer, called like the layer: (b, n, d) → (b, heads, n, m or n)."""
    if context is None:
        q, k, _ = attention.qkv(x).chunk(3, dim=-1)  # each (b, n, heads·k)
    else:
        q, k = attention.q(x), attention.kv(context).chunk(2, dim=-1)[0]  # k: (b, m, heads·k)
    q, k = (rearrange(z, "b n (heads k) -> b heads n k", heads=attention.num_heads) for z in (q, k))
    logits = q @ k.mT / q.shape[-1] ** 0.5  # (b, heads, n, m)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None], float("-inf"))
    return logits.softmax(dim=-1)


@torch.no_grad()
def attention_maps(model: nn.Module, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """The attention weights of all blocks in one call model(x, t, y): (blocks, b, heads, n, m).

    Of the cross-attention where there is one: n tokens of the image attend to m of the condition,
    time first; else of the whole sequence. Raises TypeError for a network without such blocks.
    """
    model = unwrapped(model)
    blocks = getattr(model, "blocks", ())
    layers = [getattr(block, "cross", getattr(block, "attn", None)) for block in blocks]
    if not layers or not all(isinstance(layer, Attention) for layer in layers):
        raise TypeError(
            f"model is a {type(model).__name__}, which has no transformer blocks to look into; "
            "give a DiT or a UViT, and the network itself rather than `guided(model, …)`"
        )
    maps: list[Tensor] = []

    def record(layer: Attention, inputs: tuple, named: dict, output: Tensor) -> None:
        maps.append(attention_weights(layer, *inputs, **named))

    hooks = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    try:
        model(x, t, y)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps)
