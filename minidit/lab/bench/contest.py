"""The benchmark's contestants: the package, a plain reading of the papers, networks of others.

With the same weights package and `plain` compute the same: what is compared is how the same work is
done. Networks of others train in the loop that `fit` has, and sample in one piece, as is usual: the
package also has a command line's, which computes parts of a batch side by side.
"""

import copy
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from functools import partial
from importlib import import_module

import torch
from torch import Tensor, nn

from minidit._validate import check_choice, check_positive
from minidit.diffusion import Diffusion
from minidit.dit import DiT
from minidit.evaluate.flops import count
from minidit.lab.bench.plain import PlainRun
from minidit.sampling import Denoiser, ddim, guided, sample, select_steps
from minidit.schedule import linear
from minidit.train import Recipe, Run
from minidit.training.distributed import DistributedRun
from minidit.training.generate import generate
from minidit.training.matmul import fast_matmul
from minidit.uvit import UViT

Maker = Callable[[dict], nn.Module]

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
BASE = {"tokens": 49, "width": 128, "depth": 6, "batch": 32}
AXES = {  # along which time grows: one of the four is changed at a time; 28×28 pixels
    "tokens": (4, 16, 49, 196),
    "width": (64, 128, 256, 512),
    "depth": (2, 4, 8, 16),
    "batch": (8, 16, 32, 64, 128),
}


