"""What samples of the shipped weights depend on: guidance, solvers, strides, and how few steps.

Then how measures depend on the number of images, and what a learned variance is worth in bits.
"""

from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from minidit import data, evaluate
from minidit.diffusion import Diffusion
from minidit.evaluate.nll import Bits, bits_per_dim
from minidit.lab.runner import EXPERIMENTS, Experiment, by_scale
from minidit.lab.trials import device, draw, quality
from minidit.sampling import Denoiser, guided, sample, select_steps
from minidit.train import step_generator
from minidit.training.generate import generate
from minidit.weights import load


class Folded(nn.Module):
    """The same network for images whose blocks of f × f pixels are folded into f² channels.

    (b, c·f², h/f, w/f) in and out: what it computes is unchanged, but `guided` can now choose
    channels, for which a network of one channel gives no occasion.
    """

    def __init__(self, model: nn.Module, fold: int = 2) -> None:
        super().__init__()
        self.model, self.fold, self.null_label = model, fold, model.null_label

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """(b, c·f², h/f, w/f), (b,), (b,) → the same shape."""
        return pixel_unshuffle(self.model(pixel_shuffle(x, self.fold), t, y), self.fold)


def guide_folded(model: nn.Module, fold: int, guidance: dict) -> Denoiser:
    """`guided` with channels that are the places in f × f pixels; images stay as they are."""
    folded = guided(Folded(model, fold), **guidance)
    return lambda x, t, y: pixel_shuffle(folded(pixel_unshuffle(x, fold), t, y), fold)


def sample_and_measure(settings: dict, seed: int) -> dict:
    """Samples of the shipped weights, measured.

    `sampling`: as for `draw`; `fold`, see `guide_folded`; `variance`, "large" or "small", for Σ.
    """
    (model, diffusion), sampling = _shipped(settings), settings["sampling"]
    denoiser = guide_folded(model, sampling.get("fold", 1), sampling["guidance"])
    if "variance" in sampling:
        denoiser, diffusion = with_variance(denoiser, diffusion, sampling["variance"])
    images, labels, done = draw(model, diffusion, sampling, seed, denoiser)
    return done | quality(images, labels) | {"weights": settings["weights"]}


def with_variance(
    model: Denoiser, diffusion: Diffusion, variance: str
) -> tuple[Denoiser, Diffusion]:
    """The same network without its learned Σ, (b, c, h, w), and a process with a fixed one."""
    fixed = replace(diffusion, learn_sigma=False, variance=variance)
    return lambda x, t, y=None: model(x, t, y)[:, : x.shape[1]], fixed


def _shipped(settings: dict) -> tuple[nn.Module, Diffusion]:
    model, diffusion = load(settings["weights"])
    return model.to(device()), diffusion


def _guided(fold: int = 1, **guidance) -> dict:
    """Settings of a trial that guides the shipped weights through 20 DDIM steps."""
    sampling = {"guidance": guidance, "options": {"steps": 20}, "fold": fold}
    return {"weights": "dit-mnist", "sampling": sampling}


_SCALES = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_PARTS = ((667, 999), (333, 666), (0, 332))
_GUIDANCE = {
    **{f"scale {s:g}": _guided(scale=s) for s in _SCALES},
    **{f"scale 3, only t = {a} … {b}": _guided(scale=3.0, interval=[a, b]) for a, b in _PARTS},
    **{f"scale {s:g}, 3 of 4 pixels": _guided(2, scale=s, channels=3) for s in (1.5, 3.0)},
    **{f"scale {s:g}": _guided(scale=s) for s in (1.375, 2.5)},  # 1 + 3/4 of 1.5 - 1 and 3 - 1
}
_DRAWN = by_scale(per_class=(7, 30, 500))
EXPERIMENTS["guidance"] = Experiment(
    "How hard should a label pull, when, and on how many pixels?",
    _GUIDANCE,
    _DRAWN,
    sample_and_measure,
    {"recognised": ".1%", "frechet": ".2f", "precision": ".0%", "recall": ".0%"}
    | {"density": ".2f", "coverage": ".0%"},
)


def _sampled(
    weights: str, name: str, counts: tuple[int, ...], sampler: str = "ddim", **how
) -> dict:
    """Variants that sample, one for each number of steps.

    `how`: `guidance` and `variance`, a `rule` for `select_steps`, and the sampler's options.
    """
    sampling = {"sampler": sampler}
    sampling |= {key: how.pop(key) for key in ("guidance", "variance") if key in how}
    rule = how.pop("rule", "")
    steps = {n: {"steps": f"{rule}{n}" if rule else n, **how} for n in counts}
    return {
        f"{name}, {n} steps": {"weights": weights, "sampling": sampling | {"options": steps[n]}}
        for n in counts
    }


