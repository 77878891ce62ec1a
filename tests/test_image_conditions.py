"""An image as a condition: concatenation, holes, known pixels that stay, and the commands."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from minidit import (
    SAMPLERS,
    Diffusion,
    DiT,
    Recipe,
    UViT,
    cosine,
    data,
    fit,
    guided,
    linear,
    load,
    sample,
    save,
    straight,
    weights,
)
from minidit.cli import main
from minidit.cli.images import read_request
from minidit.conditions.images import UpscaleEncoder, holes
from minidit.data import digits
from minidit.patches import patchify
from minidit.training import presets
from minidit.training.generate import generate

KINDS = ("inpaint", "upscale")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
PROCESS = Diffusion(straight(), "x0")


def network(kind, cls=DiT, channels=1, **changes):
    condition = {"encoder": kind, "shape": [channels, 8, 12], "patch_size": 4}
    arguments = dict(input_size=(8, 12), patch_size=4, in_channels=channels, hidden_size=16)
    arguments |= dict(depth=2, num_heads=2, num_classes=0, learn_sigma=False, label_std=1.0)
    return cls(**arguments | {"condition": condition} | changes)


def pictures(n=3, channels=1):
    return torch.rand(n, channels, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


def told(model, images, seed=0):
    return model.label_embed.tell(images, torch.Generator().manual_seed(seed))


# --- what is told ---------------------------------------------------------------------------------


def test_inpainting_tells_what_is_outside_of_the_hole():
    images = pictures(channels=3)
    y = told(network("inpaint", channels=3), images)
    mask = y[:, 3:]
    assert y.shape == (3, 4, 8, 12) and set(mask.unique().tolist()) == {0, 1}
    assert torch.equal(y[:, :3], images * mask)


def test_upscaling_tells_the_means_of_blocks():
    images = pictures()
    y = told(network("upscale"), images)
    blocks = images.unflatten(2, (2, 4)).unflatten(4, (3, 4)).mean(dim=(3, 5))  # (3, 1, 2, 3)
    torch.testing.assert_close(y[:, :1, 1::4, 2::4], blocks)
    torch.testing.assert_close(y[:, :1], blocks.repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert (y[:, 1] == 1).all()


def test_holes_are_boxes_and_strokes_of_many_sizes():
    masks = holes(400, (28, 28), torch.Generator().manual_seed(0))
    assert masks.shape == (400, 1, 28, 28)
    gone = masks[:, 0] == 0
    share = gone.double().mean(dim=(1, 2))
    assert share.min() > 0.01 and share.max() < 0.55 and 0.15 < share.mean() < 0.35
    extent = gone.any(1).sum(-1) * gone.any(2).sum(-1)
    boxes = gone.sum(dim=(1, 2)) == extent  # full rectangles
    assert 150 < boxes.sum() < 250
    assert torch.equal(masks, holes(400, (28, 28), torch.Generator().manual_seed(0)))
    assert gone.any(dim=0).all()  # every pixel is taken out now and then


@EVERY_KIND
def test_training_drops_some_conditions(kind):
    images = (pictures(2000) * 127 + 128).byte()
    y = network(kind).label_embed.drop(images, torch.Generator().manual_seed(0))
    gone = (y == 0).flatten(1).all(dim=1)
    assert 0.07 < gone.double().mean() < 0.13
    if kind == "upscale":
        kept = network(kind).label_embed.tell(data.to_unit(images))[~gone]
        assert torch.equal(y[~gone], kept)
    never = network(kind, class_dropout_prob=0.0).label_embed
    assert never.null_label is None and (never.drop(images)[:, 1] == 1).flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (lambda net: net(*inputs()), ValueError, ["y=None", "label_embed.empty(b)"]),
        (lambda net: net(*inputs(), pictures(2)), ValueError, ["(2, 1, 8, 12)", "(2, 2, 8, 12)"]),
        (lambda net: net(*inputs(), net.label_embed.empty(3)), ValueError, ["(3, 2, 8, 12)"]),
        (lambda net: net(*inputs(), net.label_embed.empty(2).long()), ValueError, ["int64"]),
        (lambda net: net(*inputs(), [1, 2]), TypeError, ["y must be a tensor"]),
        (lambda net: learned(net, torch.zeros(3, 2, 8, 12)), ValueError, ["2 channels"]),
        (lambda net: learned(net, torch.zeros(3, 1, 8, 8)), ValueError, ["(8, 8) pixels"]),
        (lambda net: network("inpaint", num_classes=3), ValueError, ["num_classes=3"]),
        (lambda net: UpscaleEncoder(16, (1, 8, 6), 2), ValueError, ["(1, 8, 6)", "of 4"]),
        (lambda net: network("inpaint", class_dropout_prob=1.0), ValueError, ["dropout=1.0"]),
        (lambda net: network("inpaint", patch_size=2)(*inputs(), net.label_embed.empty(2)),
         ValueError, ["condition", "6 patches", "24"]),
    ],
)  # fmt: skip
def test_errors_name_what_is_wrong(call, error, parts):
    with pytest.raises(error) as raised:
        call(network("inpaint"))
    assert all(part in str(raised.value) for part in parts), raised.value


# --- networks -------------------------------------------------------------------------------------


def inputs(b=2):
    rng = torch.Generator().manual_seed(3)
    return torch.randn(b, 1, 8, 12, generator=rng), torch.linspace(10, 900, b)


def learned(model, y, images=None, **recipe):
    recipe = Recipe(**dict(steps=2, batch_size=2) | recipe)
    return fit(model, PROCESS, pictures() if images is None else images, y, recipe=recipe)


@EVERY_KIND
@pytest.mark.parametrize("cls", [DiT, UViT])
def test_two_patch_embeddings_are_one_of_concatenated_channels(kind, cls, awaken, monkeypatch):
    model = awaken(network(kind, cls))
    (x, t), y = inputs(3), told(model, pictures())
    own, other = model.patch_embed.proj, model.label_embed.embed.proj
    joined = [w.weight.unflatten(1, (16, -1)) for w in (own, other)]  # (16, p·p, channels)
    both = torch.cat([x, y], dim=1)
    tokens = patchify(both, 4) @ torch.cat(joined, dim=2).flatten(1).T + own.bias + other.bias
    answer, other_answer = model(x, t, y), model(x, t, y.flip(0))
    tokens = tokens - model.patch_embed(x)  # instead of what is said of y, beside positions
    monkeypatch.setattr(model.label_embed, "join", lambda others, y: others + tokens)
    torch.testing.assert_close(model(x, t, y), answer)
    assert not torch.allclose(other_answer, answer, atol=1e-3)


@EVERY_KIND
@pytest.mark.parametrize("cls", [DiT, UViT])
def test_weights_are_saved_and_loaded(kind, cls, awaken, tmp_path):
    model = awaken(network(kind, cls))
    save(model, tmp_path / "w.safetensors", PROCESS)
    again = load(tmp_path / "w.safetensors").model
    (x, t), y = inputs(3), told(model, pictures())
    assert again.config == model.config and torch.equal(again(x, t, y), model(x, t, y))


@EVERY_KIND
@pytest.mark.parametrize("block", ["in_context", "cross_attention", "adaln_zero"])
def test_guidance_leads_away_from_drawing_from_nothing(kind, block, awaken):
    model = awaken(network(kind, block=block))
    (x, t), y = inputs(3), told(model, pictures())
    cond, uncond = model(x, t, y), model(x, t, model.label_embed.empty(3))
    torch.testing.assert_close(guided(model, 3.0)(x, t, y), uncond + 3 * (cond - uncond))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_learns_to_enlarge(optimizer):
    images = torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, 1, 8, 12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network("upscale", class_dropout_prob=0.0)
        recipe = dict(steps=60, batch_size=8, lr=5e-3, optimizer=optimizer, ema_decay=0.5)
        model = learned(model, images, images, **recipe)
    x, _ = inputs()
    drawn = model(x, torch.full((2,), 999.0), told(model, images)).mean(dim=(1, 2, 3))
    assert drawn.tolist() == pytest.approx([1, -1], abs=0.25)


def test_a_stopped_run_goes_on_to_the_bit(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = network("inpaint")
    second = network("inpaint")
    second.load_state_dict(first.state_dict())
    process, recipe = PROCESS, Recipe(steps=4, batch_size=2)
    images = (pictures() * 127 + 128).byte()
    whole = fit(first, process, images, images, recipe=recipe)

    def stop(step, loss):
        if step == 2:
            raise KeyboardInterrupt

    how = dict(recipe=recipe, out=tmp_path, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        fit(second, process, images, images, report=stop, **how)
    resumed = fit(network("inpaint"), process, images, images, **how)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


# --- known pixels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("predict", ["x0", "eps", "v"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver"])
@pytest.mark.parametrize(("guidance", "clip"), [(1, True), (3, True), (3, 0.6)])
def test_known_pixels_stay_exactly(sampler, predict, guidance, clip, awaken):
    model, images = awaken(network("inpaint"), 0.2), pictures()
    y = told(model, images)
    known = y[:, 1:] > 0
    process = Diffusion(straight() if predict == "x0" else cosine(100), predict)
    how = dict(guidance=guidance, sampler=sampler, steps=5, clip=clip)
    states = [*generate(model, process, y, **how)]
    assert all(torch.equal(state.x0[known], images[known]) for state in states)
    assert torch.equal(states[-1].x[known], images[known])
    assert states[-1].x.isfinite().all() and not torch.equal(states[-1].x, images)
    free = sample(SAMPLERS[sampler](model, process, torch.randn_like(images), y, steps=5))
    assert not torch.equal(free[known], images[known])  # without it the network must be perfect


def test_known_pixels_stay_exactly_where_the_noise_is_solved_for(awaken):
    model, images = awaken(network("inpaint"), 0.2), pictures()
    y = told(model, images)
    known, process = y[:, 1:] > 0, model.label_embed.process(Diffusion(linear(100), "eps"), y)
    start = model, process, torch.randn_like(images), y
    states = [*SAMPLERS["dpm_solver"](*start, solve="eps", steps=5)]
    assert torch.equal(states[-1].x[known], images[known])
    walk = [*SAMPLERS["euler_maruyama"](*start, eta=0, steps=20)]
    assert all(torch.equal(state.x0[known], images[known]) for state in [*states, *walk])
    assert (walk[-1].x - images)[known].abs().max() < 0.1  # the last step leaves a trace of noise


def test_the_process_is_what_it_was_but_for_known_pixels():
    encoder, y = network("inpaint").label_embed, told(network("inpaint"), pictures())
    kept = encoder.process(PROCESS, y)
    assert kept.config == PROCESS.config and len(kept.respace([3, 50, 999])) == 3
    assert not hasattr(network("upscale").label_embed, "process")  # no pixel is known exactly
    assert torch.equal(kept.y, y)


# --- commands -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of untrained networks of each kind, and a picture, its mask, and a small picture."""
    folder, made = tmp_path_factory.mktemp("images"), {}
    for kind in KINDS:
        small = presets.PRESETS[f"{kind}-mnist"]
        small = small | {"model": small["model"] | {"hidden_size": 16, "depth": 1}}
        model, process, _ = presets.build(small, (1, 28, 28), 10)
        made[kind] = str(folder / f"{kind}.safetensors")
        save(model, made[kind], process, {"data": "digits"})
    grey = np.arange(784, dtype=np.uint8).reshape(28, 28) // 4
    hole = np.zeros((28, 28, 3), np.uint8)
    hole[8:20, 4:16] = 255
    shapes = {"image": grey, "mask": hole, "small": grey[::4, ::4]}
    for name, pixels in shapes.items():
        made[name] = str(folder / f"{name}.png")
        Image.fromarray(pixels).save(made[name])
    return made | {"grey": grey, "hole": hole[..., 0] > 0}


