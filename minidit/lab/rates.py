"""What an autoencoder leaves of a photograph, and how many bits it takes: by shape of the latents
and by weight of the KL term (LDM, arXiv 2112.10752, section 4.1, at a small scale).

All train for a short while on CIFAR-10 without the last 5,000 training images, and are judged on
some of those. The judge has seen them, and its features are in the loss: its figures flatter, and
compare these autoencoders with each other only.
"""

import math
import time
from dataclasses import asdict

import torch
from torch import Tensor

from minidit import data, evaluate
from minidit.lab.runner import Experiment
from minidit.lab.trials import HELD_OUT
from minidit.latents.autoencoder import Autoencoder, VQAutoencoder
from minidit.latents.gaussian import DiagonalGaussian
from minidit.latents.presets import NETWORKS
from minidit.latents.training import AutoencoderRun, Terms
from minidit.train import Recipe

LEVELS = {2: (1, 2), 4: (1, 2, 4), 8: (1, 2, 4, 4)}  # multipliers of the width, by factor f
RECIPE = dict(batch_size=8, lr=2e-3, warmup=30)
SCALES = {
    "smoke": {"recipe": {"steps": 4}, "images": 100},
    "cpu": {"recipe": {"steps": 320}, "images": 500},
    "gpu": {"recipe": {"steps": 20_000, "batch_size": 64}, "images": 5000},
}
COLUMNS = {"bits per pixel": ".2f", "psnr": ".2f", "recognised": ".1%", "frechet": ".2f"}


def train_and_restore(settings: dict, seed: int) -> dict:
    """Train an autoencoder, and measure rate and distortion on images that it never saw.

    Settings: `network`, "KLAutoencoder" or "VQAutoencoder"; `model`, `terms` and `recipe`, their
    arguments; `images`, how many of the held-out images are judged.
    """
    photographs = data.load("cifar10")
    judge = evaluate.classifier("cifar10")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETWORKS[settings["network"]](**settings["model"]).to(device)
    terms, recipe = Terms(**settings["terms"]), Recipe(**settings["recipe"], seed=seed)
    training, began = photographs.images[:-HELD_OUT], time.process_time()
    average = AutoencoderRun(model, training, recipe, terms, judge, flips=True).go().cpu()
    spent = round(time.process_time() - began, 1)
    rows = slice(-HELD_OUT, settings["images"] - HELD_OUT or None)
    images, labels = data.to_unit(photographs.images[rows]), photographs.labels[rows]
    found = evaluate.reconstruction(judge, average, images, labels)
    judged = {key: round(value, 4) for key, value in found._asdict().items() if value is not None}
    return {
        **latent_rate(average, images),
        **judged,
        **_as_a_generator(average, images, seed),
        "processor seconds": spent,
        "parameters": sum(p.numel() for p in average.parameters()),
        "network": settings["network"],
        "model": average.config,
        "terms": asdict(terms),
        "recipe": asdict(recipe) | {"betas": list(recipe.betas)},
    }


@torch.no_grad()
def latent_rate(model: Autoencoder, images: Tensor) -> dict:
    """How much the latents of images (n, c, h, w) in [-1, 1] tell, and what they look like.

    `bits per pixel` of a KL autoencoder is its divergence from N(0, 1), the mean over the images;
    of a VQ autoencoder, one index for each place at log2 of the number of codes that these images
    use. `numbers`: latents of an image. `latent std`: of all numbers in the images' latents, whose
    inverse the scale is. Of a KL autoencoder also `noise std`, the mean of its own σ; `alive`, the
    share of numbers whose mean varies by more than 0.1 among the images (arXiv 1509.00519 takes a
    variance of 0.01); `off N(0, 1)`: nats a number, of a normal distribution fitted to each number.
    """
    pixels = images[0, 0].numel()
    if isinstance(model, VQAutoencoder):
        z = torch.cat([model.latents(part) for part in images.split(250)])  # (n, k, h, w)
        share, _ = model.quantizer.usage(model.quantizer.nearest(z))
        codes = round(share * len(model.quantizer.table))
        bits = z[0, 0].numel() * math.log2(codes)
        return _rounded(
            {"bits per pixel": bits / pixels, "numbers": z[0].numel(), "latent std": z.std().item()}
            | {"codes used": codes}
        )
    parameters = torch.cat([model.encoder(part) for part in images.split(250)])
    found = DiagonalGaussian(parameters)
    spread = found.mean.var(dim=0)  # (k, h, w), among images
    fitted = torch.stack([found.mean.mean(dim=0), (spread + found.var.mean(dim=0)).log()])
    away = DiagonalGaussian(fitted.flatten(1).reshape(1, -1, 1)).kl()
    return _rounded(
        {
            "bits per pixel": found.kl().mean().item() / math.log(2) / pixels,
            "numbers": found.mean[0].numel(),
            "latent std": found.mean.std().item(),
            "noise std": found.std.mean().item(),
            "alive": (spread > 0.01).double().mean().item(),
            "off N(0, 1)": away.item() / found.mean[0].numel(),
        }
    )


def _as_a_generator(model: Autoencoder, images: Tensor, seed: int) -> dict:
    """Fréchet distance of what is decoded from N(0, 1): what a VAE would call its samples."""
    if isinstance(model, VQAutoencoder):
        return {}
    judge = evaluate.classifier("cifar10")
    rng = torch.Generator().manual_seed(seed)
    shape = (len(images), model.latent_channels, *(s // model.factor for s in images.shape[2:]))
    with torch.no_grad():
        drawn = torch.cat([model.decode(z) for z in torch.randn(shape, generator=rng).split(250)])
    ours, real = (evaluate.features(judge, x).double() for x in (drawn.clamp(-1, 1), images))
    moments = (ours.mean(dim=0), ours.T.cov(), real.mean(dim=0), real.T.cov())
    return {"frechet of noise": round(evaluate.frechet_distance(*moments), 4)}


def _rounded(found: dict) -> dict:
    return {key: round(value, 4) for key, value in found.items()}


def _settings(f: int, c: int, network: str = "KLAutoencoder", kl: float = 1e-6, **more) -> dict:
    model = dict(latent_channels=c, width=16, multipliers=LEVELS[f], **more)
    return {"network": network, "model": model, "terms": {"kl": kl}, "recipe": RECIPE}


AUTOENCODER_EXPERIMENTS = {
    "autoencoder-shapes": Experiment(
        "How small may the latents be?",
        {f"f = {f}, c = {c}": _settings(f, c) for f in (2, 4, 8) for c in (4, 16)}
        | {"f = 8, c = 64": _settings(8, 64)}  # as many numbers as f = 2, c = 4
        | {
            f"f = 4, c = 4, {n:,} codes": _settings(4, 4, "VQAutoencoder", num_codes=n)
            for n in (64, 1024)
        },
        SCALES,
        train_and_restore,
        COLUMNS | {"numbers": ",.0f"},
    ),
    "autoencoder-kl": Experiment(
        "How much order among the latents is too much?",
        {f"KL weight {kl:g}": _settings(4, 4, kl=kl) for kl in (0.0, 1e-6, 1e-4, 1e-2, 1.0)},
        SCALES,
        train_and_restore,
        COLUMNS
        | {"latent std": ".2f", "noise std": ".3f", "alive": ".0%"}
        | {"off N(0, 1)": ".2f", "frechet of noise": ".1f"},
    ),
}
