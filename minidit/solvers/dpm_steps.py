"""The steps of DPM-Solver (Lu et al., arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095).

In the variable λ = log(α/σ) the exact solution from node j to node k is linear in x plus an
integral over the prediction d alone, the noise ε (DPM-Solver) or the image x_0 (++):

    x_k = (α_k/α_j)·x - σ_k·(φ1·ε + φ2·ε' + φ3·ε'')      with z =  h,  h = λ_k - λ_j
    x_k = (σ_k/σ_j)·x - α_k·(φ1·x_0 + φ2·x_0' + φ3·x_0'')  with z = -h

    φ1 = e^z - 1,  φ2 = φ1/z - 1,  φ3 = φ2/z - 1/2

where ' is the derivative by λ/h, estimated from predictions at other nodes: inside the step
("singlestep"), or left over from the steps before ("multistep", one evaluation a step).
"""

import math

import torch
from torch import Tensor

from minidit._validate import check_choice
from minidit.diffusion import Diffusion, clip_image
from minidit.sampling import Denoiser
from minidit.solvers.spacing import between, log_snr


class Walk:
    """Predictions at nodes, and the steps from node to node, in either of the two forms.

    `nodes`: positions on the process's schedule, (k,) float64, falling. `solve`: "x0" or "eps".
    `taylor`: φ2 also where the papers' codes have φ1/2 by default.
    """

    def __init__(
        self,
        model: Denoiser,
        diffusion: Diffusion,
        nodes: Tensor,
        y: Tensor | None,
        solve: str,
        clip: bool | float,
        taylor: bool = False,
    ) -> None:
        check_choice("solve", solve, ("x0", "eps"))
        self.model, self.y, self.clip = model, y, clip
        self.diffusion = diffusion.over(between(diffusion.schedule, nodes))
        self.solve, self.taylor = solve, taylor
        schedule = self.diffusion.schedule
        self.lam, self.numbers = log_snr(schedule).tolist(), schedule.steps.tolist()
        tables = schedule.alpha.tolist(), schedule.sigma.tolist()
        self.kept, self.new = tables if solve == "eps" else tables[::-1]  # of x, of the prediction
        self.pred_x0: Tensor | None = None

    def number(self, k: int) -> float:
        """What the network is told at node k."""
        return self.numbers[k]

    def predict(self, x: Tensor, k: int) -> Tensor:
        """The prediction d (b, c, h, w) at node k; the image it stands for goes to `pred_x0`."""
        t = torch.full((x.shape[0],), k, device=x.device)
        number = self.diffusion.schedule.at("steps", t, x).flatten()  # (b,)
        prediction, _ = self.diffusion.split(self.model(x, number, self.y), x)
        self.pred_x0 = clip_image(self.diffusion.to_x0(x, t, prediction), self.clip)
        if self.solve == "x0":
            return self.pred_x0
        if self.diffusion.predict == "eps" and self.clip is False:
            return prediction
        return self.diffusion.to_eps(x, t, self.pred_x0)

    def step(self, x: Tensor, j: int, k: int, *d: Tensor, half: bool = False) -> Tensor:
        """From node j to k with a prediction and its derivatives; `half`: φ1/2 in place of φ2."""
        z = (self.lam[k] - self.lam[j]) * (1 if self.solve == "eps" else -1)
        phi1 = math.expm1(z)
        phi2 = phi1 / z - 1
        factors = phi1, phi1 / 2 if half else phi2, phi2 / z - 0.5
        change = sum(phi * derivative for phi, derivative in zip(factors, d))
        return self.kept[k] / self.kept[j] * x - self.new[k] * change

    def singlestep(self, x: Tensor, j: int, stride: int, d0: Tensor) -> list[Tensor]:
        """One step over nodes j … j + stride: its end by the orders 1 … stride, the best last.

        All from the same `stride` predictions (DPM-Solver, algorithms 1, 2).
        """
        lam = self.lam[j : j + stride + 1]
        r = [(value - lam[0]) / (lam[-1] - lam[0]) for value in lam]
        k = j + stride
        ends = [self.step(x, j, k, d0)]
        if stride == 1:
            return ends
        d1 = self.predict(self.step(x, j, j + 1, d0), j + 1)
        slope1 = (d1 - d0) / r[1]
        ends.append(self.step(x, j, k, d0, slope1, half=not self.taylor))
        if stride == 2:
            return ends
        d2 = self.predict(self.step(x, j, j + 2, d0, slope1 * r[2]), j + 2)
        slope2 = (d2 - d0) / r[2]
        if not self.taylor:
            return [*ends, self.step(x, j, k, d0, slope2)]
        slope = (r[2] * slope1 - r[1] * slope2) / (r[2] - r[1])
        return [*ends, self.step(x, j, k, d0, slope, 2 * (slope2 - slope1) / (r[2] - r[1]))]

    def multistep(self, x: Tensor, k: int, memory: list[tuple[int, Tensor]]) -> Tensor:
        """One step to node k with up to three predictions, the latest last (++, algorithm 2).

        At order 3 the second difference enters once, not twice, as in the papers' code.
        """
        (j, d0), *older = reversed(memory)
        if not older:
            return self.step(x, j, k, d0)
        h = self.lam[k] - self.lam[j]
        r0 = (self.lam[j] - self.lam[older[0][0]]) / h
        slope0 = (d0 - older[0][1]) / r0
        if len(older) == 1:
            return self.step(x, j, k, d0, slope0, half=not self.taylor)
        r1 = (self.lam[older[0][0]] - self.lam[older[1][0]]) / h
        slope1 = (older[0][1] - older[1][1]) / r1
        second = (slope0 - slope1) / (r0 + r1)
        return self.step(x, j, k, d0, slope0 + r0 * second, second)
