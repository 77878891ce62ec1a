"""Checks of what is put together: a walk back, the score behind it, skips, and a whole U-ViT.

The mistakes stand beside each check: what to say → a function that makes it.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn import functional as F

from minidit.check._verdict import Verdict, judge, outcome
from minidit.embed import timestep_embedding
from minidit.patches import patchify, unpatchify
from minidit.schedule import linear
from minidit.uvit import UViT

_POINTS = torch.tensor([[1.5, -0.5], [0.25, 2.0], [-1.0, 0.75]])

# --- the whole walk back --------------------------------------------------------------------------


def _walk_back(
    before: Callable = lambda table, k: table[k - 1] if k else torch.tensor(1.0),
    factor: Callable = lambda small, beta: small.sqrt(),
    x0_from: Callable = lambda x, eps, a: (x - (1 - a).sqrt() * eps) / a.sqrt(),
    rising: bool = False,
    late: int = 0,
    exchanged: bool = False,
    draw: Callable = lambda noises, k: noises[k],
) -> Callable:
    """All steps back; each argument is a place for a mistake, and right when left alone."""

    def sampler(predict: Callable, x: Tensor, noises: Tensor, betas: Tensor) -> Tensor:
        table = (1 - betas).cumprod(dim=0)
        for k in range(len(betas)) if rising else reversed(range(len(betas))):
            a, last, beta = table[k], before(table, k), betas[k]
            eps = predict(x, torch.full((len(x),), max(k - late, 0)))
            to_x0, to_xt = last.sqrt() * beta / (1 - a), (1 - beta).sqrt() * (1 - last) / (1 - a)
            to_x0, to_xt = (to_xt, to_x0) if exchanged else (to_x0, to_xt)
            mean = to_x0 * x0_from(x, eps, a) + to_xt * x
            x = mean + factor((1 - last) / (1 - a) * beta, beta) * draw(noises, k)
        return x

    return sampler


_SAMPLER_MISTAKES = {
    "at t = 0 the table is read at -1, its last entry; before the first step ᾱ is 1": (
        _walk_back(before=lambda table, k: table[k - 1])
    ),
    "at t = 0 the index is held at 0, so ᾱ_0 stands where ᾱ of the step before belongs; "
    "before the first step ᾱ is 1": _walk_back(before=lambda table, k: table[max(k - 1, 0)]),
    "ᾱ_t stands where ᾱ of the step before belongs, at every step": (
        _walk_back(before=lambda table, k: table[k])
    ),
    "the noise is multiplied by its variance β̃; the factor is the root, √β̃": (
        _walk_back(factor=lambda small, beta: small)
    ),
    "the noise has the variance β, and β after the last step, too; here it is β̃, 0 at t = 0": (
        _walk_back(factor=lambda small, beta: beta.sqrt())
    ),
    "the noise has the variance β, as in the text; here it is β̃": (
        _walk_back(factor=lambda small, beta: beta.sqrt() * (small > 0))
    ),
    "no noise is added": _walk_back(factor=lambda small, beta: 0 * beta),
    "the steps are walked from 0 up; start with the noisiest, T - 1": _walk_back(rising=True),
    "the network is told t - 1 instead of t": _walk_back(late=1),
    "noises[0] is taken for the first step of the walk; noises[t] belongs to step t": (
        _walk_back(draw=lambda noises, k: noises[len(noises) - 1 - k])
    ),
    "the factors of x̂_0 and x_t are exchanged in the mean": _walk_back(exchanged=True),
    "x̂_0 lacks the roots: it is (x_t - √(1 - ᾱ)·ε̂) / √ᾱ": (
        _walk_back(x0_from=lambda x, eps, a: (x - (1 - a) * eps) / a)
    ),
    "x̂_0 lacks its division by √ᾱ": (
        _walk_back(x0_from=lambda x, eps, a: x - (1 - a).sqrt() * eps)
    ),
    "ε̂ is taken for x̂_0; solve x_t = √ᾱ·x_0 + √(1 - ᾱ)·ε for x_0": (
        _walk_back(x0_from=lambda x, eps, a: eps)
    ),
}


def ancestral_sampler(fn: Callable[[Callable, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check `fn(predict, x, noises, betas)`: (b, d), (T, b, d), (T,) → x_0, by noise of variance β̃.

    `predict(x, t)` gives ε̂, (b, d), for t (b,).
    """

    def predict(x: Tensor, t: Tensor) -> Tensor:
        if not isinstance(t, Tensor) or t.shape != (len(x),):
            got = tuple(t.shape) if isinstance(t, Tensor) else t
            raise TypeError(f"predict wants a step for each point, a tensor ({len(x)},), not {got}")
        return (x + 0.1 * t[:, None]).sin()

    def noises(T: int, b: int) -> Tensor:
        return torch.arange(T * b * 2).reshape(T, b, 2).float().sin()

    cases = {
        "three points, five steps": (predict, _POINTS, noises(5, 3), linear(40).betas[:5].float()),
        "one point, a single step": (predict, _POINTS[:1], noises(1, 1), torch.tensor([0.3])),
        "two points, two steps": (predict, _POINTS[1:], noises(2, 2), torch.tensor([0.1, 0.4])),
    }
    return judge("ancestral_sampler", fn, _walk_back(), cases, _SAMPLER_MISTAKES, tolerance=1e-4)


