"""Official weights in and out: any configuration, any file, nothing executed, clear refusals."""

import argparse
import os

import pytest
import torch
from safetensors.torch import save_file

from minidit import DIT_SIZES, UVIT_SIZES, DiT, UViT, export_official, load_official
from minidit.weights import official_dit, official_uvit
from minidit.weights.official import read_config
from minidit.weights.official_dit import NAMES, names_of


@pytest.fixture
def model(tiny_dit, awaken):
    return awaken(tiny_dit(learn_sigma=True))


def inputs(model, batch=3):
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(batch, model.in_channels, *model.size, generator=rng)
    labels = model.label_embed
    y = labels and torch.randint(labels.table.num_embeddings, (batch,), generator=rng)
    return x, torch.tensor([0.0, 17.5, 999.0])[:batch], y


def tiny_uvit(**changes):
    arguments = dict(input_size=8, patch_size=4, in_channels=1, hidden_size=16, depth=4)
    return UViT(**arguments | dict(num_heads=2, num_classes=3) | changes)


@pytest.mark.parametrize(
    "network, changes",
    [
        ("DiT", {}),
        ("DiT", {"patch_size": 1, "in_channels": 3}),
        ("DiT", {"input_size": 12, "patch_size": 3, "in_channels": 2, "learn_sigma": True}),
        ("DiT", {"hidden_size": 28, "num_heads": 7, "depth": 3, "mlp_ratio": 2.5}),
        ("DiT", {"class_dropout_prob": 0.0, "num_classes": 1}),
        ("UViT", {}),
        ("UViT", {"num_classes": 0, "skip": "none", "conv": "none"}),
        ("UViT", {"patch_size": 2, "in_channels": 2, "time_mlp": True, "qkv_bias": True}),
        ("UViT", {"depth": 3, "time_mlp": True}),
        ("UViT", {"hidden_size": 28, "num_heads": 7, "mlp_ratio": 2.5, "class_dropout_prob": 0.0}),
    ],
)
def test_round_trip_keeps_every_bit(network, changes, tiny_dit, awaken):
    model = awaken((tiny_dit if network == "DiT" else tiny_uvit)(**changes))
    out, config = export_official(model), model.config
    again = load_official(out, config["num_heads"], null_label=config["class_dropout_prob"] > 0)
    for key in ("input_size", "patch_size", "in_channels", "learn_sigma", "num_classes"):
        assert again.config[key] == config[key]
    assert again.config["depth"] == (config["depth"] if network == "DiT" else 2 * model.half)
    assert again.null_label == model.null_label
    own = model.state_dict()
    assert again.state_dict().keys() == own.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in again.state_dict().items())
    with torch.no_grad():
        assert torch.equal(again(*inputs(model)), model(*inputs(model)))
    back = export_official(again)
    assert all(torch.equal(back[name], out[name]) for name in out) and back.keys() == out.keys()


def test_patches_are_embedded_by_the_official_convolution(model):
    """The exported weight, used as the convolution it is there, gives our patch embedding."""
    out = export_official(model)
    weight, bias = out["x_embedder.proj.weight"], out["x_embedder.proj.bias"]
    x = inputs(model)[0]
    conv = torch.nn.functional.conv2d(x, weight, bias, stride=model.patch_size)
    with torch.no_grad():
        ours = model.patch_embed(x)
    torch.testing.assert_close(conv.flatten(2).transpose(1, 2), ours, atol=1e-5, rtol=1e-5)


def test_the_table_of_names_is_complete():
    names = names_of({"depth": 2})
    with torch.device("meta"):
        model = DiT(**DIT_SIZES["S/8"] | {"depth": 2})
    assert sorted(names.values()) == sorted(model.state_dict())
    assert len(set(NAMES.values())) == len(NAMES)


