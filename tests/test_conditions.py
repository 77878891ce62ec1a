"""Text and layout as conditions: what is read, what padding changes (nothing), what is seen."""

import pytest
import torch

from minidit import (
    BLOCKS,
    Diffusion,
    DiT,
    LayoutEncoder,
    Recipe,
    TextEncoder,
    Tokenizer,
    UViT,
    data,
    ddim,
    fit,
    guided,
    sample,
    straight,
)
from minidit.evaluate.flops import count
from minidit.train import Run
from minidit.weights import load, save

WORDS = ["a", "red", "blue", "three", "seven", "left", "of"]
TEXT = dict(encoder="text", words=WORDS, length=6, depth=1, num_heads=2)
LAYOUT = dict(
    encoder="layout", kinds=["three", "seven"], colours=["red", "blue"], length=4, depth=1
)
LAYOUT |= dict(num_heads=2)
BOXES = torch.tensor(
    [
        [[1, 1, 0.1, 0.2, 0.5, 0.6], [2, 1, 0.6, 0.0, 1.0, 0.4]],
        [[2, 1, 0.3, 0.2, 0.5, 0.9], [0, 0, 0.0, 0.0, 0.0, 0.0]],
    ]
)
IDS = torch.tensor([[1, 2, 4, 0], [3, 0, 0, 0]])
CONDITIONS = {"text": (TEXT, IDS), "layout": (LAYOUT, BOXES)}
EVERY_ENCODER = pytest.mark.parametrize("kind", CONDITIONS)
EVERY_BLOCK = pytest.mark.parametrize("block", BLOCKS)


def network(kind, **changes):
    arguments = dict(input_size=8, patch_size=4, in_channels=1, hidden_size=16, depth=2)
    arguments |= dict(num_heads=2, num_classes=0, learn_sigma=False, label_std=1.0)
    return DiT(**arguments | {"condition": CONDITIONS[kind][0]} | changes)


def uvit(kind, **changes):
    arguments = dict(input_size=8, patch_size=4, in_channels=1, hidden_size=16, depth=2)
    return UViT(**arguments | dict(num_heads=2, condition=CONDITIONS[kind][0]) | changes)


def encoder(kind):
    return network(kind).label_embed


def inputs(b=2):
    rng = torch.Generator().manual_seed(3)
    return torch.randn(b, 1, 8, 8, generator=rng), torch.linspace(10, 900, b)


def padded(y, by=1):
    """More padding at the end."""
    return torch.cat([y, torch.zeros_like(y[:, :1]).repeat_interleave(by, dim=1)], dim=1)


# --- words ----------------------------------------------------------------------------------------


