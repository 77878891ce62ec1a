"""Schedules, the operations of the process, losses, and whole trajectories with recorded noise."""

import json

import torch

from golden import HERE, PROCESS, TABLES, WALK, Comparison, Golden
from minidit import Diffusion, Schedule, cosine, ddim, ddim_invert, ddpm, linear, space_timesteps
from minidit.diffusion import discretized_log_likelihood, normal_cdf, normal_kl
from minidit.evaluate.nll import bits_per_dim, prior_bits

VARIANTS = {
    "learned_eps": dict(learn_sigma=True),
    "learned_x0": dict(predict="x0", learn_sigma=True),
    "fixed_large_eps": dict(variance="large"),
    "fixed_small_eps": dict(variance="small"),
}
LOSSES = {  # the factor of the bound as a function of the number of steps
    "mse_learned": (dict(learn_sigma=True), lambda T: 1.0),
    "rescaled_mse_learned": (dict(learn_sigma=True), lambda T: T / 1000),
    "rescaled_kl_learned": (dict(learn_sigma=True, weight="bound"), lambda T: T),
    "kl_learned": (dict(learn_sigma=True, weight="bound"), lambda T: 1.0),
    "mse_fixed_large": ({}, lambda T: 1.0),
    "mse_x0_learned": (dict(predict="x0", learn_sigma=True), lambda T: 1.0),
}


def respaced(rule) -> Schedule:
    """The linear schedule over fewer steps; "" keeps all."""
    return linear().respace(space_timesteps(1000, rule)) if rule else linear()


def tables(schedule: Schedule) -> dict[str, torch.Tensor]:
    """The official names of what a schedule knows."""
    variance = schedule.sigma**2
    return {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.alphas_cumprod,
        "alphas_cumprod_prev": schedule.alpha_prev**2,
        "sqrt_alphas_cumprod": schedule.alpha,
        "sqrt_one_minus_alphas_cumprod": schedule.sigma,
        "log_one_minus_alphas_cumprod": variance.log(),
        "sqrt_recip_alphas_cumprod": schedule.inverse_alpha,
        "sqrt_recipm1_alphas_cumprod": schedule.noise_ratio,
        "posterior_variance": schedule.posterior_variance,
        "posterior_log_variance_clipped": schedule.posterior_log_variance,
        "posterior_mean_coef1": schedule.posterior_mean_x0,
        "posterior_mean_coef2": schedule.posterior_mean_xt,
        "timestep_map": schedule.steps,
    }


def schedules():
    """Every float64 table of four schedules."""
    golden = Golden("diffusion_arrays")
    made = {
        "linear_T1000": linear(),
        "cosine_T1000": cosine(),
        "linear_T1000_respaced_50": respaced("50"),
        "linear_T1000_ddim25": respaced("ddim25"),
    }
    for tag, schedule in made.items():
        for key, ours in tables(schedule).items():
            what = f"{tag}/{key}"
            yield Comparison(golden.name, what, ours, golden[what], TABLES, floor=1e-4)


def spacings():
    """Lists of steps, and the refusals."""
    file = "space_timesteps.json"
    for case in json.loads((HERE / file).read_text())["cases"]:
        try:
            steps = space_timesteps(case["num_timesteps"], case["section_counts"])
        except ValueError:
            steps = [-1]
        official = torch.tensor(case.get("steps", [-1]))
        what = f"{case['section_counts']} of {case['num_timesteps']}"
        yield Comparison(file, what, torch.tensor(steps), official, 0.0)


def operations():
    """Every operation for given inputs, over all steps and over 50."""
    for name, rule in {"diffusion_ops": "", "diffusion_ops_respaced50": "50"}.items():
        golden, schedule = Golden(name), respaced(rule)
        x0, noise, t, output = (
            golden[f"in/{key}"] for key in ("x_start", "noise", "t", "model_output_2C")
        )
        x_t = golden["out/q_sample"]
        for part in (_common, _variants, _losses):
            for what, ours in part(schedule, x0, x_t, t, noise, output, golden).items():
                yield Comparison(golden.name, what, ours, golden[f"out/{what}"], PROCESS)


def _common(schedule, x0, x_t, t, noise, output, golden):
    process, eps = Diffusion(schedule), output[:, : x0.shape[1]]

    def columns(table):
        return schedule.at(table, t, x0).expand_as(x0)

    kl = [golden[f"in/kl_{key}"] for key in ("mean1", "logvar1", "mean2", "logvar2")]
    pixels = [golden[f"in/dgll_{key}"] for key in ("x", "means", "log_scales")]
    return {
        "q_sample": process.q_sample(x0, t, noise),
        "q_mean_variance/mean": process.q_sample(x0, t, torch.zeros_like(x0)),
        "q_mean_variance/variance": columns("sigma") ** 2,
        "q_posterior/mean": process.q_posterior_mean(x0, x_t, t),
        "q_posterior/variance": columns("posterior_variance"),
        "q_posterior/log_variance_clipped": columns("posterior_log_variance"),
        "pred_xstart_from_eps": process.to_x0(x_t, t, eps),
        "pred_eps_from_xstart": process.to_eps(x_t, t, x0),
        "prior_bpd": prior_bits(process, x0),
        "normal_kl": normal_kl(*kl),
        "discretized_gaussian_log_likelihood": discretized_log_likelihood(*pixels),
        "approx_standard_normal_cdf": normal_cdf(pixels[2]),
    }


