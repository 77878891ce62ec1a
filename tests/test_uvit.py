"""U-ViT: shapes of every choice, what the long skips do, and what may not depend on what."""

import copy
import itertools

import pytest
import torch

from minidit import SKIPS, UVIT_SIZES, LongSkip, UViT, without_skips
from minidit.evaluate.flops import count
from minidit.patches import ConvPatchEmbed
from minidit.uvit import CONVS, PATCH_EMBEDS, POSITIONS, TIMES


def tiny(**changes):
    """A U-ViT small enough for any test; keywords replace its arguments."""
    arguments = {
        "input_size": 8,
        "patch_size": 4,
        "in_channels": 1,
        "hidden_size": 16,
        "depth": 4,
        "num_heads": 2,
        "num_classes": 3,
    }
    return UViT(**arguments | changes)


def inputs(b=3, c=1, size=(8, 8), classes=3):
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(b, c, *size, generator=rng)
    return x, torch.linspace(0, 999, b), torch.arange(b) % classes


# Every seventh of all combinations, so that every choice meets most others.
CHOICES = list(itertools.product(SKIPS, TIMES, CONVS, PATCH_EMBEDS, POSITIONS))[::7]


@pytest.mark.parametrize("skip, time, conv, patch_embed, pos_embed", CHOICES)
def test_choices_go_with_one_another(skip, time, conv, patch_embed, pos_embed, awaken):
    choices = dict(skip=skip, time=time, conv=conv, patch_embed=patch_embed, pos_embed=pos_embed)
    model = awaken(tiny(**choices))
    x, t, y = inputs()
    out = model(x, t, y)
    assert out.shape == x.shape and out.isfinite().all()
    again = UViT(**model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x, t, y), out)
    model(x, t, y).square().sum().backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []


@pytest.mark.parametrize("choice", ["skip", "time", "conv", "patch_embed", "pos_embed"])
def test_unknown_choices_are_refused(choice):
    with pytest.raises(ValueError, match=f"{choice}='odd' is unknown; choose one of"):
        tiny(**{choice: "odd"})


@pytest.mark.parametrize("depth, blocks", [(1, 1), (2, 3), (4, 5), (5, 5), (12, 13)])
def test_depth_counts_the_blocks_beside_the_middle_one(depth, blocks, awaken):
    model = awaken(tiny(depth=depth))
    assert len(model.blocks) == blocks and len(model.skips) == blocks // 2
    assert model(*inputs()).shape == (3, 1, 8, 8)


def test_tokens_are_label_time_patches(awaken):
    model = awaken(tiny(pos_embed="none"))
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    x, t, y = inputs()
    model(x, t, y)
    (tokens,) = seen
    assert tokens.shape == (3, 2 + 4, 16)
    assert torch.equal(tokens[:, 0], model.label_embed(y))
    assert torch.equal(tokens[:, 1], model.time_vector(t))
    assert torch.equal(tokens[:, 2:], model.patch_embed(x))


def test_learned_positions_start_as_large_as_asked():
    for arguments, std in (({}, 0.02), ({"pos_std": 0.7}, 0.7)):
        model = tiny(input_size=32, patch_size=2, hidden_size=64, **arguments)
        assert model.pos_embed.std().item() == pytest.approx(std, rel=0.02)
    fixed = tiny(hidden_size=64, pos_embed="sincos_2d", pos_std=0.7)
    assert (fixed.pos_embed[:2] == 0).all() and fixed.pos_embed[2:].abs().max() <= 1


def test_tokens_without_labels_and_without_a_time_token(awaken):
    for changes, extras in [
        ({"num_classes": 0}, 1),
        ({"time": "adaln"}, 1),
        ({"num_classes": 0, "time": "adaln"}, 0),
    ]:
        model = awaken(tiny(**changes))
        x, t, y = inputs()
        assert model.extras == extras and len(model.pos_embed) == extras + 4
        assert model(x, t, y if model.label_embed is not None else None).shape == x.shape


def test_sinusoidal_positions_are_frozen_and_leave_other_tokens_alone():
    model = tiny(pos_embed="sincos_2d")
    assert not model.pos_embed.requires_grad
    assert model.pos_embed[:2].eq(0).all() and model.pos_embed[2:].ne(0).any(dim=1).all()
    assert tiny().pos_embed.requires_grad


