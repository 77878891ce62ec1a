"""Faster float32 products and GELU: on only where they are exact, and gone again afterwards."""

import pickle

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from minidit import Diffusion, Recipe, fit
from minidit.schedule import straight
from minidit.training import matmul
from minidit.training.quick import attend, gelu

SDPA = "scaled_dot_product_attention"
SETTINGS = getattr(torch.backends.mkldnn, "matmul", None)
is_faster = matmul.onednn_is_faster.__wrapped__  # not what was found before


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """All of this as on a processor where oneDNN is faster, whatever this one is."""
    monkeypatch.setattr(matmul, "onednn_is_faster", lambda: True)


needs_settings = pytest.mark.skipif(SETTINGS is None, reason="PyTorch before 2.9")


def relative_error(a, b):
    exact = a.double() @ b.double()
    return ((a @ b) - exact).norm() / exact.norm()


@needs_settings
def test_products_stay_float32_and_the_setting_is_put_back(tiny_dit):
    before = SETTINGS.fp32_precision
    a, b = torch.randn(2, 300, 300)
    with matmul.fast_matmul(tiny_dit()):
        precision = SETTINGS.fp32_precision
        assert relative_error(a, b) < 2e-6
    assert SETTINGS.fp32_precision == before
    assert (precision == "bf16") == matmul.onednn_is_exact()


@needs_settings
def test_a_processor_where_it_is_no_faster_is_left_alone(tiny_dit, monkeypatch):
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda: True)
    monkeypatch.setattr(matmul, "onednn_is_faster", lambda: False)
    before = SETTINGS.fp32_precision
    with matmul.fast_matmul(tiny_dit()):
        assert SETTINGS.fp32_precision == before != "bf16"


@needs_settings
@pytest.mark.parametrize(
    "vectors, mkl, pays", [("AVX512", 1.5, True), ("AVX512", 1.2, False), ("AVX2", 1.5, False)]
)
def test_onednn_must_be_much_faster(monkeypatch, vectors, mkl, pays):
    now = [0.0]

    def clock():
        now[0] += 1.0 if SETTINGS.fp32_precision == "bf16" else mkl
        return now[0]

    monkeypatch.setattr(matmul.time, "thread_time", clock)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    threads = torch.get_num_threads()
    assert is_faster() == pays
    assert torch.get_num_threads() == threads


@needs_settings
def test_the_setting_is_put_back_after_an_error(tiny_dit):
    before = SETTINGS.fp32_precision
    with pytest.raises(KeyError), matmul.fast_matmul(tiny_dit()):
        raise KeyError("stop")
    assert SETTINGS.fp32_precision == before


@needs_settings
def test_a_processor_that_rounds_is_left_alone(tiny_dit, monkeypatch):
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda: False)
    before = SETTINGS.fp32_precision
    with matmul.fast_matmul(tiny_dit()):
        assert SETTINGS.fp32_precision == before


def test_the_check_tells_rounded_factors_from_float32(monkeypatch):
    """What is expected of a product: the real one passes, one with rounded factors does not."""
    a, b = torch.randn(2, 256, 256)
    exact = a.double() @ b.double()
    rounded = a.bfloat16().double() @ b.bfloat16().double()
    assert relative_error(a, b) < matmul.ROUNDING / 10
    assert (rounded - exact).norm() / exact.norm() > matmul.ROUNDING * 10


@needs_settings
@pytest.mark.parametrize("what", ["many patches", "no network of patches", "inside already"])
def test_what_is_left_as_it_is(tiny_dit, what, monkeypatch):
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda: True)
    model = tiny_dit()
    if what == "many patches":
        model = tiny_dit(input_size=68)  # 17² tokens
    if what == "no network of patches":
        model = torch.nn.Linear(2, 2)
    if what == "inside already":
        with matmul.fast_matmul(model), matmul.fast_matmul(model):
            assert SETTINGS.fp32_precision == "bf16"
        assert SETTINGS.fp32_precision != "bf16"
        return
    with matmul.fast_matmul(model):
        assert SETTINGS.fp32_precision != "bf16"


@needs_settings
def test_inside_attention_runs_in_whole_products(tiny_dit, awaken):
    model = awaken(tiny_dit())
    inputs = torch.randn(2, 1, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 1])
    with torch.no_grad():
        plain = model(*inputs)
        with matmul.fast_matmul(model):
            quick = model(*inputs)
        with sdpa_kernel(SDPBackend.MATH):
            whole = model(*inputs)
    assert torch.allclose(quick, plain, atol=1e-4, rtol=1e-4)
    assert torch.allclose(quick, whole, atol=1e-4, rtol=1e-4)


