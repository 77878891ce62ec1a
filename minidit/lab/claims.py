"""Popular claims about DiT, built to be tested: none of these parts is in the papers' codes.

Notes on the web describe a "diffusion-aware attention", whose sharpness and reach follow the noise,
a time embedding with growing frequencies, and a loss on the order of tokens. Where a note
contradicts itself, each reading is there. They are changes of a fresh `DiT`, which stays free of
them; the experiment "claims" holds each against a baseline of the same budget.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from minidit._validate import check_choice
from minidit.attention import Attention
from minidit.diffusion import Diffusion
from minidit.dit import DiT
from minidit.embed import TimestepEmbedder, timestep_embedding
from minidit.patches import linear_layer, patchify
from minidit.sampling import Denoiser

TEMPERATURES = ("none", "stated", "summary")
MASKS = ("none", "stated", "corrected")
LEAST = 2.0  # patches: the corrected window always has a patch's eight neighbours


class AwareAttention(Attention):
    """Self-attention whose logits are multiplied, and kept within a window, as the time says.

    `factor` (b, 1, n, n) or (b, 1, 1, 1), and `window` (b, 1, n, n), bool, or None for everything,
    are set before each pass, for all layers at once: see `Awareness`.
    """

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(b, n, d) → (b, n, d); the softmax is written out, for fused ones know no factor."""
        if context is not None or mask is not None:
            raise ValueError("context and mask are for other attentions; this one sees an image")
        parts = self.qkv(x)  # (b, n, 3·d)
        pattern = "b n (three heads k) -> three b heads n k"
        q, k, v = rearrange(parts, pattern, three=3, heads=self.num_heads)
        logits = self.factor * (q @ k.mT) / math.sqrt(q.shape[-1])  # (b, heads, n, n)
        if self.window is not None:
            logits = logits.masked_fill(~self.window, -math.inf)
        out = logits.softmax(dim=-1) @ v  # (b, heads, n, k)
        return self.proj(rearrange(out, "b heads n k -> b n (heads k)"))


class Awareness(nn.Module):
    """What the time says to every `AwareAttention` of a network: a factor, and a window.

    `temperature`: "stated" divides logits by √k·Temp, Temp(t) = 1/√(β_t·k), k the head's width:
    they are sharper where steps are large. "summary", of the same note, divides them by √k·√β_t.
    Either also changes how sharp they are on the whole: with DDPM's linear β and k = 16, by ×0.35
    and ×11.5 in the geometric mean over t. `centred` takes this mean out: what is left follows t.
    `mask`: "stated" multiplies logits by M_ij = σ(MLP(E(t)))·1[|i - j| < k(t)], k(t) = ⌈√ᾱ_t·n⌉, i
    and j in raster order; a masked logit is then 0, not -∞, so it keeps its share of the softmax,
    and the window is narrow where noise is much. "corrected" forbids what is outside a window in
    the image, √(1 - ᾱ_t)·(its longer side), and at least the nearest neighbours: wide where noise
    is much, which is what "global first" asks for; without the sigmoid, a learned temperature.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        grid: tuple[int, int],
        head_width: int,
        hidden_size: int,
        temperature: str = "none",
        mask: str = "none",
        centred: bool = False,
    ) -> None:
        super().__init__()
        check_choice("temperature", temperature, TEMPERATURES)
        check_choice("mask", mask, MASKS)
        self.schedule, self.grid, self.width = diffusion.schedule, grid, head_width
        self.temperature, self.mask, self.frequencies = temperature, mask, hidden_size
        logs = self.sharpness(diffusion.schedule.betas).log()  # (T,)
        self.level = logs.mean().exp().item() if centred else 1.0
        self.gate = None
        if mask == "stated":
            first = linear_layer(hidden_size, hidden_size, std=0.02)
            self.gate = nn.Sequential(first, nn.SiLU(), linear_layer(hidden_size, 1, std=0.02))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """(b,) steps → factor (b, 1, 1, 1) or (b, 1, n, n), window (b, 1, n, n) or None."""
        like = torch.empty(len(t), 1, 1, 1, device=t.device)
        step = t.round().long()  # solvers may ask between two steps
        factor = self.sharpness(self.schedule.at("betas", step, like)) / self.level  # (b, 1, 1, 1)
        if self.mask == "none":
            return factor, None
        kept = self.schedule.at("alphas_cumprod", step, like)  # (b, 1, 1, 1)
        if self.mask == "stated":
            n = math.prod(self.grid)
            i = torch.arange(n, device=t.device)
            inside = (i[:, None] - i).abs() < (kept.sqrt() * n).ceil()  # (b, 1, n, n)
            gate = self.gate(timestep_embedding(t, self.frequencies)).sigmoid()  # (b, 1)
            return factor * gate[..., None, None] * inside, None
        radius = ((1 - kept).sqrt() * max(self.grid)).clamp(min=LEAST)
        return factor, self.distance(t.device) < radius

    def sharpness(self, beta: Tensor) -> Tensor:
        """By what logits are multiplied at steps of variance β, in β's shape."""
        if self.temperature == "none":
            return torch.ones_like(beta)
        return (beta * self.width).sqrt() if self.temperature == "stated" else beta.rsqrt()

    def distance(self, device: torch.device) -> Tensor:
        """Rows or columns between two patches, whichever are more, (n, n)."""
        rows, columns = (torch.arange(side, device=device) for side in self.grid)
        row, column = rows.repeat_interleave(len(columns)), columns.repeat(len(rows))  # (n,) each
        return torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())


