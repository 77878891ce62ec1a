"""Autoencoders and latents: is your version right, and if not, which of these mistakes is it?"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from minidit.check.verdict import Fault, against, waves

_TABLE = torch.tensor([[0.2, 0.1, -0.3], [0.9, -0.8, 0.5], [-0.6, 0.4, 0.9], [3.0, -2.0, 4.0]])


def _nearest(z: Tensor, table: Tensor) -> Tensor:
    return table[torch.cdist(z.movedim(1, -1), table).argmin(dim=-1)].movedim(-1, 1)


def _most(z: Tensor, table: Tensor, of: Callable) -> Tensor:
    return table[of(z.movedim(1, -1), table).argmax(dim=-1)].movedim(-1, 1)


def _reshaped(z: Tensor, table: Tensor) -> Tensor:
    return _nearest(z.reshape(len(z), *z.shape[2:], -1).movedim(-1, 1), table)


def _through(z: Tensor, codes: Tensor) -> Tensor:
    return z + (codes - z).detach()


def _vq_loss(z: Tensor, codes: Tensor, beta: float, reduction: str = "mean") -> Tensor:
    to_code = F.mse_loss(codes, z.detach(), reduction=reduction)
    return to_code + beta * F.mse_loss(z, codes.detach(), reduction=reduction)


def _with_gradients(fn: Callable) -> Callable[..., Tensor]:
    """What the decoder gets, its gradients and the loss's to z and the table, and the loss."""

    def run(z: Tensor, table: Tensor, beta: float) -> Tensor:
        with torch.enable_grad():
            leaves = z.clone().requires_grad_(), table.clone().requires_grad_()
            found = fn(*leaves, beta)
            if not (isinstance(found, tuple) and all(isinstance(a, Tensor) for a in found)):
                raise Fault("returns no pair of tensors: what the decoder gets, and the loss")
            if any(not torch.equal(*pair) for pair in zip(leaves, (z, table))):
                raise Fault("changes z or the table in place; the codes must be a new tensor")
            passed, loss = found
            if passed.shape != z.shape or loss.numel() != 1:
                raise Fault(
                    f"returns shapes {tuple(passed.shape)} and {tuple(loss.shape)}, and those of "
                    f"z, {tuple(z.shape)}, and of one number are expected; is the channels' axis "
                    "back in its place, and is it the codes instead of their numbers?"
                )
            parts = [passed.detach()]
            for value in ((passed * waves(*z.shape, start=9)).sum(), loss.sum()):
                # what detaches everything has no gradient to ask for
                value = value + 0 * (leaves[0].sum() + leaves[1].sum())
                parts += torch.autograd.grad(value, leaves, retain_graph=True)
        rows = [p.movedim(1, -1).flatten(0, -2) if p.ndim == 4 else p for p in parts]
        return torch.cat([*rows, loss.detach().expand(1, z.shape[1])])

    return run


