"""DPM-Solver and DPM-Solver++: node times, orders, and whole walks."""

import math
import sys
from unittest import mock

import torch

from golden import DOUBLE, WALK, Comparison, Golden
from minidit import Diffusion, dpm_adaptive, dpm_solver, sample, scaled_linear, vp_sde
from minidit.solvers.adaptive import growth
from minidit.solvers.dpm import fast_orders
from minidit.solvers.spacing import between, continuous, grid, log_snr, position

SPACINGS = {"time_uniform": "time", "logSNR": "logsnr", "t2": "quadratic"}


def cosine_log_alpha(u):
    """Of the continuous cosine schedule (s = 0.008), 0 at u = 0."""
    start = math.log(math.cos(0.008 / 1.008 * math.pi / 2))
    return ((u + 0.008) / 1.008 * math.pi / 2).cos().log() - start


def toy(schedule, a, b, c=0.0):
    """The networks of the golden walks; they were told u in (0, 1], ours are told the number."""
    last = schedule.steps[-1].item()

    def model(x, number, y):
        u = number.to(x.dtype).reshape(-1, 1, 1, 1)
        u = u / last if schedule.log_alpha else (u + 1) / 1000
        return x * (1 - (-a * u - b * u**2 - c * u**3).exp()).sqrt() + 0.05 * (3 * x).sin()

    return model


def walks():
    """All cases, in float32 and float64."""
    golden = Golden("dpm_solver")
    for name, case in golden.config["cases"].items():
        adaptive = case["sample"].get("method") == "adaptive"
        # Twice what rounding to float32 changes in the official code itself; twice that where the
        # lengths of the steps, too, are computed from rounded numbers.
        single = 2 * max(case["max_abs_f32_minus_f64"], WALK) * (1 + adaptive)
        # At u = 0.9946 of the cosine log α falls by 185 per unit of time: rounding of u grows.
        double = 5 * DOUBLE if case["schedule"] == "cosine" else DOUBLE
        for x, key, allowed in (
            (golden["x_T"], "final", single),
            (golden["x_T"].double(), "final64", double),
        ):
            ours, times = _walk(case, x)
            what = f"{name}/{key}"
            yield Comparison(golden.name, what, ours, golden[what], allowed, floor=None)
        official = golden[f"{name}/call_t64"]
        official = official.reshape(len(official), -1)[:, 0]
        if adaptive:  # theirs asks again after a refused step
            official = torch.tensor(list(dict.fromkeys(official.tolist())), dtype=torch.float64)
        yield Comparison(golden.name, f"{name}/call_t64", times, official, DOUBLE)


def _walk(case, x):
    """The end of one case's walk, and the times at which the network was asked."""
    how, solver, old = case["sample"], case["solver"], case["module"] == "dpm_solver_pytorch.py"
    T = round(1 / how.get("eps", 1e-3))  # the walk ends at 1/T
    made = {"linear": lambda: vp_sde(T), "cosine": lambda: continuous(cosine_log_alpha, T)}
    schedule = made.get(case["schedule"], scaled_linear)()
    noisy = 0.9946 if case["schedule"] == "cosine" else 1.0  # where the walk begins
    network = toy(schedule, *((0.85, 2.34, 2.15) if schedule.log_alpha is None else (0.1, 9.95)))
    times = []

    def model(x, number, y):
        u = number[0].double().item()
        times.append(u / 999 if schedule.log_alpha else (u + 1) / 1000)
        return network(x, number, y)

    form = dict(
        solve="x0" if solver.get("predict_x0") else "eps", denoise=how.get("denoise", False)
    )
    if how.get("method") == "adaptive":
        with mock.patch.object(sys.modules["minidit.solvers.adaptive"], "growth", _rounded(growth)):
            states = dpm_adaptive(model, Diffusion(schedule), x, order=how["order"], **form)
            end = sample(states)
    else:
        form |= _old(how, schedule, noisy) if old else _new(how, solver)
        end = sample(dpm_solver(model, Diffusion(schedule), x, **form))
    return end, torch.tensor(times, dtype=torch.float64)


def _rounded(growth):
    """The official code rounds E^(-1/order) to float32, in its float64 runs as well."""
    return lambda E, order: (
        0.9 * torch.tensor(growth(E, order) / 0.9, dtype=torch.float64).float().item()
    )


def _new(how, solver):
    """Arguments for the code of DPM-Solver++."""
    return dict(
        steps=how["steps"] + how.get("denoise", False),
        order=how.get("order", 3),
        method=how.get("method", "fast"),
        spacing=SPACINGS[how.get("skip_type", "time_uniform")],
        lower_order_final=False,
        taylor=how.get("solver_type") == "taylor",
        clip=0.995 if solver.get("thresholding") else False,
    )


def _old(how, schedule, noisy):
    """Arguments for the first code of DPM-Solver: its steps are even, whatever their orders."""
    order, count = how.get("order", 3), how["steps"]
    orders = fast_orders(count, order) if how["fast_version"] else [order] * (count // order)
    ends = torch.tensor([noisy * len(schedule) - 1, 0], dtype=torch.float64)  # positions
    if how.get("skip_type", "logSNR") == "logSNR":
        lam = _even(*log_snr(between(schedule, ends)), len(orders))
    else:
        lam = log_snr(between(schedule, _even(*ends, len(orders))))
    inside = [_even(*pair, k)[:-1] for *pair, k in zip(lam, lam[1:], orders)]
    nodes = position(schedule, torch.cat([*inside, lam[-1:]])).clamp(0, ends[0])
    if not how["fast_version"]:
        nodes = nodes[::order]
    method = "fast" if how["fast_version"] else "singlestep"
    return dict(steps=nodes.flip(0).tolist(), order=order, method=method)


def _even(start, end, count):
    return torch.linspace(start.item(), end.item(), count + 1, dtype=torch.float64)


def nodes():
    """log α, σ, λ and its inverse at any time; node times of the three spacings; fast orders."""
    golden = Golden("dpm_schedules")
    made = {
        "discrete_sd": scaled_linear(),
        "linear": vp_sde(),
        "cosine": continuous(cosine_log_alpha),
    }
    for name, schedule in made.items():
        there = between(schedule, 1000 * golden[f"{name}/t64"] - 1)
        found = {
            "log_alpha64": there.alpha.log(),
            "sigma64": there.sigma,
            "lambda64": log_snr(there),
            "inverse_lambda_of_lambda64": (position(schedule, log_snr(there)) + 1) / 1000,
        }
        if name != "cosine":  # the official walk begins at 0.9946 there, ours at the last step
            for theirs, ours in SPACINGS.items():
                for count in (10, 20):
                    found[f"steps_{theirs}_{count}64"] = (grid(schedule, ours, count) + 1) / 1000
        for key, ours in found.items():
            what = f"{name}/{key}"
            yield Comparison(golden.name, what, ours, golden[what], DOUBLE)
    for key, official in golden.part("orders/").items():
        order, count = (int(part) for part in key.removeprefix("order").split("_steps"))
        ours = torch.tensor(fast_orders(count, order))
        yield Comparison(golden.name, f"orders/{key}", ours, official, 0.0)