def test_words_become_numbers():
    tokenizer = Tokenizer(WORDS, 6)
    ids = tokenizer.encode(["A red three, left", "", "of of"])
    assert ids.tolist() == [[1, 2, 4, 6, 0, 0], [0] * 6, [7, 7, 0, 0, 0, 0]]
    assert ids.dtype == torch.int64
    assert torch.equal(tokenizer.encode("of of"), ids[2:])


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (
            lambda: Tokenizer(WORDS, 6).encode(["a", "a cat"]),
            ["'a cat': the word 'cat' is unknown", "known are: a blue"],
        ),
        (
            lambda: Tokenizer(WORDS, 3).encode("a red three left"),
            ["'a red three left' has 4 words", "at most 3"],
        ),
        (lambda: Tokenizer([], 3), ["words=[]", "at least one"]),
        (lambda: Tokenizer(["a", "a"], 3), ["different words"]),
        (lambda: Tokenizer(["a", "red one"], 3), ["'red one'", "single"]),
        (lambda: Tokenizer(["a"], 0), ["length=0 must be at least 1"]),
        (lambda: TextEncoder(8, ["a"], dropout=1.0), ["dropout=1.0", "[0, 1)"]),
        (lambda: TextEncoder(8, ["a"], depth=-1), ["depth=-1", "0 for none"]),
        (lambda: network("text", num_classes=3), ["num_classes=3", "'text'", "set num_classes=0"]),
        (lambda: network("text", condition={"encoder": "song"}), ["'song'", "'text', 'layout'"]),
        (lambda: uvit("text", time="adaln"), ["time='adaln'", "time='token'"]),
        (lambda: encoder("text")(IDS + 5), ["y contains 9", "0 … 7"]),
        (lambda: encoder("text")(padded(IDS, 3)), ["y has shape (2, 7)", "(b, m)", "at most 6"]),
        (lambda: encoder("text")(BOXES.long()), ["y has shape (2, 2, 6)"]),
        (lambda: network("text")(*inputs(), IDS[:1]), ["y has shape (1, 4)", "(2, m)"]),
        (lambda: network("text")(*inputs()), ["y=None"]),
        (lambda: encoder("layout")(BOXES[..., :5]), ["y has shape (2, 2, 5)", "(b, m, 6)"]),
        (lambda: encoder("layout")(BOXES + 1), ["y contains 3", "0 … 2"]),
        (
            lambda: encoder("layout")(BOXES[..., [0, 1, 4, 3, 2, 5]]),
            ["y contains the box [0.5, 0.2, 0.1, 0.6]", "x0 < x1"],
        ),
        (
            lambda: encoder("layout")(BOXES * torch.tensor([1, 1, 1, 1, 1.7, 1])),
            ["y contains the box [0.6, 0.0, 1.7, 0.4]", "within 0 … 1"],
        ),
        (
            lambda: fit_on(network("text"), IDS[:1]),
            ["labels have shape (1, 4) for 2 images"],
        ),
        (lambda: fit_on(network("layout"), BOXES + 1), ["y contains 3"]),
    ],
)
def test_errors_name_what_is_wrong(call, parts):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("kind", "y"), [("text", BOXES), ("layout", IDS), ("text", "a red"), ("layout", BOXES.long())]
)
def test_what_is_of_another_type_is_refused(kind, y):
    with pytest.raises(TypeError, match="y "):
        encoder(kind)(y)


def fit_on(model, y, **recipe):
    recipe = Recipe(**dict(steps=3, batch_size=2) | recipe)
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return fit(model, Diffusion(straight(), "x0"), images, y, recipe=recipe)


# --- tokens ---------------------------------------------------------------------------------------


@EVERY_ENCODER
def test_tokens_and_their_mask(kind, awaken):
    net, y = awaken(encoder(kind)), CONDITIONS[kind][1]
    tokens, mask = net(y), net.mask(y)
    assert tokens.shape == (2, 1 + y.shape[1], 16) and mask.shape == tokens.shape[:2]
    assert mask.sum(dim=1).tolist() == {"text": [4, 2], "layout": [3, 2]}[kind]
    assert (tokens[~mask] == 0).all() and (tokens[mask] != 0).any(dim=1).all()


@EVERY_ENCODER
def test_padding_changes_no_token(kind, awaken):
    net, y = awaken(encoder(kind)), CONDITIONS[kind][1]
    m = 1 + y.shape[1]
    torch.testing.assert_close(net(padded(y))[:, :m], net(y), atol=1e-6, rtol=1e-5)
    alone = net(y[1:, :1])  # the second is one word or box long
    torch.testing.assert_close(net(y)[1:, :2], alone, atol=1e-6, rtol=1e-5)


@EVERY_ENCODER
def test_the_null_condition_has_one_token(kind, awaken):
    net = awaken(encoder(kind))
    empty = net.empty(3)
    assert empty.shape[:2] == (3, net.length) and net.mask(empty).sum() == 3
    tokens = net(empty)
    assert tokens.isfinite().all() and (tokens[:, 0] != 0).any() and (tokens[:, 1:] == 0).all()
    assert not torch.allclose(tokens[:2, 0], net(CONDITIONS[kind][1])[:, 0])


