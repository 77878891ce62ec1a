"""DPM-Solver and DPM-Solver++: node times, orders, and whole walks."""

import torch

from golden import DOUBLE, Comparison, Golden
from minidit import Diffusion, Schedule, dpm_solver, sample
from minidit.dpm_solver import fast_orders, grid
from minidit.steps import between, log_snr, position

SPACINGS = {"time_uniform": "time", "logSNR": "logsnr", "t2": "quadratic"}


def stable_diffusion() -> Schedule:
    """β rises linearly in its root, from 0.00085 to 0.012; t = 1/1000 … 1 are the steps 0 … 999."""
    roots = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=torch.float64)
    cumprod = (1 - roots**2).cumprod(dim=0)
    steps = torch.arange(1000)
    return Schedule(cumprod.sqrt(), (1 - cumprod).sqrt(), steps, "variance_preserving")


def continuous(t: torch.Tensor) -> Schedule:
    """Some moments of the continuous process with β from 0.1 to 20, as a schedule of their own."""
    log_alpha = -(t**2) * (20 - 0.1) / 4 - t * 0.1 / 2
    sigma = (1 - (2 * log_alpha).exp()).sqrt()
    return Schedule(log_alpha.exp(), sigma, 1000 * t - 1, "variance_preserving")


def toy(a, b, c):
    """The networks of the golden walks; they were told t in (0, 1], ours are told the step."""

    def model(x, step, y):
        t = (step.to(x.dtype).reshape(-1, 1, 1, 1) + 1) / 1000
        return x * (1 - (-a * t - b * t**2 - c * t**3).exp()).sqrt() + 0.05 * (3 * x).sin()

    return model


def walks():
    """All cases of the fast, single- and multistep methods, in float32 and float64."""
    golden = Golden("dpm_solver")
    for name, case in golden.config["cases"].items():
        if case["module"] == "dpm_solver_pp.py" and case["sample"].get("method") != "adaptive":
            # Twice what rounding to float32 changes in the official code itself.
            single = 2 * max(case["max_abs_f32_minus_f64"], 2e-6)
            for x, key, allowed in (
                (golden["x_T"], "final", single),
                (golden["x_T"].double(), "final64", DOUBLE),
            ):
                ours, times = _walk(case, x)
                what = f"{name}/{key}"
                official = golden[what]
                yield Comparison(golden.name, what, ours, official, allowed, floor=None)
            official = golden[f"{name}/call_t64"].reshape(len(times), -1)[:, 0]
            yield Comparison(golden.name, f"{name}/call_t64", times, official, DOUBLE)


def _walk(case, x):
    """The end of one case's walk, and the times at which the network was asked."""
    how, solver = case["sample"], case["solver"]
    denoise, steps = how.get("denoise", False), how["steps"]
    if case["schedule"] == "linear":  # at the moments that this walk visits
        schedule = continuous(torch.linspace(1e-3, 1, steps + 1, dtype=torch.float64))
        network, steps = toy(0.1, 9.95, 0.0), range(steps + 1)
    else:
        schedule, network, steps = stable_diffusion(), toy(0.85, 2.34, 2.15), steps + denoise
    times = []

    def model(x, step, y):
        times.append((step[0].double().item() + 1) / 1000)
        return network(x, step, y)

    states = dpm_solver(
        model,
        Diffusion(schedule),
        x,
        steps=steps,
        order=how.get("order", 3),
        method=how.get("method", "fast"),
        spacing=SPACINGS[how.get("skip_type", "time_uniform")],
        solve="x0" if solver["predict_x0"] else "eps",
        taylor=how.get("solver_type") == "taylor",
        denoise=denoise,
        clip=0.995 if solver.get("thresholding") else False,
    )
    return sample(states), torch.tensor(times, dtype=torch.float64)


def nodes():
    """log α, σ, λ and its inverse between steps; node times of the three spacings; fast orders."""
    golden, schedule = Golden("dpm_schedules"), stable_diffusion()
    t = golden["discrete_sd/t64"]
    there = between(schedule, 1000 * t - 1)
    found = {
        "log_alpha64": there.alpha.log(),
        "sigma64": there.sigma,
        "lambda64": log_snr(there),
        "inverse_lambda_of_lambda64": (position(schedule, log_snr(there)) + 1) / 1000,
    }
    for theirs, ours in SPACINGS.items():
        for count in (10, 20):
            found[f"steps_{theirs}_{count}64"] = (grid(schedule, ours, count) + 1) / 1000
    for key, ours in found.items():
        what = f"discrete_sd/{key}"
        yield Comparison(golden.name, what, ours, golden[what], DOUBLE)
    for key, official in golden.part("orders/").items():
        order, count = (int(part) for part in key.removeprefix("order").split("_steps"))
        ours = torch.tensor(fast_orders(count, order))
        yield Comparison(golden.name, f"orders/{key}", ours, official, 0.0)
