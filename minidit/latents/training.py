"""Training an autoencoder (LDM, arXiv 2112.10752, section 3.1): pixels, features, a little order.

The paper's adversarial term, which sharpens texture, is left out.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minidit._validate import check_choice
from minidit.evaluate.classifier import Classifier, feature_distance
from minidit.latents.autoencoder import Autoencoder, VQAutoencoder
from minidit.train import Loop, Recipe, check_training_images
from minidit.weights import NETWORKS

PIXELS = {"l1": F.l1_loss, "l2": F.mse_loss}


@dataclass(frozen=True)
class Terms:
    """The weights of an autoencoder's loss."""

    pixel: str = "l1"  # or "l2": the mean over all numbers of the images, at weight 1
    feature: float = 1.0  # of `feature_distance`
    kl: float = 1e-6  # of the nats for each number of the image, as in latent diffusion
    codebook: float = 1.0  # of the quantizer's loss
    patience: int = 50  # steps until a code that no latent was nearest to moves to a random one

    def __post_init__(self) -> None:
        check_choice("pixel", self.pixel, PIXELS)
        for name in ("feature", "kl", "codebook"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be finite and at least 0")
        if not self.patience >= 1:
            raise ValueError(f"patience={self.patience} must be at least 1 step")


class AutoencoderRun(Loop):
    """A training run of an autoencoder; `classifier`: frozen, its features count."""

    def __init__(
        self,
        model: Autoencoder,
        images: Tensor,
        recipe: Recipe,
        terms: Terms,
        classifier: Classifier | None = None,
        flips: bool = False,
    ) -> None:
        check_training_images(images)
        if terms.feature and classifier is None:
            fault = f"feature={terms.feature}, but there is no classifier to see features"
            raise ValueError(f"{fault}; give one, or feature=0")
        if recipe.mixed_precision == "always":
            raise ValueError("mixed_precision='always' is for diffusion models; leave it out")
        super().__init__(model, recipe, images)
        self.terms, self.flips, self.classifier = terms, flips, None
        if terms.feature:  # a copy, so that the caller's stays as it is
            self.classifier = copy.deepcopy(classifier).to(self.device).eval()
            self.classifier.requires_grad_(False)
        # For how many steps each code was nearest to nothing, (num_codes,); a KL's has no codes.
        self.idle = torch.zeros(self.model.config.get("num_codes", 0), device=self.device)
        self.memory["idle"] = self.idle

    def loss(self, rng: torch.Generator) -> Tensor:
        """The weighted sum of a batch's terms."""
        self.real, _ = self.draw(rng)  # (b, c, h, w)
        if self.flips:
            flip = torch.rand(len(self.real), 1, 1, 1, generator=rng, device=self.device) < 0.5
            self.real = torch.where(flip, self.real.flip(3), self.real)
        restored, order = self._restore_images(rng)
        loss = PIXELS[self.terms.pixel](restored, self.real)
        if self.classifier is not None:
            distance = feature_distance(self.classifier, restored, self.real)
            loss = loss + self.terms.feature * distance
        return loss + order

    def _restore_images(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reconstructions (b, c, h, w), and the weighted term that orders the latents."""
        found = self.model.encode(self.real)
        if isinstance(self.model, VQAutoencoder):
            self.indices = found.indices
            return self.model.decode(found.codes), self.terms.codebook * found.loss
        kl = found.kl().mean() / self.real[0].numel()
        return self.model.decode(found.sample(rng)), self.terms.kl * kl

    @torch.no_grad()
    def after(self, rng: torch.Generator) -> None:
        """New places for dead codes."""
        if not len(self.idle):
            return
        self.idle += 1
        self.idle[self.indices.flatten()] = 0
        dead = self.idle >= self.terms.patience
        if dead.any():
            quantizer, average = self.model.quantizer, self.ema.model.quantizer
            quantizer.revive(dead, self.model.encoded(self.real), rng)
            average.table[dead] = quantizer.table[dead]  # where a dead code was means nothing
            self.idle[dead] = 0

    def settings(self) -> dict:
        """What makes it this run and no other, as plain values."""
        network, terms = self.classifier, asdict(self.terms)
        seen = network and sum(p.double().sum().item() for p in network.parameters())
        # "judge" is the classifier's key in the checkpoints there are
        return super().settings() | {"loss": terms | {"flips": self.flips, "judge": seen}}


@torch.inference_mode(False)
def fit_autoencoder(
    model: Autoencoder,
    images: Tensor,
    *,
    recipe: Recipe,
    terms: Terms = Terms(),  # noqa: B008 (frozen)
    classifier: Classifier | None = None,
    flips: bool = False,
    out: str | Path | None = None,
    save_every: int = 500,
    report: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Train `model` in place and return the average of its weights, with `scale` set.

    images: (n, c, h, w), uint8 or floats in [-1, 1]; `flips`: half of them mirrored, for
    photographs. `classifier`: whose activations are compared, if `terms.feature`; better not the
    one that evaluates afterwards, which would be flattered. The rest: as for `fit`.
    """
    run = AutoencoderRun(model, images, recipe, terms, classifier, flips)
    average = run.go(out, save_every, report=report)
    average.set_scale(images)
    return average


# Named autoencoders with their recipes, each for some tens of minutes on one processor core.
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


def build_autoencoder(preset: str, channels: int, seed: int = 0) -> tuple[Autoencoder, Terms]:
    """A fresh autoencoder for images of so many channels, and the terms of its loss."""
    check_choice("preset", preset, AUTOENCODERS)
    parts = AUTOENCODERS[preset]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETWORKS[parts["network"]](in_channels=channels, **parts["model"])
    return model, Terms(**parts.get("terms", {}))
