"""Checks on weights of others: sizes, q, k and v apart, the first part that differs."""

import pytest
import students
import torch

from minidit import check


def by_slices(tensors):
    out = {}
    for name, w in tensors.items():
        if "attn.qkv" not in name:
            out[name] = w
            continue
        d = len(w) // 3
        for i, letter in enumerate("qkv"):
            out[name.replace("qkv", letter)] = w[i * d : (i + 1) * d]
    return out


def sizes_by_outputs(tensors):
    shape = {name: tuple(w.shape) for name, w in tensors.items()}
    d, c, p, _ = shape["x_embedder.proj.weight"]
    blocks = {int(name.split(".")[1]) for name in shape if name.startswith("blocks.")}
    return {
        "hidden_size": d,
        "depth": max(blocks) + 1,
        "patch_size": p,
        "in_channels": c,
        "input_size": int(shape["pos_embed"][1] ** 0.5) * p,
        "num_classes": shape["y_embedder.embedding_table.weight"][0] - 1,
        "learn_sigma": shape["final_layer.linear.bias"][0] // p**2 != c,
    }


def outputs_in_order(net, inputs):
    names = {part: name for name, part in net.named_modules()}
    found, hooks = [], []
    for part in names:
        note = lambda part, given, out: found.append((names[part], out))  # noqa: E731
        hooks.append(part.register_forward_hook(note))
    net(*inputs)
    for hook in hooks:
        hook.remove()
    return found


def in_step(net, other, *inputs):
    pairs = zip(outputs_in_order(net, inputs), outputs_in_order(other, inputs))
    return next((name for (name, a), (_, b) in pairs if not torch.equal(a, b)), None)


def leaving_hooks(net, other, *inputs):
    for part in net.modules():
        part.register_forward_hook(lambda part, given, out: None)


RIGHT = [("split_qkv", by_slices), ("sizes", sizes_by_outputs), ("first_difference", in_step)]
test_right_ones_pass = students.right(RIGHT)


def slip(**changes):
    """The right sizes with some of them changed, each by a function of all."""

    def read(tensors):
        right = sizes_by_outputs(tensors)
        return right | {key: change(right) for key, change in changes.items()}

    return read


def side(s):
    return s["input_size"] // s["patch_size"]


SLIPS = {
    "the last row is the null label": slip(num_classes=lambda s: s["num_classes"] + 1),
    "it is in pixels": slip(input_size=side),
    ": take the root": slip(input_size=lambda s: side(s) ** 2 * s["patch_size"]),
    "; and take the root": slip(input_size=lambda s: side(s) ** 2),
    "the last layer gives Σ": slip(in_channels=lambda s: 2 * s["in_channels"]),
    "blocks are counted from 0": slip(depth=lambda s: s["depth"] - 1),
    "with Σ": slip(learn_sigma=lambda s: not s["learn_sigma"]),
    "that is what goes in": slip(hidden_size=lambda s: s["in_channels"] * s["patch_size"] ** 2),
    "no class; and blocks": slip(
        num_classes=lambda s: s["num_classes"] + 1, depth=lambda s: s["depth"] - 1
    ),
}
test_each_mistake_gets_its_hint = students.wrong({"sizes": SLIPS})


@pytest.mark.parametrize(
    ("name", "fn", "words"),
    [
        ("sizes", lambda tensors: None, "returns a NoneType, and a dictionary"),
        ("sizes", lambda tensors: {}, "lacks depth = 3, hidden_size = 48"),
        ("sizes", slip(depth=lambda s: 17), "lists depth = 17 and lacks depth = 3."),
        ("sizes", lambda tensors: tensors["pos"], "raises KeyError"),
        ("split_qkv", lambda tensors: [*tensors], "returns a list, and a dictionary"),
        ("first_difference", leaving_hooks, "leaves its hooks in the network"),
        ("first_difference", lambda *inputs: inputs[0], "returns a DiT, and a name is expected"),
        ("first_difference", lambda *inputs: None, "hook every part of both networks"),
    ],
)
def test_nonsense_is_told_what_it_is(name, fn, words):
    verdict = getattr(check, name)(fn)
    assert not verdict and words in repr(verdict), verdict
