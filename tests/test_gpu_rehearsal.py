"""A rehearsal for the GPU, without one: what would wait for it, and what would mix its tensors.

PyTorch's "meta" device stands for the GPU. Its tensors have shapes and no numbers; a mode looks at
every operation, notes where numbers are asked for (and makes some up, so that the play goes on) and
where tensors travel, and raises where tensors of two devices meet. PyTorch's fake tensors on "cuda"
would do that, too, but only in a build for CUDA: in the one for processors, slicing such a tensor
raises, and a backward pass ends the process.
"""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minidit import (
    BLOCKS,
    EMA,
    SAMPLERS,
    SKIPS,
    Classifier,
    Diffusion,
    DiT,
    KLAutoencoder,
    Recipe,
    SceneDetector,
    Terms,
    UViT,
    VQAutoencoder,
    attention_maps,
    bits_per_dim,
    cosine,
    count,
    ddim_invert,
    dpm_adaptive,
    evaluate,
    export_official,
    guided,
    linear,
    save,
    straight,
    vp_sde,
)
from minidit import train as loop
from minidit.evaluate import memorisation, prompt_alignment
from minidit.latents import latent
from minidit.latents.training import AutoencoderRun
from minidit.training.distributed import DistributedRun
from minidit.training.generate import generate

aten = torch.ops.aten
GPU = torch.device("meta")
MOVES = (aten._to_copy, aten.copy_)
PACKAGE = str(Path(loop.__file__).parent)


class Generator(torch.Generator):
    """A generator that says it is on the device; what it draws there has no numbers anyway."""

    device = GPU


class Rehearsal(TorchDispatchMode):
    """Plays the GPU; `waits`: the places of the package that ask for numbers that lie there."""

    def __init__(self):
        super().__init__()
        self.waits, self.sent = set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, kind = kwargs or {}, func.overloadpacket
        lists = [z if isinstance(z, list | tuple) else [z] for z in (*args, *kwargs.values())]
        given = [z for z in itertools.chain(*lists) if isinstance(z, torch.Tensor)]
        there = [z for z in given if z.device == GPU]
        if there and (answer := self._asked(kind, args, kwargs)) is not None:
            self._waits()
            return answer
        if kind in MOVES:
            source, goal = args[kind is aten.copy_], kwargs.get("device", args[0].device)
            if source.device == GPU != goal:
                self._waits()
                return args[0] if kind is aten.copy_ else torch.zeros_like(source, **kwargs)
            if source.device != GPU == goal:
                self.sent.append(tuple(source.shape))
        elif there and any(z.ndim for z in given if z.device != GPU):
            raise RuntimeError(f"{func} of tensors on {[z.device.type for z in given]}")
        return func(*args, **kwargs)

    def _waits(self):
        frame = sys._getframe()
        while not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name[0] == "<":
            frame = frame.f_back
        place = Path(frame.f_code.co_filename).relative_to(PACKAGE).with_suffix("")
        self.waits.add(f"{place.as_posix()}.{frame.f_code.co_name}")

    @staticmethod
    def _asked(kind, args, kwargs):
        """Numbers, or a shape that depends on them: an answer that will do; else None."""
        if kind is aten._local_scalar_dense:
            kinds = {torch.bool: True, torch.int64: 1}
            return kinds.get(args[0].dtype, 1.0)
        if kind is aten.equal:
            return True
        if kind is aten.nonzero:
            return torch.zeros(1, args[0].ndim, dtype=torch.long, device=GPU)
        if kind is aten._unique2:
            return tuple(args[0].flatten()[:1] for _ in range(3))
        if kind is aten.bincount:
            return torch.zeros(max(1, kwargs.get("minlength", 0)), dtype=torch.long, device=GPU)
        if kind is aten.index and args[1][-1].dtype == torch.bool:
            return args[0].flatten(0, len(args[1]) + args[1][-1].ndim - 2)[:2]
        return None


@pytest.fixture
def rehearsal(monkeypatch):
    """The mode, and random numbers that are drawn on the device."""
    monkeypatch.setattr(loop, "step_generator", lambda seed, step, device="cpu": Generator())
    adamw = torch.optim.AdamW  # the fused one knows no such device
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda *args, fused, **kwargs: adamw(*args, foreach=True, **kwargs)
    )
    with Rehearsal() as mode:
        yield mode


def dit(**changes):
    arguments = dict(input_size=8, patch_size=4, in_channels=1, hidden_size=8, depth=1, num_heads=2)
    arguments |= dict(num_classes=3, learn_sigma=False)
    with GPU:
        return DiT(**arguments | changes)


def uvit(**changes):
    arguments = dict(input_size=8, patch_size=4, in_channels=1, hidden_size=8, depth=3, num_heads=2)
    with GPU:
        return UViT(**arguments | dict(num_classes=3) | changes)


def numbers(*shape):
    return torch.zeros(shape, device=GPU)


def labels(n=2):
    return torch.zeros(n, dtype=torch.long, device=GPU)


