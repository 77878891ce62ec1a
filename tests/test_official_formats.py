"""Official weights in every format they come in: names, prefixes, files, folders, refusals."""

import argparse
import json
import pathlib
import re

import numpy as np
import pytest
import torch
from golden import Golden
from PIL import Image
from safetensors.torch import save_file

from minidit import KLAutoencoder, UViT, VQAutoencoder, data, export_official, load_official
from minidit.cli import fetch, main
from minidit.data.fetch import Source
from minidit.weights import official


@pytest.fixture(scope="module")
def hf_dit():
    return weights_of("hf_dit")


@pytest.fixture(scope="module")
def hf_kl():
    return weights_of("hf_autoencoder_kl")


def weights_of(name):
    return {key: tensor.float() for key, tensor in Golden(name).part("sd/").items()}


def load_dit(source, **more):
    return load_official(source, 4, input_size=8, **more)


def same(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("network", ["dit", "uvit", "kl"])
def test_prefixes_of_wrappers_are_taken_off(prefix, network, tiny_dit, awaken):
    uvit = dict(input_size=8, patch_size=4, in_channels=1, hidden_size=16, depth=4, num_heads=2)
    models = {"dit": tiny_dit, "uvit": lambda: UViT(**uvit), "kl": lambda: KLAutoencoder(1, 2, 8)}
    model = awaken(models[network]())
    plain = export_official(model)
    again = load_official({prefix + name: tensor for name, tensor in plain.items()}, 2)
    assert type(again) is type(model) and same(again, load_official(plain, 2))
    inside = {name.replace("blocks.", "blocks._orig_mod.", 1): t for name, t in plain.items()}
    assert same(load_official(inside, 2), again)


@pytest.mark.parametrize("kind", [KLAutoencoder, VQAutoencoder])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        dict(in_channels=1, latent_channels=3, width=8, multipliers=(2,), blocks=2),
        dict(width=12, multipliers=(1, 3, 2), blocks=2, attention=(1, 2)),
        dict(latent_channels=2, z_channels=5, multipliers=(1, 1)),
    ],
)
def test_an_autoencoder_goes_out_and_comes_back(kind, shape, awaken):
    model = awaken(kind(**dict(width=8, multipliers=(1, 2)) | shape))
    out = export_official(model)
    training = {"loss.discriminator.weight": torch.ones(3), "loss.logvar": torch.ones(())}
    around = {f"first_stage_model.{k}": v for k, v in (out | training).items()}
    whole = around | {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2, 2)}
    for source in (out, out | training, whole, {"state_dict": whole, "global_step": 3}):
        again = load_official(source)
        assert type(again) is kind and same(again, model) and not again.training
    assert ("quantize.embedding.weight" in out) is (kind is VQAutoencoder)


def shapes_of_stable_diffusion():
    with torch.device("meta"):
        model = KLAutoencoder(3, 4, 128, (1, 2, 4, 4), 2)
    return [(k, torch.zeros(()), v.shape) for k, v in export_official(model).items()]


def test_the_scale_is_stable_diffusions_for_its_shape(tmp_path, hf_kl):
    sd = {k: v.expand(s) for k, v, s in shapes_of_stable_diffusion()}
    assert load_official(sd).scale == pytest.approx(0.18215) and load_official(hf_kl).scale == 1
    save_file(hf_kl, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text('{"scaling_factor": 0.25}')
    for path in (tmp_path, tmp_path / "diffusion_pytorch_model.safetensors"):
        assert load_official(path).scale == 0.25


def test_the_groups_are_those_of_config_json(tmp_path, hf_kl):
    save_file(hf_kl, tmp_path / "diffusion_pytorch_model.safetensors")
    images, copies = torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16), {}
    for groups in (None, 32, 16):
        told = {} if groups is None else {"norm_num_groups": groups}
        (tmp_path / "config.json").write_text(json.dumps(told))
        copies[groups] = (model := load_official(tmp_path))(images)
    assert torch.equal(copies[None], copies[32]) and not torch.allclose(copies[32], copies[16])
    with pytest.raises(ValueError, match="groups=16: the official code always has 32"):
        export_official(model)
    (tmp_path / "config.json").write_text('{"norm_num_groups": 7}')
    with pytest.raises(ValueError, match="groups=7 doesn't divide"):
        load_official(tmp_path)


@pytest.mark.parametrize("key, value", [("act_fn", "relu"), ("shift_factor", 0.0609)])
def test_what_config_json_asks_for_in_vain_is_refused(key, value, tmp_path, hf_kl):
    save_file(hf_kl, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"act_fn": "silu", "shift_factor": None}))
    assert same(load_official(tmp_path), load_official(hf_kl))
    (tmp_path / "config.json").write_text(json.dumps({key: value}))
    with pytest.raises(ValueError, match=f"{key}={value!r} in .*config.json is unknown"):
        load_official(tmp_path)