# --- the score of a normal cloud ------------------------------------------------------------------


def _score(
    middle: Callable = lambda mean, a: a.sqrt() * mean,
    variance: Callable = lambda std, a: a * std**2 + 1 - a,
    after: Callable = lambda score, a: score,
    factor: Callable = lambda table, t: table[t][:, None],
) -> Callable:
    def score(x: Tensor, t: Tensor, mean: Tensor, std: float, alphas_cumprod: Tensor) -> Tensor:
        a = factor(alphas_cumprod, t)  # (b, 1)
        return after(-(x - middle(mean, a)) / variance(std, a), a)

    return score


_SCORE_MISTAKES = {
    "the sign: the score leads back to the middle": _score(after=lambda score, a: -score),
    "the middle of the cloud at t is √ᾱ·mean; it moves to zero with the data": (
        _score(middle=lambda mean, a: mean)
    ),
    "the middle lacks its root: it is √ᾱ·mean": _score(middle=lambda mean, a: a * mean),
    "the noise is left out of the variance, ᾱ·std² + 1 - ᾱ": (
        _score(variance=lambda std, a: a * std**2)
    ),
    "the data's own spread is left out of the variance, ᾱ·std² + 1 - ᾱ": (
        _score(variance=lambda std, a: 1 - a)
    ),
    "std isn't squared in the variance, ᾱ·std² + 1 - ᾱ": (
        _score(variance=lambda std, a: a * std + 1 - a)
    ),
    "std² isn't multiplied by ᾱ: the data's cloud shrinks while the noise grows": (
        _score(variance=lambda std, a: std**2 + 1 - a)
    ),
    "it is divided by a standard deviation; the score of a normal is -(x - middle) / variance": (
        _score(variance=lambda std, a: (a * std**2 + 1 - a).sqrt())
    ),
    "ᾱ_t (b,) meets points (b, d) on the wrong axis; make it (b, 1) with [:, None]": (
        _score(factor=lambda table, t: table[t])
    ),
    "this is the noise ε̂; the score is -ε̂ / √(1 - ᾱ)": (
        _score(after=lambda score, a: -(1 - a).sqrt() * score)
    ),
}


def gaussian_score(fn: Callable[[Tensor, Tensor, Tensor, float, Tensor], Tensor]) -> Verdict:
    """Check `fn(x_t, t, mean, std, alphas_cumprod)`: (b, d), (b,), (d,) → the score at x_t, (b, d).

    The data are normal, with this mean and this standard deviation in every direction.
    """
    table, mean = linear(100).alphas_cumprod.float(), torch.tensor([1.0, -2.0])
    cases = {
        "three points at three steps": (_POINTS, torch.tensor([5, 20, 60]), mean, 0.5, table),
        "two points, a wide cloud": (_POINTS[:2], torch.tensor([30, 10]), -mean, 2.0, table),
    }
    return judge("gaussian_score", fn, _score(), cases, _SCORE_MISTAKES, tolerance=1e-4)


# --- every skip as a concatenation ----------------------------------------------------------------


def _halves(kind: str, m: Tensor) -> tuple[Tensor, Tensor]:
    """The left half, for x, and the right half, for early; m: (d, d)."""
    eye, zero = torch.eye(len(m)), torch.zeros_like(m)
    halves = {"add": (eye, eye), "add_linear": (eye, m), "linear_add": (m, m), "none": (eye, zero)}
    return halves[kind]