def test_the_order_of_words_counts_and_that_of_boxes_does_not(awaken):
    words, boxes = awaken(encoder("text")), awaken(encoder("layout"))
    turned = words(IDS[:1, [1, 0, 2]])
    assert not torch.allclose(turned[:, [0, 2, 1, 3]], words(IDS[:1, :3]), atol=1e-3)
    turned = boxes(BOXES[:, [1, 0]])
    torch.testing.assert_close(turned[:, [0, 2, 1]], boxes(BOXES), atol=1e-6, rtol=1e-5)


def test_every_number_of_a_box_is_heard(awaken):
    boxes = awaken(encoder("layout"))
    plain = boxes(BOXES[:1])
    for column in range(6):
        other = BOXES[:1].clone()
        other[0, 0, column] += {0: 1, 1: 1}.get(column, 0.04)
        assert (boxes(other)[:, 1] - plain[:, 1]).abs().max() > 1e-3, column


def test_dropping_replaces_whole_conditions():
    for kind, (_, y) in CONDITIONS.items():
        net = encoder(kind)
        many = y.repeat(1000, *[1] * (y.ndim - 1))
        dropped = net.drop(many, torch.Generator().manual_seed(0))
        gone = (dropped == 0).flatten(1).all(dim=1)
        assert 0.07 < gone.double().mean() < 0.13
        assert torch.equal(dropped[~gone], many[~gone])
    never = network("text", class_dropout_prob=0.0)
    assert never.null_label is None and never.label_embed.drop(IDS) is IDS
    with pytest.raises(ValueError, match="no null label"):
        guided(never, 2.0)


# --- networks -------------------------------------------------------------------------------------


@EVERY_ENCODER
@EVERY_BLOCK
def test_padding_changes_no_image(kind, block, awaken):
    model, y = awaken(network(kind, block=block)), CONDITIONS[kind][1]
    x, t = inputs()
    answer = model(x, t, y)
    torch.testing.assert_close(model(x, t, padded(y, 2)), answer, atol=1e-5, rtol=1e-4)
    alone = model(x[1:], t[1:], y[1:, :1])
    torch.testing.assert_close(answer[1:], alone, atol=1e-5, rtol=1e-4)


@EVERY_ENCODER
@EVERY_BLOCK
def test_the_condition_is_heard_and_nothing_asked_is_no_nan(kind, block, awaken):
    model, y = awaken(network(kind, block=block)), CONDITIONS[kind][1]
    x, t = inputs()
    answers = [model(x, t, z) for z in (y, y.flip(0), torch.zeros_like(y))]
    for i, answer in enumerate(answers):
        assert answer.isfinite().all()
        for other in answers[:i]:
            assert (answer - other).abs().flatten(1).amax(dim=1).min() > 1e-4


@EVERY_ENCODER
@pytest.mark.parametrize("pos_embed", ["learned_1d", "sincos_2d", "none"])
def test_uvit_takes_them_as_tokens(kind, pos_embed, awaken):
    model, y = awaken(uvit(kind, pos_embed=pos_embed)), CONDITIONS[kind][1]
    x, t = inputs()
    assert model.extras == 2 + model.label_embed.length
    answer = model(x, t, y)
    assert answer.shape == x.shape and not torch.allclose(answer, model(x, t, y.flip(0)))
    torch.testing.assert_close(model(x, t, padded(y, 2)), answer, atol=1e-5, rtol=1e-4)


@EVERY_ENCODER
def test_guidance_leads_away_from_the_null_condition(kind, awaken):
    model, y = awaken(network(kind)), CONDITIONS[kind][1]
    x, t = inputs()
    assert model.null_label == 0
    cond, uncond = model(x, t, y), model(x, t, model.label_embed.empty(2))
    torch.testing.assert_close(guided(model, 3.0)(x, t, y), uncond + 3 * (cond - uncond))
    images = sample(ddim(guided(model, 2.0), Diffusion(straight(), "x0"), x, y, steps=3))
    assert images.isfinite().all()


