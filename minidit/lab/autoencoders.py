"""What an autoencoder leaves of a photograph, how many bits it takes, and what that is good for.

By shape of the latents (LDM, arXiv 2112.10752, section 4.1, at a small scale) and by weight of the
KL term, on CIFAR-10. The classifier has seen the images that are measured, and its features are in
the loss: its figures flatter, and compare these autoencoders with each other only. Then latents or
pixels, when networks spend the same multiply-accumulates.
"""

import math
from dataclasses import asdict, replace
from itertools import chain

import torch
from torch import Tensor

from minidit import data, evaluate
from minidit.evaluate.flops import count
from minidit.lab import recipes, trials
from minidit.lab.runner import EXPERIMENTS, Experiment, by_scale
from minidit.latents import latent
from minidit.latents.autoencoder import Autoencoder, VQAutoencoder
from minidit.latents.gaussian import DiagonalGaussian
from minidit.latents.training import AutoencoderRun, Terms
from minidit.train import Recipe
from minidit.weights import NETWORKS


def train_and_restore(settings: dict, seed: int) -> dict:
    """Train an autoencoder, and measure rate and distortion on images that it never saw.

    Settings: `network`, "KLAutoencoder" or "VQAutoencoder"; `model`, `terms` and `recipe`, their
    arguments; `rate` multiplies the recipe's; `images`, how many of the held-out images are
    measured. `frechet of noise` is that of what is decoded from N(0, 1): what a VAE would call its
    samples.
    """
    classifier = evaluate.classifier("cifar10")
    with trials.seeded(seed):
        model = NETWORKS[settings["network"]](**settings["model"]).to(trials.device())
    terms, recipe = Terms(**settings["terms"]), Recipe(**settings["recipe"], seed=seed)
    recipe = replace(recipe, lr=recipe.lr * settings.get("rate", 1.0))
    training = data.load("cifar10").images[: -trials.HELD_OUT]
    run = AutoencoderRun(model, training, recipe, terms, classifier, flips=True)
    average, facts = trials.train(run)
    average.cpu()
    images, labels = (z[: settings["images"]] for z in trials.held_out("cifar10"))
    found = evaluate.reconstruction(classifier, average, images, labels)._asdict()
    if not isinstance(average, VQAutoencoder):
        rng, size = torch.Generator().manual_seed(seed), [s // average.factor for s in (32, 32)]
        z = torch.randn(len(images), average.latent_channels, *size, generator=rng)
        with torch.no_grad():
            drawn = torch.cat([average.decode(part).clamp(-1, 1) for part in z.split(250)])
        both = (evaluate.moments(evaluate.features(classifier, x)) for x in (drawn, images))
        found["frechet of noise"] = evaluate.frechet_distance(*chain(*both))
    return {
        **latent_rate(average, images),
        **{key: round(value, 4) for key, value in found.items() if value is not None},
        **facts,
        "terms": asdict(terms),
    }


@torch.no_grad()
def latent_rate(model: Autoencoder, images: Tensor) -> dict:
    """How much the latents of images (n, c, h, w) in [-1, 1] tell, and what they look like.

    `bits per pixel` of a KL autoencoder is its divergence from N(0, 1), the mean over the images;
    of a VQ autoencoder, one index for each place at log2 of the number of codes that these images
    use. `numbers`: latents of an image. `latent std`: of all numbers in the images' latents, whose
    inverse the scale is. Of a KL autoencoder also `noise std`, the mean of its own σ; `alive`, the
    share of numbers whose mean has a variance above 0.01 among the images (arXiv 1509.00519);
    `off N(0, 1)`: nats a number, of a normal distribution fitted to each number.
    """
    pixels, parts = images[0, 0].numel(), images.split(250)
    if isinstance(model, VQAutoencoder):
        z = torch.cat([model.latents(part) for part in parts])  # (n, k, h, w)
        share, _ = model.quantizer.usage(model.quantizer.nearest(z))
        codes = round(share * len(model.quantizer.table))
        bits, numbers, std = z[0, 0].numel() * math.log2(codes), z[0].numel(), z.std().item()
        more = {"codes used": codes}
    else:
        posterior = DiagonalGaussian(torch.cat([model.encoded(part) for part in parts]))
        mean, var = posterior.mean, posterior.var
        bits = posterior.kl().mean().item() / math.log(2)
        numbers, std, spread = mean[0].numel(), mean.std().item(), mean.var(dim=0)  # (k, h, w)
        fitted = torch.stack([mean.mean(dim=0), (spread + var.mean(dim=0)).log()])
        off = DiagonalGaussian(fitted.flatten(1).reshape(1, -1, 1)).kl().item()
        more = {
            "noise std": posterior.std.mean().item(),
            "alive": (spread > 0.01).double().mean().item(),
            "off N(0, 1)": off / numbers,
        }
    found = {"bits per pixel": bits / pixels, "numbers": numbers, "latent std": std} | more
    return {key: round(value, 4) for key, value in found.items()}


LEVELS = {2: (1, 2), 4: (1, 2, 4), 8: (1, 2, 4, 4)}  # multipliers of the width, by factor f
SCALES = by_scale(
    steps=(4, 320, 20_000), batch_size=(None, None, 64), images=(100, 500, trials.HELD_OUT)
)
COLUMNS = {"bits per pixel": ".2f", "psnr": ".2f", "recognised": ".1%", "frechet": ".2f"}


def _settings(f: int, c: int, network: str = "KLAutoencoder", kl: float = 1e-6, **more) -> dict:
    model = dict(latent_channels=c, width=12, multipliers=LEVELS[f], **more)
    recipe = dict(batch_size=8, lr=2e-3, warmup=30)
    return {"network": network, "model": model, "terms": {"kl": kl}, "recipe": recipe}


_SHAPES = {
    **{f"f = {f}, c = {c}": _settings(f, c) for f in (2, 4, 8) for c in (4, 16)},
    "f = 8, c = 64": _settings(8, 64),  # as many numbers as f = 2, c = 4
    "f = 4, c = 4, 64 codes": _settings(4, 4, "VQAutoencoder", num_codes=64),
    "f = 4, c = 4, 1,024 codes": _settings(4, 4, "VQAutoencoder", num_codes=1024),
}
EXPERIMENTS["autoencoder-shapes"] = Experiment(
    "How small may the latents be?",
    _SHAPES,
    SCALES,
    train_and_restore,
    COLUMNS | {"numbers": ",.0f"},
    base="f = 4, c = 4",
)
EXPERIMENTS["autoencoder-kl"] = Experiment(
    "How much order among the latents is too much?",
    {f"KL weight {kl:g}": _settings(4, 4, kl=kl) for kl in (0.0, 1e-6, 1e-4, 1e-2, 1.0)},
    SCALES,
    train_and_restore,
    COLUMNS
    | {"latent std": ".2f", "noise std": ".3f", "alive": ".0%"}
    | {"off N(0, 1)": ".2f", "frechet of noise": ".1f"},
    base="KL weight 1e-06",
)


def train_on_photographs(settings: dict, seed: int) -> dict:
    """Train on CIFAR-10 until a network has spent its budget, and measure its samples.

    Settings: those of `prepare`, with a `budget`; `autoencoder`: the name of weights whose latents
    are drawn, in place of pixels. Its own training is not counted: it serves many networks.
    """
    run = trials.prepare(settings, seed, photographs(settings.get("autoencoder")))
    average, facts = trials.train(run)
    images, labels, done = trials.draw(average, run.diffusion, settings.get("sampling", {}), seed)
    if "autoencoder" in settings:
        images = latent.decode(latent.first_stage(settings["autoencoder"]).model, images)
    size = {"MACs": count(run.model).macs, "tokens": math.prod(run.model.grid)}
    return size | facts | done | trials.quality(images, labels, "cifar10")


def photographs(autoencoder: str | None = None) -> tuple[Tensor, Tensor]:
    """CIFAR-10 but for what is held out, then the same mirrored: images or latents, labels.

    The latents are those that `train` would store, or has stored.
    """
    full, kept = data.load("cifar10"), slice(None, -trials.HELD_OUT)
    if autoencoder is None:
        both = full.images, full.images.flip(3)
    else:
        stage = latent.first_stage(autoencoder)
        path = latent.place(data.data_root(), "cifar10", "train", stage)
        both = latent.cached(path, stage, full.images, flips=True).split(len(full))
    return torch.cat([images[kept] for images in both]), full.labels[kept].repeat(2)


def _on_pixels(patch_size: int) -> dict:
    size = dict(hidden_size=64, depth=4, num_heads=4, label_std=1.0)
    return {"data": "cifar10", "model": size | {"patch_size": patch_size}, "recipe": {}}


_ON_LATENTS = _on_pixels(2) | {"autoencoder": "kl-cifar10"}
EXPERIMENTS["latent-or-pixel"] = Experiment(
    "Latents or pixels, at equal compute?",
    {
        "latents 16×16×4, patches of 2": _ON_LATENTS,
        "pixels 32×32×3, patches of 4": _on_pixels(4),
        "pixels 32×32×3, patches of 2": _on_pixels(2),
    },
    by_scale(budget=(20, 400, 1_000_000), per_class=(7, 30, 500)),
    train_on_photographs,
    {"tokens": ".0f", "steps": ".0f"} | recipes.COLUMNS,
    base="",
)