def _grown(tokens: int, width: int, depth: int, batch: int) -> dict:
    model = dict(patch_size=28 // math.isqrt(tokens), hidden_size=width, depth=depth)
    return {"model": _MNIST | model | {"num_heads": width // 32}, "batch": (batch, batch)}


GROWTH = {f"{axis} {v}": _grown(**BASE | {axis: v}) for axis, vs in AXES.items() for v in vs}


def find_peers(told: Iterable[str] = ()) -> dict[str, Maker]:
    """Makers of other networks, by name: those told, and diffusers' DiT where that is installed.

    Each is told as "NAME=module:function". Given a size's `model`, the function makes a network
    (x, t, y) → (b, c, h, w) of this width, depth and number of tokens, whose labels are
    0 … num_classes, the last one for none. Raises ValueError if there is no such function.
    """
    peers: dict[str, Maker] = {}
    with suppress(ImportError, RuntimeError):  # the second, if what it needs in turn is missing
        from diffusers import DiTTransformer2DModel  # noqa: F401

        peers["diffusers"] = _diffusers
    for one in told:
        name, _, place = one.partition("=")
        module, _, function = place.partition(":")
        try:
            if name in ("", "plain", "package"):
                raise ValueError("it needs a name of its own")
            peers[name] = getattr(import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            way_out = "give NAME=module:function, and the module's folder in PYTHONPATH"
            raise ValueError(f"peer {one} is not found ({error}); {way_out}") from None
    return peers


def _diffusers(size: dict) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    renamed = dict(num_heads="num_attention_heads", depth="num_layers", input_size="sample_size")
    renamed |= dict(num_classes="num_embeds_ada_norm", hidden_size="attention_head_dim")
    told = {renamed.get(name, name): value for name, value in size.items()}
    told["attention_head_dim"] //= size["num_heads"]
    return DiTTransformer2DModel(**told)


class Peer(nn.Module):
    """A network of others, and what training and sampling ask the package's one for."""

    def __init__(self, network: nn.Module, like: nn.Module) -> None:
        super().__init__()
        self.network, self.null_label = network, like.null_label
        self.in_channels, self.size = like.in_channels, like.size
        self.label_embed = copy.deepcopy(like.label_embed).requires_grad_(False)  # drops labels

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """(b, c, h, w), (b,), (b,) → (b, c, h, w)."""
        out = self.network(x, t, y)
        return getattr(out, "sample", out)  # of diffusers


class Contest:
    """The package and the plain version of one network, with the same weights and data; and peers.

    `size`: like the values of `SIZES`; `network`: "DiT" or "U-ViT"; `half`: all but the plain
    version in bfloat16; `compiled`: the package's, as for `DistributedRun`; `peers`: makers of
    other networks, see `find_peers`.
    """

    def __init__(
        self,
        size: dict,
        network: str = "DiT",
        *,
        batch: int | None = None,
        device: torch.device | str = "cpu",
        half: bool = False,
        compiled: str | None = None,
        peers: dict[str, Maker] | None = None,
    ) -> None:
        check_choice("network", network, NETWORKS)
        self.device, self.half, model = torch.device(device), half, size["model"]
        self.batch = batch or size["batch"][self.device.type == "cuda"]
        check_positive(batch=self.batch)
        self.model = _awake(NETWORKS[network](learn_sigma=False, **model)).to(device)
        self.macs = count(self.model).macs  # of one image
        n, channels = max(IMAGES, self.batch), model["in_channels"]
        shape = (n, channels, model["input_size"], model["input_size"])
        # Images as bytes, or latents: what they show makes no difference.
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        if channels == 4:
            images = torch.randn(shape)
        labels = torch.randint(0, model["num_classes"], (n,))
        told = dict(betas=(0.9, 0.999), warmup=0, cooldown=0.0, ema_decay=0.9999)
        told["mixed_precision"] = "always" if half else False
        recipe = Recipe(10**6, self.batch, 1e-4, **told)
        self.diffusion = Diffusion(linear(), "eps")
        x0 = torch.randn(self.batch, *shape[1:])
        t = torch.randint(0, len(self.diffusion), (self.batch,))
        inputs = (x0, t, torch.randn_like(x0), labels[: self.batch])
        self.inputs = tuple(z.to(self.device) for z in inputs)
        self.wanted = labels[: max(1, self.batch // 4)]  # what is sampled
        self.plain = PlainRun(self.model, images, labels, recipe)
        parts = self.diffusion, images, labels, recipe
        self.runs = {"package": DistributedRun(self.model, *parts, compiled=compiled)}
        for name, maker in (peers or {}).items():
            peer = Peer(maker(model), self.model).to(device)
            if (found := self.forward(peer.eval()).shape) != x0.shape:
                told = f"{tuple(found)} to images {tuple(x0.shape)}; it must answer as many numbers"
                raise ValueError(f"peer {name} answers {told}")
            self.runs[name] = Run(peer, *parts)

    def flops(self, task: str) -> int:
        """Two for each multiply-accumulate; a backward pass takes twice as many as a forward."""
        guided = 2 * STEPS * len(self.wanted)
        passes = {"forward": self.batch, "training step": 3 * self.batch, "sampling": guided}
        return 2 * self.macs * passes[task]

    def contestants(self, task: str) -> dict[str, Callable[[], object]]:
        """{"plain": …, "package": …, peers}: what is to be timed."""
        plain = {
            "forward": lambda: self.forward(self.plain.network),
            "training step": self.plain.step,
            "sampling": self.plainly_sampled,
        }
        return {"plain": plain[task]} | {
            name: partial(self.do, task, run) for name, run in self.runs.items()
        }

    def do(self, task: str, run: Run) -> Tensor:
        """A task as the package does it, in mixed precision if that is wanted."""
        half, kind = self.half and task != "training step", self.device.type  # which has it anyway
        with torch.autocast(kind, torch.bfloat16) if half else nullcontext(), run.products():
            if task == "training step":
                return run.step()
            if task == "forward":
                return self.forward(run.network)
            own = run is self.runs["package"]
            return self.sampled(run.model) if own else self.sampled_at_once(run.model)

    @torch.no_grad()
    def forward(self, network: Denoiser) -> Tensor:
        """One pass without a gradient: an output (b, c, h, w)."""
        x0, t, _, y = self.inputs
        return network(x0, t, y)

    def sampled(self, model: nn.Module) -> Tensor:
        """Samples, as the command line draws them."""
        how = {"guidance": SCALE, "steps": STEPS}
        return sample(generate(model, self.diffusion, self.wanted, **how))

    def sampled_at_once(self, model: nn.Module) -> Tensor:
        """The same way of others: all images in a pass, by all threads."""
        noise = torch.randn(len(self.wanted), *self.inputs[0].shape[1:]).to(self.device)
        wanted = self.wanted.to(self.device)
        return sample(ddim(guided(model, SCALE), self.diffusion, noise, wanted, steps=STEPS))

    def plainly_sampled(self) -> Tensor:
        """The same samples."""
        shape = len(self.wanted), *self.inputs[0].shape[1:]
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        steps = select_steps(self.diffusion.schedule, STEPS)
        return self.plain.ddim(x, self.wanted.to(self.device), steps, SCALE)

    def differences(self) -> dict[str, float]:
        """How far package and plain version are apart, relative, at the weights they have now.

        Both in float32. Raises ArithmeticError where it is more than rounding explains.
        """
        (x0, t, noise, y), weights = self.inputs, dict(self.model.named_parameters())
        with fast_matmul(self.model):
            output, drawn = self.forward(self.model), self.sampled(self.model)
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


def _apart(a: Tensor, b: Tensor, floor: float = 0.0) -> float:
    return (a - b).norm().item() / max(b.norm().item(), floor)


@torch.no_grad()
def _awake(model: nn.Module) -> nn.Module:
    """Weights as after some training: a fresh DiT's blocks do nothing."""
    rng = torch.Generator().manual_seed(0)
    for p in (p for p in model.parameters() if p.requires_grad):
        p.add_(torch.randn(p.shape, generator=rng) * 0.02)
    return model
