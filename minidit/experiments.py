"""The named experiments: python -m minidit experiment NAME; results lie in data/results."""

from minidit.runner import Experiment
from minidit.trials import train_and_judge

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
}