def drawn(out, *arguments):
    path = str(out / "drawn.npz")
    assert main(["sample", "--steps", "2", "--per-class", "3", "--out", path, *arguments]) == 0
    return np.load(path)["images"]


def test_a_picture_is_completed(files, tmp_path, capsys):
    arguments = ["--weights", files["inpaint"], "--image", files["image"], "--mask", files["mask"]]
    images = drawn(tmp_path, *arguments)
    assert images.shape == (3, 28, 28)
    for image in images:
        assert np.array_equal(image[~files["hole"]], files["grey"][~files["hole"]])
    nothing = drawn(tmp_path, "--weights", files["inpaint"])
    assert nothing.shape == (3, 28, 28) and not np.array_equal(nothing, images)


def test_a_picture_is_enlarged_from_its_pixels_or_their_means(files, tmp_path, capsys):
    y = {}
    model = load(files["upscale"]).model
    for name in ("small", "image"):
        y[name] = read_request(model.label_embed, files[name], None)
        assert drawn(tmp_path, "--weights", files["upscale"], "--image", files[name]).shape[0] == 3
    small = torch.from_numpy(files["grey"][::4, ::4].copy())[None, None]
    assert torch.equal(y["small"], model.label_embed.compose(data.to_unit(small)))
    means = F.avg_pool2d(torch.from_numpy(files["grey"])[None, None].float(), 4) / 127.5 - 1
    torch.testing.assert_close(y["image"][:, :1, ::4, ::4], means, atol=0.005, rtol=0)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("inpaint", ["--image", "IMAGE"], "--image FILE and --mask FILE"),
        ("inpaint", ["--mask", "MASK"], "--image FILE and --mask FILE"),
        ("upscale", ["--image", "IMAGE", "--mask", "MASK"], "take --image FILE;"),
        ("upscale", ["--labels", "3"], "--labels can't go with --weights"),
        ("upscale", ["--prompt", "a"], "--prompt can't go with --weights"),
        ("inpaint", ["--image", "no.png", "--mask", "MASK"], "no.png can't be read"),
        ("labels", ["--image", "IMAGE"], "--image can't go with --weights dit-mnist"),
        ("labels", ["--mask", "MASK"], "--mask can't go with --weights dit-mnist"),
    ],
)
def test_wrong_options_are_told(kind, options, words, files, tmp_path, capsys):
    options = [files.get(o.lower(), o) if o.isupper() else o for o in options]
    name = files.get(kind, "dit-mnist")
    assert main(["sample", "--weights", name, "--out", str(tmp_path / "x.png"), *options]) == 2
    assert words in capsys.readouterr().err


