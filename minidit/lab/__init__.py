"""The named experiments: python -m minidit experiment NAME; results lie in data/results."""

from minidit.lab.ablations import UVIT_ABLATIONS
from minidit.lab.bias import BIAS
from minidit.lab.budgets import BUDGETS
from minidit.lab.claim_trials import CLAIMS
from minidit.lab.dit_ablations import DIT_ABLATIONS
from minidit.lab.listening import LISTENING
from minidit.lab.rates import AUTOENCODER_EXPERIMENTS
from minidit.lab.runner import Experiment
from minidit.lab.sampler_trials import SAMPLING
from minidit.lab.scaling import SCALING
from minidit.lab.speedrun import SPEEDRUN
from minidit.lab.trials import train_and_judge
from minidit.lab.watching import count_bits, watch_training

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
    **SPEEDRUN,
    **SAMPLING,
    **BIAS,
    **UVIT_ABLATIONS,
    **DIT_ABLATIONS,
    **SCALING,
    **BUDGETS,
    **AUTOENCODER_EXPERIMENTS,
    **LISTENING,
    **CLAIMS,
}
