"""The whole transformer: shapes, the start from zero, and what may not depend on what."""

import pytest
import torch
from torch import nn

from minidit import BLOCKS, DIT_SIZES, DiT, sincos_2d

# Those of the lab have tests of their own.
OWN = [block for block in BLOCKS if not block.startswith("modern")]
EVERY_BLOCK = pytest.mark.parametrize("block", OWN)


def inputs(b=3, c=1, size=(8, 8), classes=3):
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(b, c, *size, generator=rng)
    return x, torch.linspace(0, 999, b), torch.arange(b) % classes


@EVERY_BLOCK
@pytest.mark.parametrize("learn_sigma", [False, True])
def test_shapes_and_a_first_output_of_exactly_zero(block, learn_sigma, tiny_dit):
    x, t, y = inputs(c=2)
    model = tiny_dit(block=block, in_channels=2, learn_sigma=learn_sigma)
    expected = torch.zeros(3, 4 if learn_sigma else 2, 8, 8)
    assert torch.equal(model(x, t, y), expected)


def test_non_square_images(tiny_dit, awaken):
    model = awaken(tiny_dit(input_size=(8, 12)))
    x, t, y = inputs(size=(8, 12))
    assert model(x, t, y).shape == (3, 1, 8, 12)
    assert torch.equal(model.pos_embed, sincos_2d(16, (2, 3)).float())


# Initialising "all Linear layers" after the zeros were made undoes them, and training still works,
# only worse. So the built network is looked at, not the parts it is made of.


def is_identity(model):
    """Whether every block of the network hands its tokens on as they are."""
    changed = []
    for block in model.blocks:
        block.register_forward_hook(
            lambda _, args, out: changed.append(not torch.equal(args[0], out))
        )
    model(*inputs())
    assert len(changed) == len(model.blocks)
    return not any(changed)


@pytest.mark.parametrize("seed", range(3))
def test_every_block_of_a_built_adaln_zero_network_is_the_identity(seed, tiny_dit):
    torch.manual_seed(seed)
    assert is_identity(tiny_dit(depth=4))


def test_the_identity_check_sees_a_late_initialisation(tiny_dit):
    model = tiny_dit()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    assert not is_identity(model)


@EVERY_BLOCK
@pytest.mark.parametrize("seed", range(3))
def test_the_zeros_are_where_the_paper_has_them_and_nowhere_else(block, seed, tiny_dit):
    torch.manual_seed(seed)
    names = dict(tiny_dit(block=block).named_parameters())
    zero = {name for name, p in names.items() if not p.any()}
    biases = {name for name in names if name.endswith(".bias")}
    adaptive = {name for name in names if "adaln" in name}
    assert zero == biases | adaptive | {"final.proj.weight"}
    assert bool(adaptive) == (block in ("adaln", "adaln_zero"))


def test_every_part_starts_at_its_own_scale():
    model = DiT(8, 2, 4, hidden_size=256, depth=1, num_heads=4, num_classes=500, label_std=0.5)
    xavier = (2 / (256 + 256)) ** 0.5
    expected = {
        "time_embed.mlp.0.weight": 0.02,
        "time_embed.mlp.2.weight": 0.02,
        "label_embed.table.weight": 0.5,
        "blocks.0.attn.proj.weight": xavier,
        "blocks.0.mlp.up.weight": (2 / (256 + 1024)) ** 0.5,
        "patch_embed.proj.weight": (2 / (16 + 256)) ** 0.5,
    }
    parameters = dict(model.named_parameters())
    for name, std in expected.items():
        assert parameters[name].std().item() == pytest.approx(std, rel=0.03), name


def test_positions_are_frozen_but_stored(tiny_dit):
    model = tiny_dit()
    assert not model.pos_embed.requires_grad and "pos_embed" in model.state_dict()
    assert torch.equal(model.pos_embed, sincos_2d(16, 2).float())


@EVERY_BLOCK
def test_an_images_answer_does_not_depend_on_the_others_of_its_batch(block, tiny_dit, awaken):
    model = awaken(tiny_dit(block=block))
    x, t, y = inputs(b=5)
    together = model(x, t, y)
    for i in range(5):
        alone = model(x[i : i + 1], t[i : i + 1], y[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[0], together[3])


@EVERY_BLOCK
def test_every_input_is_heard(block, tiny_dit, awaken):
    model = awaken(tiny_dit(block=block))
    x, t, y = inputs()
    answer = model(x, t, y)
    for other in (model(x + 0.1, t, y), model(x, 999 - t + 5, y), model(x, t, (y + 1) % 3)):
        assert (answer - other).abs().flatten(1).amax(dim=1).min() > 1e-4


@EVERY_BLOCK
def test_patches_know_their_places(block, tiny_dit, awaken):
    """Swapping two halves of an image is not the same as swapping two halves of the answer."""
    model = awaken(tiny_dit(block=block))
    x, t, y = inputs()
    swapped = model(x.roll(4, dims=3), t, y).roll(4, dims=3)
    assert not torch.allclose(swapped, model(x, t, y), atol=1e-3)
    with torch.no_grad():
        model.pos_embed.zero_()
    swapped = model(x.roll(4, dims=3), t, y).roll(4, dims=3)
    torch.testing.assert_close(swapped, model(x, t, y), atol=1e-5, rtol=1e-4)


def test_a_forward_pass_draws_no_random_numbers(tiny_dit, awaken):
    model = awaken(tiny_dit(class_dropout_prob=0.9)).train()
    assert torch.equal(model(*inputs()), model(*inputs()))


@EVERY_BLOCK
def test_every_weight_gets_a_gradient(block, tiny_dit, awaken):
    model = awaken(tiny_dit(block=block))
    model(*inputs()).square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    assert silent == []


@EVERY_BLOCK
def test_gradient_of_the_whole_network(block, tiny_dit, awaken):
    model = awaken(tiny_dit(block=block, input_size=4, patch_size=2, hidden_size=4)).double()
    x, t, y = inputs(b=2, size=(4, 4))
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x, t, y), x)


def test_null_label(tiny_dit):
    assert tiny_dit(num_classes=3).null_label == 3
    assert tiny_dit(class_dropout_prob=0.0).null_label is None
    assert tiny_dit(num_classes=0).null_label is None


def test_a_network_without_labels(tiny_dit, awaken):
    model = awaken(tiny_dit(num_classes=0))
    x, t, _ = inputs()
    assert model(x, t).shape == x.shape


@EVERY_BLOCK
def test_a_network_is_built_again_from_its_config(block, tiny_dit):
    model = tiny_dit(block=block, input_size=(8, 12), learn_sigma=True)
    again = DiT(**model.config)
    assert again.config == model.config
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (model, again)]
    assert shapes[0] == shapes[1]


def test_sizes_are_the_papers():
    assert len(DIT_SIZES) == 12
    large = DIT_SIZES["L/4"]
    assert (large["depth"], large["hidden_size"], large["num_heads"]) == (24, 1024, 16)
    assert {size["hidden_size"] % size["num_heads"] for size in DIT_SIZES.values()} == {0}
    with torch.device("meta"):
        small = DiT(**DIT_SIZES["S/8"] | {"num_classes": 10})
    assert small.patch_size == 8 and small.null_label == 10


def test_it_is_made_in_the_default_dtype(tiny_dit):
    torch.set_default_dtype(torch.float64)
    try:
        model = tiny_dit()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
