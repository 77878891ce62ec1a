"""Checks of autoencoder parts: right ones pass, and mistakes get their hints."""

import math

import pytest
import students
import torch

from minidit import Diffusion, KLAutoencoder, Quantizer, check, ddim, sample, straight
from minidit.latents import latent

# --- right, written in other ways than the package's ----------------------------------------------


class Through(torch.autograd.Function):
    """Straight through, as an operation of its own."""

    @staticmethod
    def forward(ctx, z, codes):
        return codes.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def nearest_by_loops(z, table):
    found = torch.empty(len(z), *z.shape[2:], dtype=torch.long)
    for i, j, k in torch.cartesian_prod(*(torch.arange(z.shape[a]) for a in (0, 2, 3))):
        found[i, j, k] = (table - z[i, :, j, k]).square().sum(dim=1).argmin()
    return found


def quantised(z, table, beta):
    codes = table[nearest_by_loops(z, table)].permute(0, 3, 1, 2)
    both = [(z.detach() - codes).pow(2).mean(), beta * (codes.detach() - z).pow(2).mean()]
    return Through.apply(z, codes.detach()), sum(both)


def by_loops(batches):
    numbers = [number for batch in batches for number in batch.flatten().tolist()]
    mean = sum(numbers) / len(numbers)
    return math.sqrt(len(numbers) / sum((z - mean) ** 2 for z in numbers))