@needs_settings
def test_training_uses_them_and_leaves_no_trace(tiny_dit):
    seen = []

    class Watched(Diffusion):
        def loss(self, *arguments):
            seen.append(SETTINGS.fp32_precision)
            return super().loss(*arguments)

    before = SETTINGS.fp32_precision
    images, labels = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8), torch.arange(8) % 3
    fit(
        tiny_dit(),
        Watched(straight(), "x0"),
        images,
        labels,
        recipe=Recipe(steps=2, batch_size=4),
    )
    assert [precision == "bf16" for precision in seen] == [matmul.onednn_is_exact()] * 2
    assert SETTINGS.fp32_precision == before


def test_gelu_by_a_sigmoid_is_the_tanh_form_and_so_is_its_gradient():
    x = torch.cat([torch.linspace(-12, 12, 2001), torch.tensor([-1e4, -0.0, 1e4])])
    exact = x.double().requires_grad_()
    F.gelu(exact, approximate="tanh").sum().backward()
    mine = x.clone().requires_grad_()
    gelu(mine, "tanh").sum().backward()
    with torch.no_grad():
        alone = gelu(x, "tanh")
    assert torch.equal(x, mine) and torch.equal(alone, gelu(mine, "tanh"))
    assert torch.allclose(alone.double(), F.gelu(exact, approximate="tanh"), rtol=1e-6, atol=1e-6)
    assert torch.allclose(mine.grad.double(), exact.grad, rtol=1e-6, atol=2e-6)
    twice = [
        torch.autograd.grad(f(z, approximate="tanh").sum(), z, create_graph=True)[0].square().sum()
        for f, z in ((gelu, mine), (F.gelu, exact))
    ]  # as a penalty on gradients has it
    (again,), (wanted,) = (torch.autograd.grad(v, z) for v, z in zip(twice, (mine, exact)))
    assert torch.allclose(again.double(), wanted, rtol=1e-5, atol=1e-5)


def test_other_forms_and_precisions_are_pytorchs_own():
    x = torch.randn(100)
    assert torch.equal(gelu(x), F.gelu(x))
    for z in (x.double(), x.bfloat16()):
        assert torch.equal(gelu(z, "tanh"), F.gelu(z, approximate="tanh"))


@pytest.mark.parametrize("n, error", [(9, 0.01), (128, 0.01), (129, 0.0)])  # relative
@pytest.mark.parametrize("masked", [False, True])
def test_attention_to_bfloat16_is_as_float32s_and_so_is_its_gradient(n, error, masked):
    q, k, v = torch.randn(3, 2, 4, n, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    mask = torch.arange(n).expand(2, 1, 1, n) < 7 if masked else None
    exact, mine = [[z.clone().requires_grad_() for z in (q, k, v)] for _ in range(2)]
    whole = F.scaled_dot_product_attention(*[z.float() for z in exact], mask)
    whole.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):  # whose own attention would be to bfloat16 again
        out = attend(*mine, mask)
        out.sum().backward()
    assert out.dtype == torch.bfloat16
    pairs = [(out, whole.bfloat16()), *((x.grad, z.grad) for x, z in zip(mine, exact, strict=True))]
    for one, other in pairs:
        assert (one.float() - other.float()).norm() <= error * other.float().norm()
    other = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask)
    assert torch.equal(attend(q.float(), k.float(), v.float(), mask), other)


def test_a_callers_own_attention_stays(tiny_dit):
    model, mine = tiny_dit(), []
    model.blocks[0].attn.scaled_dot_product_attention = mine.append
    with matmul.fast_matmul(model):
        assert model.blocks[1].attn.scaled_dot_product_attention is attend
        assert model.blocks[0].attn.scaled_dot_product_attention == mine.append
    assert model.blocks[0].attn.scaled_dot_product_attention == mine.append


@pytest.mark.parametrize("block", ["adaln_zero", "modern"])
def test_parts_are_quick_inside_only(tiny_dit, block):
    model = tiny_dit(block=block)
    parts = [p for b in model.blocks for p in ((b.attn, SDPA), (b.mlp, "gelu")) if hasattr(*p)]
    usual, before = [getattr(*part) for part in parts], pickle.dumps(model.state_dict())
    with pytest.raises(KeyError), matmul.fast_matmul(model):
        assert {getattr(*part) for part in parts} <= {attend, gelu}
        assert pickle.dumps(model.state_dict()) == before
        raise KeyError("stop")
    assert [getattr(*part) for part in parts] == usual
    pickle.dumps(model)
