"""What one run of an experiment does: train a network and judge its samples, or only judge.

A trial takes settings and a seed, and gives what it measured together with the configuration. All
are judged without a test split: networks train without the last 5,000 training images, of MNIST
unless the settings say otherwise, which stand in for a test set. The judge has seen them, so the
distance of real images is low; the shipped weights, which are judged as they are, have seen them
too.
"""

import time
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from minidit import data, evaluate
from minidit._validate import check_choice
from minidit.diffusion import Diffusion
from minidit.evaluate.classifier import Classifier
from minidit.lab.sequence import SequenceDiffusion, SequencePrior
from minidit.lab.surgery import SURGERY
from minidit.latents import latent
from minidit.sampling import SAMPLERS, Denoiser, guided, sample
from minidit.train import Recipe, fit
from minidit.training import presets
from minidit.training.matmul import fast_matmul
from minidit.weights import load

HELD_OUT = 5000
WHERE = ("data", "autoencoder")  # settings


def train_and_judge(settings: dict, seed: int) -> dict:
    """Train a preset with changes, then judge its samples: see `train` and `judge_samples`."""
    average, diffusion, facts = train(settings, seed)
    sampling, where = settings.get("sampling", {}), [settings.get(k) for k in WHERE]
    return facts | judge_samples(average, diffusion, sampling, seed, *where)


def train(settings: dict, seed: int) -> tuple[nn.Module, Diffusion, dict]:
    """The averaged network after training, its process, and what it was and took.

    Settings: `model` and `recipe` are changes of the preset `preset` (default: "demo"), `diffusion`
    replaces its own; `network`: "DiT" or "UViT"; `data`: "mnist" (the default) or "cifar10";
    `autoencoder`: the name of weights whose latents are drawn, in place of pixels; `surgery`:
    changes of the fresh network, {name in `SURGERY`: arguments}; `sequence_weight`: of the loss of
    `sequence`.
    """
    run = prepare(settings, seed)
    began, spent = time.perf_counter(), time.process_time()
    average = fit(run.model, run.diffusion, run.images, run.labels, recipe=run.recipe)
    took = {
        "steps": run.recipe.steps,
        "training seconds": round(time.perf_counter() - began, 1),
        "processor seconds": round(time.process_time() - spent, 1),
        "parameters": sum(p.numel() for p in average.parameters()),
    }
    return average, run.diffusion, took | configuration(run)


class Prepared(NamedTuple):
    """What a training run starts from: the arguments of `fit`."""

    model: nn.Module
    diffusion: Diffusion
    images: Tensor
    labels: Tensor
    recipe: Recipe


