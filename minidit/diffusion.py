"""The diffusion process: adding noise, undoing it, and the losses (DDPM, arXiv 2006.11239)."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minidit._validate import check_choice
from minidit.schedule import SCHEDULES, Schedule


def normal_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N(mean1, e^log_var1) ‖ N(mean2, e^log_var2)) in nats, element by element."""
    ratio = (log_var1 - log_var2).exp()
    distance = (mean1 - mean2).square() * (-log_var2).exp()
    return 0.5 * (-1 + log_var2 - log_var1 + ratio + distance)


def normal_cdf(z: Tensor) -> Tensor:
    """The standard normal's distribution function of any shape, by the papers' tanh formula."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P of 8-bit pixels x in [-1, 1] under a normal, in nats (DDPM, equation 13).

    A pixel owns the interval of ± 1/255 around it; the darkest and the brightest own the tails.
    """
    upper = normal_cdf((x - mean + 1 / 255) * (-log_scale).exp())
    lower = normal_cdf((x - mean - 1 / 255) * (-log_scale).exp())
    tiny = 1e-12
    inside = (upper - lower).clamp(min=tiny).log()
    bright = (1 - lower).clamp(min=tiny).log()
    dark = upper.clamp(min=tiny).log()
    return torch.where(x < -0.999, dark, torch.where(x > 0.999, bright, inside))


# The same error of x_0 weighs differently when it is read as an error of ε, x0 or v, since x_t is
# given: |Δε| = α·|Δv| and |Δx0| = σ·|Δv| (both paths). These are the tables of those factors.
_ERROR_IN = {"v": "one", "eps": "alpha", "x0": "sigma"}