@EVERY_ENCODER
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_teaches_what_is_asked(kind, optimizer):
    """A white and a black image, told apart by their conditions."""
    model, y = network(kind, class_dropout_prob=0.0), CONDITIONS[kind][1]
    images = torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, 1, 8, 8)
    recipe = Recipe(steps=80, batch_size=8, lr=5e-3, optimizer=optimizer, ema_decay=0.5)
    with torch.random.fork_rng():
        model = fit(model, Diffusion(straight(), "x0"), images, y, recipe=recipe)
    x, _ = inputs()
    painted = model(x, torch.full((2,), 999.0), y).mean(dim=(1, 2, 3))
    assert painted.tolist() == pytest.approx([1, -1], abs=0.25)


@EVERY_ENCODER
def test_every_weight_gets_a_gradient(kind, awaken):
    model, y = awaken(network(kind, block="cross_attention")), CONDITIONS[kind][1]
    model(*inputs(), y).square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    assert silent == []


@EVERY_ENCODER
def test_muon_takes_the_encoders_matrices_too(kind):
    run = Run(
        network(kind),
        Diffusion(straight(), "x0"),
        torch.zeros(2, 1, 8, 8),
        CONDITIONS[kind][1],
        Recipe(steps=1, optimizer="muon"),
    )
    shapes = sum(len(group["params"]) for group in run.optimizers[0].param_groups)
    assert shapes == 2 * 5 + 4  # of two adaLN-Zero blocks, and of one in the encoder


@EVERY_ENCODER
@pytest.mark.parametrize("build", [network, uvit])
def test_weights_files_hold_the_whole_vocabulary(kind, build, awaken, tmp_path):
    model, y = awaken(build(kind)), CONDITIONS[kind][1]
    save(model, tmp_path / "w.safetensors", Diffusion(straight(), "x0"))
    again = load(tmp_path / "w.safetensors").model
    x, t = inputs()
    assert again.config == model.config
    assert torch.equal(again(x, t, y), model(x, t, y))
    if kind == "text":
        assert again.label_embed.tokenizer.encode("a red three")[0, :3].tolist() == [1, 2, 4]


@EVERY_ENCODER
def test_they_can_be_counted_and_trained_with_checkpointing(kind, awaken):
    model, y = awaken(network(kind, block="cross_attention")), CONDITIONS[kind][1]
    assert count(model).macs > count(network(kind, condition=None)).macs
    x, t = inputs()
    gradients = []
    for model.checkpointing in (False, True):
        model.zero_grad()
        model(x, t, y).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_an_encoder_may_have_no_blocks(awaken):
    for cls, names, y in [
        (TextEncoder, (WORDS,), IDS),
        (LayoutEncoder, (["three", "seven"], ["red"]), BOXES),
    ]:
        assert awaken(cls(16, *names, depth=0))(y).shape == (2, 1 + y.shape[1], 16)


@pytest.mark.parametrize("kind, colour", [(1, 0), (0, 1), (1.5, 1), (-0.5, 0)])
def test_halves_of_a_box_are_refused(kind, colour):
    y = BOXES[:1].clone()
    y[0, 0, :2] = torch.tensor([kind, colour])
    with pytest.raises(ValueError, match="kind and colour"):
        encoder("layout")(y)


def test_a_missing_condition_is_answered_with_an_empty_one():
    net = network("layout")
    x, t = torch.zeros(2, net.in_channels, *net.size), torch.tensor([1, 2])
    with pytest.raises(ValueError, match=r"label_embed.empty\(b\)"):
        net(x, t)
    assert net(x, t, net.label_embed.empty(2)).shape == x.shape


def test_an_encoder_says_what_it_reads_of_a_data_set():
    class Firsts(LayoutEncoder):
        reads = "classes"

        def encode(self, told):
            return torch.tensor([ord(name[0]) for name in told])

    images = torch.zeros(2, 1, 8, 8)
    dataset = data.Dataset(images, torch.tensor([1, 0]), ("a", "b"), "mine", "train")
    assert data.condition_of(dataset, Firsts(8, ["one"], ["red"])).tolist() == [97, 98]
    assert data.condition_of(dataset, None) is dataset.labels
    with pytest.raises(ValueError, match="mine has no objects"):
        data.condition_of(dataset, encoder("layout"))