@against(
    {
        "two images": (waves(2, 3, 2, 2, start=1), _TABLE, 0.25),
        "a wide image": (waves(1, 3, 2, 4, start=30), _TABLE, 0.5),
        "one place": (waves(1, 2, 1, 1, start=5), _TABLE[:, :2], 0.25),
    },
    "the code with the largest product is taken; a long code wins without being near",
    dict(near=partial(_most, of=lambda points, table: points @ table.T)),
    "the farthest code is taken",
    dict(near=partial(_most, of=torch.cdist)),
    "a reshape alone makes vectors of neighbouring pixels; a vector is the c channels of a place",
    dict(near=_reshaped),
    "the codes are returned as they are: the decoder's gradient goes to the table and not to z",
    dict(through=lambda z, codes: codes + 0 * z),
    "the decoder's gradient goes nowhere: too much is detached, or z - z cancels itself out",
    dict(through=lambda z, codes: codes.detach() + 0 * z),
    "z is returned; that passes the gradient, but nothing is quantised",
    dict(through=lambda z, codes: z + 0),
    "the table gets the decoder's gradient, too; it learns from the loss alone",
    dict(through=lambda z, codes: z - z.detach() + codes),
    "β stands on the codebook term, as in LDM's code; it belongs to the commitment of z",
    dict(loss=lambda z, codes, beta: beta * _vq_loss(z, codes, 1 / beta)),
    "β is forgotten",
    dict(loss=lambda z, codes, beta: _vq_loss(z, codes, 1.0)),
    "nothing is detached in the loss, so both terms pull on both",
    dict(loss=lambda z, codes, beta: (1 + beta) * F.mse_loss(codes, z)),
    "the commitment is missing",
    dict(loss=lambda z, codes, beta: _vq_loss(z, codes, 0.0)),
    "the codebook term is missing",
    dict(loss=lambda z, codes, beta: beta * F.mse_loss(z, codes.detach())),
    "the loss is a sum; take the mean over all numbers",
    dict(loss=partial(_vq_loss, reduction="sum")),
    "the squares are summed over the channels; take the mean over all numbers",
    dict(loss=lambda z, codes, beta: z.shape[1] * _vq_loss(z, codes, beta)),
    "the distances have no square",
    dict(loss=lambda z, c, b: F.l1_loss(c, z.detach()) + b * F.l1_loss(z, c.detach())),
    seen=_with_gradients,
)
def quantise(
    z: Tensor,
    table: Tensor,
    beta: float,
    *,
    near: Callable = _nearest,
    through: Callable = _through,
    loss: Callable = _vq_loss,
) -> tuple[Tensor, Tensor]:
    """The nearest codes, straight through, and VQ-VAE's loss; (b, c, h, w), codes (K, c)."""
    codes = near(z, table)
    return through(z, codes), loss(z, codes, beta)


_SOME = waves(9, 4, 8, 8)
_SHIFT = torch.tensor([0.0, 2.0, -1.0, 4.0]).reshape(1, 4, 1, 1)
_RISE = torch.arange(9.0).reshape(9, 1, 1, 1) / 8
_GROW = 0.5 + _RISE


def _each(batches: list[Tensor], of: Callable) -> Tensor:
    return torch.stack([of(z) for z in batches]).mean(dim=0)


@against(
    {
        "three batches, their means far apart": ((3 * _GROW * _SOME + _SHIFT).split([4, 4, 1]),),
        "narrow latents in two batches": ((0.2 * _SOME[:5] + _RISE[:5]).split([4, 1]),),
    },
    "that is the standard deviation; latents are multiplied by its inverse",
    lambda batches: torch.cat(batches).std(),
    "that is one over the variance; take the root",
    lambda batches: 1 / torch.cat(batches).var(),
    "the mean isn't taken away; std is about the mean",
    lambda batches: torch.cat(batches).square().mean() ** -0.5,
    "each channel has its own; one number for all",
    lambda batches: 1 / torch.cat(batches).std(dim=(0, 2, 3)),
    "the batches' std are averaged; what their means differ by is lost",
    lambda batches: 1 / _each(batches, torch.std),
    "the batches' scales are averaged; what their means differ by is lost",
    lambda batches: _each(batches, lambda z: 1 / z.std()),
    "the batches' variances are averaged; what their means differ by is lost",
    lambda batches: _each(batches, torch.var) ** -0.5,
    "all batches count the same; the last one is smaller",
    lambda batches: (
        (_each(batches, lambda z: z.square().mean()) - _each(batches, torch.mean) ** 2) ** -0.5
    ),
    "only the last batch is left; add up what the batches give",
    lambda batches: 1 / batches[-1].std(),
    "only the first batch is looked at",
    lambda batches: 1 / batches[0].std(),
    tolerance=5e-3,
)
def latent_scale(batches: Sequence[Tensor]) -> Tensor:
    """A list of latents (b, c, h, w) → the factor that gives them a standard deviation of 1."""
    return 1 / torch.cat(list(batches)).std(unbiased=False)


