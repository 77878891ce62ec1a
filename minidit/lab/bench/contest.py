"""The benchmark's contestants: the package, and a plain reading of the papers, see `plain`.

With the same weights both compute the same: what is compared is how the same work is done.
"""

from collections.abc import Callable
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

    `size`: like the values of `SIZES`; `network`: "DiT" or "U-ViT"; `compiled`: the package's, as
    for `DistributedRun`. Either training is set up when first used, from the weights of then.
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
        self.device, self.compiled, model = torch.device(device), compiled, size["model"]
        self.batch = batch or size["batch"][self.device.type == "cuda"]
        check_positive(batch=self.batch)
        self.model = _awake(NETWORKS[network](learn_sigma=False, **model)).to(device)
        self.macs = count(self.model).macs  # of one image
        n, channels = max(IMAGES, self.batch), model["in_channels"]
        shape = (n, channels, model["input_size"], model["input_size"])
        # Images as bytes, or latents: what they show makes no difference.
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8)
        if channels == 4:
            self.images = torch.randn(shape)
        self.labels = torch.randint(0, model["num_classes"], (n,))
        self.recipe = Recipe(
            10**6, self.batch, 1e-4, betas=(0.9, 0.999), warmup=0, cooldown=0.0, ema_decay=0.9999
        )
        self.diffusion = Diffusion(linear(), "eps")
        x0 = torch.randn(self.batch, *shape[1:])
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
        guided = 2 * STEPS * len(self.wanted)
        passes = {"forward": self.batch, "training step": 3 * self.batch, "sampling": guided}
        return 2 * self.macs * passes[task]

    def contestants(self, task: str) -> dict[str, Callable[[], object]]:
        """{"plain": …, "package": …}: what is to be timed."""
        plain = {
            "forward": lambda: self.forward(self.plain.network),
            "training step": lambda: self.plain.step(),
            "sampling": self.plainly_sampled,
        }
        package = {
            "forward": lambda: self.quickly(lambda: self.forward(self.run.network)),
            "training step": self.step,
            "sampling": lambda: self.quickly(self.sampled),
        }
        return {"plain": plain[task], "package": package[task]}

    def quickly(self, call: Callable[[], Tensor]) -> Tensor:
        """What the package computes, the way it does: on a GPU in mixed precision."""
        half = torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda")
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
        how = {"guidance": SCALE, "steps": STEPS}
        return sample(generate(self.model, self.diffusion, self.wanted, **how))

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
        (x0, t, noise, y), weights = self.inputs, dict(self.model.named_parameters())
        with fast_matmul(self.model):
            output, drawn = self.forward(self.model), self.sampled()
            loss = self.diffusion.loss(self.model, x0, t, noise, y).mean()
            ours = torch.autograd.grad(loss, [weights[k] for k in self.plain.learnt])
        plain_loss = self.plain.loss(x0, t, noise, y)
        theirs = torch.autograd.grad(plain_loss, [self.plain.weights[k] for k in self.plain.learnt])
        floor = 1e-3 * max(g.norm().item() for g in theirs)  # below it is zero but for rounding
        found = {
            "outputs": _apart(output, self.forward(self.plain.network)),
            "loss": _apart(loss.detach(), plain_loss.detach()),
            "gradients": max(_apart(a, b, floor) for a, b in zip(ours, theirs)),
            "samples": _apart(drawn, self.plainly_sampled()),
        }
        if not all(value < TOLERANCE for value in found.values()):
            raise ArithmeticError(f"package and plain version differ: {found}")
        return found


def peak_memory(fresh: Callable[[], Contest], who: str, device: torch.device) -> float | None:
    """MiB of a training step: weights, optimiser, average, activations; None but on a GPU.

    `who`: "plain" or "package", in a contest of its own, which `fresh` makes.
    """
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step = fresh().contestants("training step")[who]
    for _ in range(3):  # from the second on, the optimiser has its memory
        step()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def _apart(a: Tensor, b: Tensor, floor: float = 0.0) -> float:
    return (a - b).norm().item() / max(b.norm().item(), floor)


@torch.no_grad()
def _awake(model: nn.Module) -> nn.Module:
    """Weights as after some training: a fresh DiT's blocks do nothing."""
    rng = torch.Generator().manual_seed(0)
    for p in (p for p in model.parameters() if p.requires_grad):
        p.add_(torch.randn(p.shape, generator=rng) * 0.02)
    return model
