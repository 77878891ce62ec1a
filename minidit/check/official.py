"""Weights of others: sizes read off shapes, q, k and v apart, the first part that differs."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from minidit.check.verdict import Fault, against, expect, waves
from minidit.dit import DiT
from minidit.weights.official import export_official


def _sizes(fn: Callable) -> Callable[..., frozenset]:
    """The sizes that fn reads off the official weights of a network without numbers."""

    def found(classes: int, sigma: bool, *shape: int) -> frozenset:
        with torch.device("meta"):
            net = DiT(*shape, num_heads=2, num_classes=classes, learn_sigma=sigma)
        tensors = export_official(net)
        given = fn(tensors)
        expect(given, dict, "a dictionary")
        return frozenset(f"{key} = {given[key]}" for key in sizes.right(tensors) if key in given)

    return found


@against(
    ("latents with Σ", 7, True, 8, 2, 4, 48, 3),
    ("photographs without", 1, False, 24, 4, 3, 40, 12),
    "the last row is the null label, no class",
    {'table.weight"]) - 1': 'table.weight"])'},
    "it is in pixels, so times the patch size",
    {") * patch,": "),"},
    "take the root, for one side",
    {"** 0.5": ""},
    "the last layer gives Σ, too",
    {'"in_channels": channels': '"in_channels": 2 * channels'},
    "blocks are counted from 0",
    {"for name in tensors)": "for name in tensors) - 1"},
    "with Σ the last layer gives 2·c channels a pixel",
    {"== 2 * channels": "!= 2 * channels"},
    "that is what goes into the layer",
    {'"hidden_size": width': '"hidden_size": channels * patch**2'},
    seen=_sizes,
)
def sizes(tensors: dict[str, Tensor]) -> dict:
    """Official weights, first layer (d, c, p, q), → the sizes of the network, as DiT takes them."""
    width, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    return {
        "hidden_size": width,
        "depth": sum(name.endswith("attn.qkv.bias") for name in tensors),
        "patch_size": patch,
        "in_channels": channels,
        "input_size": round(tensors["pos_embed"].shape[1] ** 0.5) * patch,
        "num_classes": len(tensors["y_embedder.embedding_table.weight"]) - 1,
        "learn_sigma": len(tensors["final_layer.linear.bias"]) == 2 * channels * patch**2,
    }


def _translated(fn: Callable) -> Callable[[int], frozenset]:
    """The names that fn gives to a network's tensors, with a word on numbers that are others."""

    def found(depth: int) -> frozenset:
        net = DiT(4, 2, 1, 8, depth=depth, num_heads=2, num_classes=3)
        tensors = {k: waves(*w.shape, start=w.numel()) for k, w in export_official(net).items()}
        given, wanted = fn(dict(tensors)), split_qkv.right(tensors)
        expect(given, dict, "a dictionary")
        same = {k for k, w in wanted.items() if k in given and torch.equal(given[k], w)}
        return frozenset(
            k if k in same or k not in wanted else f"{k} (other numbers)" for k in given
        )

    return found


@against(
    ("one block", 1),
    ("three blocks", 3),
    "the biases are forgotten; they are q's, k's and v's as well",
    {'".qkv." in name': '".qkv.weight" in name'},
    "the rows stand as q, k, v, in this order",
    {'"qkv", w': '"kqv", w'},
    "each third row is taken; first come all rows of q, then all of k",
    {"w.chunk(3)": "[w[k::3] for k in range(3)]"},
    "the pieces are transposed",
    {"= piece": "= piece.t()"},
    seen=_translated,
)
def split_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official weights → the same, attn.qkv (3d, …) cut into attn.q, attn.k and attn.v (d, …)."""
    found = {}
    for name, w in tensors.items():
        if ".qkv." in name:
            for letter, piece in zip("qkv", w.chunk(3)):
                found[name.replace(".qkv.", f".{letter}.")] = piece
        else:
            found[name] = w
    return found


def _culprit(fn: Callable) -> Callable[[str, Callable], frozenset]:
    """The name that fn finds of the part that a change has broken."""

    def found(part: str, change: Callable) -> frozenset:
        nets = [DiT(4, 2, 1, 8, depth=2, num_heads=2, num_classes=3) for _ in range(2)]
        for net in nets:
            for p in net.requires_grad_(False).parameters():
                p.copy_(waves(*p.shape, start=p.numel()))
        change(nets[1].get_submodule(part))
        inputs = 2 * waves(2, 1, 4, 4), torch.tensor([10, 700]), torch.tensor([2, 0])
        name = fn(*nets, *inputs)
        if any(m._forward_hooks for net in nets for m in net.modules()):
            raise Fault("leaves its hooks in the network; remove() each, or they pile up")
        expect(name, str | None, "a name")
        return frozenset([str(name)])

    return found


@against(
    ("a wrong bias", "blocks.1.attn.qkv", lambda part: part.bias.neg_()),
    ("a wrong matrix of adaln", "blocks.0.adaln", lambda part: part.weight.neg_()),
    ("another eps", "blocks.1.norm2", lambda part: setattr(part, "eps", 1e-1)),
    ("a wrong last layer", "final.proj", lambda part: part.weight.neg_()),
    ("the same network twice", "final", lambda part: None),
    "weights are compared; a setting such as eps has none. Compare what comes out of each part",
    lambda net, other, *inputs: next(
        (
            name.rpartition(".")[0]
            for (name, a), b in zip(net.named_parameters(), other.parameters())
            if not torch.equal(a, b)
        ),
        None,
    ),
    "parts are looked at in the order of their names; keep the order in which they work",
    {"k in mine if": "k, _ in net.named_modules() if k in mine and"},
    "that is the last part that differs; the first is to blame",
    {"apart[0]": "apart[-1]"},
    "only whole blocks are looked at; look at the parts inside them, too",
    {"if name": 'if name and name.count(".") < 2'},
    seen=_culprit,
    otherwise="hook every part of both networks, note its name and output as it finishes, and "
    "return the first name whose outputs differ, None without any",
)
def first_difference(
    net: nn.Module, other: nn.Module, x: Tensor, t: Tensor, y: Tensor
) -> str | None:
    """The first part of net to finish with another output than other's, or None; (b, c, h, w)."""
    outputs = []
    for model in (net, other):
        found, parts = {}, {name: part for name, part in model.named_modules() if name}
        note = lambda name, part, given, out: found.update({name: out})  # noqa: E731, B023
        hooks = [part.register_forward_hook(partial(note, name)) for name, part in parts.items()]
        model(x, t, y)
        for hook in hooks:
            hook.remove()
        outputs.append(found)
    mine, others = outputs
    apart = [k for k in mine if not torch.allclose(mine[k], others[k], atol=1e-5)]
    return apart[0] if apart else None