_SIDES = {
    "latents of 16 × 16, at most 64 tokens": (32, 32, 2, 64),
    "a wide image": (64, 160, 8, 45),
    "sides that 2 doesn't divide": (72, 72, 8, 25),
    "a tall image": (80, 48, 4, 20),
}


def _fits(height: int, width: int, patch: int, most: int) -> bool:
    return height % patch == width % patch == 0 and height * width <= most * patch**2


@against(
    _SIDES,
    "the autoencoder's factor is left out; it divides both sides before the patches do",
    lambda height, width, factor, most: finest_patch.right(height, width, 1, most),
    "the factor divides the area once; each side is divided by it",
    lambda height, width, factor, most: next(
        p for p in range(1, 999) if height * width <= most * factor * p**2
    ),
    "that patch doesn't divide both sides of the latents",
    lambda height, width, factor, most: next(
        p for p in range(1, 999) if height * width <= most * (factor * p) ** 2
    ),
    "that is the coarsest patch; the smallest one has the finest tokens",
    lambda height, width, factor, most: max(
        p for p in range(1, height) if _fits(height // factor, width // factor, p, most)
    ),
    "that is the patch's side in pixels; in latents it is smaller by the factor",
    lambda *sizes: sizes[2] * finest_patch.right(*sizes),
)
def finest_patch(height: int, width: int, factor: int, most: int) -> int:
    """The smallest patch that divides the latents of an image into at most `most` tokens."""
    sides = height // factor, width // factor
    return next(p for p in range(1, min(sides) + 1) if _fits(*sides, p, most))


def _encoder(most: int) -> Callable[[Tensor], Tensor]:
    """Running sums from the left, so that mirrored images give other latents."""

    def encode(images: Tensor) -> Tensor:
        if len(images) > most:
            raise Fault(f"gives encode {len(images)} images, and it takes {most} at once")
        return images.cumsum(dim=3)

    return encode


def _together(fn: Callable) -> Callable[..., Tensor]:
    def run(*inputs: object) -> Tensor:
        found = fn(*inputs)
        if not (isinstance(found, tuple) and all(isinstance(a, Tensor) for a in found)):
            raise Fault("returns no pair of tensors: latents and labels")
        z, y = found
        if len(z) != len(y):
            raise Fault(f"returns {len(z)} latents and {len(y)} labels")
        return torch.cat([z.flatten(1), y[:, None].float()], dim=1)

    return run


def _in_parts(encode: Callable, images: Tensor, most: int) -> Tensor:
    return torch.cat([encode(part) for part in images.split(most)])


def _twice(encode: Callable, images: Tensor, y: Tensor, most: int, dim: int = 3) -> tuple:
    both = torch.cat([images, images.flip(dim)])
    return _in_parts(encode, both, most), y.repeat(2)


@against(
    {
        "five images, two at once": (_encoder(2), waves(5, 1, 4, 4), torch.arange(5) % 3, 2),
        "two in colours, one at once": (_encoder(1), waves(2, 3, 2, 4), torch.tensor([7, 1]), 1),
    },
    "latents are mirrored; mirror the images, and encode them",
    lambda encode, images, y, most: (
        torch.cat([(z := _in_parts(encode, images, most)), z.flip(3)]),
        y.repeat(2),
    ),
    "the images are turned upside down; left and right are the last dimension",
    partial(_twice, dim=2),
    "image and mirrored image alternate; all mirrored ones come after all others",
    lambda encode, images, y, most: (
        _in_parts(encode, torch.stack([images, images.flip(3)], 1).flatten(0, 1), most),
        y.repeat_interleave(2),
    ),
    "mirrored images follow batch by batch; all of them come after all others",
    lambda encode, images, y, most: (
        torch.cat([encode(z) for x in images.split(most) for z in (x, x.flip(3))]),
        torch.cat([part.repeat(2) for part in y.split(most)]),
    ),
    "the labels are repeated one by one; all of them come twice: repeat(2)",
    lambda encode, images, y, most: (
        _twice(encode, images, y, most)[0],
        y.repeat_interleave(2),
    ),
    "the order of the images is reversed; flip turns more than the last dimension",
    partial(_twice, dim=(0, 3)),
    "only the mirrored ones are left; keep both",
    lambda encode, images, y, most: (_in_parts(encode, images.flip(3), most), y),
    "nothing is mirrored",
    partial(_twice, dim=()),
    "the last images, which don't fill a batch, are lost",
    lambda encode, images, y, most: _twice(
        encode, images[: (n := len(y) // most * most)], y[:n], most
    ),
    seen=_together,
)
def with_mirrors(
    encode: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """Latents and labels of images (n, c, h, w), then of all mirrored; encode takes `most`."""
    return _twice(encode, images, labels, most)


def _predict(z: Tensor, u: float) -> Tensor:
    return 1.2 * (3 * z + u).sin()


def _move(z: Tensor, x0: Tensor, u: float, after: float, first: Tensor) -> Tensor:
    return (1 - after) * x0 + after * (z - (1 - u) * x0) / u


_NOISE = 2 * waves(2, 3, 2, 2, start=5)


@against(
    {
        "three steps": (_predict, _NOISE, [1.0, 0.7, 0.3, 0.0], torch.tanh, 0.4),
        "one step": (_predict, _NOISE, [1.0, 0.0], torch.sinh, 5.0),
        "two steps": (_predict, _NOISE, [1.0, 0.5, 0.0], torch.sinh, 0.8),
    },
    "the latents are multiplied by the scale; that was on the way in",
    dict(out=lambda decode, z, scale: decode(z * scale).clamp(-1, 1)),
    "the scale is forgotten on the way out",
    dict(out=lambda decode, z, scale: decode(z).clamp(-1, 1)),
    "the scale is applied to the image; undo it before decoding",
    dict(out=lambda decode, z, scale: (decode(z) / scale).clamp(-1, 1)),
    "images may leave [-1, 1]; clamp them",
    dict(out=lambda decode, z, scale: decode(z / scale)),
    "the latents are clamped; they have no limits, only images have",
    dict(out=lambda decode, z, scale: decode(z.clamp(-1, 1) / scale).clamp(-1, 1)),
    "the predictions are clamped; latents have no limits, only images have",
    dict(move=lambda z, x0, *more: _move(z, x0.clamp(-1, 1), *more)),
    "the prediction is the clean latents; the velocity of the line is (z - x0) / u",
    dict(move=lambda z, x0, u, after, first: z + (after - u) * x0),
    "the step goes the wrong way: u falls, so that after - u is negative",
    dict(move=lambda z, x0, u, after, first: z + (u - after) * (z - x0) / u),
    "the noise at the start is mixed in again; the noise that z holds is (z - (1 - u)·x0) / u",
    dict(move=lambda z, x0, u, after, first: (1 - after) * x0 + after * first),
    "z itself is mixed in as if it were noise; the noise that it holds is (z - (1 - u)·x0) / u",
    dict(move=lambda z, x0, u, after, first: (1 - after) * x0 + after * z),
    "each step ends at the prediction; only part of the way leads there, until u is 0",
    dict(move=lambda z, x0, *more: x0),
    "the last step is missing; it ends at u = 0",
    lambda predict, z, times, *more: latent_sampler.right(predict, z, times[:-1], *more),
    "the network is told the time of the next step; z has the noise of this one",
    dict(told=1),
)
def latent_sampler(
    predict: Callable[[Tensor, float], Tensor],
    z: Tensor,
    times: Sequence[float],
    decode: Callable[[Tensor], Tensor],
    scale: float,
    *,
    move: Callable = _move,
    out: Callable = lambda decode, z, scale: decode(z / scale).clamp(-1, 1),
    told: int = 0,
) -> Tensor:
    """From noise z to images in [-1, 1], on the line z = (1 - u)·x0 + u·noise; (n, c, h, w)."""
    first = z
    for pair in zip(times, times[1:]):
        z = move(z, predict(z, pair[told]), *pair, first)
    return out(decode, z, scale)
