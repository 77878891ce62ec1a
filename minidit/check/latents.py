"""Autoencoders and latents: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from minidit.check.verdict import Fault, against, pair, waves

_TABLE = torch.tensor([[0.2, 0.1, -0.3], [0.9, -0.8, 0.5], [-0.6, 0.4, 0.9], [3.0, -2.0, 4.0]])


def _with_gradients(fn: Callable) -> Callable[..., Tensor]:
    """What the decoder gets, its gradients and the loss's to z and the table, and the loss."""

    def run(z: Tensor, table: Tensor, beta: float) -> Tensor:
        with torch.enable_grad():
            leaves = z.clone().requires_grad_(), table.clone().requires_grad_()
            passed, loss = pair(fn(*leaves, beta), "what the decoder gets, and the loss")
            if any(not torch.equal(*both) for both in zip(leaves, (z, table))):
                raise Fault("changes z or the table in place; the codes must be a new tensor")
            if passed.shape != z.shape or loss.numel() != 1:
                raise Fault(
                    f"returns shapes {tuple(passed.shape)} and {tuple(loss.shape)}, and those of "
                    f"z, {tuple(z.shape)}, and of one number are expected; is the channels' axis "
                    "back in its place, and is it the codes instead of their numbers?"
                )
            found = [passed.detach()]
            for value in ((passed * waves(*z.shape, start=9)).sum(), loss.sum()):
                # what detaches everything has no gradient to ask for
                value = value + 0 * (leaves[0].sum() + leaves[1].sum())
                found += torch.autograd.grad(value, leaves, retain_graph=True)
        rows = [one.movedim(1, -1).flatten(0, -2) for one in found]
        return torch.cat([*rows, loss.detach().expand(1, z.shape[1])])

    return run