def test_older_names_of_diffusers_attention(hf_kl):
    older = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    renamed = {}
    for name, tensor in hf_kl.items():
        for new, old in older.items():
            name = name.replace(f"attentions.0.{new}", f"attentions.0.{old}")
        renamed[name] = tensor
    assert renamed.keys() != hf_kl.keys()
    assert same(load_official(renamed), load_official(hf_kl))


def write_folder(folder, tensors, config, shards=1, kind="safetensors"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    stem, names = "diffusion_pytorch_model", sorted(tensors)
    places = {}
    for k in range(shards):
        end = f"-{k + 1:05d}-of-{shards:05d}" if shards > 1 else ""
        part = {name: tensors[name] for name in names[k::shards]}
        path = folder / f"{stem}{end}.{kind}"
        save_file(part, path) if kind == "safetensors" else torch.save(part, path)
        places |= dict.fromkeys(part, path.name)
    if shards > 1:
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 3])
def test_folders_of_diffusers(kind, shards, tmp_path, hf_dit):
    config = {"num_attention_heads": 4, "sample_size": 8}
    write_folder(tmp_path / "pipe" / "transformer", hf_dit, config, shards, kind)
    end = ".index.json" if shards > 1 else ""
    file = tmp_path / "pipe" / "transformer" / f"diffusion_pytorch_model.{kind}{end}"
    for path in (tmp_path / "pipe", tmp_path / "pipe" / "transformer", file):
        assert same(load_official(path), load_dit(hf_dit))
    if shards > 1:
        missing = file.parent / f"diffusion_pytorch_model-00002-of-00003.{kind}"
        missing.unlink()
        with pytest.raises(ValueError, match=f"{missing.name} is missing, in which .* has 1[0-9] "):
            load_official(file)
    with pytest.raises(ValueError, match="has no diffusion_pytorch_model.safetensors"):
        load_official(tmp_path)


def test_what_diffusers_dit_must_be(hf_dit):
    with pytest.raises(ValueError, match="input_size is needed.*config.json.*32 at 256×256"):
        load_official(hf_dit, 4)
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    with pytest.raises(ValueError, match=f"{name} differs from that of block 0"):
        load_dit(hf_dit | {name: hf_dit[name] + 1})
    with pytest.raises(ValueError, match="proj_out_2.bias is missing"):
        load_dit({k: v for k, v in hf_dit.items() if k != "proj_out_2.bias"})
    with pytest.raises(ValueError, match="more is unknown"):
        load_dit(hf_dit | {"more": torch.ones(2)})


class Settings:
    """A class of the training code, which isn't there when the file is read."""


def test_what_stands_beside_tensors_is_left_unread(tmp_path, tiny_dit, awaken):
    model = awaken(tiny_dit())
    out = export_official(model)
    args = argparse.Namespace(path=pathlib.Path("data"), seed=np.int64(3), own=Settings())
    extras = {
        "scalar": {"ema": out, "best": np.float64(0.5)},
        "array": {"state_dict": out, "curve": np.arange(3.0), "kind": torch.float16},
        "args": {"model": out, "opt": {"state": {}}, "args": args},
        "inside": out | {"epoch": np.float32(3), "name": "a run"},
    }
    for name, content in extras.items():
        torch.save(content, tmp_path / f"{name}.pt")
        assert same(load_official(tmp_path / f"{name}.pt", 2), model), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_in_every_format(dtype, tmp_path, hf_dit, hf_kl):
    for name, tensors in {"dit": hf_dit, "kl": hf_kl}.items():
        save_file({k: v.to(dtype) for k, v in tensors.items()}, tmp_path / f"{name}.safetensors")
    dit, kl = load_dit(tmp_path / "dit.safetensors"), load_official(tmp_path / "kl.safetensors")
    golden = Golden("hf_dit")
    x, t, y = (golden[f"in/{key}"] for key in "xty")
    with torch.no_grad():
        found, image = dit(x.to(dtype), t, y), kl.to_images(kl.to_latents(torch.zeros(1, 3, 8, 8)))
    assert found.dtype == image.dtype == dtype and kl.scale.dtype == dtype
    assert (found.float() - golden["out/y"]).abs().max() < 0.15


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (["double_blocks.0.img_attn.qkv.weight"], "FLUX"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a U-Net.*autoencoder beside it"),
        (["down_blocks.0.resnets.0.conv1.weight", "time_embedding.linear_1.weight"], "a U-Net in"),
        (["cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"], "a ViT that"),
        (["final.proj.weight", "patch_embed.proj.weight"], "minidit's own weights.*minidit.load"),
        (["lora_unet_down.weight"], "a LoRA"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], "a text encoder"),
        (["fc.weight"], "no network that is known here .fc.weight"),
    ],
)
def test_files_of_other_formats_are_named(names, told):
    with pytest.raises(ValueError, match=f"this looks like {told}"):
        load_official({name: torch.ones(2, 2) for name in names})