_on_the_line = partial(_sampled, "dit-mnist", guidance={"scale": 1.0})
_on_the_arc = partial(_sampled, "dit-mnist-sigma", guidance={"scale": 1.0}, clip=True)
_at_two = partial(_on_the_arc, guidance={"scale": 2.0})
_late = partial(_on_the_arc, guidance={"scale": 2.0, "interval": [0, 799]})
_weaker = partial(_on_the_arc, guidance={"scale": 1.5})
_TIMED = dict(sampler="dpm_solver", spacing="time", lower_order_final=False)
_SOLVER = _TIMED | {"spacing": "logsnr"}
_SINGLE = _SOLVER | {"method": "singlestep"}
_SMALL = dict(sampler="ddpm", variance="small")
_QUALITY = {"evaluations": ".0f", "recognised": ".1%", "frechet": ".2f"}
_QUALITY |= {"precision": ".1%", "recall": ".1%", "coverage": ".1%"}

_SAMPLERS = {
    **_on_the_line("straight line, Euler", (5, 10, 20, 50)),
    **_on_the_line("straight line, second order", (5, 10, 20), **_TIMED),
    **_on_the_line("straight line, random (η = 1)", (10, 50), eta=1.0),
    **_on_the_arc("DDPM", (10, 25, 50, 250), "ddpm"),
    **_on_the_arc("DDIM", (5, 10, 20, 50)),
    **_on_the_arc("DPM-Solver++ 2, even in λ", (5, 10, 20), **_SOLVER),
    **_on_the_arc("DDIM, even in λ", (5, 10, 20), rule="logsnr"),
    **_on_the_arc("DDIM, quadratic", (10, 20), rule="quad"),
    **_on_the_arc("DDIM, β-weighted", (10, 20), rule="beta"),
    **_on_the_arc("DDPM, large variance", (10, 25), "ddpm", variance="large"),
    **_on_the_arc("DDPM, small variance", (10, 25), **_SMALL),
    **_on_the_arc("DPM-Solver++ 2", (10, 20), **_TIMED),
    **_on_the_arc("DPM-Solver++ 3, even in λ", (10, 20), order=3, **_SOLVER),
    **_on_the_arc("DPM-Solver++ 2 singlestep, even in λ", (10, 20), **_SINGLE),
    **_on_the_arc("DPM-Solver 2, even in λ", (10, 20), solve="eps", **_SOLVER),
    **_on_the_arc("DDPM, β-weighted", (25,), "ddpm", rule="beta"),
    **_at_two("guided, DDPM", (50, 250), "ddpm"),
    **_at_two("guided, DDPM, small variance", (10,), **_SMALL),
    **_at_two("guided, DDIM", (5, 10)),
    **_at_two("guided, DPM-Solver++ 2, even in λ", (5, 10, 20), **_SOLVER),
}

_STRIDES = {
    **_on_the_arc("DDPM, even", (100, 200, 1000), "ddpm"),
    **_on_the_arc("DDPM, β-weighted", (100, 200), "ddpm", rule="beta"),
    **_on_the_arc("DDPM, quadratic", (100, 200), "ddpm", rule="quad"),
    **_on_the_arc("DDIM, even", (10, 20)),
    **_on_the_arc("DDIM, β-weighted", (10, 20, 100), rule="beta"),
    **_on_the_arc("DDIM, quadratic", (10, 20), rule="quad"),
}
for _name, _question, _variants in (
    ("samplers", "How few evaluations of the network are enough?", _SAMPLERS),
    ("strides", "Should strides follow β, when 1000 steps become 100 or 200?", _STRIDES),
):
    EXPERIMENTS[_name] = Experiment(_question, _variants, _DRAWN, sample_and_measure, _QUALITY)

_FEWEST = {
    **_at_two("DDPM, learned variance", (250, 50, 25, 15), "ddpm"),
    **_at_two("DDPM, small variance", (25, 20, 15, 10), **_SMALL),
    **_at_two("DDIM, half random (η = 0.5)", (25, 15, 10), eta=0.5),
    **_at_two("DDIM", (25, 10)),
    **_at_two("DPM-Solver++ 2, even in λ", (10, 5), **_SOLVER),
    **_late("guided at t ≤ 799 only, small variance", (25, 15), **_SMALL),
    **_weaker("DDPM, learned variance, s = 1.5", (50, 25), "ddpm"),
    **_weaker("DDPM, small variance, s = 1.5", (25, 15, 10), **_SMALL),
    **_weaker("DDIM, half random (η = 0.5), s = 1.5", (15, 10), eta=0.5),
    **_weaker("DPM-Solver++ 2, even in λ, s = 1.5", (10,), **_SOLVER),
}
EXPERIMENTS["fewest"] = Experiment(
    "How few passes through the network come near 250 steps of DDPM?",
    _FEWEST,
    by_scale(per_class=(7, 100, 1000)),
    sample_and_measure,
    {"passes": ".0f", "recognised": ".1%", "frechet": ".3f", "recall": ".1%", "coverage": ".1%"},
)


AT_ONCE = 100  # samples, ten of each label


