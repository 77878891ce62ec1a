"""Samplers that think in continuous time: DPM-Solver, DPM-Solver++, and the stochastic equation."""

from minidit.sampling import SAMPLERS, SELECTIONS
from minidit.schedule import SCHEDULES
from minidit.solvers.adaptive import dpm_adaptive
from minidit.solvers.dpm import dpm_solver
from minidit.solvers.inversion import ddim_invert
from minidit.solvers.sde import euler_maruyama
from minidit.solvers.spacing import beta_steps, logsnr_steps, quadratic_steps, vp_sde

__all__ = ["ddim_invert", "dpm_adaptive", "dpm_solver", "euler_maruyama", "vp_sde"]

SCHEDULES["vp_sde"] = vp_sde
SAMPLERS |= {"dpm_solver": dpm_solver, "euler_maruyama": euler_maruyama}
SELECTIONS |= {"quad": quadratic_steps, "beta": beta_steps, "logsnr": logsnr_steps}
