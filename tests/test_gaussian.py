"""The distribution of latents, against torch.distributions and by drawing from it."""

import pytest
import torch
from torch import distributions

from minidit import DiagonalGaussian

close = torch.testing.assert_close


def parameters(seed=0, shape=(3, 6, 2, 2)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def theirs(q):
    return distributions.Normal(q.mean, q.std)


def test_divergences_are_those_of_torch():
    q, other = (DiagonalGaussian(parameters(k)) for k in (0, 1))
    standard = distributions.Normal(torch.zeros(()), torch.ones(()))
    for divergence, p in [(q.kl(), standard), (q.kl(other), theirs(other))]:
        close(divergence, distributions.kl_divergence(theirs(q), p).sum(dim=(1, 2, 3)))
    close(q.kl(q), torch.zeros(3), atol=1e-6, rtol=0)
    assert (q.kl() > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_samples_are_of_the_same_kind_of_numbers(dtype):
    assert DiagonalGaussian(parameters().to(dtype)).sample().dtype == dtype


def test_samples_have_the_mean_and_the_deviation():
    q = DiagonalGaussian(parameters(shape=(1, 4, 1, 1)).expand(40_000, 4, 1, 1))
    z = q.sample(torch.Generator().manual_seed(0))
    close(z.mean(dim=0), q.mean[0], atol=0.05, rtol=0)
    close(z.std(dim=0), q.std[0], atol=0.05, rtol=0)


def test_a_sample_is_its_noise_scaled_and_the_generators_choice():
    q, noise = DiagonalGaussian(parameters()), torch.randn(3, 3, 2, 2)
    close(q.sample(noise=noise), q.mode + q.std * noise)
    first, again = (q.sample(torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)


def test_the_log_variance_is_clamped():
    q = DiagonalGaussian(torch.tensor([0.0, 0.0, -1e4, 1e4]).reshape(1, 4, 1, 1))
    assert q.logvar.flatten().tolist() == [-30, 20]
    assert q.kl().isfinite().all()


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda q: DiagonalGaussian(torch.zeros(2, 3, 4, 4)), r"parameters have shape \(2, 3, 4"),
        (lambda q: DiagonalGaussian(torch.zeros(4)), "expected .b, 2c, …."),
        (lambda q: q.sample(noise=torch.zeros(1, 3, 2, 2)), r"noise has shape \(1, 3, 2, 2\)"),
        (lambda q: q.kl(DiagonalGaussian(parameters()[:1])), r"other has shape \(1, 3, 2, 2\)"),
    ],
)
def test_what_would_broadcast_silently_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(DiagonalGaussian(parameters()))
