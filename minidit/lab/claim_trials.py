"""Popular claims about DiT, each against a baseline of the same budget; see `claims`, `sequence`.

All networks are the demo's, and learn on DDPM's linear schedule, since the claims speak of its β;
what they predict is the image, weighed as the velocity, which learns soonest there.
"""

from minidit.lab.ablations import COLUMNS, train_and_compare
from minidit.lab.dit_ablations import STEPS
from minidit.lab.runner import Experiment

_PROCESS = {"schedule": "linear", "predict": "x0", "weight": "v", "max_weight": 400.0}


def _claim(**changes) -> dict:
    return {"diffusion": _PROCESS, **changes}


def _aware(temperature: str = "none", mask: str = "none") -> dict:
    return _claim(surgery={"aware": {"temperature": temperature, "mask": mask}})


CLAIMS = {
    "claims": Experiment(
        "Do the parts that notes on DiT describe help?",
        {
            "baseline": _claim(),
            "temperature as stated: logits · √(β k)": _aware("stated"),
            "temperature as summed up: logits / √β": _aware("summary"),
            "noise mask as stated": _aware(mask="stated"),
            "noise mask as corrected": _aware(mask="corrected"),
            "temperature and mask, both as stated": _aware("stated", "stated"),
            "temperature as summed up, mask as corrected": _aware("summary", "corrected"),
            "sequence loss, weight 0.01": _claim(sequence_weight=0.01),
            "sequence loss, weight 0.1": _claim(sequence_weight=0.1),
            "growing embedding frequencies": _claim(surgery={"grow_frequencies": {}}),
        },
        STEPS,
        train_and_compare,
        # no losses: those of the sequence variants hold a term more
        {key: form for key, form in COLUMNS.items() if "loss" not in key},
    )
}
