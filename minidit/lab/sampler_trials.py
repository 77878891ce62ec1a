"""How samples depend on the sampler: guidance, solvers, strides, and how few steps are enough.

Nothing is trained here: the shipped weights draw, and their samples are judged.
"""

from functools import partial

from minidit.lab.runner import Experiment
from minidit.lab.trials import sample_and_judge


def _guided(fold: int = 1, **guidance) -> dict:
    """Settings of a trial that guides the shipped weights through 20 DDIM steps."""
    sampling = {"guidance": guidance, "options": {"steps": 20}, "fold": fold}
    return {"weights": "dit-mnist", "sampling": sampling}


def _sampled(weights: str, name: str, counts: tuple, sampler: str = "ddim", **options) -> dict:
    """Variants that sample, one for each number of steps, without guidance unless told.

    `rule`, for `select_steps`, `scale` and `interval` of guidance, and `variance` are no options
    of a sampler, and taken out.
    """
    rule, guidance = options.pop("rule", ""), {"scale": options.pop("scale", 1.0)}
    if "interval" in options:
        guidance["interval"] = options.pop("interval")
    fixed = {"variance": options.pop("variance")} if "variance" in options else {}
    sampling = {"guidance": guidance, "sampler": sampler, **fixed}
    return {
        f"{name}, {n} steps": {
            "weights": weights,
            "sampling": sampling | {"options": {"steps": f"{rule}{n}" if rule else n, **options}},
        }
        for n in counts
    }


_on_the_line = partial(_sampled, "dit-mnist")
_on_the_arc = partial(_sampled, "dit-mnist-sigma", clip=True)
_at_two = partial(_on_the_arc, scale=2.0)
_weaker = partial(_on_the_arc, scale=1.5)
_SAMPLED = {
    "smoke": {"sampling": {"per_class": 7}},
    "cpu": {"sampling": {"per_class": 30}},
    "gpu": {"sampling": {"per_class": 500}},
}
_QUALITY = {"evaluations": ".0f", "recognised": ".1%", "frechet": ".2f"}
_QUALITY |= {"precision": ".1%", "recall": ".1%", "coverage": ".1%"}
_LAMBDA = dict(sampler="dpm_solver", spacing="logsnr")


SAMPLING: dict[str, Experiment] = {
    "guidance": Experiment(
        "How hard should a label pull, when, and on how many pixels?",
        {f"scale {s:g}": _guided(scale=s) for s in (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)}
        | {
            f"scale 3, only t = {low} … {high}": _guided(scale=3.0, interval=[low, high])
            for low, high in ((667, 999), (333, 666), (0, 332))
        }
        | {f"scale {s:g}, 3 of 4 pixels": _guided(scale=s, channels=3, fold=2) for s in (1.5, 3.0)}
        | {f"scale {s:g}": _guided(scale=s) for s in (1.375, 2.5)},  # 1 + 3/4 of 1.5 - 1 and 3 - 1
        _SAMPLED,
        sample_and_judge,
        {"recognised": ".1%", "frechet": ".2f", "precision": ".0%", "recall": ".0%"}
        | {"density": ".2f", "coverage": ".0%"},
    ),
    "samplers": Experiment(
        "How few evaluations of the network are enough?",
        _on_the_line("straight line, Euler", (5, 10, 20, 50))
        | _on_the_line("straight line, second order", (5, 10, 20), "dpm_solver")
        | _on_the_line("straight line, random (η = 1)", (10, 50), eta=1.0)
        | _on_the_arc("DDPM", (10, 25, 50, 250), "ddpm")
        | _on_the_arc("DDIM", (5, 10, 20, 50))
        | _on_the_arc("DPM-Solver++ 2, even in λ", (5, 10, 20), **_LAMBDA)
        | _on_the_arc("DDIM, even in λ", (5, 10, 20), rule="logsnr")
        | _on_the_arc("DDIM, quadratic", (10, 20), rule="quad")
        | _on_the_arc("DDIM, β-weighted", (10, 20), rule="beta")
        | _on_the_arc("DDPM, large variance", (10, 25), "ddpm", variance="large")
        | _on_the_arc("DDPM, small variance", (10, 25), "ddpm", variance="small")
        | _on_the_arc("DPM-Solver++ 2", (10, 20), "dpm_solver")
        | _on_the_arc("DPM-Solver++ 3, even in λ", (10, 20), order=3, **_LAMBDA)
        | _on_the_arc(
            "DPM-Solver++ 2 singlestep, even in λ", (10, 20), method="singlestep", **_LAMBDA
        )
        | _on_the_arc("DPM-Solver 2, even in λ", (10, 20), solve="eps", **_LAMBDA)
        | _on_the_arc("DDPM, β-weighted", (25,), "ddpm", rule="beta")
        | _on_the_arc("guided, DDPM", (50, 250), "ddpm", scale=2.0)
        | _on_the_arc("guided, DDPM, small variance", (10,), "ddpm", variance="small", scale=2.0)
        | _on_the_arc("guided, DDIM", (5, 10), scale=2.0)
        | _on_the_arc("guided, DPM-Solver++ 2, even in λ", (5, 10, 20), scale=2.0, **_LAMBDA),
        _SAMPLED,
        sample_and_judge,
        _QUALITY,
    ),
    "strides": Experiment(
        "Should strides follow β, when 1000 steps become 100 or 200?",
        _on_the_arc("DDPM, even", (100, 200, 1000), "ddpm")
        | _on_the_arc("DDPM, β-weighted", (100, 200), "ddpm", rule="beta")
        | _on_the_arc("DDPM, quadratic", (100, 200), "ddpm", rule="quad")
        | _on_the_arc("DDIM, even", (10, 20))
        | _on_the_arc("DDIM, β-weighted", (10, 20, 100), rule="beta")
        | _on_the_arc("DDIM, quadratic", (10, 20), rule="quad"),
        _SAMPLED,
        sample_and_judge,
        _QUALITY,
    ),
    "fewest": Experiment(
        "How few passes through the network come near 250 steps of DDPM?",
        _at_two("DDPM, learned variance", (250, 50, 25, 15), "ddpm")
        | _at_two("DDPM, small variance", (25, 20, 15, 10), "ddpm", variance="small")
        | _at_two("DDIM, half random (η = 0.5)", (25, 15, 10), eta=0.5)
        | _at_two("DDIM", (25, 10))
        | _at_two("DPM-Solver++ 2, even in λ", (10, 5), **_LAMBDA)
        | _at_two(
            "guided at t ≤ 799 only, small variance",
            (25, 15),
            "ddpm",
            variance="small",
            interval=[0, 799],
        )
        | _weaker("DDPM, learned variance, s = 1.5", (50, 25), "ddpm")
        | _weaker("DDPM, small variance, s = 1.5", (25, 15, 10), "ddpm", variance="small")
        | _weaker("DDIM, half random (η = 0.5), s = 1.5", (15, 10), eta=0.5)
        | _weaker("DPM-Solver++ 2, even in λ, s = 1.5", (10,), **_LAMBDA),
        {
            "smoke": {"sampling": {"per_class": 7}},
            "cpu": {"sampling": {"per_class": 100}},
            "gpu": {"sampling": {"per_class": 1000}},
        },
        sample_and_judge,
        {
            "passes": ".0f",
            "recognised": ".1%",
            "frechet": ".3f",
            "recall": ".1%",
            "coverage": ".1%",
        },
    ),
}
