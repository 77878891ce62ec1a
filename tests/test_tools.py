"""Into other people's tools: compiled, exported, mapped, quantised, wrapped and pickled."""

import pickle
import warnings

import pytest
import torch
from packaging.version import Version

from minidit import (
    EMA,
    Classifier,
    Diffusion,
    KLAutoencoder,
    LayoutEncoder,
    Recipe,
    TextEncoder,
    UViT,
    VQAutoencoder,
    attention_maps,
    bits_per_dim,
    count,
    ddim,
    dpm_solver,
    export_official,
    fit,
    guided,
    linear,
    load,
    sample,
    save,
    straight,
    vp_sde,
)
from minidit.embed import ENCODERS
from minidit.training.generate import generate
from minidit.training.matmul import fast_matmul

TEXT = {"encoder": "text", "words": ["red", "circle"], "length": 2}
LAYOUT = {"encoder": "layout", "kinds": ["circle"], "colours": ["red", "blue"], "length": 2}
BOX = [1, 1, 0.1, 0.1, 0.5, 0.5]


@pytest.fixture
def network(tiny_dit, awaken):
    """Networks of all kinds by name, and y for three images."""

    def build(kind: str) -> tuple[torch.nn.Module, torch.Tensor]:
        y = torch.tensor([0, 1, 3])
        if kind == "U-ViT":
            own = ("block", "learn_sigma", "time_embed")
            parts = {k: v for k, v in tiny_dit().config.items() if k not in own}
            return awaken(UViT(**parts | {"depth": 3})), y
        if kind == "text":
            model = tiny_dit(num_classes=0, condition=TEXT, block="cross_attention")
            return awaken(model), torch.tensor([[1, 2], [2, 0], [0, 0]])
        if kind == "layout":
            y = torch.tensor([[BOX, BOX], [BOX, [0] * 6], [[0] * 6] * 2])
            return awaken(tiny_dit(num_classes=0, condition=LAYOUT, block="in_context")), y
        more = {"block": "modern"} if kind == "modern" else {}
        return awaken(tiny_dit(learn_sigma=True, **more)), y

    return build


KINDS = ["DiT", "U-ViT", "text", "layout", "modern"]


def inputs(n=3):
    return torch.randn(n, 1, 8, 8), torch.tensor([3, 700, 999])[:n]


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_network_is_one_graph(kind, network):
    torch.compiler.reset()  # it counts how often a function is compiled, over all tests
    model, y = network(kind)
    x, t = inputs()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for n in (3, 2):  # another size of the batch, too
        given = x[:n], t[:n], y[:n]
        assert torch.allclose(compiled(*given), model(*given), atol=1e-5)


def test_a_compiled_network_is_saved_counted_exported_and_sampled(network, tmp_path):
    model, y = network("DiT")
    compiled = torch.compile(model, backend="eager")
    process = Diffusion(linear(), learn_sigma=True)
    save(compiled, tmp_path / "weights.safetensors", process)
    state = load(tmp_path / "weights.safetensors").model.state_dict()
    assert all(torch.equal(state[name], z) for name, z in model.state_dict().items())
    assert count(compiled) == count(model)
    assert export_official(compiled).keys() == export_official(model).keys()
    x, t = inputs()
    assert torch.equal(attention_maps(compiled, x, t, y), attention_maps(model, x, t, y))
    ours, theirs = (sample(generate(net, process, y[:2], steps=2)) for net in (compiled, model))
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()  # another GELU, see `quick_parts`


@pytest.mark.skipif(Version(torch.__version__) < Version("2.8"), reason="PyTorch 2.6 keeps a batch")
@pytest.mark.parametrize("kind", KINDS)
def test_export_with_a_batch_of_any_size(kind, network):
    model, y = network(kind)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(model, (*inputs(), y), dynamic_shapes=(batch, batch, batch))
    x, t = torch.randn(7, 1, 8, 8), torch.arange(7)
    many = y[torch.arange(7) % 3]
    assert torch.allclose(program.module()(x, t, many), model(x, t, many), atol=1e-5)


