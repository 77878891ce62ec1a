"""How signal and noise are mixed at each step: x_t = α_t·x_0 + σ_t·ε.

One frame for DDPM's schedules (arXiv 2006.11239, section 2; the paper's ᾱ_t is α_t² here) and for
the straight line of flow matching (arXiv 2210.02747): only the two tables α and σ differ. What
else a sampler needs follows from them (arXiv 2107.00630, appendix A).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from minidit._validate import check_choice, check_positive, check_range, check_tensor, check_times


@dataclass(frozen=True, eq=False)
class Schedule:
    """Tables over the steps t = 0 … T-1, from nearly clean to nearly pure noise, in float64.

    `alpha`, `sigma`: (T,), the factors of the image and of the noise.
    `steps`: (T,), the number that the network is given at step t (mostly t, before respacing).
    `path`: "variance_preserving" (α² + σ² = 1) or "straight" (α + σ = 1).
    `name`: the key in `SCHEDULES`, by which weights files remember it.
    `log_alpha`: in continuous time, log α as a function of u = (t + 1)/T, float64 in [0, 1].
    """

    alpha: Tensor = field(repr=False)  # tables would fill screens
    sigma: Tensor = field(repr=False)
    steps: Tensor = field(repr=False)
    path: str
    name: str = "custom"
    log_alpha: Callable[[Tensor], Tensor] | None = None
    _on_device: dict = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_choice("path", self.path, ("variance_preserving", "straight"))
        for name in ("alpha", "sigma", "steps"):
            if not isinstance(table := getattr(self, name), Tensor):
                check_tensor(name, table, "(T,)")  # says what is wrong
            if table.shape != self.alpha.shape or table.ndim != 1:
                raise ValueError(f"{name} has shape {tuple(table.shape)}; all are (T,), alike")
        power = 2 if self.path == "variance_preserving" else 1
        off = (self.alpha.double() ** power + self.sigma.double() ** power - 1).abs()
        if not ((self.alpha >= 0) & (self.sigma > 0) & (off < 1e-3)).all():
            rule = "α ≥ 0, σ > 0 and " + ("α² + σ² = 1" if power == 2 else "α + σ = 1")
            told = f"alpha and sigma don't have {rule}"
            raise ValueError(f"{told} at all steps of a {self.path} path")

    def __len__(self) -> int:
        return len(self.alpha)

    # What follows from α and σ; s is the step before t, and step "-1" is the clean image.

    @property
    def alpha_prev(self) -> Tensor:
        """(T,) α_s, with 1 at t = 0."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alpha[:-1]])

    @property
    def sigma_prev(self) -> Tensor:
        """(T,) σ_s, with 0 at t = 0."""
        return torch.cat([torch.zeros(1, dtype=torch.float64), self.sigma[:-1]])

    @property
    def alphas_cumprod(self) -> Tensor:
        """(T,) ᾱ_t = α_t²."""
        return self.alpha**2

    @property
    def betas(self) -> Tensor:
        """(T,) β_t = 1 - (α_t/α_s)², the share of the signal's power lost in one step."""
        return 1 - (self.alpha / self.alpha_prev) ** 2

    @property
    def snr(self) -> Tensor:
        """(T,) signal-to-noise ratio α_t²/σ_t²; falls from step to step."""
        return (self.alpha / self.sigma) ** 2

    @property
    def one(self) -> Tensor:
        """(T,) 1 everywhere."""
        return torch.ones_like(self.alpha)

    @property
    def inverse_alpha(self) -> Tensor:
        """(T,) 1/α_t, large and exact in float32 where α_t is small, finite where it is 0."""
        return 1 / self.alpha.clamp(min=1e-20)

    @property
    def noise_ratio(self) -> Tensor:
        """σ_t/α_t, noise over signal, (T,)."""
        return self.sigma / self.alpha.clamp(min=1e-20)

    @property
    def step_variance(self) -> Tensor:
        """(T,) variance of q(x_t | x_s): σ_t² - (α_t/α_s)²·σ_s²; on the DDPM path this is β_t."""
        return self.sigma**2 - (self.alpha / self.alpha_prev * self.sigma_prev) ** 2

    @property
    def posterior_variance(self) -> Tensor:
        """(T,) variance β̃_t of q(x_s | x_t, x_0) (DDPM, equation 7); zero at t = 0."""
        return self.step_variance * self.sigma_prev**2 / self.sigma**2

    @property
    def posterior_log_variance(self) -> Tensor:
        """(T,) log β̃_t, with the value at t = 1 for log 0 at t = 0 (as the papers' codes)."""
        variance = self.posterior_variance
        first = variance[1:2] if len(self) > 1 else self.step_variance
        return torch.cat([first, variance[1:]]).log()

    @property
    def log_step_variance(self) -> Tensor:
        """(T,) log β_t, the upper end for a learned variance."""
        return self.step_variance.log()

    @property
    def large_variance(self) -> Tensor:
        """(T,) β_t, but β̃_1 at t = 0: the "fixed large" variance of DDPM's code."""
        return torch.cat([self.posterior_log_variance[:1].exp(), self.step_variance[1:]])

    @property
    def posterior_mean_x0(self) -> Tensor:
        """(T,) the factor of x_0 in the mean of q(x_s | x_t, x_0) (DDPM, equation 7)."""
        return self.alpha_prev * self.step_variance / self.sigma**2

    @property
    def posterior_mean_xt(self) -> Tensor:
        """(T,) the factor of x_t in the mean of q(x_s | x_t, x_0) (DDPM, equation 7)."""
        return self.alpha / self.alpha_prev * self.sigma_prev**2 / self.sigma**2

    @property
    def alpha_dot(self) -> Tensor:
        """(T,) dα along the path: by angle where α² + σ² = 1, by time on the straight line."""
        return -self.sigma if self.path == "variance_preserving" else -torch.ones_like(self.alpha)

    @property
    def sigma_dot(self) -> Tensor:
        """(T,) dσ along the path. On both paths α·σ̇ - σ·α̇ = 1."""
        return self.alpha if self.path == "variance_preserving" else torch.ones_like(self.sigma)

    def at(self, tables: str, t: Tensor, like: Tensor) -> Tensor:
        """Entries `t` (b,) of a table, shaped to multiply `like`: (b, 1, 1, …).

        Of several tables, "alpha sigma", as many tensors in one. They are float32, rounded once
        from float64, or float64 where `like` is. Raises TypeError or ValueError unless t is a
        tensor of integers, (b,), and within 0 … T-1.
        """
        _check_steps(t, like.shape[0], len(self))
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        key = tables, like.device, dtype
        if key not in self._on_device:
            columns = [getattr(self, name).double() for name in tables.split()]
            self._on_device[key] = torch.stack(columns).to(like.device, dtype)  # (tables, T)
        entries = self._on_device[key][:, t.long()]  # (tables, b)
        entries = entries.reshape(*entries.shape, *[1] * (like.ndim - 1))
        return entries[0] if " " not in tables else entries

    def respace(self, steps: Sequence[int]) -> "Schedule":
        """The schedule that visits only these steps (a rising list), with their α, σ and t."""
        given, steps = list(steps), sorted({int(step) for step in steps})
        if not steps or steps != given or steps[0] < 0 or steps[-1] >= len(self):
            raise ValueError(
                f"steps={given} must rise, without repetition, within 0 … {len(self) - 1}, in "
                "whole numbers; sorted(set(steps)) puts a list in order"
            )
        return Schedule(self.alpha[steps], self.sigma[steps], self.steps[steps], self.path)