def prepare(settings: dict, seed: int, **recipe) -> Prepared:
    """A fresh network, its process and the data; settings as for `train`, `recipe`: more of it."""
    name = settings.get("preset", "demo")
    check_choice("preset", name, presets.PRESETS)
    own = {"network": "DiT"} | presets.PRESETS[name]
    preset = {part: own[part] | settings.get(part, {}) for part in ("model", "recipe")}
    preset |= {part: settings.get(part, own[part]) for part in ("diffusion", "network")}
    images, labels = training_part(settings.get("data", "mnist"), settings.get("autoencoder"))
    model, diffusion, parts = presets.build(preset, tuple(images.shape[1:]), 10, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, arguments in settings.get("surgery", {}).items():
            SURGERY[name](model, diffusion, **arguments)
    if "sequence_weight" in settings:
        prior = SequencePrior(data.to_unit(images), model.patch_size)
        diffusion = SequenceDiffusion(
            **vars(diffusion), prior=prior, sequence_weight=settings["sequence_weight"]
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Prepared(
        model.to(device), diffusion, images, labels, Recipe(**(parts | {"seed": seed} | recipe))
    )


def training_part(name: str, autoencoder: str | None = None) -> tuple[Tensor, Tensor]:
    """All of a data set but what is held out, photographs mirrored, too: images or latents, labels.

    The latents are those that `train` would store, or has stored.
    """
    full = data.load(name)
    copies = 2 if data.DATASETS[name].photographs else 1
    if autoencoder is not None:
        stage = latent.first_stage(autoencoder)
        path = latent.place(data.data_root(), name, "train", stage)
        images = latent.cached(path, stage, full.images, flips=copies == 2)
    else:
        images = torch.cat([full.images, full.images.flip(3)][:copies])
    return tuple(
        torch.cat([part[:-HELD_OUT] for part in both.split(len(full))])
        for both in (images, full.labels.repeat(copies))
    )


def configuration(run: Prepared) -> dict:
    """What was trained and how, as plain values for a file of results."""
    return {
        "network": type(run.model).__name__,
        "model": run.model.config,
        "diffusion": run.diffusion.config,
        "recipe": asdict(run.recipe) | {"betas": list(run.recipe.betas)},
    }


def sample_and_judge(settings: dict, seed: int) -> dict:
    """Judge samples of shipped weights; settings: `weights`, and `sampling` for `judge_samples`."""
    model, diffusion = load(settings["weights"])
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    found = judge_samples(model, diffusion, settings["sampling"], seed)
    return found | {"weights": settings["weights"]}


def judge_samples(
    model: nn.Module,
    diffusion: Diffusion,
    sampling: dict,
    seed: int,
    name: str | None = None,
    autoencoder: str | None = None,
) -> dict:
    """Draw samples and measure them: how many are recognised, how near and how varied they are.

    `sampling`: `guidance`, the arguments of `guided` (default: scale 2); `sampler`, a name;
    `options`, its arguments (default: 20 DDIM steps); `per_class`, images of each (default 30);
    `fold`: sample with f² channels, see `Folded`; `variance`: "large" or "small", in place of a
    learned one. With one seed, all start from the same noise. `name`, `autoencoder`: the data set
    that they are samples of (default: MNIST), and what decodes them. Among what is found:
    `evaluations`, how often the sampler asked; `passes`, how often an image went through the
    network.
    """
    guidance = sampling.get("guidance", {"scale": 2.0})
    sampler, options = sampling.get("sampler", "ddim"), {"steps": 20} | sampling.get("options", {})
    asked = torch.arange(10).repeat(sampling.get("per_class", 30))
    rng = torch.Generator().manual_seed(seed)
    device, fold = next(model.parameters()).device, sampling.get("fold", 1)
    x = torch.randn((len(asked), model.in_channels, *model.size), generator=rng).to(device)
    if fold > 1:
        model, x = Folded(model, fold), pixel_unshuffle(x, fold)
    plain = guidance == {"scale": 1.0}  # no second pass that wouldn't count
    denoiser = model if plain else guided(model, **guidance)
    settled = {"guidance": guidance, "sampler": sampler, "options": options, "fold": fold}
    if "variance" in sampling:
        settled["variance"] = sampling["variance"]
        denoiser, diffusion = with_variance(denoiser, diffusion, sampling["variance"])
    denoiser, passes = Counted(denoiser), []
    hook = model.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    states = SAMPLERS[sampler](denoiser, diffusion, x, asked.to(device), generator=rng, **options)
    with fast_matmul(getattr(model, "model", model)):  # a folded network holds the network
        images = pixel_shuffle(sample(states), fold).cpu()
    hook.remove()
    if autoencoder is not None:
        images = latent.decode(latent.first_stage(autoencoder).model, images)
    counts = {"evaluations": denoiser.calls, "passes": sum(passes) / len(asked)}
    return {**counts, **judge(images, asked, name), "sampling": settled}


class Folded(nn.Module):
    """The same network for images whose blocks of f × f pixels are folded into f² channels.

    (b, c·f², h/f, w/f) in and out: what it computes is unchanged, but `guided` can now choose
    channels, for which a network of one channel gives no occasion.
    """

    def __init__(self, model: nn.Module, fold: int = 2) -> None:
        super().__init__()
        self.model, self.fold, self.null_label = model, fold, model.null_label
        self.in_channels = model.in_channels * fold**2
        self.size = tuple(side // fold for side in model.size)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """(b, c·f², h/f, w/f), (b,), (b,) → the same shape."""
        return pixel_unshuffle(self.model(pixel_shuffle(x, self.fold), t, y), self.fold)


def with_variance(
    model: Denoiser, diffusion: Diffusion, variance: str
) -> tuple[Denoiser, Diffusion]:
    """The same network without its learned Σ, and the process with a fixed one instead."""

    def prediction(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return model(x, t, y)[:, : x.shape[1]]  # (b, 2c, h, w) → (b, c, h, w)

    changed = {"learn_sigma": False, "variance": variance}
    return prediction, Diffusion.from_config(diffusion.config | changed)


class Counted:
    """A denoiser that counts its calls: the two passes of guidance are one batch, one call."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Pass the call on."""
        self.calls += 1
        return self.denoiser(x, t, y)


def judge(images: Tensor, asked: Tensor, name: str | None = None) -> dict:
    """Figures of samples (n, c, h, w) in [-1, 1] for labels `asked` (n,), and of real images."""
    name = name or "mnist"
    train, judge = data.load(name), evaluate.classifier(name)
    held = data.to_unit(train.images[-HELD_OUT:])
    labels, half = train.labels[-HELD_OUT:], HELD_OUT // 2  # real samples, and what they're held to
    n = min(len(images), half)
    return {
        **_figures(judge, images, asked, held[half:]),
        "real": _figures(judge, held[:n], labels[:n], held[half:]),
    }


def _figures(judge: Classifier, images: Tensor, labels: Tensor, reference: Tensor) -> dict:
    features = [evaluate.features(judge, z) for z in (reference, images)]
    near = evaluate.neighbours(*features)
    return {
        "recognised": round(evaluate.accuracy(judge, images, labels), 4),
        "frechet": round(evaluate.frechet_to_real(judge, images), 3),
        **{key: round(value, 4) for key, value in near._asdict().items()},
    }
