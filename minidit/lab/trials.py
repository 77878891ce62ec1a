"""The pieces that trials are made of: data and a network, training, samples, and their measures.

A trial takes settings and a seed, and gives what it measured together with the configuration. No
test split is used: networks train without the last 5,000 training images, which stand in for it.
The classifier has seen them, so the distance of real images is low; so have the shipped weights.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from minidit import data, evaluate
from minidit._validate import check_choice
from minidit.diffusion import Diffusion
from minidit.evaluate.flops import count
from minidit.lab.claims import SURGERY, Objective, SequencePrior, sequence_loss
from minidit.lab.runner import merge
from minidit.sampling import SAMPLERS, Denoiser, guided, sample
from minidit.train import Loop, Run
from minidit.training import presets
from minidit.training.matmul import fast_matmul

HELD_OUT = 5000
TENTHS = 10  # parts of the steps, for a loss by t
SAMPLING = dict(guidance={"scale": 2.0}, sampler="ddim", options={"steps": 20}, per_class=30)


def device() -> str:
    """Where trials compute: on a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from torch's global state as if seeded so; afterwards it is what it was before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def prepare(settings: dict, seed: int, examples: tuple[Tensor, Tensor | None] | None = None) -> Run:
    """A training run that has not begun: a fresh network, its process, and the data.

    Settings: `model` and `recipe` are changes of the preset `preset` (default: "demo"), `diffusion`
    and `network` ("DiT" or "UViT") replace its own; `rate` multiplies the recipe's; `surgery`:
    {name in `SURGERY`: arguments}; `sequence_weight`: of `sequence_loss`'s terms; `budget`, in
    place of a number of steps: billions of multiply-accumulates in forward passes. `examples`:
    images (n, c, h, w), as `fit` takes them, and labels (n,) in 0 … 9; by default MNIST's, but for
    what is held out.
    """
    name = settings.get("preset", "demo")
    check_choice("preset", name, presets.PRESETS)
    own = {"network": "DiT"} | presets.PRESETS[name]
    preset = {part: own[part] | settings.get(part, {}) for part in ("model", "recipe")}
    preset |= {part: settings.get(part, own[part]) for part in ("diffusion", "network")}
    if examples is None:
        mnist = data.load("mnist")
        examples = mnist.images[:-HELD_OUT], mnist.labels[:-HELD_OUT]
    model, diffusion, parts = presets.build(preset, tuple(examples[0].shape[1:]), 10, seed)
    with seeded(seed):
        for change, arguments in settings.get("surgery", {}).items():
            diffusion = SURGERY[change](model, diffusion, **arguments) or diffusion
    if (weight := settings.get("sequence_weight")) is not None:
        prior = SequencePrior(data.to_unit(examples[0]), model.patch_size)
        added = partial(sequence_loss, prior=prior, weight=weight)
        diffusion = Objective(**vars(diffusion), objective=added)
    recipe, factor = presets.recipe_of(parts, seed=seed), settings.get("rate", 1.0)
    recipe = replace(recipe, lr=recipe.lr * factor, muon_lr=recipe.muon_lr * factor)
    if "budget" in settings:
        per_step = count(model).macs * recipe.batch_size
        recipe = replace(recipe, steps=max(1, round(settings["budget"] * 1e9 / per_step)))
    return Run(model.to(device()), diffusion, *examples, recipe)


def held_out(name: str) -> tuple[Tensor, Tensor]:
    """The held-out images of a data set, (n, c, h, w) in [-1, 1], and their labels (n,)."""
    full = data.load(name)
    return data.to_unit(full.images[-HELD_OUT:]), full.labels[-HELD_OUT:]


def train(run: Loop) -> tuple[nn.Module, dict]:
    """The averaged network after training; and what was trained, and how long it took."""
    began, spent = time.perf_counter(), time.process_time()
    average = run.go()
    took = {
        "steps": run.recipe.steps,
        "training seconds": round(time.perf_counter() - began, 1),
        "processor seconds": round(time.process_time() - spent, 1),
        "parameters": sum(p.numel() for p in average.parameters()),
    }
    return average, took | configuration(run)


def configuration(run: Loop) -> dict:
    """What was trained and how, as plain values for a file of results."""
    parts = run.settings()
    own = {"network": parts["network"]["kind"], "model": run.model.config}
    return own | {part: parts[part] for part in ("diffusion", "recipe") if part in parts}


@torch.no_grad()
def held_out_loss(model: nn.Module, diffusion: Diffusion, n: int = 500) -> Tensor:
    """The loss of n held-out digits, (n,), at steps that rise evenly; always with the same noise.

    Unlike the training loss it doesn't vary by chance, and every step counts alike.
    """
    x0, y = (z[:n] for z in held_out("mnist"))
    t = torch.arange(len(x0)) * len(diffusion) // len(x0)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    place = next(model.parameters()).device
    return diffusion.loss(model, *(z.to(place) for z in (x0, t, noise, y))).cpu()


def by_tenth(losses: Tensor) -> list[float]:
    """The means of `held_out_loss`, (n,), over the tenths of the steps, the clean images first."""
    return [round(part.item(), 5) for part in losses.reshape(TENTHS, -1).mean(dim=1)]


def draw(
    model: nn.Module,
    diffusion: Diffusion,
    sampling: dict,
    seed: int,
    denoiser: Denoiser | None = None,
) -> tuple[Tensor, Tensor, dict]:
    """Samples (n, c, h, w) of ten classes, their labels (n,), and what was done for them.

    `sampling`, what differs from `SAMPLING`: `guidance`, the arguments of `guided`; `options`,
    those of the `sampler`. `denoiser`: what it calls in place of the guided `model`. With one seed,
    all start from the same noise. Among what was done: `evaluations`, how often the network was
    called; `passes`, how often an image went through it.
    """
    sampling = merge(SAMPLING, sampling)
    labels = torch.arange(10).repeat(sampling["per_class"])
    rng, place = torch.Generator().manual_seed(seed), next(model.parameters()).device
    x = torch.randn((len(labels), model.in_channels, *model.size), generator=rng).to(place)
    if denoiser is None:
        denoiser = guided(model, **sampling["guidance"])
    calls: list[int] = []  # images in each
    hook = model.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    options = sampling["options"] | {"generator": rng}
    states = SAMPLERS[sampling["sampler"]](denoiser, diffusion, x, labels.to(place), **options)
    with fast_matmul(model):
        images = sample(states).cpu()
    hook.remove()
    done = {"evaluations": len(calls), "passes": sum(calls) / len(labels), "sampling": sampling}
    return images, labels, done


def quality(images: Tensor, labels: Tensor, name: str = "mnist") -> dict:
    """Measures of samples (n, c, h, w) in [-1, 1] with labels (n,), and of real ones with those."""
    classifier, (held, true) = evaluate.classifier(name), held_out(name)
    half = HELD_OUT // 2  # the first stand in for samples, the others are the reference of both
    rows = evaluate.matching(true[:half], labels)
    reference = evaluate.features(classifier, held[half:])
    return evaluate.measure(classifier, images, labels, reference) | {
        "real": evaluate.measure(classifier, held[rows], true[rows], reference)
    }


def draw_and_measure(model: nn.Module, diffusion: Diffusion, sampling: dict, seed: int) -> dict:
    """`draw` digits, then tell their `quality`."""
    images, labels, done = draw(model, diffusion, sampling, seed)
    return done | quality(images, labels)
