"""Checks of autoencoder parts: right ones pass, and every hint is given for its mistake."""

import math

import pytest
import students
import torch

from minidit import KLAutoencoder, Quantizer, check
from minidit.check import _mistakes_latents as hints

# --- right, written in other ways than the package's ----------------------------------------------


def by_distributions(mean, logvar):
    p = torch.distributions.Normal(mean, (logvar / 2).exp())
    q = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    return torch.distributions.kl_divergence(p, q).sum(dim=(1, 2, 3))


class Through(torch.autograd.Function):
    """Straight through, as an operation of its own."""

    @staticmethod
    def forward(ctx, z, codes):
        return codes.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def by_loops(latents):
    numbers = latents.flatten().tolist()
    mean = sum(numbers) / len(numbers)
    return math.sqrt(len(numbers) / sum((z - mean) ** 2 for z in numbers))


def nearest_by_loops(z, table):
    out = torch.empty_like(z)
    for i, j, k in torch.cartesian_prod(*(torch.arange(z.shape[a]) for a in (0, 2, 3))):
        far = (table - z[i, :, j, k]).square().sum(dim=1)
        out[i, :, j, k] = table[far.argmin()]
    return out


RIGHT = [
    ("quantise", nearest_by_loops),
    ("kl_from_standard", by_distributions),
    ("straight_through", Through.apply),
    ("latent_scale", by_loops),
]

test_right_ones_pass = students.right(RIGHT)


def test_either_divisor_passes():
    assert check.latent_scale(lambda latents: 1 / latents.std())


def test_a_check_needs_no_gradients_switched_on():
    with torch.no_grad():
        assert check.straight_through(lambda z, codes: z + (codes - z).detach())


def test_what_is_checked_is_what_the_package_does():
    quantizer, z = Quantizer(5, 2), torch.randn(1, 2, 3, 3, requires_grad=True)
    found = quantizer(z)
    codes = quantizer.lookup(found.indices)
    assert torch.allclose(hints.straight_through(z, codes), found.codes, atol=1e-6)
    assert torch.equal(hints.quantise(z, quantizer.table), codes)
    model = KLAutoencoder(1, 2, width=4, multipliers=(1, 2))
    images = torch.rand(6, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        scale = hints.latent_scale(model.latents(images)).item()
    assert model.set_scale(images) == pytest.approx(scale, rel=1e-4)


# --- wrong, each with its own hint ----------------------------------------------------------------

TABLES = {
    "quantise": hints.QUANTISE,
    "kl_from_standard": hints.KL_FROM_STANDARD,
    "straight_through": hints.STRAIGHT_THROUGH,
    "latent_scale": hints.LATENT_SCALE,
}

test_each_mistake_gets_its_hint = students.wrong(students.of_the_package(TABLES))
test_a_stub_is_still_to_be_written = students.stubs(TABLES)


@pytest.mark.parametrize(
    "name, mistake, words",
    [
        ("kl_from_standard", lambda mean, logvar: (mean**2).sum((1, 2, 3)), "instead of"),
        ("straight_through", lambda z, codes: codes[:, :1], "returns shape (2, 1, 2, 2)"),
        ("latent_scale", lambda latents: 0.18215, "gives 0.18"),
        ("latent_scale", lambda latents: None, "returns a NoneType"),
    ],
)
def test_other_mistakes_are_told_without_a_cause(name, mistake, words):
    verdict = getattr(check, name)(mistake)
    assert not verdict and words in repr(verdict) and "cause" not in repr(verdict), verdict


@pytest.mark.parametrize(
    "same, other",
    [
        (lambda z, codes: codes, "z gets no gradient"),
        (lambda z, codes: (z + (codes - z)).detach(), "nothing gets a gradient"),
    ],
)
def test_what_looks_the_same_has_the_same_hint(same, other):
    assert other in repr(check.straight_through(same))


def codes_of(far):
    def fn(z, table):
        points = z.permute(0, 2, 3, 1)
        return table[far(points, table)].permute(0, 3, 1, 2)

    return fn


@pytest.mark.parametrize(
    "fn, words",
    [
        (codes_of(lambda z, table: (z @ table.T).argmax(-1)), "the largest product"),
        (codes_of(lambda z, table: torch.cdist(z, table).argmax(-1)), "the farthest"),
        (
            lambda z, table: (
                table[(z.reshape(-1, 1, z.shape[1]) - table).norm(dim=2).argmin(1)]
                .reshape(len(z), *z.shape[2:], -1)
                .movedim(-1, 1)
            ),
            "a reshape alone",
        ),
        (
            lambda z, table: (z[:, None] - table[:, :, None, None]).norm(dim=2).argmin(1),
            "the numbers of the codes",
        ),
        (lambda z, table: nearest_by_loops(z, table).permute(0, 2, 3, 1), "left at the end"),
    ],
)
def test_quantise_by_a_student(fn, words):
    assert words in repr(check.quantise(fn)).partition("likeliest cause")[2]
