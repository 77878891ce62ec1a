"""Muon: what its orthogonalisation does to singular values, and what a step is."""

import pytest
import torch

from minidit.training.muon import Muon, orthogonalize


def matrices(k, rows, columns, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(k, rows, columns, generator=rng, dtype=torch.float64).to(dtype)


SHAPES = pytest.mark.parametrize("shape", [(3, 8, 24), (2, 32, 16), (1, 1, 5), (2, 24, 96)])


@SHAPES
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_all_singular_values_come_near_one(shape, scale):
    values = torch.linalg.svdvals(orthogonalize(matrices(*shape) * scale))
    assert 0.6 < values.min() and values.max() < 1.3


@SHAPES
def test_directions_stay(shape):
    """The result is U·f(S)·Vᵀ: in the basis of U and V it is diagonal, and positive."""
    x = matrices(*shape, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    turned = u.mT @ orthogonalize(x) @ vh.mT
    torch.testing.assert_close(turned, torch.diag_embed(turned.diagonal(dim1=1, dim2=2)))
    assert (turned.diagonal(dim1=1, dim2=2) > 0).all()


@SHAPES
def test_it_is_the_iteration_of_its_docstring(shape):
    x = matrices(*shape, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    s = s / s.square().sum(dim=1, keepdim=True).sqrt()  # the matrix over its norm
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalize(x), u @ torch.diag_embed(s) @ vh, rtol=1e-5, atol=1e-6)


def test_float32_is_enough_also_for_ill_conditioned_matrices():
    u, _, vh = torch.linalg.svd(matrices(1, 16, 16, dtype=torch.float64))
    x = u @ torch.diag_embed(torch.logspace(0, -4, 16, dtype=torch.float64)[None]) @ vh
    torch.testing.assert_close(
        orthogonalize(x.float()).double(), orthogonalize(x), rtol=0, atol=0.01
    )


def test_no_gradient_is_no_step():
    assert not orthogonalize(torch.zeros(2, 3, 4)).any()


@pytest.mark.parametrize("cached", [1, 100, 10**6], ids=["one by one", "in parts", "at once"])
def test_a_matrix_does_not_notice_its_neighbours(cached, monkeypatch):
    monkeypatch.setattr("minidit.training.muon.CACHED", cached)
    x = matrices(4, 6, 9)
    torch.testing.assert_close(orthogonalize(x)[2:3], orthogonalize(x[2:3]))


def test_two_steps_are_nesterov_momentum_made_orthogonal():
    start, grads = matrices(1, 12, 4)[0], matrices(2, 12, 4).unbind()
    weight = torch.nn.Parameter(start.clone())
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5)
    expected, memory = start.clone(), torch.zeros(12, 4)
    for grad in grads:
        weight.grad = grad.clone()
        optimizer.step()
        memory = 0.9 * memory + 0.1 * grad
        update = orthogonalize((0.1 * grad + 0.9 * memory)[None])[0]
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * (12 / 4) ** 0.5 * update
    torch.testing.assert_close(weight.data, expected, rtol=1e-5, atol=1e-6)


def test_wide_matrices_are_not_scaled_up():
    weight = torch.nn.Parameter(torch.zeros(4, 12))
    weight.grad = matrices(1, 4, 12)[0]
    Muon([weight], lr=1.0).step()
    assert 0.6 < torch.linalg.svdvals(weight.data).max() < 1.3


def test_a_weight_without_gradient_stays():
    moved, still = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    moved.grad = torch.eye(3)
    Muon([moved, still], lr=0.1).step()
    assert torch.equal(still.data, torch.ones(3, 3)) and not torch.equal(moved.data, still.data)