def _variants(schedule, x0, x_t, t, noise, output, golden):
    found = {}
    for variant, arguments in VARIANTS.items():
        process = Diffusion(schedule, **arguments)
        given = output if process.learn_sigma else output[:, : x0.shape[1]]
        for clip in (False, True):
            key = f"{variant}/clip{clip:d}"
            p = process.p_mean_variance(given, x_t, t, clip)
            for what, ours in zip(("mean", "variance", "log_variance", "pred_xstart"), p):
                found[f"p_mean_variance/{key}/{what}"] = ours
            found[f"vb_terms_bpd/{key}"] = process.bound(given, x0, x_t, t, clip)
    return found


def _losses(schedule, x0, x_t, t, noise, output, golden):
    found = {}
    for name, (arguments, scale) in LOSSES.items():
        process = Diffusion(schedule, bound_scale=scale(len(schedule)), **arguments)
        given = output if process.learn_sigma else output[:, : x0.shape[1]]
        given = given.clone().requires_grad_()
        loss = process.loss(lambda x, t, y, given=given: given, x0, t, noise)
        (gradient,) = torch.autograd.grad(loss.mean(), given)
        key = f"training_losses/{name}"
        found |= {f"{key}/loss": loss, f"{key}/grad_of_mean_loss_wrt_model_output": gradient}
        if process.weight != "bound":
            error = process.squared_error(process.split(given, x0)[0], x0, noise, t)
            found[f"{key}/mse"] = error
            if process.learn_sigma:
                found[f"{key}/vb"] = loss - error
    return {key: ours for key, ours in found.items() if f"out/{key}" in golden}


def toy(learn_sigma):
    """The network that the golden trajectories were made with, given in their config."""

    def model(x, t, y):
        tau = t.to(x.dtype).reshape(-1, 1, 1, 1) / 1000
        eps = x * (1 - (-0.1 * tau - 9.95 * tau**2).exp()).sqrt() + 0.05 * (3 * x).sin()
        variance = 0.5 * (2 * x).sin() - 0.2 * tau
        return torch.cat([eps, variance], dim=1) if learn_sigma else eps

    return model


def trajectories():
    """DDPM and DDIM with recorded noise; a predicted image is compared at the scale of x_t."""
    golden = Golden("diffusion_trajectories")
    for run, how in golden.config["runs"].items():
        made = how.get("create", {})
        learn_sigma = made.get("learn_sigma", True)
        variance = "small" if made.get("sigma_small") else "large"
        process = Diffusion(linear(), learn_sigma=learn_sigma, variance=variance)
        rest = dict(steps=how["respacing"] or None, clip=how["clip"], noise=golden[f"{run}/noise"])
        sampler, more = (ddim, {"eta": how["eta"]}) if how["kind"] == "ddim" else (ddpm, {})
        states = list(sampler(toy(learn_sigma), process, golden[f"{run}/x_T"], **rest, **more))
        kept = golden[f"{run}/state_steps"].tolist()
        numbers = torch.tensor([state.t for state in states])
        alpha = process.schedule.alpha[numbers[kept]].reshape(-1, 1, 1, 1, 1)
        pairs = {
            "model_t": (numbers, golden[f"{run}/model_t"]),
            "samples": (torch.stack([states[k].x for k in kept]), golden[f"{run}/samples"]),
            "pred_xstart": (
                alpha * torch.stack([states[k].x0 for k in kept]),
                alpha * golden[f"{run}/pred_xstart"],
            ),
            "final": (states[-1].x, golden[f"{run}/final"]),
        }
        for what, (ours, official) in pairs.items():
            yield Comparison(golden.name, f"{run}/{what}", ours, official, WALK, floor=None)


def inversion():
    """DDIM backwards; the official code takes one step more, to noise without a signal."""
    golden = Golden("diffusion_ddim_reverse")
    process = Diffusion(linear(), learn_sigma=True)
    states = list(ddim_invert(toy(True), process, golden["x_0"], steps="ddim25"))
    ours = torch.stack([state.x for state in states])
    yield Comparison(golden.name, "samples", ours, golden["samples"][:-1], WALK, floor=None)


def bits():
    """The bound over all steps."""
    golden = Golden("diffusion_bpd_loop")
    process = Diffusion(respaced("50"), learn_sigma=True)
    found = bits_per_dim(toy(True), process, golden["in/x_start"], noise=golden["in/noise"])
    names = ("total_bpd", "prior_bpd", "vb", "xstart_mse", "mse")
    for name, ours in zip(names, found):
        yield Comparison(golden.name, name, ours, golden[f"out/{name}"], PROCESS)