def measure_some(settings: dict, seed: int) -> dict:
    """How measures depend on the number of images; settings: `of`, `n`, `steps` of the sampler.

    `of`: "real", "real, balanced" (as many of each digit, as samples are), or weights of MNIST. The
    seed deals MNIST's test images, which no network has seen, out to two halves: real images, as
    good as samples can get, so that only the measure changes with their number; and those that they
    and the samples are compared with. It is that of the noise, too: the few are the first of many.
    `frechet` is the distance to the classifier's training images, `frechet to test` to that half.
    """
    classifier, of, n = evaluate.classifier("mnist"), settings["of"], settings["n"]
    features, labels = _test_features(), data.load("mnist", "test").labels
    dealt = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    mine, others = dealt.chunk(2)
    if of == "real, balanced":
        mine = mine[evaluate.matching(labels[mine], torch.arange(n) % 10)]
    found, reference = features[mine[:n]], features[others]
    if not of.startswith("real"):
        parts = [_drawn(of, seed, k, settings["steps"]) for k in range(0, n, AT_ONCE)]
        found = evaluate.features(classifier, torch.cat(parts)[:n])
    clouds = (evaluate.moments(cloud) for cloud in (found, reference))
    return {
        **evaluate.distances(classifier, found, reference),
        "frechet to test": round(evaluate.frechet_distance(*chain(*clouds)), 3),
        "images": len(found),
        "reference": len(reference),
    }


@lru_cache(maxsize=1)
def _test_features() -> Tensor:
    """(10000, 64) of MNIST's test images."""
    images = data.to_unit(data.load("mnist", "test").images)
    return evaluate.features(evaluate.classifier("mnist"), images)


@lru_cache(maxsize=64)
def _drawn(weights: str, seed: int, first: int, steps: int) -> Tensor:
    """The samples first … first + 99 of one seed, guided with scale 2: (100, 1, 28, 28)."""
    model, diffusion = _shipped({"weights": weights})
    labels, at = torch.arange(AT_ONCE) % 10, seed * 10**6 + first
    return sample(generate(model, diffusion, labels, steps=steps, seed=at)).cpu()


_COUNTS = {
    "real": (100, 200, 500, 1000, 2000, 5000),
    "dit-mnist": (100, 200, 500),
    "real, balanced": (100, 200, 500, 1000, 2000),
}
EXPERIMENTS["sample-size"] = Experiment(
    "How much of a distance is the number of images?",
    {f"{of}, {n:,} images": {"of": of, "n": n} for of, counts in _COUNTS.items() for n in counts},
    {"smoke": {"n": 100, "steps": 2}, "cpu": {"steps": 20}, "gpu": {"steps": 50}},
    measure_some,
    {"frechet": ".2f", "precision": ".1%", "recall": ".1%", "coverage": ".1%", "density": ".2f"},
)


_SHOWN = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700)


def count_bits(settings: dict, seed: int) -> dict:
    """Bits per dimension of test images with three variances of the same network.

    Settings: `weights`, a name or a file, with a learned variance; `steps`, evenly spaced;
    `images`. The seed chooses the noise and, as far as they last, other images.
    """
    model, diffusion = _shipped(settings)
    process = diffusion.respace(select_steps(diffusion.schedule, settings["steps"]))
    test, n = data.load("mnist", "test"), settings["images"]
    rows = (torch.arange(n) + seed * n) % len(test)
    x0, y = data.to_unit(test.images[rows]), test.labels[rows]
    found = bits_by_variance(model, process, x0.to(device()), y.to(device()), seed)
    at = [k for k in _SHOWN if k < len(process) - 1] + [len(process) - 1]
    terms = {name: bits.terms.mean(dim=0).flip(0).tolist() for name, bits in found.items()}
    return {
        **{name: round(bits.total.mean().item(), 4) for name, bits in found.items()},
        "prior": round(found["learned"].prior.mean().item(), 6),
        "shown": process.schedule.steps[at].tolist(),  # the steps of these terms
        "terms": {name: [float(f"{all[k]:.4g}") for k in at] for name, all in terms.items()},
        "weights": str(settings["weights"]),
        "images": n,
    }


def bits_by_variance(
    model: nn.Module, diffusion: Diffusion, x0: Tensor, y: Tensor, seed: int, batch: int = 20
) -> dict[str, Bits]:
    """The bound of x0 (n, c, h, w) with the learned variance, and with both fixed ones instead.

    All three see the same noise, so the network says the same to all.
    """
    ways = {name: with_variance(model, diffusion, name) for name in ("large", "small")}
    found: dict[str, list[Bits]] = {}
    for name, way in ({"learned": (model, diffusion)} | ways).items():
        for k, part in enumerate(zip(x0.split(batch), y.split(batch))):
            bits = bits_per_dim(*way, *part, generator=step_generator(seed, k))
            found.setdefault(name, []).append(bits)
    return {name: Bits(*map(torch.cat, zip(*parts))) for name, parts in found.items()}


EXPERIMENTS["bits"] = Experiment(
    "What does a learned variance save, with many steps and with few?",
    {f"{steps} steps": {"steps": steps} for steps in (1000, 250, 50)},
    by_scale(weights=("dit-mnist-sigma",) * 3, images=(2, 100, 2000)),
    count_bits,
    {"learned": ".2f", "small": ".2f", "large": ".2f"},
)