def by_trying(height, width, factor, most):
    """Cut and count, patch after patch."""
    z = torch.zeros(height // factor, width // factor)
    for patch in range(1, 1000):
        rows = [row for row in z.split(patch) if len(row) == patch]
        tokens = sum(len([c for c in r.split(patch, 1) if c.shape[1] == patch]) for r in rows)
        if tokens * patch**2 == z.numel() and tokens <= most:
            return patch


def one_by_one(encode, images, labels, most):
    """Image after image, each a batch of its own."""
    both = [*images, *(image.flip(-1) for image in images)]
    return torch.cat([encode(image[None]) for image in both]), torch.cat([labels, labels])


def by_velocity(predict, z, times, decode, scale):
    """Euler's steps."""
    for u, after in zip(times, times[1:]):
        z = z - (u - after) * (z - predict(z, u)) / u
    image = decode(z * (1 / scale))
    return torch.maximum(torch.minimum(image, torch.ones(())), -torch.ones(()))


RIGHT = [
    ("quantise", quantised),
    ("latent_scale", by_loops),
    ("finest_patch", by_trying),
    ("with_mirrors", one_by_one),
    ("latent_sampler", by_velocity),
]


def test_either_divisor_passes():
    assert check.latent_scale(lambda batches: 1 / torch.cat(batches).std())


def test_a_check_needs_no_gradients_switched_on():
    with torch.no_grad():
        assert check.quantise(quantised)


def test_what_is_checked_is_what_the_package_does():
    quantizer, z = Quantizer(5, 2), torch.randn(1, 2, 3, 3, requires_grad=True)
    found = quantizer(z)
    passed, loss = check.quantise.right(z, quantizer.table, quantizer.beta)
    assert torch.allclose(passed, found.codes, atol=1e-6) and torch.allclose(loss, found.loss)
    model = KLAutoencoder(1, 2, width=4, multipliers=(1, 2))
    images = torch.rand(6, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        scale = check.latent_scale.right([model.latents(images)]).item()
    assert model.set_scale(images) == pytest.approx(scale, rel=1e-4)


def test_the_ways_between_pixels_and_latents_are_the_packages():
    torch.manual_seed(0)
    model, images = KLAutoencoder(1, 2, 4, (1, 2)), torch.rand(3, 1, 8, 8) * 2 - 1
    model.set_scale(images)
    line = Diffusion(straight(20), predict="x0")
    with torch.no_grad():
        z, _ = check.with_mirrors.right(model.to_latents, images, torch.arange(3), 2)
        assert torch.allclose(z, latent.encode(model, images, flips=True), atol=1e-5)
        times = [k / 21 for k in range(20, -1, -1)]
        out = check.latent_sampler.right(
            lambda z, u: z.sin(), 3 * z, times, model.decode, model.scale.item()
        )
    states = ddim(lambda x, t, y: x.sin(), line, 3 * z)
    assert torch.allclose(out, latent.decode(model, sample(states)), atol=1e-4)


# --- wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, mistake, words",
    [
        ("quantise", lambda z, table, beta: z, "returns no pair of tensors"),
        ("quantise", lambda z, table, beta: (z.detach()[:, :1], z.mean()), "and those of z"),
        ("quantise", lambda z, table, beta: (z.movedim(1, -1), z.mean()), "axis back in its place"),
        ("latent_scale", lambda batches: 0.18215, "gives 0.18"),
        ("latent_scale", lambda batches: "0.2", "returns a str"),
    ],
)
def test_other_mistakes_are_told_without_a_cause(name, mistake, words):
    verdict = getattr(check, name)(mistake)
    assert not verdict and words in repr(verdict) and "cause" not in repr(verdict), verdict


def test_codes_written_into_the_latents_are_named():
    def copied(z, table, beta):
        loss = quantised(z, table, beta)[1]
        z.data.copy_(table[nearest_by_loops(z, table)].permute(0, 3, 1, 2))
        return z, loss

    assert "changes z or the table in place" in repr(check.quantise(copied))


def codes_of(index):
    """Quantised right, but for the codes."""

    def fn(z, table, beta):
        codes = table[index(z, table)].permute(0, 3, 1, 2)
        loss = (z.detach() - codes).pow(2).mean() + beta * (codes.detach() - z).pow(2).mean()
        return Through.apply(z, codes), loss

    return fn


def neighbouring_pixels(z, table):
    points = z.reshape(-1, 1, z.shape[1])
    return (points - table).norm(dim=2).argmin(1).reshape(len(z), *z.shape[2:])


def passing(way):
    """Quantised right, but for what the decoder gets."""

    def fn(z, table, beta):
        codes = table[nearest_by_loops(z, table)].permute(0, 3, 1, 2)
        return way(z, codes), quantised(z, table, beta)[1]

    return fn


def losing(of):
    """Quantised right, but for the loss: of z, its codes and both without gradients."""

    def fn(z, table, beta):
        codes = table[nearest_by_loops(z, table)].permute(0, 3, 1, 2)
        return quantised(z, table, beta)[0], of(z, codes, z.detach(), codes.detach(), beta)

    return fn


QUANTISE = {
    "the largest product": codes_of(lambda z, table: (z.permute(0, 2, 3, 1) @ table.T).argmax(-1)),
    "the farthest": codes_of(
        lambda z, table: (z[:, None] - table[:, :, None, None]).norm(dim=2).argmax(1)
    ),
    "a reshape alone": codes_of(neighbouring_pixels),
    "as they are": passing(lambda z, codes: codes),
    "goes nowhere": passing(lambda z, codes: (z + (codes - z)).detach()),
    "z is returned": passing(lambda z, codes: z),
    "gets the decoder's gradient, too": passing(lambda z, codes: codes + (z - z.detach())),
    "as in LDM's code": losing(
        lambda z, e, sg_z, sg_e, beta: beta * (sg_z - e).pow(2).mean() + (z - sg_e).pow(2).mean()
    ),
    "nothing is detached in": losing(
        lambda z, e, sg_z, sg_e, beta: (z - e).pow(2).mean() + beta * (z - e).pow(2).mean()
    ),
    "over the channels": losing(
        lambda z, e, sg_z, sg_e, beta: (
            ((sg_z - e).pow(2) + beta * (z - sg_e).pow(2)).sum(dim=1).mean()
        )
    ),
}


test_right_ones_pass = students.right(RIGHT)
test_each_mistake_gets_its_hint = students.wrong({"quantise": QUANTISE})
