"""U-ViT's schedules: the steps 1 … 1000 for latents, and the equation in continuous time."""

import torch

from golden import PROCESS, TABLES, WALK, Comparison, Golden
from golden.solvers import cosine_log_alpha, toy
from minidit import Diffusion, euler_maruyama, scaled_linear, vp_sde
from minidit.solvers.sde import rate
from minidit.solvers.spacing import between, continuous, log_snr, position


def discrete():
    """Tables over n = 0 … 1000, of which 0 is the clean image; x_n and the loss for given n."""
    golden, schedule = Golden("uvit_discrete_schedule"), scaled_linear(first=1)
    n = golden["in/n"]
    strides = [
        schedule.respace([step for step in (i // 2 - 1, i - 1) if step >= 0]) for i in n.tolist()
    ]
    halves = torch.stack([stride.betas[-1] for stride in strides])
    none, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    tables = {
        "betas_0_to_1000": torch.cat([none, schedule.betas]),
        "cum_alphas": torch.cat([one, schedule.alphas_cumprod]),
        "cum_betas": torch.cat([none, schedule.sigma**2]),
        "snr_1_to_1000": schedule.snr,
        "out/tilde_beta_prev": schedule.posterior_variance[n - 1],
        "out/skip_beta_half": halves,
        "out/skip_alpha_half": 1 - halves,
    }
    for what, ours in tables.items():
        yield Comparison(golden.name, what, ours, golden[what], TABLES, floor=1e-4)
    told = []

    def model(x, number, y):
        told.append((x, number.long()))
        return golden["in/eps_pred"]

    loss = Diffusion(schedule).loss(model, golden["in/x0"], n - 1, golden["in/eps"])
    x_n, number = told[0]
    yield Comparison(golden.name, "out/loss", loss, golden["out/loss"], PROCESS)
    yield Comparison(golden.name, "out/xn", x_n, golden["out/xn"], PROCESS)
    yield Comparison(golden.name, "in/n", number, n, 0.0)


def equation():
    """α², σ², their ratios, √β and the inverse; losses; ε, x_0 and the score; whole walks."""
    golden = Golden("uvit_sde")
    for part in (_moments, _losses, _predictions):
        for what, ours in part(golden).items():
            official = golden[what]
            if what.endswith("/snr") or what.endswith("/nsr"):
                # As shares of the power: their 1 - ᾱ, in float32, has lost digits at the ends.
                ours, official = ours / (1 + ours), official / (1 + official)
            yield Comparison(golden.name, what, ours, official, PROCESS)
    for name, eta in {"em_sde": 1.0, "em_ode": 0.0}.items():
        schedule, x, noise = vp_sde(), golden["x_T"], golden[f"{name}/noise"]
        model = toy(schedule, 0.1, 9.95)
        states = list(euler_maruyama(model, Diffusion(schedule), x, steps=50, eta=eta, noise=noise))
        pairs = {"trace": torch.stack([x, *(state.x for state in states)]), "final": states[-1].x}
        for key, ours in pairs.items():
            what = f"{name}/{key}"
            yield Comparison(golden.name, what, ours, golden[what], WALK, floor=None)


def _at(schedule, u):
    """The schedule at moments u in [0, 1]."""
    return between(schedule, 1000 * u.double() - 1)


def _moments(golden):
    found = {}
    made = {"vpsde": (vp_sde(), 1.0), "vpsde_cosine": (continuous(cosine_log_alpha), 0.99)}
    for name, (schedule, last) in made.items():
        u = golden["in/t"].double().clamp(max=last)
        there = _at(schedule, u)
        tables = {
            "cum_alpha": there.alphas_cumprod,
            "cum_beta": there.sigma**2,
            "nsr": there.noise_ratio**2,
            "snr": there.snr,
            "diffusion": rate(schedule, 1000 * u - 1).sqrt(),
            "t": (position(schedule, log_snr(there)) + 1) / 1000,
        }
        found |= {f"{name}/{key}": table for key, table in tables.items()}
    return found


def _losses(golden):
    found = {}
    for name, predict in {"noise_pred": "eps", "x0_pred": "x0"}.items():
        part = golden.part(f"loss/{name}/")
        process = Diffusion(_at(vp_sde(), part["u"]), predict)
        network, index = toy(vp_sde(), 0.1, 9.95), torch.arange(len(part["u"]))
        found[f"loss/{name}/loss"] = process.loss(network, golden["in/x0"], index, part["noise"])
    return found


def _predictions(golden):
    found = {}
    for name, predict in {"noise_pred": "eps", "x0_pred": "x0"}.items():
        process = Diffusion(_at(vp_sde(), golden["in/t5"]), predict)
        x, index = golden["in/x0"], torch.arange(len(golden["in/t5"]))
        number = process.schedule.at("steps", index, index)
        x0 = process.to_x0(x, index, toy(vp_sde(), 0.1, 9.95)(x, number, None))
        eps = process.to_eps(x, index, x0)
        score = -eps / process.schedule.at("sigma", index, x)
        values = {"noise_pred": eps, "x0_pred": x0, "score": score}
        found |= {f"pred/{name}/{key}": value for key, value in values.items()}
    return found
