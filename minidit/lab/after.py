"""What came after DiT, each at the size of the speedrun, with a quarter or half of its steps.

Paths, times and pairs of flow matching (SiT, arXiv 2401.08740; SD3, 2403.03206; 2302.00482); what
is predicted for large patches (JiT, 2511.13720); losses (min-SNR, 2303.09556; REPA, 2410.06940);
the parts of `modern`; guides (2406.02507, 2404.07724); a few-step student (2303.01469).
"""

import json
import math
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidit import evaluate
from minidit.diffusion import Diffusion
from minidit.lab import trials
from minidit.lab.claims import SURGERY, Objective
from minidit.lab.recipes import speedrun
from minidit.lab.runner import EXPERIMENTS, Experiment, by_scale, merge
from minidit.patches import linear_layer
from minidit.sampling import Denoiser, guided
from minidit.schedule import SCHEDULES, Schedule, straight
from minidit.train import Run
from minidit.training.modern import PARTS


def shifted(T: int = 1000, shift: float = 3.0) -> Schedule:
    """The straight line, more often in noise: u' = shift·u/(1 + (shift - 1)·u), SD3's equation 23.

    The network is told u', by the numbers that it has on the plain line.
    """
    line = straight(T)
    u = shift * line.sigma / (1 + (shift - 1) * line.sigma)
    return replace(line, alpha=1 - u, sigma=u, steps=(T + 1) * u - 1, name="shifted")


def sine(T: int = 1000) -> Schedule:
    """SiT's "generalised variance-preserving" path: α = cos(π·u/2), σ = sin(π·u/2)."""
    angle, path = straight(T).sigma * math.pi / 2, "variance_preserving"
    return replace(straight(T), alpha=angle.cos(), sigma=angle.sin(), path=path, name="sine")


SCHEDULES |= {"shifted": shifted, "sine": sine}


def pairing(cost: Tensor) -> Tensor:
    """Which column each row takes, (n,), so that the cost (n, n) is least in sum: an auction.

    Rows outbid each other until all are served (Bertsekas, 1979). The sum is the least but for a
    1000th of how far costs are apart.
    """
    gains, n = (-cost).tolist(), len(cost)
    more = ((cost.max() - cost.min()).item() or 1.0) / 1000 / n
    prices, free, owners = [0.0] * n, list(range(n)), {}
    while free:
        row = free.pop()
        offers = sorted(zip((gain - price for gain, price in zip(gains[row], prices)), range(n)))
        best, column = offers[-1]
        prices[column] += best - offers[-2:][0][0] + more  # than the second, if there is one
        free += [owners[column]] if column in owners else []
        owners[column] = row
    return torch.tensor(sorted(owners, key=owners.get), device=cost.device)


def paired_loss(process: Diffusion, model: Denoiser, *inputs: Tensor) -> Tensor:
    """Minibatch optimal transport: the plain loss of x0, t, noise, y, (b,), with noise paired."""
    x0, t, noise, y = inputs
    near = pairing(torch.cdist(x0.flatten(1), noise.flatten(1)).square())
    return Diffusion.loss(process, model, x0, t, noise[near], y)