class Prediction(NamedTuple):
    """What a network's output says about the step before, p(x_s | x_t): all (b, c, h, w)."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    x0: Tensor


def clip_image(x0: Tensor, clip: bool | float) -> Tensor:
    """Keep a predicted image (b, …) in range: True clamps it to [-1, 1], False leaves it.

    A number p is dynamic thresholding (Imagen, arXiv 2205.11487, section 2.3): clamp each image to
    ±s and divide by s, where s is the p-quantile of |x0| and at least 1, e.g. p = 0.995.
    """
    if isinstance(clip, bool):
        return x0.clamp(-1, 1) if clip else x0
    if not 0 < clip < 1:
        raise ValueError(f"clip={clip} is out of range: True, False, or a quantile like 0.995")
    if len(x0) == 0:
        return x0
    s = x0.abs().flatten(1).quantile(clip, dim=1).clamp(min=1)  # (b,)
    s = s.reshape(-1, *[1] * (x0.ndim - 1))  # (b, 1, 1, …)
    return x0.clamp(-s, s) / s


@dataclass(frozen=True, eq=False)
class Diffusion:
    """A schedule and the meaning of the network's output.

    `predict`: "eps" (the noise), "x0" (the image) or "v" (the velocity α̇·x_0 + σ̇·ε: for DDPM's
    schedules that of arXiv 2202.00512, on the straight line ε - x_0).
    `weight`: the quantity whose squared error is the loss, by default the predicted one; errors
    of another one are multiplied by at most `max_weight`. Or "bound": the loss is the variational
    bound and nothing else.
    `learn_sigma`: the network has 2c output channels and the second half interpolates the
    log-variance (arXiv 2102.09672, equation 15); else it is `variance`, "large" (β_t) or "small"
    (β̃_t).
    `bound_scale`: the factor of the bound in the loss; T makes its mean an estimate of the whole
    sum, T/1000 keeps a respaced process's loss in the proportions of the full one.
    """

    schedule: Schedule
    predict: str = "eps"
    _: KW_ONLY
    weight: str | None = None
    max_weight: float = math.inf
    learn_sigma: bool = False
    variance: str = "large"
    bound_scale: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"schedule={self.schedule!r} is no Schedule; take e.g. linear()")
        check_choice("predict", self.predict, _ERROR_IN)
        object.__setattr__(self, "weight", self.weight or self.predict)
        check_choice("weight", self.weight, [*_ERROR_IN, "bound"])
        check_choice("variance", self.variance, ("large", "small"))
        if not (self.max_weight > 0 and 0 <= self.bound_scale < math.inf):
            told = f"max_weight={self.max_weight}, bound_scale={self.bound_scale}"
            raise ValueError(f"{told}: the first must be above 0, the second at least 0, finite")
        if self.predict == "eps" and not self.schedule.alpha[-1] > 0:
            raise ValueError(
                "predict='eps': this schedule ends with no signal (alpha 0), where the noise tells "
                "nothing of the image; choose 'v' or 'x0'"
            )

    def __len__(self) -> int:
        return len(self.schedule)

    @property
    def config(self) -> dict:
        """The arguments as plain values, for a weights file; `from_config` undoes it."""
        plain = {f.name: getattr(self, f.name) for f in fields(Diffusion) if f.name != "schedule"}
        plain["max_weight"] = self.max_weight if math.isfinite(self.max_weight) else None
        return {"schedule": self.schedule.name, "T": len(self.schedule), **plain}

    @classmethod
    def from_config(cls, config: dict) -> "Diffusion":
        """The process that `config` describes."""
        check_choice("schedule", config["schedule"], SCHEDULES)
        rest = {k: v for k, v in config.items() if k not in ("schedule", "T")}
        if rest.get("max_weight", 0) is None:
            del rest["max_weight"]
        return cls(SCHEDULES[config["schedule"]](config.get("T", 1000)), **rest)

    def respace(self, steps: Sequence[int]) -> "Diffusion":
        """The same process over fewer steps."""
        return replace(self, schedule=self.schedule.respace(steps))

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = α_t·x_0 + σ_t·ε (DDPM, equation 4). x0, noise: (b, c, h, w); t: (b,) steps."""
        if noise.shape != x0.shape or not x0.is_floating_point():
            told = f"noise has shape {tuple(noise.shape)}; x0 has {tuple(x0.shape)}, {x0.dtype}"
            raise ValueError(f"{told}; both are floats of one shape: data.to_unit makes some")
        alpha, sigma = self.schedule.at("alpha sigma", t, x0)  # (b, 1, 1, 1) each
        return alpha * x0 + sigma * noise

    def q_posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The mean of q(x_s | x_t, x_0), s the step before t (DDPM, equation 7)."""
        of_x0, of_xt = self.schedule.at("posterior_mean_x0 posterior_mean_xt", t, x0)
        return of_x0 * x0 + of_xt * x_t

    def velocity(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """v = α̇·x_0 + σ̇·ε, in which direction x_t moves: twice (b, c, h, w), (b,)."""
        alpha_dot, sigma_dot = self.schedule.at("alpha_dot sigma_dot", t, x0)
        return alpha_dot * x0 + sigma_dot * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should answer, (b, c, h, w): the noise, the image or the velocity."""
        if self.predict == "v":
            return self.velocity(x0, noise, t)
        return noise if self.predict == "eps" else x0

    def split(self, output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Output (b, 2c or c, h, w) for x_t → the prediction and, if Σ is learned, its numbers."""
        b, c, *size = x_t.shape
        output = output.to(torch.promote_types(x_t.dtype, torch.float32))  # half precision ends
        expected = (b, 2 * c if self.learn_sigma else c, *size)
        if output.shape != expected:  # 2 channels and 1 would broadcast silently
            raise ValueError(
                f"the network gave {tuple(output.shape)} for x_t of {tuple(x_t.shape)}; with "
                f"learn_sigma={self.learn_sigma} it must give {expected}: set learn_sigma alike "
                "in the network and in Diffusion"
            )
        return tuple(output.chunk(2, dim=1)) if self.learn_sigma else (output, None)

    def to_x0(
        self, x_t: Tensor, t: Tensor, prediction: Tensor, clip: bool | float = False
    ) -> Tensor:
        """The image that a prediction of x_t stands for, all (b, c, h, w); `clip`: `clip_image`."""
        x0 = prediction
        if self.predict == "v":
            sigma_dot, sigma = self.schedule.at("sigma_dot sigma", t, x_t)
            x0 = sigma_dot * x_t - sigma * prediction
        elif self.predict == "eps":
            # x_t/α - (σ/α)·ε, not (x_t - σ·ε)/α: the factors are rounded to float32 as DiT's are.
            inverse_alpha, noise_ratio = self.schedule.at("inverse_alpha noise_ratio", t, x_t)
            x0 = inverse_alpha * x_t - noise_ratio * prediction
        return clip_image(x0, clip)

    def to_eps(self, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """The noise that must be in x_t (b, c, h, w) if its image is x0."""
        inverse_alpha, noise_ratio = self.schedule.at("inverse_alpha noise_ratio", t, x_t)
        return (inverse_alpha * x_t - x0) / noise_ratio

    def pred_x0(self, output: Tensor, x_t: Tensor, t: Tensor, clip: bool | float = False) -> Tensor:
        """The image that the network's output stands for, (b, c, h, w); `clip`: `clip_image`."""
        prediction, _ = self.split(output, x_t)
        return self.to_x0(x_t, t, prediction, clip)

    def pred_x0_eps(
        self, output: Tensor, x_t: Tensor, t: Tensor, clip: bool | float = False
    ) -> tuple[Tensor, Tensor]:
        """`pred_x0`, and the noise that goes with it; both (b, c, h, w)."""
        x0 = self.pred_x0(output, x_t, t, clip)
        return x0, self.to_eps(x_t, t, x0)

    def p_mean_variance(
        self, output: Tensor, x_t: Tensor, t: Tensor, clip: bool | float = False
    ) -> Prediction:
        """p(x_s | x_t), x_t (b, c, h, w), from the network's output; `clip`: see `clip_image`."""
        x0 = self.pred_x0(output, x_t, t, clip)
        variance, log_variance = self.variances(x_t, t, self.split(output, x_t)[1])
        return Prediction(self.q_posterior_mean(x0, x_t, t), variance, log_variance, x0)

    def variances(self, x_t: Tensor, t: Tensor, fraction: Tensor | None) -> tuple[Tensor, Tensor]:
        """Σ and log Σ, (b, c, h, w): between β̃_t (fraction -1) and β_t (1) in the log, or fixed."""
        if fraction is not None:
            small, large = self.schedule.at("posterior_log_variance log_step_variance", t, x_t)
            share = (fraction + 1) / 2
            log_variance = share * large + (1 - share) * small
            return log_variance.exp(), log_variance
        if self.variance == "small":
            small, log_small = self.schedule.at("posterior_variance posterior_log_variance", t, x_t)
            return small.expand_as(x_t), log_small.expand_as(x_t)
        large = self.schedule.at("large_variance", t, x_t).expand_as(x_t)
        return large, large.log()

    def squared_error(self, prediction: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean squared error of each image, (b,), as an error of the quantity `weight`."""
        error = (self.target(x0, noise, t) - prediction).square().flatten(1).mean(dim=1)
        if self.weight == self.predict:
            return error  # L_simple (DDPM, equation 14)
        own, read_as = _ERROR_IN[self.predict], _ERROR_IN[self.weight]
        own, read_as = self.schedule.at(f"{own} {read_as}", t, t)  # (b,) each
        return error * (read_as / own).square().clamp(max=self.max_weight)

    def bound(
        self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, clip: bool = False
    ) -> Tensor:
        """The term L_t of the variational bound in bits per dimension, (b,) (DDPM, equation 5).

        For t > 0 the divergence of p(x_s | x_t) from the true posterior. At t = 0 the likelihood
        of 8-bit pixels (DDPM, equation 13), for x0 in [-1, 1]; latents are no pixels, but the
        paper's code reads them so, and so does this one.
        """
        p = self.p_mean_variance(output, x_t, t, clip)
        true_mean = self.q_posterior_mean(x0, x_t, t)
        true_log_variance = self.schedule.at("posterior_log_variance", t, x0)
        divergence = normal_kl(true_mean, true_log_variance, p.mean, p.log_variance)
        nll = -discretized_log_likelihood(x0, p.mean, 0.5 * p.log_variance)
        nats = torch.where(t == 0, nll.flatten(1).mean(dim=1), divergence.flatten(1).mean(dim=1))
        return nats / math.log(2)

    def loss(
        self, model: nn.Module, x0: Tensor, t: Tensor, noise: Tensor, y: Tensor | None = None
    ) -> Tensor:
        """The training loss of every image, (b,): squared error, and the bound if Σ is learned."""
        x_t = self.q_sample(x0, t, noise)  # (b, c, h, w)
        output = model(x_t, self.schedule.at("steps", t, x0).flatten(), y)  # (b, c or 2c, h, w)
        if self.weight == "bound":
            return self.bound_scale * self.bound(output, x0, x_t, t)
        prediction, fraction = self.split(output, x0)
        loss = self.squared_error(prediction, x0, noise, t)
        if fraction is not None:
            # The bound teaches Σ alone, the prediction is frozen (arXiv 2102.09672, section 3.1).
            frozen = torch.cat([prediction.detach(), fraction], dim=1)
            loss = loss + self.bound_scale * self.bound(frozen, x0, x_t, t)
        return loss
