"""Samplers that think in continuous time: DPM-Solver, DPM-Solver++, and the stochastic equation."""

from minidit.sampling import SAMPLERS, SELECTIONS
from minidit.solvers.adaptive import dpm_adaptive
from minidit.solvers.continuous import logsnr_steps
from minidit.solvers.dpm import dpm_solver
from minidit.solvers.sde import euler_maruyama

__all__ = ["dpm_adaptive", "dpm_solver", "euler_maruyama"]

SAMPLERS |= {"dpm_solver": dpm_solver, "euler_maruyama": euler_maruyama}
SELECTIONS |= {"logsnr": logsnr_steps}