@EVERY_KIND
def test_training_and_evaluation(kind, files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "COUNTS", {"train": 40, "test": 100})
    monkeypatch.setenv("MINIDIT_DATA", str(tmp_path))
    small = presets.PRESETS[f"{kind}-mnist"]
    small = small | {"model": small["model"] | {"hidden_size": 16, "depth": 1}}
    monkeypatch.setitem(presets.PRESETS, f"{kind}-mnist", small)
    train = ["train", "--data", "digits", "--preset", f"{kind}-mnist", "--steps", "2"]
    assert main([*train, "--batch-size", "4", "--out", str(tmp_path / "run")]) == 0
    path = tmp_path / "run" / "weights.safetensors"
    how = ["--per-class", "7", "--steps", "2", "--guidance", "1", "--store"]
    for few in ("-1", "0", "1"):
        assert main(["evaluate", "--weights", str(path), "--per-class", few]) == 2
        assert f"--per-class {few} is too few to measure" in capsys.readouterr().err
    assert main(["evaluate", "--weights", str(path), *how]) == 0
    (found,) = weights.info(path)["evaluations"]
    baseline = {"inpaint": "mean of training", "upscale": "bicubic"}[kind]
    assert list(found)[5:] == ["a sample", "mean of 8", baseline, "real", "from nothing"]
    assert found["images"] <= 70 and found["real"]["recognised"] > 0.95
    assert found[baseline]["psnr"] > found["a sample"]["psnr"]  # of a network that knows nothing
    assert found["real"]["frechet"] < found[baseline]["frechet"] < found["a sample"]["frechet"]
    assert baseline in capsys.readouterr().out
    json.dumps(found)
