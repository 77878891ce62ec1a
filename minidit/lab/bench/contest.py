"""The benchmark's contestants: the package, and a plain reading of the papers.

See `plain` and `plain_training`. With the same weights both compute the same, which `differences`
measures; so what is compared is how the same work is done.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from minidit._validate import check_choice, check_positive
from minidit.diffusion import Diffusion
from minidit.dit import DiT
from minidit.evaluate.flops import count
from minidit.lab.bench.plain_training import PlainRun, plain_ddim
from minidit.lab.bench.plain_weights import plain, plain_state
from minidit.sampling import sample, select_steps
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

    `size`: a key of `SIZES`, or a dict like theirs; `network`: "DiT" or "U-ViT"; `compiled`: as
    for `DistributedRun`, of the package's network; `only`: build "plain" or "package" alone.
    """

    def __init__(
        self,
        size: str | dict,
        network: str = "DiT",
        *,
        batch: int | None = None,
        device: torch.device | str = "cpu",
        compiled: str | None = None,
        only: str | None = None,
    ) -> None:
        if isinstance(size, str):
            check_choice("size", size, SIZES)
        check_choice("network", network, NETWORKS)
        parts = SIZES[size] if isinstance(size, str) else size
        self.device = torch.device(device)
        self.batch = batch or parts["batch"][self.device.type == "cuda"]
        check_positive(batch=self.batch)
        self.model = _awake(NETWORKS[network](learn_sigma=False, **parts["model"])).to(device)
        self.macs = count(self.model).macs  # of one image
        images, labels = _data(parts["model"], max(IMAGES, self.batch))
        recipe = Recipe(
            10**6, self.batch, 1e-4, betas=(0.9, 0.999), warmup=0, cooldown=0.0, ema_decay=0.9999
        )
        self.diffusion = Diffusion(linear(), "eps")
        if only != "package":
            self.plain = PlainRun(plain(self.model), images, labels, recipe)
        if only != "plain":
            self.run = DistributedRun(
                self.model, self.diffusion, images, labels, recipe, 1, compiled
            )
        x0 = torch.randn(self.batch, *images.shape[1:])
        t = torch.randint(0, len(self.diffusion), (self.batch,))
        inputs = (x0, t, torch.randn_like(x0), labels[: self.batch])
        self.inputs = tuple(z.to(self.device) for z in inputs)
        self.asked = labels[: max(1, self.batch // 4)]  # what is sampled

    @contextmanager
    def quick(self) -> Iterator[None]:
        """How the package computes: on a GPU in mixed precision."""
        with ExitStack() as stack:
            if self.device.type == "cuda":
                stack.enter_context(torch.autocast("cuda", torch.bfloat16))
            stack.enter_context(fast_matmul(self.model))
            yield

    def flops(self, task: str) -> int:
        """Two for each multiply-accumulate; a backward pass takes twice as many as a forward."""
        evaluations = {
            "forward": self.batch,
            "training step": 3 * self.batch,
            "sampling": 2 * STEPS * len(self.asked),  # guided
        }
        return 2 * self.macs * evaluations[task]

    def contestants(self, task: str) -> dict[str, Callable[[], object]]:
        """{"plain": …, "package": …}: what is to be timed."""
        x0, t, _, y = self.inputs

        def forward(model: nn.Module, how: Callable) -> Tensor:
            with torch.no_grad(), how():
                return model(x0, t, y)

        def step() -> Tensor:
            with self.run.products():
                return self.run.step()

        def draw() -> Tensor:
            with self.quick():
                return self.sampled()

        return {
            "forward": {
                "plain": lambda: forward(self.plain.model, nullcontext),
                "package": lambda: forward(self.run.network, self.quick),
            },
            "training step": {"plain": lambda: self.plain.step(), "package": step},
            "sampling": {"plain": self.plainly_sampled, "package": draw},
        }[task]

    def sampled(self) -> Tensor:
        """Samples of the package, as the command line draws them."""
        drawn = generate(self.model, self.diffusion, self.asked, guidance=SCALE, steps=STEPS)
        return sample(drawn)

    def plainly_sampled(self) -> Tensor:
        """The same samples."""
        x = torch.randn(
            len(self.asked), *self.inputs[0].shape[1:], generator=torch.Generator().manual_seed(0)
        )
        steps = select_steps(self.diffusion.schedule, STEPS)
        labels = self.asked.to(self.device)
        return plain_ddim(self.plain.model, x.to(self.device), labels, steps, SCALE)

    def differences(self) -> dict[str, float]:
        """How far the two are apart, relative, at the weights they have now, both in float32.

        Raises ArithmeticError where it is more than rounding explains.
        """
        x0, t, noise, y = self.inputs
        with torch.no_grad(), fast_matmul(self.model):
            outputs = self.model(x0, t, y), self.plain.model(x0, t, y)
        with fast_matmul(self.model):
            loss = self.diffusion.loss(self.model, x0, t, noise, y).mean()
            loss.backward()
            drawn = self.sampled()
        plain_loss = self.plain.loss(x0, t, noise, y)
        plain_loss.backward()
        found = {
            "outputs": _apart(*outputs),
            "loss": _apart(loss.detach(), plain_loss.detach()),
            "gradients": self._gradients_apart(),
            "samples": _apart(drawn, self.plainly_sampled()),
        }
        if not all(value < TOLERANCE for value in found.values()):
            raise ArithmeticError(f"package and plain version differ: {found}")
        return found

    def _gradients_apart(self) -> float:
        """Of the gradient of any weight; parts that are zero but for rounding don't count."""
        ours = {k: p.grad for k, p in self.model.named_parameters() if p.grad is not None}
        ours = plain_state(ours, self.model.patch_size)
        theirs = {k: p.grad for k, p in self.plain.model.named_parameters() if p.grad is not None}
        if ours.keys() != theirs.keys():
            raise ArithmeticError(f"only one has gradients of {ours.keys() ^ theirs.keys()}")
        floor = 1e-3 * max(g.norm().item() for g in theirs.values())
        apart = max(_apart(ours[k], g, floor) for k, g in theirs.items())
        self.model.zero_grad()
        self.plain.model.zero_grad()
        return apart


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
