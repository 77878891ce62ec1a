"""Patches: against loops, against torch's unfold and convolution, and there and back again."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from minidit import PatchEmbed, patchify, unpatchify

shapes = st.tuples(*(st.integers(1, most) for most in (3, 4, 5, 5, 4)))  # b, c, h, w, patch


def images_of(b, c, h, w, patch):
    return torch.arange(b * c * h * w * patch**2, dtype=torch.float32).reshape(
        b, c, h * patch, w * patch
    )


def patchify_by_loops(images, patch):
    b, c, height, width = images.shape
    h, w = height // patch, width // patch
    tokens = torch.zeros(b, h * w, patch * patch * c)
    for row in range(h):
        for column in range(w):
            for p1 in range(patch):
                for p2 in range(patch):
                    for channel in range(c):
                        pixel = images[:, channel, row * patch + p1, column * patch + p2]
                        feature = (p1 * patch + p2) * c + channel
                        tokens[:, row * w + column, feature] = pixel
    return tokens


@given(shapes)
def test_patchify_is_what_loops_say(shape):
    images = images_of(*shape)
    assert torch.equal(patchify(images, shape[-1]), patchify_by_loops(images, shape[-1]))


@given(shapes)
def test_there_and_back(shape):
    b, c, h, w, patch = shape
    images = images_of(*shape)
    tokens = patchify(images, patch)
    assert tokens.shape == (b, h * w, patch * patch * c)
    assert torch.equal(unpatchify(tokens, patch, (h, w)), images)


@given(shapes)
def test_back_and_there(shape):
    b, c, h, w, patch = shape
    tokens = torch.randn(b, h * w, patch * patch * c)
    assert torch.equal(patchify(unpatchify(tokens, patch, (h, w)), patch), tokens)


def test_one_number_is_a_square_grid():
    tokens = torch.randn(2, 9, 8)
    assert torch.equal(unpatchify(tokens, 2, 3), unpatchify(tokens, 2, (3, 3)))


def test_patchify_by_hand():
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    expected = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert patchify(images, 2)[0].tolist() == expected


def test_patchify_is_unfold_with_channels_last():
    images = torch.randn(2, 3, 8, 12)
    unfolded = F.unfold(images, 4, stride=4).mT  # (b, n, c·p·p)
    channels_last = unfolded.unflatten(2, (3, 16)).mT.flatten(2)  # (b, n, p·p·c)
    assert torch.equal(patchify(images, 4), channels_last)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patch_embed_is_a_strided_convolution(patch):
    embed = PatchEmbed(3, patch, 10).double()
    torch.nn.init.normal_(embed.proj.bias)
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    kernel = embed.proj.weight.unflatten(1, (patch, patch, 3)).permute(0, 3, 1, 2)  # (d, c, p, p)
    convolved = F.conv2d(images, kernel, embed.proj.bias, stride=patch).flatten(2).mT
    torch.testing.assert_close(embed(images), convolved)


def test_patch_embed_starts_as_xavier_of_the_flat_patch():
    weight = PatchEmbed(4, 2, 64).proj.weight
    bound = (6 / (2 * 2 * 4 + 64)) ** 0.5
    assert 0.95 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
