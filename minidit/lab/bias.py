"""How measures depend on the number of images: the same source, judged by few images and by many.

Half of MNIST's test images, which neither the judge nor a network has seen, are what the others and
the samples are held to. Real images are as good as samples can get, so all that changes with their
number is the measure.
"""

from functools import lru_cache

import torch
from torch import Tensor

from minidit import data, evaluate
from minidit.lab.runner import Experiment
from minidit.sampling import sample
from minidit.training.generate import generate
from minidit.weights import load

PART = 100  # samples drawn at once, ten of each label


def measure_some(settings: dict, seed: int) -> dict:
    """Judge n images; settings: `of`, `n`, and `steps` of the sampler.

    `of`: "real", "real, balanced" (real ones, too, equally many of each digit, as samples are), or
    weights of MNIST. The seed deals the test images out to both halves, and is that of the noise:
    with one seed, the first images of many are the few. `frechet` is the distance to the judge's
    training images, as everywhere; `frechet to test` that to the half of the test images.
    """
    judge, of, n = evaluate.classifier("mnist"), settings["of"], settings["n"]
    features, labels = _test_features(), data.load("mnist", "test").labels
    dealt = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    mine, reference = dealt.chunk(2)
    if of == "real, balanced":
        mine = mine[evaluate.matching(labels[mine], _asked(n))]
    found, reference = features[mine[:n]], features[reference]
    if of not in ("real", "real, balanced"):
        parts = [_drawn(of, seed, k, settings["steps"]) for k in range(0, n, PART)]
        found = evaluate.features(judge, torch.cat(parts)[:n])
    moments, near = evaluate.moments(found), evaluate.neighbours(reference, found)
    return {
        "frechet": round(evaluate.frechet_distance(*moments, judge.mean, judge.cov), 3),
        "frechet to test": round(
            evaluate.frechet_distance(*moments, *evaluate.moments(reference)), 3
        ),
        **{key: round(value, 4) for key, value in near._asdict().items()},
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
    model, diffusion = load(weights)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    at = seed * 10**6 + first
    return sample(generate(model, diffusion, _asked(PART), steps=steps, seed=at)).cpu()


def _asked(n: int) -> Tensor:
    return torch.arange(10).repeat(n // 10)


def _variants(of: str, *counts: int) -> dict:
    return {f"{of}, {n:,} images": {"of": of, "n": n} for n in counts}


BIAS = {
    "sample-size": Experiment(
        "How much of a distance is the number of images?",
        _variants("real", 100, 200, 500, 1000, 2000, 5000)
        | _variants("dit-mnist", 100, 200, 500)
        | _variants("real, balanced", 100, 200, 500, 1000, 2000),
        {"smoke": {"n": 100, "steps": 2}, "cpu": {"steps": 20}, "gpu": {"steps": 50}},
        measure_some,
        {"frechet": ".2f", "precision": ".1%", "recall": ".1%", "coverage": ".1%"}
        | {"density": ".2f"},
    )
}
