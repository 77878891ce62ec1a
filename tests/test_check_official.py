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


SLIPS = {
    "num_classes = 8 instead of 7 (the last row is the null label": ("num_classes", 8),
    "input_size = 4 instead of 8 (it is in pixels": ("input_size", 4),
    "input_size = 16 instead of 8 (take the root": ("input_size", 16),
    "input_size = 32 instead of 8 (take the root": ("input_size", 32),
    "in_channels = 8 instead of 4 (the last layer": ("in_channels", 8),
    "depth = 2 instead of 3 (blocks are counted from 0": ("depth", 2),
    "learn_sigma = False instead of True (with Σ": ("learn_sigma", False),
    "hidden_size = 16 instead of 48 (that is what goes in": ("hidden_size", 16),
    "depth = 17 instead of 3.": ("depth", 17),
}


@pytest.mark.parametrize("words", SLIPS)
def test_each_wrong_size_has_its_sentence(words):
    key, value = SLIPS[words]
    verdict = check.sizes(lambda tensors: sizes_by_outputs(tensors) | {key: value})
    assert not verdict and words in repr(verdict), verdict


def test_two_wrong_sizes_have_two_sentences():
    verdict = check.sizes(lambda t: sizes_by_outputs(t) | {"num_classes": 8, "depth": 2})
    assert "counted from 0" in repr(verdict) and "null label" in repr(verdict)


@pytest.mark.parametrize(
    ("name", "fn", "words"),
    [
        ("sizes", lambda tensors: None, "returns a NoneType, and a dictionary"),
        ("sizes", lambda tensors: {}, "lacks depth, hidden_size"),
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
