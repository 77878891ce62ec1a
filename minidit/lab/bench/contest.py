"""The benchmark's contestants: the package, and a plain reading of the papers, see `plain`.

With the same weights both compute the same, which `differences` measures; so what is compared is
how the same work is done.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
from torch import Tensor, nn

from minidit._validate import check_choice, check_positive
from minidit.diffusion import Diffusion
from minidit.dit import DiT
from minidit.evaluate.flops import count
from minidit.lab.bench.plain import PlainRun
from minidit.sampling import Denoiser, sample, select_steps
from minidit.schedule import linear
from minidit.train import Recipe
from minidit.training.distributed import DistributedRun
from minidit.training.generate import generate
from minidit.training.matmul import fast_matmul
from minidit.uvit import UViT

NETWORKS = {"DiT": DiT, "U-ViT": UViT}
TASKS = ("forward", "training step", "sampling")
STEPS, SCALE = 10, 2.0  # of sampling
IMAGES = 4096  # in the data set that is trained on
TOLERANCE = 1e-3  # of outputs and gradients, relative; rounding makes about 1e-6
_MNIST = dict(input_size=28, in_channels=1, hidden_size=128, depth=6, num_heads=4, num_classes=10)
_LATENTS = dict(input_size=32, in_channels=4, patch_size=2, depth=12, num_classes=1000)

# The course's network, the same with smaller patches, and two of the paper's for a GPU. "batch": on
# a processor and on a GPU; a quarter of it is sampled at once.
SIZES: dict[str, dict] = {
    "small": dict(model=_MNIST | {"patch_size": 7}, batch=(128, 1024)),
    "tokens": dict(model=_MNIST | {"patch_size": 4}, batch=(64, 512)),
    "S/2": dict(model=_LATENTS | {"hidden_size": 384, "num_heads": 6}, batch=(8, 128)),
    "B/2": dict(model=_LATENTS | {"hidden_size": 768, "num_heads": 12}, batch=(4, 64)),
}


class Contest:
    """The package and the plain version of one network, with the same weights and data.

    `size`: like the values of `SIZES`; `network`: "DiT" or "U-ViT"; `compiled`: as for
    `DistributedRun`, of the package's network. Either training is set up when first used, from the
    weights of then.
    """

    def __init__(
        self,
        size: dict,
        network: str = "DiT",
        *,
        batch: int | None = None,
        device: torch.device | str = "cpu",
        compiled: str | None = None,
    ) -> None:
        check_choice("network", network, NETWORKS)
        self.device, self.compiled = torch.device(device), compiled
        self.batch = batch or size["batch"][self.device.type == "cuda"]
        check_positive(batch=self.batch)
        self.model = _awake(NETWORKS[network](learn_sigma=False, **size["model"])).to(device)
        self.macs = count(self.model).macs  # of one image
        self.images, self.labels = _data(size["model"], max(IMAGES, self.batch))
        self.recipe = Recipe(
            10**6, self.batch, 1e-4, betas=(0.9, 0.999), warmup=0, cooldown=0.0, ema_decay=0.9999
        )
        self.diffusion = Diffusion(linear(), "eps")
        x0 = torch.randn(self.batch, *self.images.shape[1:])
        t = torch.randint(0, len(self.diffusion), (self.batch,))
        inputs = (x0, t, torch.randn_like(x0), self.labels[: self.batch])
        self.inputs = tuple(z.to(self.device) for z in inputs)
        self.wanted = self.labels[: max(1, self.batch // 4)]  # what is sampled

    @cached_property
    def plain(self) -> PlainRun:
        """The plain version and its training."""
        return PlainRun(self.model, self.images, self.labels, self.recipe)

    @cached_property
    def run(self) -> DistributedRun:
        """The package's training."""
        parts = self.model, self.diffusion, self.images, self.labels, self.recipe
        return DistributedRun(*parts, compiled=self.compiled)

    def flops(self, task: str) -> int:
        """Two for each multiply-accumulate; a backward pass takes twice as many as a forward."""
        evaluations = {
            "forward": self.batch,
            "training step": 3 * self.batch,
            "sampling": 2 * STEPS * len(self.wanted),  # guided
        }
        return 2 * self.macs * evaluations[task]

    def contestants(self, task: str) -> dict[str, Callable[[], object]]:
        """{"plain": …, "package": …}: what is to be timed."""
        return {
            "forward": {
                "plain": lambda: self.forward(self.plain.network),
                "package": lambda: self.quickly(lambda: self.forward(self.run.network)),
            },
            "training step": {"plain": lambda: self.plain.step(), "package": self.step},
            "sampling": {
                "plain": self.plainly_sampled,
                "package": lambda: self.quickly(self.sampled),
            },
        }[task]

    def quickly(self, call: Callable[[], Tensor]) -> Tensor:
        """What the package computes, the way it does: on a GPU in mixed precision."""
        half: AbstractContextManager = nullcontext()
        if self.device.type == "cuda":
            half = torch.autocast("cuda", torch.bfloat16)
        with half, fast_matmul(self.model):
            return call()

    @torch.no_grad()
    def forward(self, network: Denoiser) -> Tensor:
        """One pass without a gradient: an output (b, c, h, w)."""
        x0, t, _, y = self.inputs
        return network(x0, t, y)

    def step(self) -> Tensor:
        """A training step of the package."""
        with self.run.products():
            return self.run.step()

    def sampled(self) -> Tensor:
        """Samples of the package, as the command line draws them."""
        drawn = generate(self.model, self.diffusion, self.wanted, guidance=SCALE, steps=STEPS)
        return sample(drawn)

    def plainly_sampled(self) -> Tensor:
        """The same samples."""
        shape = len(self.wanted), *self.images.shape[1:]
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        steps = select_steps(self.diffusion.schedule, STEPS)
        return self.plain.ddim(x, self.wanted.to(self.device), steps, SCALE)

    def differences(self) -> dict[str, float]:
        """How far the two are apart, relative, at the weights they have now, both in float32.

        Raises ArithmeticError where it is more than rounding explains.
        """
        x0, t, noise, y = self.inputs
        with fast_matmul(self.model):
            output = self.forward(self.model)
            loss = self.diffusion.loss(self.model, x0, t, noise, y).mean()
            loss.backward()
            drawn = self.sampled()
        plain_loss = self.plain.loss(x0, t, noise, y)
        plain_loss.backward()
        found = {
            "outputs": _apart(output, self.forward(self.plain.network)),
            "loss": _apart(loss.detach(), plain_loss.detach()),
            "gradients": self._gradients_apart(),
            "samples": _apart(drawn, self.plainly_sampled()),
        }
        if not all(value < TOLERANCE for value in found.values()):
            raise ArithmeticError(f"package and plain version differ: {found}")
        return found

    def _gradients_apart(self) -> float:
        """Of the gradient of any weight; parts that are zero but for rounding don't count."""
        ours = dict(self.model.named_parameters())
        theirs = {k: self.plain.weights[k].grad for k in self.plain.learnt}
        floor = 1e-3 * max(g.norm().item() for g in theirs.values())
        apart = max(_apart(ours[k].grad, g, floor) for k, g in theirs.items())
        self.model.zero_grad()
        self.plain.optimizer.zero_grad()
        return apart


def peak_memory(
    who: str, device: torch.device, size: dict, network: str = "DiT", **options
) -> float | None:
    """MiB of a training step: weights, optimiser, average, activations; None but on a GPU.

    `who`: "plain" or "package", in a `Contest` of its own with these arguments.
    """
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step = Contest(size, network, device=device, **options).contestants("training step")[who]
    for _ in range(3):  # from the second on, the optimiser has its memory
        step()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def _apart(a: Tensor, b: Tensor, floor: float = 0.0) -> float:
    return (a - b).norm().item() / max(b.norm().item(), floor)


def _awake(model: nn.Module) -> nn.Module:
    """Weights as after some training: a fresh DiT's blocks do nothing."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=rng) * 0.02)
    return model


def _data(model: dict, n: int) -> tuple[Tensor, Tensor]:
    """Images as bytes, or latents, and labels: what they show makes no difference."""
    shape = (n, model["in_channels"], model["input_size"], model["input_size"])
    labels = torch.randint(0, model["num_classes"], (n,))
    if model["in_channels"] == 4:
        return torch.randn(shape), labels
    return torch.randint(0, 256, shape, dtype=torch.uint8), labels
