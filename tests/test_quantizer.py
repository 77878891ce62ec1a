"""The codebook: nearest codes, the gradient that goes straight through, and codes that revive."""

import math

import pytest
import torch

from minidit import Quantizer


def book(codes=5, channels=3, **changes):
    quantizer = Quantizer(codes, channels, **changes)
    rng = torch.Generator().manual_seed(3)
    quantizer.table.data = torch.randn(codes, channels, generator=rng)
    return quantizer


def latents(b=2, channels=3, side=4):
    return torch.randn(b, channels, side, side, generator=torch.Generator().manual_seed(4))


def test_every_vector_becomes_the_nearest_code():
    quantizer, z = book(), latents()
    found = quantizer(z)
    assert found.indices.shape == (2, 4, 4) and found.indices.dtype == torch.int64
    for b, row, column in [(0, 0, 0), (1, 2, 3), (1, 3, 1)]:
        vector = z[b, :, row, column]
        distances = [(vector - code).norm().item() for code in quantizer.table]
        assert found.indices[b, row, column] == distances.index(min(distances))
    torch.testing.assert_close(found.codes, quantizer.lookup(found.indices))


def test_a_code_becomes_itself():
    quantizer = book()
    z = quantizer.lookup(torch.tensor([[[0, 3], [4, 1]]]))
    found = quantizer(z)
    assert torch.equal(found.codes, z) and found.loss == 0
    assert found.indices.tolist() == [[[0, 3], [4, 1]]]


def test_the_gradient_goes_straight_through():
    quantizer, z = book(), latents().requires_grad_()
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    (quantizer(z).codes * direction).sum().backward()
    assert torch.equal(z.grad, direction)
    assert quantizer.table.grad is None  # only the loss moves the codes


@pytest.mark.parametrize("convention, to_code, to_latent", [("fixed", 1, 0.2), ("legacy", 0.2, 1)])
def test_each_convention_weighs_one_of_the_terms(convention, to_code, to_latent):
    quantizer, z = book(beta=0.2, convention=convention), latents().requires_grad_()
    found = quantizer(z)
    found.loss.backward()
    difference = (z - quantizer.lookup(found.indices)).detach()
    torch.testing.assert_close(z.grad, to_latent * 2 * difference / z.numel())
    torch.testing.assert_close(found.loss, (to_code + to_latent) * difference.square().mean())
    mine = found.indices == 2
    gradient = -to_code * 2 * difference.permute(0, 2, 3, 1)[mine].sum(dim=0) / z.numel()
    torch.testing.assert_close(quantizer.table.grad[2], gradient)


def test_usage_counts_codes():
    usage = book().usage(torch.tensor([[0, 0], [3, 3]]))
    assert usage.share == pytest.approx(2 / 5) and usage.perplexity == pytest.approx(2)
    usage = book().usage(torch.tensor([1, 1, 1, 2]))
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert usage.perplexity == pytest.approx(math.exp(entropy))
    assert book().usage(torch.arange(5)).perplexity == pytest.approx(5)


def test_dead_codes_move_to_latents_and_the_others_stay():
    quantizer, z = book(), latents()
    quantizer.table.data[3:] += 100  # nearest to nothing
    before = quantizer.table.detach().clone()
    dead = torch.tensor([False, False, False, True, True])
    assert quantizer.usage(quantizer(z).indices).share <= 3 / 5
    assert quantizer.revive(dead, z, torch.Generator().manual_seed(0)) == 2
    assert torch.equal(quantizer.table[:3], before[:3])
    vectors = z.permute(0, 2, 3, 1).flatten(0, 2)
    for code in quantizer.table[3:]:
        assert (code == vectors).all(dim=1).any()
    again = book()
    again.revive(dead, z, torch.Generator().manual_seed(0))
    assert torch.equal(again.table[3:], quantizer.table[3:])
    assert {3, 4} <= set(quantizer(z).indices.unique().tolist())


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: Quantizer(0, 3), ValueError, "num_codes=0 must be at least 1"),
        (lambda: Quantizer(4, 2.0), TypeError, "channels=2.0 must be an integer"),
        (lambda: Quantizer(4, 2, beta=-1), ValueError, "beta=-1 must not be negative"),
        (lambda: Quantizer(4, 2, convention="old"), ValueError, "convention='old' is unknown"),
        (lambda: book()(torch.zeros(1, 4, 2, 2)), ValueError, r"expected \(b, 3, h, w\)"),
        (lambda: book()(torch.zeros(3, 2, 2)), ValueError, r"shape \(3, 2, 2\)"),
        (lambda: book()([0.0]), TypeError, "latents must be a tensor .b, c, h, w., not list"),
        (lambda: book().lookup(torch.zeros(1, 2, 2)), ValueError, "expected integers .b, h, w."),
        (lambda: book().lookup(torch.tensor([[[5]]])), ValueError, "codebook has 0 … 4"),
        (lambda: book().lookup(torch.tensor([[[-1]]])), ValueError, "from -1 to -1"),
    ],
)
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