TEXT = {"encoder": "text", "words": ["red", "circle"], "length": 2}
LAYOUT = {"encoder": "layout", "kinds": ["circle"], "colours": ["red", "blue"], "length": 2}
ASKED = {
    "labels": ({}, torch.zeros(4, dtype=torch.long)),
    "text": (dict(num_classes=0, condition=TEXT), torch.zeros(4, 2, dtype=torch.long)),
    "layout": (dict(num_classes=0, condition=LAYOUT), torch.zeros(4, 2, 6)),
}
IMAGES = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
PICTURES = torch.zeros(4, 1, 28, 28, dtype=torch.uint8)


def run_of(model, asked="labels", optimizer="adamw", sigma=False, steps=3):
    recipe = Recipe(steps, 4, optimizer=optimizer, times="half", warmup=0)
    process = Diffusion(linear(), "eps", learn_sigma=sigma)
    return DistributedRun(model, process, IMAGES, ASKED[asked][1], recipe, accumulate=2)


def forward_and_back(model, asked="labels"):
    x, y = numbers(4, *IMAGES.shape[1:]), ASKED[asked][1].to(GPU)
    model(x, labels(4), y).sum().backward()


def autoencoder(kind):
    codes = {"num_codes": 8} if kind is VQAutoencoder else {}
    with GPU:
        return kind(in_channels=1, width=4, multipliers=(1, 2), attention=(1,), **codes)


def classifier():
    with GPU:
        return Classifier(width=4).eval()


def detector():
    with GPU:
        return SceneDetector(3, 3, 8).eval()


def test_what_waits_or_mixes_is_noticed(rehearsal):
    x = numbers(3)
    for ask in (float, bool, torch.Tensor.tolist, torch.Tensor.nonzero):
        rehearsal.waits.clear()
        evaluate._in_batches(lambda part, ask=ask: (ask(part), part)[1], x[:1])
        assert rehearsal.waits == {"evaluate/__init__._in_batches"}
    here = torch.zeros(3, dtype=torch.long)
    for mix in (lambda: x + here, lambda: x[here], lambda: here.float() @ x):
        with pytest.raises(RuntimeError, match="of tensors on"):
            mix()
    assert (x + torch.zeros(())).device == GPU  # a single number may come from anywhere


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("kind", [*BLOCKS, "U-ViT"])
def test_a_network(kind, asked, rehearsal):
    changes = ASKED[asked][0]
    forward_and_back(uvit(**changes) if kind == "U-ViT" else dit(block=kind, **changes), asked)
    assert not rehearsal.waits


@pytest.mark.parametrize("skip", SKIPS)
def test_a_u_vit_with_all_that_is_unusual(skip, rehearsal):
    forward_and_back(uvit(skip=skip, time_mlp=True, conv="before", pos_embed="sincos_2d"))
    assert not rehearsal.waits


def test_checkpointing(rehearsal):
    model = dit()
    model.checkpointing = True
    forward_and_back(model)
    assert not rehearsal.waits


@pytest.mark.parametrize("sigma", [False, True])
@pytest.mark.parametrize("weight", [None, "bound", "v"])
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_a_loss(predict, weight, sigma, rehearsal):
    schedule = straight() if predict == "v" else cosine()
    process = Diffusion(schedule, predict, weight=weight, learn_sigma=sigma)
    given = numbers(2, 1, 8, 8), labels(), numbers(2, 1, 8, 8), labels()
    process.loss(dit(learn_sigma=sigma), *given).sum().backward()
    assert not rehearsal.waits


ALL = SAMPLERS | {"inverted": ddim_invert, "adaptive": dpm_adaptive}


@pytest.mark.parametrize("name", ALL)
def test_a_sampler_with_guidance_in_an_interval(name, rehearsal):
    """The interval is known to ask, and adaptive steps: was the last one short enough?"""
    steps = {"adaptive": {}, "euler_maruyama": {"steps": 25}}.get(name, {"steps": 3})
    noise = {} if name == "inverted" else {"generator": Generator()}
    process = Diffusion(vp_sde(), "eps", learn_sigma=True)
    for interval in (None, (10, 500)):
        model = guided(dit(learn_sigma=True), 2.0, interval=interval)
        states = ALL[name](
            model, process, numbers(2, 1, 8, 8), labels(), clip=0.99, **steps, **noise
        )
        for state in itertools.islice(states, 25):  # made up errors lead to no end
            assert state.x.device == GPU
        own = {"solvers/adaptive.dpm_adaptive"} if name == "adaptive" else set()
        assert rehearsal.waits == own | ({"sampling._guided"} if interval else set())


def test_labels_of_the_processor_are_sent_once(rehearsal):
    asked = torch.zeros(2, dtype=torch.long)
    for _ in generate(dit(), Diffusion(linear()), asked, steps=3, sampler="ddpm"):
        pass
    assert not rehearsal.waits and rehearsal.sent.count((2,)) == 1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("kind", [dit, uvit])
