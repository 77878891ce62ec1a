"""A submission as a student may hand it in: one part is right, one is wrong, two are missing."""

import torch


def patchify(images, patch):
    """(b, c, h·p, w·p) → (b, h·w, p·p·c)."""
    b, c, height, width = images.shape
    h, w = height // patch, width // patch
    cut = images.reshape(b, c, h, patch, w, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, h * w, -1)


def timestep_embedding(t, dim):
    """(b,) → (b, dim)."""
    half = dim // 2
    frequencies = 10000 ** (-torch.arange(half) / half)
    angles = t[:, None] * frequencies
    table = torch.cat([angles.cos(), angles.sin()], dim=1)
    return torch.nn.functional.pad(table, (0, dim % 2))


def x0_from_v(x_t, v, u):
    """(b, d), (b, d), (b,) → x_0, (b, d)."""
    raise NotImplementedError("x0_from_v")
