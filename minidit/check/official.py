"""Weights of others: sizes read off shapes, q, k and v apart, the first part that differs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minidit.check.verdict import Fault, against, waves
from minidit.dit import DiT
from minidit.weights.official import export_official

_SLIPS = {  # key: (what a slip gives of the right sizes, why)
    "num_classes": [(lambda s: s["num_classes"] + 1, "the last row is the null label, no class")],
    "input_size": [
        (lambda s: s["input_size"] // s["patch_size"], "it is in pixels, so times the patch size"),
        (lambda s: (s["input_size"] // s["patch_size"]) ** 2, "take the root, for one side"),
        (lambda s: s["input_size"] ** 2 // s["patch_size"], "take the root, for one side"),
    ],
    "in_channels": [(lambda s: 2 * s["in_channels"], "the last layer gives Σ, too")],
    "depth": [(lambda s: s["depth"] - 1, "blocks are counted from 0")],
    "learn_sigma": [
        (lambda s: not s["learn_sigma"], "with Σ the last layer gives 2·c channels a pixel")
    ],
    "hidden_size": [
        (lambda s: s["in_channels"] * s["patch_size"] ** 2, "that is what goes into the layer"),
    ],
}


def _sizes(fn: Callable) -> Callable[[dict], Tensor]:
    """True, or a Fault that has a sentence on each wrong size."""

    def found(sizes: dict) -> Tensor:
        with torch.device("meta"):
            net = DiT(**sizes, num_heads=2)
        given = fn(export_official(net))
        if not isinstance(given, dict):
            raise Fault(f"returns a {type(given).__name__}, and a dictionary is expected")
        if lost := sorted(sizes.keys() - given.keys()):
            raise Fault(f"lacks {', '.join(lost)}")
        faults = []
        for key in (key for key in sizes if given[key] != sizes[key]):
            why = (f" ({why})" for slip, why in _SLIPS.get(key, ()) if slip(sizes) == given[key])
            faults.append(f"gives {key} = {given[key]} instead of {sizes[key]}{next(why, '')}")
        if faults:
            raise Fault("; it ".join(faults))
        return torch.ones(())

    return found


_WITH_SIGMA, _PHOTOS = (
    dict(zip(("hidden_size", "depth", "patch_size", "in_channels", *rest), values, strict=True))
    for rest in [("input_size", "num_classes", "learn_sigma")]
    for values in [(48, 3, 2, 4, 8, 7, True), (40, 12, 4, 3, 24, 1, False)]
)


@against({"latents with Σ": (_WITH_SIGMA,), "photographs without": (_PHOTOS,)}, seen=_sizes)
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
        if not isinstance(given, dict):
            raise Fault(f"returns a {type(given).__name__}, and a dictionary is expected")
        same = {k for k, w in wanted.items() if k in given and torch.equal(given[k], w)}
        return frozenset(
            k if k in same or k not in wanted else f"{k} (other numbers)" for k in given
        )

    return found


@against(
    {"one block": (1,), "three blocks": (3,)},
    "the biases are forgotten; they are q's, k's and v's as well",
    {"ends": ".weight"},
    "the rows stand as q, k, v, first all of q",
    {"letters": "vkq"},
    "the rows stand as q, k, v, in this order",
    {"letters": "kqv"},
    "each third row is taken; first come all rows of q, then all of k",
    {"cut": lambda w: [w[i::3] for i in range(3)]},
    "the pieces are transposed",
    {"cut": lambda w: [z.mT if z.dim() > 1 else z for z in w.chunk(3)]},
    "the whole qkv is still there; its pieces replace it",
    {"keeps": True},
    "only block 0 is translated",
    {"only": "blocks.0."},
    "what isn't qkv is lost; it stays as it is",
    {"others": False},
    seen=_translated,
)
def split_qkv(
    tensors: dict[str, Tensor],
    *,
    ends: str = "",
    letters: str = "qkv",
    cut: Callable = lambda w: w.chunk(3),
    keeps: bool = False,
    only: str = "",
    others: bool = True,
) -> dict[str, Tensor]:
    """Official weights → the same, attn.qkv (3d, …) cut into attn.q, attn.k and attn.v (d, …)."""
    pieces = {}
    for name, w in tensors.items():
        is_cut = ".qkv." in name and name.endswith(ends) and only in name
        if is_cut:
            found = zip(letters, cut(w), strict=True)
            pieces |= {name.replace(".qkv.", f".{letter}."): piece for letter, piece in found}
        if keeps or not is_cut and (others or ".qkv." in name):
            pieces[name] = w
    return pieces


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
        if name is not None and not isinstance(name, str):
            raise Fault(f"returns a {type(name).__name__}, and a name is expected")
        return frozenset([str(name)])

    return found


def _by_weights(net: nn.Module, other: nn.Module, *inputs: Tensor) -> str | None:
    pairs = zip(net.named_parameters(), other.parameters())
    return next((k.rpartition(".")[0] for (k, a), b in pairs if not torch.equal(a, b)), None)


@against(
    {
        "a wrong bias": ("blocks.1.attn.qkv", lambda part: part.bias.neg_()),
        "a wrong matrix of adaln": ("blocks.0.adaln", lambda part: part.weight.neg_()),
        "another eps": ("blocks.1.norm2", lambda part: setattr(part, "eps", 1e-1)),
        "a wrong last layer": ("final.proj", lambda part: part.weight.neg_()),
        "the same network twice": ("final", lambda part: None),
    },
    "weights are compared; a setting such as eps has none. Compare what comes out of each part",
    _by_weights,
    "parts are looked at in the order of their names; keep the order in which they work",
    {"by_name": True},
    "that is the last part that differs; the first is to blame",
    {"place": -1},
    "only whole blocks are looked at; look at the parts inside them, too",
    {"deepest": 1},
    seen=_culprit,
    otherwise="hook every part of both networks, note its name and output as it finishes, and "
    "return the first name whose outputs differ, None without any",
)
def first_difference(
    net: nn.Module,
    other: nn.Module,
    x: Tensor,
    t: Tensor,
    y: Tensor,
    *,
    by_name: bool = False,
    place: int = 0,
    deepest: int = 9,
) -> str | None:
    """The first part of net to finish with another output than other's, or None; (b, c, h, w)."""
    outputs = []
    for model in (net, other):
        found, hooks = {}, []
        for name, part in model.named_modules():
            if name and name.count(".") <= deepest:
                note = lambda part, given, out, name=name: found.update({name: out})  # noqa: E731, B023
                hooks.append(part.register_forward_hook(note))
        model(x, t, y)
        for hook in hooks:
            hook.remove()
        outputs.append(found)
    mine, others = outputs
    names = [k for k, _ in net.named_modules() if k in mine] if by_name else list(mine)
    apart = [k for k in names if not torch.allclose(mine[k], others[k], atol=1e-5)]
    return apart[place] if apart else None