def align(
    model: nn.Module, diffusion: Diffusion, teacher: str = "mnist", weight: float = 0.5
) -> Objective:
    """REPA: a middle block's tokens, through an MLP, shall point where a classifier's features do.

    Their mean cosine, times `weight`, is taken off the loss. `teacher`: a shipped classifier; its
    last stage has the features, averaged over each patch.
    """
    judge, d = evaluate.classifier(teacher), model.config["hidden_size"]
    k = judge.to_features.in_features // judge.pool**2
    model.project = nn.Sequential(linear_layer(d, 4 * d), nn.SiLU(), linear_layer(4 * d, k))

    def loss(process: Diffusion, model: nn.Module, x0: Tensor, *rest: Tensor) -> Tensor:
        middle, seen = model.blocks[(len(model.blocks) - 1) // 2], []
        hook = middle.register_forward_hook(lambda block, inputs, tokens: seen.append(tokens))
        plain = Diffusion.loss(process, model, x0, *rest)  # (b,)
        hook.remove()
        with torch.no_grad():
            maps = judge.to(x0.device).activations(x0)[-1]  # (b, k, 7, 7)
            features = F.adaptive_avg_pool2d(maps, model.grid).flatten(2).mT  # (b, n, k)
        cosine = F.cosine_similarity(model.project(seen[0]), features, dim=-1)  # (b, n)
        return plain - weight * cosine.mean(dim=1)

    return Objective(**vars(diffusion), objective=loss)


SURGERY["align"] = align
SURGERY["pair"] = lambda model, process: Objective(**vars(process), objective=paired_loss)


def consistency_loss(
    process: Diffusion, model: Denoiser, *inputs: Tensor, teacher: Denoiser
) -> Tensor:
    """Neighbours on the teacher's way to an image have one answer: of x0, t, noise, y, (b,).

    From x_t a DDIM step of the teacher leads to x_s; what the model answers there, or x_s itself
    where that is the image, is what it should answer at x_t.
    """
    x0, t, noise, y = inputs

    def answer(network: Denoiser, x: Tensor, k: Tensor) -> Tensor:
        return process.pred_x0(network(x, process.schedule.at("steps", k, k), y), x, k)

    x_t = process.q_sample(x0, t, noise)  # (b, c, h, w)
    with torch.no_grad():
        alpha, sigma = process.schedule.at("alpha_prev sigma_prev", t, x0)
        image = answer(teacher, x_t, t)
        x_s = alpha * image + sigma * process.to_eps(x_t, t, image)
        target = torch.where(sigma > 0, answer(model, x_s, (t - 1).clamp(min=0)), x_s)
    return (answer(model, x_t, t) - target).square().flatten(1).mean(dim=1)


def student_of(run: Run, levels: int, scale: float) -> Run:
    """A run in which what `run` has learnt, guided, learns to draw with 1 … `levels` evaluations.

    It is half as long, at a tenth of the rates: at full ones the answers flow together. It trains
    `run.model` in place; the teacher is the average that `run` has now.
    """
    process = run.diffusion.respace(_even(levels, len(run.diffusion)))
    loss = partial(consistency_loss, teacher=guided(run.ema.model, scale))
    process = Objective(**vars(process), objective=loss)
    run.model.load_state_dict(run.ema.model.state_dict())
    slow = {name: getattr(run.recipe, name) / 10 for name in ("lr", "muon_lr")}
    recipe = replace(run.recipe, steps=-(-run.recipe.steps // 2), times="uniform", **slow)
    return Run(run.model, process, run.images, run.labels, recipe)


def autoguided(model: Denoiser, worse: Denoiser, scale: float) -> Denoiser:
    """Away from what a worse network says: worse + scale·(model - worse), all (b, c, h, w)."""
    return lambda *inputs: worse(*inputs).lerp(model(*inputs), scale)


@lru_cache(maxsize=2)
def _trained(told: str, seed: int) -> tuple[Run, dict]:
    """A run that has ended, and its facts; variants that differ in sampling share it."""
    settings = json.loads(told)
    if how := settings.pop("student", None):
        run = student_of(_trained(json.dumps(settings), seed)[0], **how)
    else:
        run = trials.prepare(settings, seed)
    return run, trials.train(run)[1]


def train_and_draw(settings: dict, seed: int) -> dict:
    """Train on MNIST, see `prepare`; measure samples, see `draw`.

    `student`: how `student_of` makes another network of it, which draws. `guide`: for `autoguided`
    a `scale`, and what differs in the settings of the worse network.
    """
    told = {key: part for key, part in settings.items() if key not in ("sampling", "guide")}
    run, facts = _trained(json.dumps(told), seed)
    model, denoiser = run.ema.model, None
    if guide := dict(settings.get("guide", {})):
        scale = guide.pop("scale")
        worse, _ = _trained(json.dumps(merge(told, guide)), seed)
        denoiser = autoguided(model, worse.ema.model, scale)
    sampling = settings.get("sampling", {})
    images, labels, done = trials.draw(model, run.diffusion, sampling, seed, denoiser)
    done["passes"] *= 1 + bool(guide)
    return facts | done | trials.quality(images, labels)


def _drawn(steps: int | list[int], scale: float = 2.0, interval=None, **options) -> dict:
    """Settings of sampling by DDIM, or by the `sampler` that is among its options."""
    sampler, guidance = options.pop("sampler", "ddim"), {"scale": scale, "interval": interval}
    options = {"steps": steps} | options
    return {"sampling": {"guidance": guidance, "sampler": sampler, "options": options}}


def _even(n: int, T: int = 1000) -> list[int]:
    """The last of each of n equal parts of T steps."""
    return list(range(T // n - 1, T, T // n))


def _shift(n: int) -> list[int]:
    """What a shift of 3 makes of n even steps from 0 to 999."""
    return [round(999 * 3 * k / (n - 1 + 2 * k)) for k in range(n)]


_short = partial(speedrun, 0.25)  # 400 steps; twice as many for what is only sampled otherwise
_longer = {"recipe": {"steps": 800}}
_BLOCKS = {part.replace("_", " "): f"modern_{part}" for part in PARTS} | {"all of them": "modern"}
_MODERN = {"adaLN-Zero": {}} | {name: {"model": {"block": kind}} for name, kind in _BLOCKS.items()}
_LINE = {"schedule": "straight", "predict": "v"}
_flow = partial(_short, recipe={"times": "uniform"})
_SIT = _flow(diffusion=_LINE)
_FLOWS = {
    "straight line, v predicted, uniform t": _SIT,
    "logit-normal t": _short(diffusion=_LINE),
    "shifted t": _flow(diffusion=_LINE | {"schedule": "shifted"}),
    "cosine and sine": _flow(diffusion=_LINE | {"schedule": "sine"}),
    "DDPM's path": _flow(diffusion={"predict": "v"}),
    "noise paired with images": _SIT | {"surgery": {"pair": {}}},
}
_LOSSES = {
    "the recipe": _short(),
    "min-SNR, γ = 5": _short(diffusion={"weight": "eps", "max_weight": 5.0}),
    "REPA": _short(surgery={"align": {}}),
    "REPA, classifier of other digits": _short(surgery={"align": {"teacher": "digits"}}),
}
_PREDICTED = {
    name: _short(diffusion=_LINE | {"predict": predict}, **_drawn(20, clip=True))
    for predict, name in {"x0": "image", "v": "velocity", "eps": "noise"}.items()
}
_PIXELS = {
    f"{name}, patches of {p}": settings | {"model": {"patch_size": p}}
    for p in (14, 7, 4)
    for name, settings in _PREDICTED.items()
}
_WAYS = {"ODE": {}, "ODE, second order": dict(sampler="dpm_solver", spacing="time")}
_WAYS |= {"SDE": {"eta": 1.0}, "ODE, shifted": {}}
_WALKS = {
    f"{name}, {n} steps": merge(_SIT, _longer)
    | _drawn(_shift(n) if "shifted" in name else n, **how)
    for n in (10, 40)
    for name, how in _WAYS.items()
}
_WORSE = _drawn(20) | {"guide": {"recipe": {"steps": 400}}}  # half of the steps
_GUIDES = {
    "null label, scale 2": _drawn(20),
    "null label, scale 3": _drawn(20, 3.0),
    "null label, scale 3, t ≤ 799": _drawn(20, 3.0, [0, 799]),
    "null label, scale 3, 80 ≤ t ≤ 470": _drawn(20, 3.0, [80, 470]),
    "worse network, scale 1.5": merge(_WORSE, {"guide": {"scale": 1.5}}),
    "worse network, scale 2": merge(_WORSE, {"guide": {"scale": 2.0}}),
    "nothing, 40 steps": _drawn(40, 1.0),
}
_TAUGHT = {"student": {"levels": 4, "scale": 2.0}}
_FEW = {f"teacher, {n}": _drawn(_even(n)) for n in (50, 4, 2, 1)}
_FEW |= {f"student, {n}": _TAUGHT | _drawn(_even(n, 4), 1.0, eta=1.0) for n in (4, 2, 1)}
_COLUMNS = {"parameters": ",.0f", "processor seconds": ".0f", "passes": ".0f"}
_COLUMNS |= {"recognised": ".1%", "frechet": ".2f", "coverage": ".1%"}
AFTER = {
    "modern": ("Which parts of a modern block pay at this size?", _MODERN),
    "flows": ("Which path, which times and which pairs should flow matching have?", _FLOWS),
    "losses": ("Do min-SNR's weights help, or a classifier's features?", _LOSSES),
    "pixels": ("What should be predicted where patches are large?", _PIXELS),
    "walks": ("An ODE or an SDE, and at which times?", _WALKS),
    "guides": ("What should guide the samples?", _GUIDES),
    "few-steps": ("How few evaluations does a student need?", _FEW),
}
for _name, (_question, _variants) in AFTER.items():
    _drawing = _name in ("walks", "guides", "few-steps")  # in several ways by one network
    _own = merge(_short(), _longer if _drawing else {})
    _all = {name: _own | settings for name, settings in _variants.items()}
    _scales = by_scale(steps=(5, None, None), per_class=(7, 30, 500))
    EXPERIMENTS[_name] = Experiment(
        _question, _all, _scales, train_and_draw, _COLUMNS, "", _drawing
    )
