"""Checks of the ways between pixels and latents: right ones pass, every hint has its mistake."""

import students
import torch

from minidit import KLAutoencoder
from minidit.check import _mistakes_stages as hints
from minidit.latents import latent


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


RIGHT = [("token_count", by_area), ("with_mirrors", one_by_one), ("to_pixels", by_limits)]

test_right_ones_pass = students.right(RIGHT)


def test_what_is_checked_is_what_the_package_does():
    torch.manual_seed(0)
    model, images = KLAutoencoder(1, 2, 4, (1, 2)), torch.rand(3, 1, 8, 8) * 2 - 1
    model.set_scale(images)
    with torch.no_grad():
        z = hints.with_mirrors(model.to_latents, images)
        assert torch.allclose(z, latent.encode(model, images, flips=True), atol=1e-5)
        out = hints.to_pixels(model.decode, 3 * z, model.scale.item())
    assert torch.allclose(out, latent.decode(model, 3 * z), atol=1e-5)
    assert hints.token_count(8, 8, model.factor, 2) == z[0, 0].numel() // 4


# --- wrong, each with its own hint ----------------------------------------------------------------

TABLES = {
    "token_count": hints.TOKEN_COUNT,
    "with_mirrors": hints.WITH_MIRRORS,
    "to_pixels": hints.TO_PIXELS,
}

test_each_mistake_gets_its_hint = students.wrong(students.of_the_package(TABLES))
test_a_stub_is_still_to_be_written = students.stubs(TABLES)
