"""Trials that look inside: how loss and samples change during training, and what the bound sums.

As in `trials`, a trial takes settings and a seed, and networks train without the last images of
MNIST's training set, which stand in for a test set.
"""

import time
from functools import partial

import torch
from torch import Tensor, nn

from minidit import data, evaluate
from minidit.diffusion import Diffusion
from minidit.evaluate.nll import Bits, bits_per_dim
from minidit.lab.trials import HELD_OUT, configuration, prepare
from minidit.sampling import ddim, sample, select_steps
from minidit.train import Run, step_generator
from minidit.weights import load

TENTHS = 10  # parts of the steps, for a loss by t
FIXED = ("large", "small")  # variances


def watch_training(settings: dict, seed: int) -> dict:
    """Train, and stop at the steps `looks` to judge both sets of weights, raw and averaged.

    Settings: `network`, `model`, `recipe` and `diffusion` as for `trials.train`; `looks`, a rising
    list, the last of which ends the run; `per_class`, samples of each label at every look, and
    `options`, the arguments of `ddim` (default: 20 steps).
    """
    looks = settings["looks"]
    prepared = prepare(settings, seed, steps=looks[-1])
    run = Run(*prepared)
    losses, seen, spent = [], {"raw": [], "average": []}, 0.0
    for look in looks:
        began = time.process_time()
        while run.done < look:
            losses.append(float(run.step()))
        spent += time.process_time() - began
        for name, network in {"raw": run.model.eval(), "average": run.ema.model}.items():
            seen[name].append(_look(network, run.diffusion, settings, seed))
        run.model.train()
    return {
        "processor seconds": round(spent, 1),
        "looks": looks,
        "training loss": [round(mean, 5) for mean in _means(losses)],
        **{
            name: {key: [look[key] for look in all] for key in all[0]} for name, all in seen.items()
        },
        "loss": seen["average"][-1]["loss"],
        "recognised": seen["average"][-1]["recognised"],
        "frechet": seen["average"][-1]["frechet"],
        **configuration(prepared),
        "sampling": {key: settings[key] for key in ("per_class", "options") if key in settings},
    }


def _means(losses: list[float]) -> list[float]:
    """Of every ten steps one mean."""
    parts = [losses[k : k + 10] for k in range(0, len(losses), 10)]
    return [sum(part) / len(part) for part in parts]


def _look(model: nn.Module, diffusion: Diffusion, settings: dict, seed: int) -> dict:
    """The loss, and samples without guidance, always from the same noise."""
    by_t = held_out_loss(model, diffusion)
    asked = torch.arange(10).repeat(settings["per_class"])
    rng, device = torch.Generator().manual_seed(seed), next(model.parameters()).device
    x = torch.randn((len(asked), model.in_channels, *model.size), generator=rng).to(device)
    options = {"steps": 20} | settings.get("options", {})
    images = sample(ddim(model, diffusion, x, asked.to(device), **options)).cpu()
    judge = evaluate.classifier("mnist")
    return {
        "loss": round(by_t.mean().item(), 5),
        "loss by tenth of t": by_tenth(by_t),
        "recognised": round(evaluate.accuracy(judge, images, asked), 4),
        "frechet": round(evaluate.frechet_to_real(judge, images), 3),
    }


def by_tenth(losses: Tensor) -> list[float]:
    """The means of `held_out_loss`, (n,), over the tenths of the steps, the clean images first."""
    return [round(part.item(), 5) for part in losses.reshape(TENTHS, -1).mean(dim=1)]


@torch.no_grad()
def held_out_loss(model: nn.Module, diffusion: Diffusion, n: int = 500) -> Tensor:
    """The loss of n held-out images, (n,), at steps that rise evenly; always with the same noise.

    Unlike the training loss it has no luck of the draw, and every step counts alike.
    """
    train = data.load("mnist")
    x0, y = data.to_unit(train.images[-HELD_OUT:][:n]), train.labels[-HELD_OUT:][:n]
    t = torch.arange(len(x0)) * len(diffusion) // len(x0)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    device = next(model.parameters()).device
    return diffusion.loss(model, *(z.to(device) for z in (x0, t, noise, y))).cpu()


# --- bits -----------------------------------------------------------------------------------------


def count_bits(settings: dict, seed: int) -> dict:
    """Bits per dimension of test images with three variances, from the same network's answers.

    Settings: `weights`, a name or a file, with a learned variance; `steps`, how many, evenly
    spaced; `images`. The seed chooses the noise and, as far as they last, other images.
    """
    model, diffusion = load(settings["weights"])
    process = diffusion.respace(select_steps(diffusion.schedule, settings["steps"]))
    test, n = data.load("mnist", "test"), settings["images"]
    rows = (torch.arange(n) + seed * n) % len(test)
    x0, y = data.to_unit(test.images[rows]), test.labels[rows]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = bits_by_variance(model.to(device), process, x0.to(device), y.to(device), seed)
    at = [k for k in _SHOWN if k < len(process) - 1] + [len(process) - 1]
    terms = {name: bits.terms.mean(dim=0).flip(0).tolist() for name, bits in found.items()}
    return {
        **{name: round(bits.total.mean().item(), 4) for name, bits in found.items()},
        "prior": round(found["learned"].prior.mean().item(), 6),
        "shown": process.schedule.steps[at].tolist(),  # the steps of these terms
        "terms": {name: [float(f"{all[k]:.4g}") for k in at] for name, all in terms.items()},
        "weights": str(settings["weights"]),
        "images": n,
    }


_SHOWN = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700)


def bits_by_variance(
    model: nn.Module, diffusion: Diffusion, x0: Tensor, y: Tensor | None, seed: int, batch: int = 20
) -> dict[str, Bits]:
    """The bound of x0 (n, c, h, w) with the learned variance, and with both fixed ones instead.

    All three see the same noise, so the network is asked once, and its answers are heard again.
    """
    fixed = {
        name: Diffusion(diffusion.schedule, diffusion.predict, variance=name) for name in FIXED
    }
    found: dict[str, list[Bits]] = {name: [] for name in ("learned", *FIXED)}
    for k, part in enumerate(x0.split(batch)):
        labels = y[k * batch :][:batch] if y is not None else None
        answers: list[Tensor] = []

        def ask(x: Tensor, t: Tensor, y: Tensor | None, answers=answers) -> Tensor:
            answers.append(model(x, t, y))
            return answers[-1]

        noise = partial(step_generator, seed, k)
        found["learned"].append(bits_per_dim(ask, diffusion, part, labels, generator=noise()))
        for name, process in fixed.items():
            heard = iter(answers)
            again = lambda x, t, y, heard=heard: next(heard).chunk(2, dim=1)[0]  # noqa: E731
            found[name].append(bits_per_dim(again, process, part, labels, generator=noise()))
    return {name: Bits(*map(torch.cat, zip(*parts))) for name, parts in found.items()}
