"""Named autoencoders with their recipes, each for some tens of minutes on one processor core."""

import torch

from minidit._validate import check_choice
from minidit.latents.autoencoder import Autoencoder
from minidit.latents.training import Terms
from minidit.weights import NETWORKS

_MNIST = dict(latent_channels=4, width=12, multipliers=(1, 2, 4))  # 28×28×1 → 7×7×4
_CIFAR10 = dict(latent_channels=4, width=24, multipliers=(1, 2))  # 32×32×3 → 16×16×4


def _preset(network: str, data: str, classifier: str, model: dict, steps: int = 4000) -> dict:
    recipe = dict(steps=steps, batch_size=16, lr=2e-3, warmup=100, ema_decay=0.999)
    return dict(network=network, data=data, classifier=classifier, model=model, recipe=recipe)


# `data`: what it is made for. `classifier`: whose features count. For MNIST those of the one that
# knows drawn digits only, so that MNIST's own evaluates something it had no part in; for
# photographs there is only one.
AUTOENCODERS: dict[str, dict] = {
    "kl-mnist": _preset("KLAutoencoder", "mnist", "digits", _MNIST, steps=8000),
    "kl-cifar10": _preset("KLAutoencoder", "cifar10", "cifar10", _CIFAR10),
    "vq-cifar10": _preset("VQAutoencoder", "cifar10", "cifar10", _CIFAR10 | {"num_codes": 1024}),
}


def build(preset: str, channels: int, seed: int = 0) -> tuple[Autoencoder, Terms]:
    """A fresh autoencoder for images of so many channels, and the terms of its loss."""
    check_choice("preset", preset, AUTOENCODERS)
    parts = AUTOENCODERS[preset]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETWORKS[parts["network"]](in_channels=channels, **parts["model"])
    return model, Terms(**parts.get("terms", {}))