def test_late_blocks_meet_the_early_ones_of_their_height(awaken):
    """Last in, first out: the last block up is joined by the first block down."""
    model = awaken(tiny(depth=6))
    outputs, met = {}, {}
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _, a, out, i=i: outputs.setdefault(i, out))
    for i, skip in enumerate(model.skips):
        skip.register_forward_pre_hook(lambda _, arguments, i=i: met.setdefault(i, arguments))
    model(*inputs())
    for i in range(3):
        x, early = met[i]
        assert torch.equal(x, outputs[3 + i]), "what the block before gave"
        assert torch.equal(early, outputs[2 - i]), "what the early block gave"


def test_the_skips_are_their_formulas():
    rng = torch.Generator().manual_seed(0)
    x, early = torch.randn(2, 2, 5, 8, generator=rng)
    skips = {kind: LongSkip(kind, 8) for kind in SKIPS}
    weights = {kind: (s.proj.weight, s.proj.bias) for kind, s in skips.items() if SKIPS[kind]}
    (w1, w2), b = weights["concat"][0].split(8, dim=1), weights["concat"][1]
    expected = {"concat": x @ w1.T + early @ w2.T + b, "add": x + early, "none": x}
    w, b = weights["add_linear"]
    expected["add_linear"] = x + early @ w.T + b
    w, b = weights["linear_add"]
    expected["linear_add"] = (x + early) @ w.T + b
    for kind in SKIPS:
        assert torch.allclose(skips[kind](x, early), expected[kind], atol=1e-6), kind


def test_early_features_pass_the_skip_and_nothing_else(awaken):
    """With the middle block cut off, only a skip can carry what the first block found."""
    x, t, y = inputs()
    for kind in SKIPS:
        model = awaken(tiny(depth=2, skip=kind))
        changed = copy.deepcopy(model)
        for net in (model, changed):
            for p in net.blocks[1].parameters():
                p.data.zero_()
        # the middle block hands on what it gets; its input is replaced by a constant
        hook = lambda _, arguments: (torch.ones_like(arguments[0]), arguments[1])  # noqa: E731
        for net in (model, changed):
            net.blocks[1].register_forward_pre_hook(hook)
        changed.blocks[0].mlp.down.bias.data += 1
        same = torch.equal(model(x, t, y), changed(x, t, y))
        assert same == (kind == "none"), kind


def test_every_pixel_can_see_every_other(awaken):
    model = awaken(tiny())
    x, t, y = inputs(b=1)
    x.requires_grad_(True)
    model(x, t, y)[0, 0, 0, 0].backward()
    assert x.grad.ne(0).all()


def test_images_of_a_batch_are_independent(awaken):
    model = awaken(tiny())
    x, t, y = inputs()
    assert torch.allclose(model(x, t, y)[1:2], model(x[1:2], t[1:2], y[1:2]), atol=1e-5)


def test_time_and_label_are_heard(awaken):
    x, t, y = inputs()
    for time in TIMES:
        model = awaken(tiny(time=time))
        out = model(x, t, y)
        assert (model(x, t + 100, y) - out).abs().max() > 1e-3, time
        assert (model(x, t, (y + 1) % 3) - out).abs().max() > 1e-3, time


def test_zero_gates_make_every_block_the_identity():
    model = tiny(time="adaln_zero")
    changed = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, a, out: changed.append(not torch.equal(a[0], out)))
    model(*inputs())
    assert changed == [False] * 5


def test_learned_sigma_doubles_the_channels(awaken):
    for conv in CONVS:
        model = awaken(tiny(learn_sigma=True, in_channels=2, conv=conv))
        assert model(*inputs(c=2)).shape == (3, 4, 8, 8)


def test_non_square_images(awaken):
    for conv, pos in itertools.product(CONVS, POSITIONS):
        model = awaken(tiny(input_size=(8, 12), conv=conv, pos_embed=pos))
        assert model(*inputs(size=(8, 12))).shape == (3, 1, 8, 12)