def test_an_autoencoder_with_a_hole_is_refused(hf_kl):
    for name in ("decoder.mid_block.resnets.1.norm1.bias", "quant_conv.weight"):
        with pytest.raises(ValueError, match="is missing"):
            load_official({k: v for k, v in hf_kl.items() if k != name})
    with pytest.raises(ValueError, match="quant_conv.bias has shape"):
        load_official(hf_kl | {"quant_conv.bias": torch.ones(3)})


def test_official_weights_know_their_process(tmp_path, tiny_dit, awaken):
    uvit = dict(patch_size=4, hidden_size=384, depth=2, num_heads=6)
    models = {
        "linear": tiny_dit(hidden_size=384, num_heads=6, learn_sigma=True),
        "scaled_linear_from_1": UViT(8, in_channels=4, **uvit | dict(hidden_size=512, num_heads=8)),
        "vp_sde": UViT(8, in_channels=3, **uvit | dict(hidden_size=512, num_heads=8)),
    }
    for schedule, model in models.items():
        torch.save(export_official(model), tmp_path / "a.pt")
        assert official.is_official(tmp_path / "a.pt") and not official.is_official("dit-mnist")
        found = official.open_weights(str(tmp_path / "a.pt"))
        assert found.diffusion.schedule.name == schedule and found.diffusion.predict == "eps"
        assert found.diffusion.learn_sigma is bool(model.config["learn_sigma"])
    torch.save(export_official(KLAutoencoder(1, 2, 8)), tmp_path / "a.pt")
    assert official.open_weights(tmp_path / "a.pt").diffusion is None
    assert official.open_weights("dit-mnist").diffusion.schedule.name == "straight"


@pytest.fixture
def files(tmp_path, tiny_dit, awaken):
    """A small DiT in its authors' file, and an autoencoder in diffusers' names."""
    dit = tiny_dit(input_size=4, in_channels=4, patch_size=4, hidden_size=384, num_heads=6, depth=1)
    torch.save(export_official(awaken(dit)), tmp_path / "DiT.pt")
    save_file(weights_of("hf_autoencoder_kl"), tmp_path / "vae.safetensors")
    return [str(tmp_path / name) for name in ("DiT.pt", "vae.safetensors", "dogs.png")]


def test_official_weights_are_sampled_to_a_picture(files, capsys):
    network, autoencoder, out = files
    command = ["sample", "--weights", network, "--labels", "2,0", "--steps", "2", "--out", out]
    assert main([*command, "--device", "cpu", "--autoencoder", autoencoder]) == 0
    told = capsys.readouterr().out
    assert "million weights, " in told and "images of 8×8 pixels" in told
    assert Image.open(out).size[0] >= 16
    for more, words in {
        (): "may draw latents: say where their autoencoder is",
        ("--autoencoder", network): "is no autoencoder|are a DiT, no autoencoder",
        ("--autoencoder", str(pathlib.Path(out).with_name("no.pt"))): "are unknown",
    }.items():
        assert main([*command, *more]) == 2
        assert re.search(words, capsys.readouterr().err)


def test_imagenet_has_a_thousand_names():
    names = data.imagenet_classes()
    assert len(names) == len(set(names)) == 1000 and names[207] == "golden retriever"
    assert [names.index(k) for k in ("tench", "otter", "geyser", "toilet tissue")][:3] == [
        0,
        360,
        974,
    ]
    assert all(name == name.strip() and name for name in names)


def test_fetch_says_what_to_get_without_a_network(tmp_path, monkeypatch, capsys):
    for folder, source in fetch.FILES["dit-xl-2"]:
        nowhere = (f"http://127.0.0.1:9/{folder}/",)
        monkeypatch.setitem(
            fetch.FILES, "dit-xl-2", ((folder, Source(source.name, None, None, nowhere)),) * 2
        )
    assert main(["fetch", "dit-xl-2", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "could not be downloaded" in told and "SHA-256 unknown" in told and str(tmp_path) in told
    path = tmp_path / folder / source.name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"there")
    assert main(["fetch", "dit-xl-2", "--out", str(tmp_path)]) == 0
    assert f"--autoencoder {path} --labels 207" in capsys.readouterr().out
