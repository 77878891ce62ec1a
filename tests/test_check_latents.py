"""Checks of autoencoder parts: right ones pass, and every hint is given for its mistake."""

import math

import pytest
import students
import torch

from minidit import KLAutoencoder, Quantizer, check
from minidit.latents import latent

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


def by_area(height, width, factor, patch):
    """Pixels, divided by those of one token."""
    return height * width // (factor * patch) ** 2


def one_by_one(encode, images):
    """Image after image, each a batch of its own."""
    both = [*images, *(image.flip(-1) for image in images)]
    return torch.cat([encode(image[None]) for image in both])


def by_limits(decode, latents, scale):
    """Limits by minimum and maximum."""
    return torch.maximum(
        torch.minimum(decode(latents * (1 / scale)), torch.ones(())), -torch.ones(())
    )


RIGHT = [
    ("quantise", nearest_by_loops),
    ("kl_from_standard", by_distributions),
    ("straight_through", Through.apply),
    ("latent_scale", by_loops),
    ("token_count", by_area),
    ("with_mirrors", one_by_one),
    ("to_pixels", by_limits),
]


def test_either_divisor_passes():
    assert check.latent_scale(lambda latents: 1 / latents.std())


def test_a_check_needs_no_gradients_switched_on():
    with torch.no_grad():
        assert check.straight_through(lambda z, codes: z + (codes - z).detach())


def test_what_is_checked_is_what_the_package_does():
    quantizer, z = Quantizer(5, 2), torch.randn(1, 2, 3, 3, requires_grad=True)
    found = quantizer(z)
    codes = quantizer.lookup(found.indices)
    assert torch.allclose(check.straight_through.right(z, codes), found.codes, atol=1e-6)
    assert torch.equal(check.quantise.right(z, quantizer.table), codes)
    model = KLAutoencoder(1, 2, width=4, multipliers=(1, 2))
    images = torch.rand(6, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        scale = check.latent_scale.right(model.latents(images)).item()
    assert model.set_scale(images) == pytest.approx(scale, rel=1e-4)


def test_the_ways_between_pixels_and_latents_are_the_packages():
    torch.manual_seed(0)
    model, images = KLAutoencoder(1, 2, 4, (1, 2)), torch.rand(3, 1, 8, 8) * 2 - 1
    model.set_scale(images)
    with torch.no_grad():
        z = check.with_mirrors.right(model.to_latents, images)
        assert torch.allclose(z, latent.encode(model, images, flips=True), atol=1e-5)
        out = check.to_pixels.right(model.decode, 3 * z, model.scale.item())
    assert torch.allclose(out, latent.decode(model, 3 * z), atol=1e-5)
    assert check.token_count.right(8, 8, model.factor, 2) == z[0, 0].numel() // 4


# --- wrong --------------------------------------------------------------------------------------


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


def neighbouring_pixels(z, table):
    points = z.reshape(-1, 1, z.shape[1])
    codes = table[(points - table).norm(dim=2).argmin(1)]
    return codes.reshape(len(z), *z.shape[2:], -1).movedim(-1, 1)


QUANTISE = {
    "the largest product": codes_of(lambda z, table: (z @ table.T).argmax(-1)),
    "the farthest": codes_of(lambda z, table: torch.cdist(z, table).argmax(-1)),
    "a reshape alone": neighbouring_pixels,
    "the numbers of the codes": lambda z, table: (
        (z[:, None] - table[:, :, None, None]).norm(dim=2).argmin(1)
    ),
    "left at the end": lambda z, table: nearest_by_loops(z, table).permute(0, 2, 3, 1),
}

test_right_ones_pass = students.right(RIGHT)
test_each_mistake_gets_its_hint, test_every_hint_has_its_student = students.wrong(
    {"quantise": QUANTISE}
)