@pytest.mark.parametrize(
    "network, code, size",
    [(DiT, official_dit, size) for size in DIT_SIZES.values()]
    + [(UViT, official_uvit, size) for size in UVIT_SIZES.values()],
    ids=[*DIT_SIZES, *(f"UViT-{size}" for size in UVIT_SIZES)],
)
def test_sizes_are_read_off_their_tensors(network, code, size):
    with torch.device("meta"):  # shapes are enough
        model = network(**size)
        null = model.null_label is not None or model.label_embed is None
        config = read_config(export_official(model), None, null, code)
    assert config == {key: model.config[key] for key in config}


def test_files_of_every_kind(model, tmp_path):
    out = export_official(model)
    torch.save(out, tmp_path / "plain.pt")
    arguments = argparse.Namespace(model="DiT-XL/2", lr=1e-4, tags=["a"])  # as DiT's train.py
    training = {"model": {}, "ema": out, "opt": {"state": {}, "step": 3}, "args": arguments}
    torch.save(training, tmp_path / "checkpoint.pt")
    torch.save(out, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(out, tmp_path / "a.safetensors")
    for name in ("plain.pt", "checkpoint.pt", "old.pt", "a.safetensors"):
        again = load_official(str(tmp_path / name), 2)
        with torch.no_grad():
            assert torch.equal(again(*inputs(model)), model(*inputs(model))), name


class Bomb:
    """A pickle that would make a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_never_run(model, tmp_path):
    target = tmp_path / "made"
    for zipped in (True, False):
        path = tmp_path / f"bomb{zipped}.pt"
        content = {"ema": export_official(model), "args": Bomb(target)}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match="holds code, which is never run"):
            load_official(path, 2)
    assert not target.exists()


def test_tensors_are_used_not_copied(model):
    out = export_official(model)
    again = load_official(out, 2)
    for official, own in names_of({"depth": 2}).items():
        shared = again.get_parameter(own).data_ptr() == out[official].data_ptr()
        assert shared or official == "x_embedder.proj.weight", official


def test_frozen_and_trainable_weights_stay_so(model):
    again = load_official(export_official(model), 2)
    trained = {name for name, p in again.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in again.named_parameters()} - {"pos_embed"}
    assert not again.training


def test_half_precision_stays(model):
    half = {name: tensor.half() for name, tensor in export_official(model).items()}
    assert load_official(half, 2).final.proj.weight.dtype == torch.float16


def broken(model, how):
    out = export_official(model)
    how(out)
    return out


@pytest.mark.parametrize(
    "how, sentence",
    [
        (lambda o: o.pop("t_embedder.mlp.0.bias"), "t_embedder.mlp.0.bias is missing"),
        (lambda o: o.update(extra=torch.ones(1)), "extra is unknown"),
        (lambda o: o.clear(), "source is no state dict: it holds nothing"),
        (lambda o: o.update(pos_embed=[1.0]), "pos_embed is missing"),
        (
            lambda o: o.update({"blocks.0.mlp.fc1.bias": torch.tensor(1.0)}),
            "blocks.0.mlp.fc1.bias is a single number",
        ),
        (
            lambda o: o.update({"blocks.1.mlp.fc1.weight": torch.ones(3, 3)}),
            r"blocks.1.mlp.fc1.weight has shape \(3, 3\); \(64, 16\) would fit the rest",
        ),
        (
            lambda o: o.update(pos_embed=torch.ones(1, 5, 16)),
            "5 positions of patches, which are no square",
        ),
        (lambda o: o.update(pos_embed=torch.ones(4, 16)), r"pos_embed has shape \(4, 16\)"),
        (
            lambda o: o.update({"final_layer.linear.bias": torch.ones(31)}),
            "has 31 outputs; patches of 4×4 pixels and 1 channels need 16, or twice that",
        ),
    ],
)
def test_what_is_no_dit_is_refused(model, how, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_official(broken(model, how), 2)


def test_heads_must_be_known(model):
    with pytest.raises(ValueError, match="num_heads is needed.*width 16.*384, 768, 1024, 1152"):
        load_official(export_official(model))
    with pytest.raises(ValueError, match="num_heads=3 does not divide hidden_size=16"):
        load_official(export_official(model), 3)
    with pytest.raises(ValueError, match="num_heads=0 must be at least 1"):
        load_official(export_official(model), 0)


def test_files_that_cannot_be_read(model, tmp_path):
    with pytest.raises(ValueError, match="is no file"):
        load_official(tmp_path / "nothing.pt")
    save_file(export_official(model), tmp_path / "cut.safetensors")
    torch.save(export_official(model), tmp_path / "cut.pt")
    for name in ("cut.safetensors", "cut.pt"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(ValueError, match="damaged"):
            load_official(path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(TypeError, match="holds a list, not a state dict"):
        load_official(tmp_path / "list.pt")


def test_networks_without_official_names_are_refused(tiny_dit):
    with pytest.raises(TypeError, match="only DiT, UViT and autoencoders"):
        export_official(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="block='adaln'"):
        export_official(tiny_dit(block="adaln"))
    with pytest.raises(ValueError, match="num_classes=0"):
        export_official(tiny_dit(num_classes=0, class_dropout_prob=0.0))
    with pytest.raises(ValueError, match="square images only"):
        export_official(tiny_dit(input_size=(8, 4)))


@pytest.mark.parametrize("network", [DiT, UViT])
def test_one_class_needs_to_be_told_from_the_null_label(network, awaken):
    model = awaken(network(8, 4, 1, 16, 2, 2, num_classes=1, class_dropout_prob=0.0))
    out = export_official(model)
    with pytest.raises(ValueError, match="one row.*leaves no class; null_label=False"):
        load_official(out, 2)
    assert load_official(out, 2, null_label=False).config["num_classes"] == 1


# --- U-ViT ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how, sentence",
    [
        (lambda o: o.pop("label_emb.weight"), "5 positions of patches, which are no square grid"),
        (lambda o: o.pop("out_blocks.1.skip_linear.weight"), "skip_linear.weight is missing"),
        (lambda o: o.pop("in_blocks.0.norm1.bias"), "in_blocks.0.norm1.bias is missing"),
        (lambda o: [o.pop(k) for k in list(o) if k.startswith("in_blocks.1")], "UViT weights"),
        (lambda o: o.update({"blocks.0.attn.qkv.bias": torch.ones(1)}), "qkv.bias is unknown"),
        (
            lambda o: o.update({"patch_embed.proj.weight": torch.ones(16, 1, 4, 2)}),
            r"has shape \(16, 1, 4, 2\); \(16, 1, 4, 4\) would fit the rest",
        ),
    ],
)
def test_what_is_no_uvit_is_refused(how, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_official(broken(tiny_uvit(), how), 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"skip": "add"},
        {"time": "adaln"},
        {"conv": "before"},
        {"patch_embed": "conv"},
        {"pos_embed": "none"},
        {"learn_sigma": True},
    ],
)
def test_choices_without_official_names_are_refused(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}: the official code has only"):
        export_official(tiny_uvit(**changes))


@pytest.mark.parametrize(
    "change", [torch.Tensor.half, torch.Tensor.long, torch.Tensor.to_sparse, lambda z: z.to("meta")]
)
def test_tensors_that_are_not_all_alike_are_named(change, model):
    tensors = export_official(model)
    tensors["final_layer.linear.bias"] = change(tensors["final_layer.linear.bias"])
    with pytest.raises(ValueError, match=r"final_layer\.linear\.bias is .*; expected dense floats"):
        load_official(tensors, num_heads=2)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_the_first_weights_that_are_not_finite_are_named(number, model):
    tensors = export_official(model)
    for name in ("final_layer.linear.bias", "t_embedder.mlp.0.bias"):
        tensors[name] = tensors[name].clone().index_fill_(0, torch.tensor(3), number)
    with pytest.raises(ValueError, match=r"^t_embedder\.mlp\.0\.bias has .* not finite"):
        load_official(tensors, 2)
