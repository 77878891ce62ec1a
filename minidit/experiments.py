"""The named experiments: python -m minidit experiment NAME; results lie in data/results."""

from functools import partial

from minidit.ablations import UVIT_ABLATIONS
from minidit.bias import BIAS
from minidit.budgets import BUDGETS
from minidit.claim_trials import CLAIMS
from minidit.dit_ablations import DIT_ABLATIONS
from minidit.listening import LISTENING
from minidit.rates import AUTOENCODER_EXPERIMENTS
from minidit.runner import Experiment
from minidit.scaling import SCALING
from minidit.trials import sample_and_judge, train_and_judge
from minidit.watching import count_bits, watch_training


def _guided(fold: int = 1, **guidance) -> dict:
    """Settings of a trial that guides the shipped weights through 20 DDIM steps."""
    sampling = {"guidance": guidance, "options": {"steps": 20}, "fold": fold}
    return {"weights": "dit-mnist", "sampling": sampling}


def _sampled(weights: str, name: str, counts: tuple, sampler: str = "ddim", **options) -> dict:
    """Variants that sample, one for each number of steps, without guidance unless told.

    `rule`, for `select_steps`, `scale` and `variance` are no options of a sampler, and taken out.
    """
    rule, scale = options.pop("rule", ""), options.pop("scale", 1.0)
    fixed = {"variance": options.pop("variance")} if "variance" in options else {}
    sampling = {"guidance": {"scale": scale}, "sampler": sampler, **fixed}
    return {
        f"{name}, {n} steps": {
            "weights": weights,
            "sampling": sampling | {"options": {"steps": f"{rule}{n}" if rule else n, **options}},
        }
        for n in counts
    }


_on_the_line = partial(_sampled, "dit-mnist")
_on_the_arc = partial(_sampled, "dit-mnist-sigma", clip=True)
_SAMPLED = {
    "smoke": {"sampling": {"per_class": 7}},
    "cpu": {"sampling": {"per_class": 30}},
    "gpu": {"sampling": {"per_class": 500}},
}
_QUALITY = {"evaluations": ".0f", "recognised": ".1%", "frechet": ".2f"}
_QUALITY |= {"precision": ".1%", "recall": ".1%", "coverage": ".1%"}
_LAMBDA = dict(sampler="dpm_solver", spacing="logsnr")


EXPERIMENTS: dict[str, Experiment] = {
    "recipes": Experiment(
        "Which recipe learns MNIST soonest?",
        {
            "the demo's: Muon, x0 predicted, logit-normal t": {},
            "AdamW instead of Muon": {"recipe": {"optimizer": "adamw"}},
            "velocity predicted": {"diffusion": {"schedule": "straight", "predict": "v"}},
            "noise predicted, cosine schedule": {
                "diffusion": {"schedule": "cosine", "predict": "eps"}
            },
            "noise predicted, linear schedule, x0 clipped in sampling": {
                "diffusion": {"schedule": "linear", "predict": "eps"},
                "sampling": {"options": {"steps": 20, "clip": True}},
            },
            "uniform t": {"recipe": {"times": "uniform"}},
            "label table at 0.02": {"model": {"label_std": 0.02}},
            "patches of 4": {"model": {"patch_size": 4}},
            "paper's optimiser (AdamW 1e-4, constant)": {
                "recipe": dict(optimizer="adamw", lr=1e-4, cooldown=0.0, betas=(0.9, 0.999))
            },
        },
        {
            "smoke": {"recipe": {"steps": 20}},
            "cpu": {"recipe": {"steps": 400}},
            "gpu": {"recipe": {"steps": 6000, "batch_size": 128}},
        },
        train_and_judge,
        {"processor seconds": ".0f", "recognised": ".1%", "frechet": ".1f"},
    ),
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
    "plateau": Experiment(
        "What happens while the loss hardly moves?",
        {
            "the demo's recipe": {},
            "as in the paper: noise, linear schedule, uniform t, constant rate": {
                "diffusion": {"schedule": "linear", "predict": "eps"},
                "recipe": {"times": "uniform", "cooldown": 0.0},
                "options": {"clip": True},
            },
        },
        {
            "smoke": {"looks": [5, 10], "per_class": 7},
            "cpu": {"looks": [30, 60, 120, 240, 480], "per_class": 20},
            "gpu": {"looks": [250, 500, 1000, 2000, 4000, 8000], "per_class": 100},
        },
        watch_training,
        {"loss": ".3f", "recognised": ".1%", "frechet": ".1f"},
    ),
    "bits": Experiment(
        "What does a learned variance save, with many steps and with few?",
        {f"{steps} steps": {"steps": steps} for steps in (1000, 250, 50)},
        {
            "smoke": {"weights": "dit-mnist-sigma", "images": 2},
            "cpu": {"weights": "dit-mnist-sigma", "images": 100},
            "gpu": {"weights": "dit-mnist-sigma", "images": 2000},
        },
        count_bits,
        {"learned": ".2f", "small": ".2f", "large": ".2f"},
    ),
    **BIAS,
    **UVIT_ABLATIONS,
    **DIT_ABLATIONS,
    **SCALING,
    **BUDGETS,
    **AUTOENCODER_EXPERIMENTS,
    **LISTENING,
    **CLAIMS,
}