@against(
    ("two images", waves(2, 3, 2, 2, start=1), _TABLE, 0.25),
    ("a wide image", waves(1, 3, 2, 4, start=30), _TABLE, 0.5),
    ("one place", waves(1, 2, 1, 1, start=5), _TABLE[:, :2], 0.25),
    "the code with the largest product is taken; a long code wins without being near",
    {"torch.cdist(points, table).argmin": "(points @ table.T).argmax"},
    "the farthest code is taken",
    {"argmin": "argmax"},
    "a reshape alone makes vectors of neighbouring pixels; a vector is the c channels of a place",
    {"z.movedim(1, -1)": "z.reshape(len(z), *z.shape[2:], -1)"},
    "the codes are returned as they are: the decoder's gradient goes to the table and not to z",
    {"z + (codes - z).detach()": "codes"},
    "the decoder's gradient goes nowhere: too much is detached, or z - z cancels itself out",
    {"z + (codes - z).detach()": "codes.detach()"},
    "z is returned; that passes the gradient, but nothing is quantised",
    {"z + (codes - z).detach()": "z"},
    "the table gets the decoder's gradient, too; it learns from the loss alone",
    {"z + (codes - z).detach()": "z - z.detach() + codes"},
    "β stands on the codebook term, as in LDM's code; it belongs to the commitment of z",
    {"F.mse_loss(codes": "beta * F.mse_loss(codes", "beta * F.mse_loss(z": "F.mse_loss(z"},
    "β is forgotten",
    {"beta * ": ""},
    "nothing is detached in the loss, so both terms pull on both",
    {"z.detach()": "z", "codes.detach()": "codes"},
    "the commitment is missing",
    {" + beta * F.mse_loss(z, codes.detach())": ""},
    "the codebook term is missing",
    {"F.mse_loss(codes, z.detach()) + ": ""},
    "the loss is a sum; take the mean over all numbers",
    {", loss": ", z.numel() * loss"},
    "the squares are summed over the channels; take the mean over all numbers",
    {", loss": ", z.shape[1] * loss"},
    "the distances have no square",
    {"mse_loss": "l1_loss"},
    seen=_with_gradients,
)
def quantise(z: Tensor, table: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The nearest codes, straight through, and VQ-VAE's loss; (b, c, h, w), codes (K, c)."""
    points = z.movedim(1, -1)  # (b, h, w, c)
    codes = table[torch.cdist(points, table).argmin(dim=-1)].movedim(-1, 1)
    loss = F.mse_loss(codes, z.detach()) + beta * F.mse_loss(z, codes.detach())
    return z + (codes - z).detach(), loss


_SOME, _RISE = waves(9, 4, 8, 8), torch.arange(9.0).reshape(9, 1, 1, 1) / 8
_APART = torch.tensor([0.0, 2.0, -1.0, 4.0]).reshape(1, 4, 1, 1) + 3 * (0.5 + _RISE) * _SOME


@against(
    ("three batches, their means far apart", _APART.split([4, 4, 1])),
    ("narrow latents in two batches", (0.2 * _SOME[:5] + _RISE[:5]).split([4, 1])),
    "that is the standard deviation; latents are multiplied by its inverse",
    {"1 / ": ""},
    "that is one over the variance; take the root",
    {"std(": "var("},
    "the mean isn't taken away; std is about the mean",
    {"std(correction=0)": "square().mean().sqrt()"},
    "each channel has its own; one number for all",
    {"std(": "std(dim=(0, 2, 3), "},
    "the batches' std are averaged; what their means differ by is lost",
    lambda batches: 1 / torch.stack([z.std() for z in batches]).mean(),
    "all batches count the same; the last one is smaller",
    {"list(batches)": "[z.repeat(4 // len(z), 1, 1, 1) for z in batches]"},
    "only the last batch is left; add up what the batches give",
    {"torch.cat(list(batches))": "batches[-1]"},
    tolerance=5e-3,
)
def latent_scale(batches: Sequence[Tensor]) -> Tensor:
    """A list of latents (b, c, h, w) → the factor that gives them a standard deviation of 1."""
    return 1 / torch.cat(list(batches)).std(correction=0)


@against(
    ("latents of 16 × 16, at most 64 tokens", 32, 32, 2, 64),
    ("a wide image", 64, 160, 8, 45),
    ("sides that 2 doesn't divide", 72, 72, 8, 25),
    ("a tall image", 80, 48, 4, 20),
    "the autoencoder's factor is left out; it divides both sides before the patches do",
    {" // factor": ""},
    "the factor divides the area once; each side is divided by it",
    {"h % p == w % p == 0 and h * w": "factor * h * w"},
    "that patch doesn't divide both sides of the latents",
    {"h % p == w % p == 0 and ": ""},
    "that is the coarsest patch; the smallest one has the finest tokens",
    {"min(fitting)": "max(fitting)"},
    "that is the patch's side in pixels; in latents it is smaller by the factor",
    {"min(fitting)": "factor * min(fitting)"},
)
def finest_patch(height: int, width: int, factor: int, most: int) -> int:
    """The smallest patch that divides the latents of an image into at most `most` tokens."""
    h, w = height // factor, width // factor
    sides = range(1, min(h, w) + 1)
    fitting = [p for p in sides if h % p == w % p == 0 and h * w <= most * p**2]
    return min(fitting)


def _encoder(most: int) -> Callable[[Tensor], Tensor]:
    """Running sums from the left, so that mirrored images give other latents."""

    def encode(images: Tensor) -> Tensor:
        if len(images) > most:
            raise Fault(f"gives encode {len(images)} images, and it takes {most} at once")
        return images.cumsum(dim=3)

    return encode


def _together(fn: Callable) -> Callable[..., Tensor]:
    def run(*inputs: object) -> Tensor:
        z, y = pair(fn(*inputs), "latents and labels")
        if len(z) != len(y):
            raise Fault(f"returns {len(z)} latents and {len(y)} labels")
        return torch.cat([z.flatten(1), y[:, None].float()], dim=1)

    return run


@against(
    ("five images, two at once", _encoder(2), waves(5, 1, 4, 4), torch.arange(5) % 3, 2),
    ("two in colours, one at once", _encoder(1), waves(2, 3, 2, 4), torch.tensor([7, 1]), 1),
    "latents are mirrored; mirror the images, and encode them",
    {
        "torch.cat([images, images.flip(3)])": "images",
        "return z": "return torch.cat([z, z.flip(3)])",
    },
    "the images are turned upside down; left and right are the last dimension",
    {"flip(3)": "flip(2)"},
    "image and mirrored image alternate; all mirrored ones come after all others",
    {
        "cat([images, images.flip(3)])": "stack([images, images.flip(3)], dim=1).flatten(0, 1)",
        "repeat(2)": "repeat_interleave(2)",
    },
    "mirrored images follow batch by batch; all of them come after all others",
    lambda encode, images, y, most: (
        torch.cat([encode(z) for x in images.split(most) for z in (x, x.flip(3))]),
        torch.cat([part.repeat(2) for part in y.split(most)]),
    ),
    "the labels are repeated one by one; all of them come twice: repeat(2)",
    {"repeat(2)": "repeat_interleave(2)"},
    "the order of the images is reversed; flip turns more than the last dimension",
    {"flip(3)": "flip(0, 3)"},
    "the last images, which don't fill a batch, are lost",
    lambda encode, images, labels, most: with_mirrors.right(
        encode, images[: (n := len(labels) // most * most)], labels[:n], most
    ),
    seen=_together,
)
def with_mirrors(
    encode: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """Latents and labels of images (n, c, h, w), then of all mirrored; encode takes `most`."""
    both = torch.cat([images, images.flip(3)])
    z = torch.cat([encode(some) for some in both.split(most)])
    return z, labels.repeat(2)


def _predict(z: Tensor, u: float) -> Tensor:
    return 1.2 * (3 * z + u).sin()


_NOISE = 2 * waves(2, 3, 2, 2, start=5)


@against(
    ("three steps", _predict, _NOISE, [1.0, 0.7, 0.3, 0.0], torch.tanh, 0.4),
    ("one step", _predict, _NOISE, [1.0, 0.0], torch.sinh, 5.0),
    ("two steps", _predict, _NOISE, [1.0, 0.5, 0.0], torch.sinh, 0.8),
    "the latents are multiplied by the scale; that was on the way in",
    {"z / scale": "z * scale"},
    "the scale is forgotten on the way out",
    {"z / scale": "z"},
    "the scale is applied to the image; undo it before decoding",
    {"decode(z / scale)": "(decode(z) / scale)"},
    "images may leave [-1, 1]; clamp them",
    {".clamp(-1, 1)": ""},
    "the prediction is the clean latents; the velocity of the line is (z - x0) / u",
    {"(1 - after) * x0 + after * noise": "z + (after - u) * x0"},
    "the noise at the start is mixed in again; the noise that z holds is (z - (1 - u)·x0) / u",
    {"noise = (z - (1 - u) * x0) / u": "noise = z if u == 1 else noise"},
    "z itself is mixed in as if it were noise; the noise that it holds is (z - (1 - u)·x0) / u",
    {"after * noise": "after * z"},
    "the last step is missing; it ends at u = 0",
    {"times[1:]": "times[1:-1]"},
    "the network is told the time of the next step; z has the noise of this one",
    {"predict(z, u)": "predict(z, after)"},
)
def latent_sampler(
    predict: Callable, z: Tensor, times: Sequence[float], decode: Callable, scale: float
) -> Tensor:
    """From noise z to images in [-1, 1], on the line z = (1 - u)·x0 + u·noise; (n, c, h, w)."""
    for u, after in zip(times, times[1:]):
        x0 = predict(z, u)
        noise = (z - (1 - u) * x0) / u
        z = (1 - after) * x0 + after * noise
    return decode(z / scale).clamp(-1, 1)
