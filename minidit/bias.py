"""How measures depend on the number of images: the same source, judged by few images and by many.

Half of MNIST's test images, which neither the judge nor a network has seen, are what the others and
the samples are held to. Real images are as good as samples can get, so all that changes with their
number is the measure.
"""

from functools import lru_cache

import torch
from torch import Tensor

from minidit import data, evaluate
from minidit.generate import generate
from minidit.runner import Experiment
from minidit.sample import sample
from minidit.weights import load

PART = 100  # samples drawn at once, ten of each label


def measure_some(settings: dict, seed: int) -> dict:
    """Judge n images; settings: `of`, "real" or weights of MNIST; `n`; `steps` of the sampler.

    The seed deals the test images out to both halves, and is that of the noise: with one seed, the
    first images of many are the few. `frechet` is the distance to the judge's training images, as
    everywhere; `frechet to test` that to the half of the test images.
    """
    judge, n = evaluate.classifier("mnist"), settings["n"]
    features = _test_features()
    half = len(features) // 2
    dealt = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    reference = features[dealt[half:]]
    if settings["of"] == "real":
        found = features[dealt[:half][:n]]
    else:
        parts = [_drawn(settings["of"], seed, k, settings["steps"]) for k in range(0, n, PART)]
        found = evaluate.features(judge, torch.cat(parts)[:n])
    mine, near = evaluate.moments(found), evaluate.neighbours(reference, found)
    return {
        "frechet": round(evaluate.frechet_distance(*mine, judge.mean, judge.cov), 3),
        "frechet to test": round(evaluate.frechet_distance(*mine, *evaluate.moments(reference)), 3),
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
    labels = torch.arange(10).repeat(PART // 10)
    return sample(generate(model, diffusion, labels, steps=steps, seed=seed * 10**6 + first)).cpu()


BIAS = {
    "sample-size": Experiment(
        "How much of a distance is the number of images?",
        {f"real, {n:,} images": {"of": "real", "n": n} for n in (100, 200, 500, 1000, 2000, 5000)}
        | {f"dit-mnist, {n:,} images": {"of": "dit-mnist", "n": n} for n in (100, 200, 500)},
        {"smoke": {"n": 100, "steps": 2}, "cpu": {"steps": 20}, "gpu": {"steps": 50}},
        measure_some,
        {"frechet": ".2f", "precision": ".1%", "recall": ".1%", "coverage": ".1%"}
        | {"density": ".2f"},
    )
}