def _concat(choose: Callable = _halves, bias_of: Callable | None = None) -> Callable:
    def concat(kind: str, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        has_layer = kind in ("add_linear", "linear_add")
        own = bias_of(bias) if bias_of else bias * has_layer
        return torch.cat(choose(kind, weight), dim=1), own

    return concat


def _no_straight_path(kind: str, m: Tensor) -> tuple[Tensor, Tensor]:
    return (torch.zeros_like(m), m) if kind == "add_linear" else _halves(kind, m)


def _matrix_on_early_alone(kind: str, m: Tensor) -> tuple[Tensor, Tensor]:
    return _halves("add_linear" if kind == "linear_add" else kind, m)


def _one_for_zero(kind: str, m: Tensor) -> tuple[Tensor, Tensor]:
    return _halves("add" if kind == "none" else kind, m)


_CONCAT_MISTAKES = {
    "the halves are exchanged: x comes first, so its half is the left one": (
        _concat(lambda kind, m: _halves(kind, m)[::-1])
    ),
    "the weight is transposed; F.linear does that itself, x @ weight.T": (
        _concat(lambda kind, m: _halves(kind, m.T))
    ),
    "add_linear has a left half of zeros; x itself goes on, so it is the identity": (
        _concat(_no_straight_path)
    ),
    "linear_add has the identity on the left; its matrix stands before the sum, for both": (
        _concat(_matrix_on_early_alone)
    ),
    "none has the identity on the right; early must not count": _concat(_one_for_zero),
    "the bias is left out where there is a linear layer": _concat(bias_of=lambda bias: 0 * bias),
    "add and none get a bias; they have no linear layer": _concat(bias_of=lambda bias: bias),
    "the weight isn't (d, 2·d): the halves stand side by side, torch.cat(…, dim=1)": (
        lambda kind, weight, bias: (torch.cat(_halves(kind, weight), dim=0), bias)
    ),
}


def as_concat(fn: Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Verdict:
    """Check `fn(kind, weight, bias)`: (d, d), (d,) → the (d, 2d) and (d,) of a concat that equals.

    What they do to tokens is compared.
    """
    x, early = (torch.arange(a, a + 9).reshape(1, 3, 3).float().sin() for a in (0, 40))

    def applied(fn: Callable) -> Callable:
        def skip(kind: str, weight: Tensor, bias: Tensor) -> Tensor:
            return F.linear(torch.cat([x, early], dim=-1), *fn(kind, weight, bias))

        return skip

    weight, bias = torch.arange(9).reshape(3, 3).float().cos(), torch.tensor([0.5, -1.0, 2.0])
    first = outcome(fn, ("add", weight, bias))
    pair = isinstance(first, tuple) and [isinstance(z, Tensor) for z in first] == [True, True]
    if not (pair or isinstance(first, Exception)):
        return Verdict(
            False,
            f"✗ as_concat is not right yet: it returns a {type(first).__name__}, and two tensors "
            "are expected, a weight (d, 2·d) and a bias (d,).",
        )
    cases = {
        f"skip={kind!r}": (kind, weight, bias) for kind in ("add", "add_linear", "linear_add")
    } | {"skip='none'": ("none", weight, bias)}
    wrong = {hint: applied(mistake) for hint, mistake in _CONCAT_MISTAKES.items()}
    return judge("as_concat", applied(fn), applied(_concat()), cases, wrong, tolerance=1e-5)


# --- a whole U-ViT --------------------------------------------------------------------------------


def taken_apart(net: UViT) -> SimpleNamespace:
    """The parts of a U-ViT whose time is a token; what it hasn't got is None."""
    return SimpleNamespace(
        patch_size=net.patch_size,
        grid=net.grid,
        d=net.config["hidden_size"],
        patch_embed=net.patch_embed.proj,
        label_embed=net.label_embed,
        pos_embed=net.pos_embed,
        blocks=[lambda x, block=block: block(x, None) for block in net.blocks],
        skips=list(net.skips),
        norm=net.final.norm,
        last=net.final.proj,
        conv=net.conv_after,
    )


def _forward(
    order: int = 1,
    time: bool = True,
    positions: bool | str = True,
    patches_of: Callable = lambda x, n: x[:, -n:],
    skips: int = 1,
    pop: int = -1,
    middle: bool = True,
    entering: bool = False,
    late: bool = False,
    exchanged: bool = False,
    without: str = "",
    tall: int = 1,
) -> Callable:
    """A forward pass; each argument is a place for a mistake, and right when left alone."""

    def forward(net: SimpleNamespace, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        extras = [] if y is None else [net.label_embed(y)[:, None]]  # (b, 1, d)
        extras += [timestep_embedding(t, net.d)[:, None]] if time else []
        tokens = net.patch_embed(patchify(x, net.patch_size))  # (b, n, d)
        n = tokens.shape[1]
        x = torch.cat([*extras[::order], tokens], dim=1)  # (b, extras + n, d)
        if positions == "always" or (positions and net.pos_embed is not None):
            x = x + net.pos_embed
        half, kept, waiting = len(net.blocks) // 2, [], net.skips[::skips]
        for k, block in enumerate(net.blocks):
            if k == half and not middle:
                continue
            skip, before = None, x
            if k > half and without != "skips":
                skip, early = waiting.pop(0), kept.pop(pop)
            if skip and not late:
                x = skip(early, x) if exchanged else skip(x, early)
            x = block(x)
            if skip and late:
                x = skip(x, early)
            if k < half:
                kept.append(before if entering else x)
        x = patches_of(x, n)
        x = net.last(x if without == "norm" else net.norm(x))  # (b, n, p·p·c)
        image = unpatchify(x, net.patch_size, net.grid[::tall])  # (b, c, h, w)
        if without == "conv" or (net.conv is None and without != "None"):
            return image
        return net.conv(image)

    return forward


def _shapes(*arguments: object) -> Tensor:
    raise RuntimeError


_FORWARD_MISTAKES = {
    "label and time are exchanged; the order is label, time, patches": _forward(order=-1),
    "the time's token is missing": _forward(time=False),
    "the positions are left out": _forward(positions=False),
    "where there is no label there is one token less: none is made of it at the start, and at the "
    "end the last n are kept, not all but two": (_forward(patches_of=lambda x, n: x[:, 2:])),
    "one token is dropped at the end, also where there is a label; keep the last n": (
        _forward(patches_of=lambda x, n: x[:, 1:])
    ),
    "the first n tokens become the image; the patches are the last n": (
        _forward(patches_of=lambda x, n: x[:, :n])
    ),
    "the skips are taken in reverse; skips[0] belongs to the first block after the middle": (
        _forward(skips=-1)
    ),
    "the first tokens that were kept are taken first; last in, first out": _forward(pop=0),
    "the middle block is left out": _forward(middle=False),
    "what goes into a block is kept; keep what comes out of it": _forward(entering=True),
    "a skip joins after its block; it comes before, so that the block works on both": (
        _forward(late=True)
    ),
    "early and late are exchanged; a skip is called skip(x, early)": _forward(exchanged=True),
    "the skips are left out": _forward(without="skips"),
    "the normalisation before the last layer is left out": _forward(without="norm"),
    "the convolution at the end is left out": _forward(without="conv"),
    "height and width of the grid are exchanged": _forward(tall=-1),
    "conv is called where it is None; then the image stays as it is": _forward(without="None"),
    "pos_embed is added where it is None; then the tokens stay as they are": (
        _forward(positions="always")
    ),
    "a shape doesn't fit; look at x.shape after every line: label and time are (b, 1, d), and all "
    "tokens are joined along dim=1": _shapes,
}


def uvit_forward(fn: Callable[[SimpleNamespace, Tensor, Tensor, Tensor | None], Tensor]) -> Verdict:
    """Check `fn(parts, x, t, y)`, a U-ViT's forward pass with what `taken_apart` gives."""

    def network(**config: object) -> SimpleNamespace:
        net = UViT(patch_size=2, hidden_size=8, num_heads=2, **config).requires_grad_(False)
        for k, p in enumerate(net.parameters()):  # nothing random, and nothing zero
            p.copy_((torch.arange(p.numel()) * 1.7 + k).sin().reshape(p.shape) * 0.6)
        return taken_apart(net)

    def image(c: int, height: int, width: int) -> Tensor:
        return torch.arange(2 * c * height * width).reshape(2, c, height, width).float().sin()

    t, y = torch.tensor([3, 700]), torch.tensor([2, 0])
    grey, colour = {"in_channels": 1, "num_classes": 3}, {"in_channels": 3}
    configs = {
        "labels and five blocks": (grey | {"input_size": 4, "depth": 4}, image(1, 4, 4), t, y),
        "a wide image without labels": (
            colour | {"input_size": (4, 6), "depth": 6, "skip": "add_linear"},
            image(3, 4, 6),
            t,
            None,
        ),
        "no positions": (
            grey | {"input_size": 4, "depth": 4, "pos_embed": "none", "skip": "linear_add"},
            image(1, 4, 4),
            t,
            y,
        ),
        "a single block, no convolution": (
            grey | {"input_size": (2, 4), "depth": 1, "conv": "none"},
            image(1, 2, 4),
            t,
            y,
        ),
    }

    def of_config(fn: Callable) -> Callable:
        return lambda config, *inputs: fn(network(**config), *inputs)

    wrong = {hint: of_config(mistake) for hint, mistake in _FORWARD_MISTAKES.items()}
    right = of_config(_forward())
    return judge("uvit_forward", of_config(fn), right, configs, wrong, tolerance=1e-4)