def test_wrong_inputs_are_refused():
    model = tiny()
    x, t, y = inputs()
    with pytest.raises(ValueError, match="y=None, but this network needs labels"):
        model(x, t)
    with pytest.raises(ValueError, match="this network has no labels"):
        tiny(num_classes=0)(x, t, y)
    with pytest.raises(ValueError, match="y contains 4, which is out of range: 0 … 3"):
        model(x, t, torch.tensor([0, 1, 4]))
    with pytest.raises(ValueError, match=r"t has shape \(1,\); expected \(3,\)"):
        model(x, t[:1], y)
    with pytest.raises(ValueError, match="images have 2 channels; in_channels is 1"):
        model(torch.zeros(3, 2, 8, 8), t, y)
    with pytest.raises(ValueError, match="patch_size=3 does not divide input_size=8"):
        tiny(patch_size=3)
    with pytest.raises(ValueError, match="num_heads=3 does not divide hidden_size=16"):
        tiny(num_heads=3)
    with pytest.raises(ValueError, match="hidden_size, must be a multiple of 4"):
        tiny(hidden_size=18, pos_embed="sincos_2d")
    for size in (8.0, (8,), (8, 8, 8), ("8", 8), None):
        with pytest.raises(TypeError, match=r"input_size=.* must be an integer or \(height, width"):
            tiny(input_size=size)


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_a_stack_of_convolutions_gives_the_same_grid(patch):
    embed = ConvPatchEmbed(3, patch, 16)
    images = torch.randn(2, 3, 16, 24)
    assert embed(images).shape == (2, 16 * 24 // patch**2, 16)
    widths = [m.out_channels for m in embed.layers if isinstance(m, torch.nn.Conv2d)]
    assert widths[-2:] == [16, 16] and len(widths) == patch.bit_length()


@pytest.mark.parametrize("patch", [1, 3, 7])
def test_a_stack_of_convolutions_needs_a_power_of_two(patch):
    with pytest.raises(ValueError, match=f"patch={patch} must be a power of two.*'linear'"):
        ConvPatchEmbed(3, patch, 16)


@pytest.mark.parametrize("name", ["DiT", "UViT"])
def test_checkpointing_changes_no_bit(name, tiny_dit, awaken):
    model = awaken(tiny_dit() if name == "DiT" else tiny())
    other = copy.deepcopy(model)
    other.checkpointing = True
    kept = {False: 0, True: 0}
    for net in (model, other):

        def count_saved(tensor, net=net):
            kept[net.checkpointing] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count_saved, lambda tensor: tensor):
            out = net(*inputs())
        out.square().mean().backward()
        net.out = out.detach()
    assert torch.equal(model.out, other.out)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)
    assert kept[True] < kept[False] / 2, "it saves memory"


# --- counts ---------------------------------------------------------------------------------------

PAPER = {  # parameters, billions of multiply-accumulates
    "S/2": (44_255_328, 12.20),
    "S-Deep/2": (57_912_484, 15.98),
    "M/4": (130_940_292, 35.24),
    "L/2": (286_763_172, 76.46),
    "H/2": (500_832_016, 133.20),
}


@pytest.mark.parametrize("name", UVIT_SIZES)
def test_sizes_are_the_official_ones(name):
    with torch.device("meta"):
        counts = count(UViT(**UVIT_SIZES[name]))
    assert counts.parameters == PAPER[name][0]
    assert round(counts.macs / 1e9, 2) == PAPER[name][1]


@pytest.mark.parametrize("skip", ["concat", "add_linear", "linear_add"])
@pytest.mark.parametrize("config", [UVIT_SIZES["S/2"], {"hidden_size": 128, "depth": 6}])
def test_a_fair_opponent_has_as_many_parameters(config, skip):
    config = config | {"skip": skip}
    matched = without_skips(config)
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in UViT(**c).parameters()) for c in (config, matched)]
    assert matched["skip"] == "none"
    assert sizes[1] == pytest.approx(sizes[0], rel=1e-3)


def test_the_paper_without_skips():
    """The number that the paper's row without skips has, which is no fair opponent."""
    with torch.device("meta"):
        model = UViT(**UVIT_SIZES["S/2"] | {"skip": "none"})
    assert sum(p.numel() for p in model.parameters()) == 41_106_528  # 41.11 M