def _check_steps(t: Tensor, batch: int, T: int) -> None:
    """The door of every table."""
    if not isinstance(t, Tensor) or t.shape != (batch,):  # (1,) and (b, 1) would broadcast silently
        check_times(t, batch)  # says what is wrong
    if t.is_floating_point() or t.dtype == torch.bool:
        raise TypeError(f"t has dtype {t.dtype}; schedule steps are integers 0 … {T - 1}")
    t = t.long()  # of eight bits, T may be too large to be compared with
    traced = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(t)
    if t.is_cpu and not traced and ((t < 0) | (t >= T)).any():  # a GPU would have to be awaited
        check_range("t", t, T, "is a step of the schedule")  # says what is wrong


def _from_betas(betas: Tensor, name: str) -> Schedule:
    if betas.max() >= 1:
        least = round(len(betas) * betas.max().item()) + 1  # β goes with 1/T
        raise ValueError(f"T={len(betas)} makes β reach 1; use at least {least} steps and respace")
    alphas_cumprod = (1 - betas).cumprod(dim=0)
    alpha, sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    return Schedule(alpha, sigma, torch.arange(len(betas)), "variance_preserving", name)


def linear(T: int = 1000) -> Schedule:
    """DDPM's schedule, which DiT uses: β rises linearly from 1e-4 to 0.02, scaled for T ≠ 1000."""
    check_positive(T=T)
    scale = 1000 / T
    return _from_betas(torch.linspace(scale * 1e-4, scale * 0.02, T, dtype=torch.float64), "linear")


def cosine(T: int = 1000) -> Schedule:
    """The schedule of Nichol & Dhariwal (arXiv 2102.09672, equation 17), β at most 0.999."""
    check_positive(T=T)
    u = torch.arange(T + 1, dtype=torch.float64) / T
    signal = ((u + 0.008) / 1.008 * torch.pi / 2).cos() ** 2
    return _from_betas((1 - signal[1:] / signal[:-1]).clamp(max=0.999), "cosine")


def scaled_linear(T: int = 1000, first: int = 0) -> Schedule:
    """Stable Diffusion's schedule, in the code of arXiv 2112.10752: √β rises linearly.

    From √0.00085 to √0.012, β scaled for T ≠ 1000. It ends with 7 % of the signal left. `first`:
    the number of the first step; U-ViT's code (arXiv 2209.12152) tells the network 1 … T.
    """
    check_positive(T=T)
    check_choice("first", first, (0, 1))
    betas = 1000 / T * torch.linspace(0.00085**0.5, 0.012**0.5, T, dtype=torch.float64) ** 2
    schedule = _from_betas(betas, "scaled_linear_from_1" if first else "scaled_linear")
    return replace(schedule, steps=schedule.steps + first)


def straight(T: int = 1000) -> Schedule:
    """The straight line of flow matching: α = 1 - u, σ = u at u = 1/(T+1) … T/(T+1).

    The two ends are left out, so that nothing is ever divided by zero.
    """
    check_positive(T=T)
    u = torch.arange(1, T + 1, dtype=torch.float64) / (T + 1)
    return Schedule(1 - u, u, torch.arange(T), "straight", "straight")


SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "scaled_linear": scaled_linear,
    "scaled_linear_from_1": partial(scaled_linear, first=1),
    "straight": straight,  # and "vp_sde", from `minidit.solvers`
}