def make_aware(
    model: DiT,
    diffusion: Diffusion,
    temperature: str = "none",
    mask: str = "none",
    centred: bool = False,
) -> None:
    """Replace every attention of a DiT by an `AwareAttention`, with the weights it had.

    With both "none" the network computes what it computed. Raises ValueError for blocks whose
    sequence holds more than patches, and for unknown names; see `Awareness`.
    """
    if model.blocks[0].in_context:
        raise ValueError("block='in_context' has tokens that are no patches; use another block")
    width, heads = model.config["hidden_size"], model.config["num_heads"]
    told = (width // heads, width, temperature, mask, centred)
    model.awareness = Awareness(diffusion, model.grid, *told)
    for block in model.blocks:
        weights, block.attn = block.attn.state_dict(), AwareAttention(width, heads)
        block.attn.load_state_dict(weights)
    model.register_forward_pre_hook(_tell)


def _tell(model: DiT, arguments: tuple) -> None:
    """Before a pass: what the time says reaches every attention."""
    factor, window = model.awareness(arguments[1])
    for block in model.blocks:
        block.attn.factor, block.attn.window = factor, window


class GrowingTimestepEmbedder(TimestepEmbedder):
    """The time embedding as one note prints it: ω_k = 10^(4k/half), which grows with k."""

    def forward(self, t: Tensor) -> Tensor:
        """(b,) → (b, d)."""
        half = self.frequencies // 2
        omega = 10 ** (4 / half * torch.arange(half, dtype=torch.float64, device=t.device))
        angles = t[:, None].double() * omega  # up to 10^7: float32 would round them
        embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)  # (b, frequencies)
        return self.mlp(embedding.to(self.mlp[0].weight.dtype))


def grow_frequencies(model: DiT, diffusion: Diffusion) -> None:
    """Let the frequencies of the time embedding grow; its weights stay."""
    plain = model.time_embed
    model.time_embed = GrowingTimestepEmbedder(model.config["hidden_size"], plain.frequencies)
    model.time_embed.load_state_dict(plain.state_dict())


def unzero(model: nn.Module, diffusion: Diffusion) -> None:
    """Start the blocks' adaptive layers as any other linear layer, Xavier-uniform, and not at zero.

    That is adaLN-Zero without its zero (DiT, section 3.2), and what an initialisation of all
    linear layers in one sweep does by accident. Raises ValueError for blocks that have none.
    """
    layers = [block.adaln for block in model.blocks if hasattr(block, "adaln")]
    if not layers:
        raise ValueError("model has no adaptive layers; unzero needs block='adaln' or 'adaln_zero'")
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)


# Changes of a fresh network, called with it, its process and what the settings say; what they give,
# if anything, is the process that trains it.
SURGERY = {"aware": make_aware, "grow_frequencies": grow_frequencies, "unzero": unzero}


class SequencePrior:
    """The prior of a "sequence loss", in one reading, fitted to images (n, c, h, w) in [-1, 1].

    A note wants the KL divergence between p_θ(z_ij | z_<ij) and an autoregressive q(z_ij | z_<ij),
    patches of side `patch_size` in raster order, and defines neither. Here q is the Gaussian whose
    mean is linear in all patches before, p_θ one around the predicted image: up to what doesn't
    depend on the network, ½ (z - μ(z_<))ᵀ Σ⁻¹ (z - μ(z_<)), z the predicted patches. The rows of
    the Cholesky factor's inverse are q's conditionals: L⁻¹(z - mean) are all residuals, each
    divided by the deviation that the past leaves. `floor`: a variance for pixels that never change.
    """

    def __init__(self, images: Tensor, patch_size: int, floor: float = 0.05) -> None:
        if floor <= 0:
            raise ValueError(f"floor={floor} must be above 0: some pixels never change")
        self.patch_size = patch_size
        z = patchify(images, patch_size).flatten(1).double()  # (images, n·p·p·c)
        self.mean = z.mean(dim=0)
        identity = torch.eye(z.shape[1], dtype=torch.float64)
        factor = torch.linalg.cholesky(z.T.cov() + floor * identity)  # (n·p·p·c, n·p·p·c)
        self.whiten = torch.linalg.solve_triangular(factor, identity, upper=False)

    def terms(self, images: Tensor) -> Tensor:
        """½ of the mean squared residual of each patch given the past: (b, c, h, w) → (b, n)."""
        patches = patchify(images, self.patch_size)  # (b, n, p·p·c)
        mean, whiten = (table.to(patches) for table in (self.mean, self.whiten))
        residuals = (patches.flatten(1) - mean) @ whiten.T  # (b, n·p·p·c)
        return 0.5 * residuals.reshape(patches.shape).square().mean(dim=-1)


@dataclass(frozen=True, eq=False)
class Objective(Diffusion):
    """A process with another training loss: objective(process, model, x0, t, noise, y) → (b,)."""

    _: KW_ONLY
    objective: Callable[..., Tensor]

    def loss(
        self, model: Denoiser, x0: Tensor, t: Tensor, noise: Tensor, y: Tensor | None = None
    ) -> Tensor:
        """The training loss of every image, (b,)."""
        return self.objective(self, model, x0, t, noise, y)


def sequence_loss(
    process: Diffusion, model: Denoiser, *inputs: Tensor, prior: SequencePrior, weight: float
) -> Tensor:
    """The plain loss of x0, t, noise, y, and `weight` times the mean of the prior's terms, (b,)."""
    x0, t, noise, y = inputs
    x_t = process.q_sample(x0, t, noise)  # (b, c, h, w)
    output = model(x_t, process.schedule.at("steps", t, t), y).to(x0.dtype)
    plain = Diffusion.loss(process, lambda x, t, y: output, *inputs)  # (b,)
    return plain + weight * prior.terms(process.pred_x0(output, x_t, t)).mean(dim=1)