@pytest.mark.parametrize("new", [True, False], ids=["torch.export", "tracing"])
def test_onnx(new, network, tmp_path):
    pytest.importorskip("onnx")
    if new:
        pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    model, y = network("DiT")
    names, path = ["x", "t", "y"], tmp_path / "model.onnx"
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    how = {"dynamic_shapes": (batch,) * 3} if new else {"dynamic_axes": {n: [0] for n in names}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: checks of shapes are not part of the graph
        torch.onnx.export(
            model, (*inputs(), y), path, input_names=names, dynamo=new, opset_version=18, **how
        )
    x, t = torch.randn(5, 1, 8, 8), torch.arange(5)
    many = y[torch.arange(5) % 3]
    given = dict(zip(names, (z.numpy() for z in (x, t, many))))
    (out,) = reference.ReferenceEvaluator(str(path)).run(None, given)
    assert torch.allclose(torch.from_numpy(out), model(x, t, many), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_samples(kind, network):
    model, y = network(kind)
    x, t = inputs()

    def one(x, t, y):
        return model(x[None], t[None], y[None])[0]

    with torch.no_grad():
        assert torch.allclose(torch.func.vmap(one)(x, t, y), model(x, t, y), atol=1e-5)
        with fast_matmul(model):
            assert torch.allclose(torch.func.vmap(one)(x, t, y), model(x, t, y), atol=1e-5)


def test_a_gradient_for_each_sample(network):
    """What differential privacy and influence functions ask for: vmap over grad of the loss."""
    model, y = network("DiT")
    process, noise = Diffusion(linear(), learn_sigma=True), torch.randn(3, 1, 8, 8)
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights, x, t, noise, y):
        def called(*given):
            return torch.func.functional_call(model, weights, given)

        return process.loss(called, x[None], t[None], noise[None], y[None]).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0, 0))
    x, t = inputs()
    found = each(weights, x, t, noise, y)["final.proj.weight"]  # (3, …)
    process.loss(model, x, t, noise, y).sum().backward()
    assert torch.allclose(found.sum(dim=0), model.final.proj.weight.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [*KINDS, "classifier"])
def test_dynamic_int8(kind, network, awaken):
    """Linear layers in int8 answer nearly the same; their weights are then no parameters."""
    dynamic = pytest.importorskip("torch.ao.quantization").quantize_dynamic
    if kind == "classifier":
        model, given = awaken(Classifier(width=4)), [torch.randn(3, 1, 28, 28)]
    else:
        model, y = network(kind)
        given = [*inputs(), y]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it moves to another package
        small = dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        exact, found = model(*given), small(*given)
    assert 0 < (found - exact).norm() / exact.norm() < 0.1
    if kind == "DiT":
        process = Diffusion(linear(), learn_sigma=True)
        assert sample(generate(small, process, given[2][:2], steps=2)).isfinite().all()


def test_data_parallel(network):
    model, y = network("DiT")
    wrapped, process = torch.nn.DataParallel(model), Diffusion(linear(), learn_sigma=True)
    x, t = inputs()
    assert torch.equal(wrapped(x, t, y), model(x, t, y))
    for run in (
        lambda net: sample(ddim(guided(net, 2.0), process, x, y, steps=3)),
        lambda net: bits_per_dim(net, process.respace([0, 500]), x, y, noise=[x, x]).total,
        lambda net: attention_maps(net, x, t, y),
        lambda net: sample(generate(net, process, y, steps=2)),
    ):
        assert torch.equal(run(wrapped), run(model))
    recipe = Recipe(2, 2, warmup=0)
    average = fit(wrapped, process, x, y % 3, recipe=recipe)
    assert type(average) is type(model) and EMA(wrapped).model.module is not model


def build(kind):
    return kind(in_channels=1, width=4, multipliers=(1, 2))


OBJECTS = {
    **{f"schedule {make.__name__}": make for make in (linear, straight, vp_sde)},
    "process": lambda: Diffusion(vp_sde(), "v").respace([0, 500, 999]),
    "recipe": lambda: Recipe(5),
    "KL": lambda: build(KLAutoencoder),
    "VQ": lambda: build(VQAutoencoder),
    "Gaussian": lambda: build(KLAutoencoder).encode(torch.zeros(1, 1, 8, 8)),
    "classifier": lambda: Classifier(width=4),
    "text": lambda: TextEncoder(8, ["red"], 2),
    "layout": lambda: LayoutEncoder(8, ["circle"], ["red"], 2),
    "encoders": lambda: dict(ENCODERS),
}


def tensors_of(it):
    """All tensors inside, in order: of modules and of what only holds them."""
    if isinstance(it, torch.Tensor):
        return [it]
    if isinstance(it, torch.nn.Module):
        return list(it.state_dict().values())
    parts = it if isinstance(it, tuple | list) else getattr(it, "__dict__", {}).values()
    return [z for part in parts for z in tensors_of(part)]


@pytest.mark.parametrize("name", OBJECTS)
def test_pickled(name):
    it = OBJECTS[name]()
    copy = pickle.loads(pickle.dumps(it))
    assert type(copy) is type(it)
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(copy), tensors_of(it), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_what_samples_is_pickled(kind, network):
    """A network, its average, guidance around it, and a state of a sampler."""
    model, y = network(kind)
    predict = Diffusion(linear(), learn_sigma=kind in ("DiT", "modern"))
    x, _ = inputs()
    first = next(dpm_solver(model, predict, x, y, steps=3))
    for it in (model, EMA(model), guided(model, 2.0, interval=(0, 500)), first):
        copy = pickle.loads(pickle.dumps(it))
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(copy), tensors_of(it)))
    again = sample(ddim(pickle.loads(pickle.dumps(guided(model, 2.0))), predict, x, y, steps=2))
    assert torch.equal(again, sample(ddim(guided(model, 2.0), predict, x, y, steps=2)))