def test_a_training_step(kind, asked, optimizer, rehearsal):
    run_of(kind(**ASKED[asked][0]), asked, optimizer).step()
    assert not rehearsal.waits


def test_a_run_and_its_checkpoint(rehearsal, tmp_path):
    """It waits to know its data, to read losses, and to look at weights before they are stored."""
    run_of(dit(), steps=2).go()
    assert rehearsal.waits == {"train._finite_mean", "train.finite"}  # weights: at the end
    run_of(dit(), steps=2).go(tmp_path, save_every=1)
    run_of(dit(), steps=2).go(tmp_path)
    assert rehearsal.waits == {
        "train._finite_mean",
        "train.finite",
        "weights/checkpoint.fingerprint",
    }


@pytest.mark.parametrize("kind", [KLAutoencoder, VQAutoencoder])
def test_an_autoencoder(kind, rehearsal):
    """A step looks whether codes died, for only then does the encoder run again."""
    model = autoencoder(kind)
    model.to_images(model.to_latents(numbers(2, 1, 28, 28), Generator()))
    model(numbers(2, 1, 28, 28)).sum().backward()
    export_official(model)
    assert not rehearsal.waits
    terms = Terms(patience=1)
    own = Classifier(width=4)  # whose copy moves
    AutoencoderRun(model, PICTURES, Recipe(3, 2, warmup=0), terms, own, flips=True).step()
    dead = {"latents/training.after", "latents/quantizer.revive"}
    assert rehearsal.waits == (dead if kind is VQAutoencoder else set())
    rehearsal.waits.clear()
    latent.decode(model, latent.encode(model, PICTURES))
    assert rehearsal.waits == {
        "latents/latent.encode",
        "latents/latent.decode",
    }
    rehearsal.waits.clear()
    model.set_scale(PICTURES)
    assert rehearsal.waits == {"latents/autoencoder.set_scale"}


def features():
    return evaluate.features(classifier(), numbers(80, 1, 28, 28))


def scenes():
    return numbers(2, 3, 32, 32)


# What is asked of samples: the places where the answers, numbers or lists, are fetched.
EVALUATIONS = {
    "features": (features, ""),
    "accuracy": (
        lambda: evaluate.accuracy(classifier(), numbers(4, 1, 28, 28), labels(4)),
        "evaluate/__init__.accuracy",
    ),
    "distances": (
        lambda: evaluate.distances(classifier(), features(), features()),
        "evaluate/__init__.moments evaluate/__init__.frechet_distance evaluate/__init__.neighbours",
    ),
    "reconstruction": (
        lambda: evaluate.reconstruction(
            classifier(), autoencoder(VQAutoencoder), numbers(80, 1, 28, 28), labels(80)
        ),
        "evaluate/__init__.moments evaluate/__init__.accuracy evaluate/__init__.psnr "
        "evaluate/__init__.frechet_distance latents/quantizer.usage",
    ),
    "psnr": (
        lambda: evaluate.psnr(numbers(2, 1, 8, 8), numbers(2, 1, 8, 8)),
        "evaluate/__init__.psnr",
    ),
    "matching": (lambda: evaluate.matching(labels(9), labels(3)), "evaluate/__init__.matching"),
    "copies": (
        lambda: memorisation.near_copies(
            *[memorisation.nearest(numbers(2, 1, 8, 8), numbers(60, 1, 8, 8))] * 2
        ),
        "evaluate/memorisation.near_copies",
    ),
    "what a detector finds": (lambda: prompt_alignment.find(detector(), scenes()), ""),
    "layouts": (
        lambda: prompt_alignment.layout_alignment(detector(), scenes(), numbers(2, 3, 6)),
        "evaluate/prompt_alignment.layout_alignment evaluate/prompt_alignment._share",
    ),
    "captions": (
        lambda: prompt_alignment.caption_alignment(detector(), scenes(), ["a red three"] * 2),
        "evaluate/prompt_alignment.caption_alignment",
    ),
    "bits": (
        lambda: bits_per_dim(
            dit(learn_sigma=True),
            Diffusion(linear(), learn_sigma=True).respace([0, 5, 999]),
            numbers(2, 1, 8, 8),
            labels(),
            generator=Generator(),
        ),
        "",
    ),
    "attention": (lambda: attention_maps(dit(), numbers(2, 1, 8, 8), labels(), labels()), ""),
    "multiplications": (lambda: count(dit()), ""),
    "average": (lambda: EMA(dit()).update(dit(), 3), ""),
    "official names": (lambda: export_official(dit()), ""),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_waits_for_its_answer_alone(name, rehearsal):
    play, places = EVALUATIONS[name]
    play()
    assert rehearsal.waits == set(places.split())


def test_saving_fetches_the_weights(rehearsal, tmp_path):
    save(dit(), tmp_path / "weights.safetensors", Diffusion(linear()))
    assert rehearsal.waits == {"weights/__init__.save"}
