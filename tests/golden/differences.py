"""The largest difference to each golden file, printed and stored in data/results.

python tests/golden/differences.py
"""

import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from golden import continuous, latents, networks, processes, solvers  # noqa: E402

GROUPS = {
    "embeddings": networks.embeddings,
    "networks": networks.outputs,
    "activations and gradients": networks.inside,
    "guidance": networks.guidance,
    "guidance, U-ViT's": networks.guidance_of_uvit,
    "schedules": processes.schedules,
    "selections of steps": processes.spacings,
    "operations and losses": processes.operations,
    "trajectories": processes.trajectories,
    "inversion": processes.inversion,
    "bits per dimension": processes.bits,
    "DPM-Solver, nodes": solvers.nodes,
    "DPM-Solver, walks": solvers.walks,
    "U-ViT's discrete schedule": continuous.discrete,
    "stochastic equation": continuous.equation,
    "distribution of latents": latents.gaussian,
    "codebook": latents.codebook,
}


def rows():
    """One row for each file, group and tolerance: how many comparisons, and the worst of them."""
    for group, comparisons in GROUPS.items():
        found = {}
        for c in comparisons():
            kind = "float64" if c.official.dtype == torch.float64 else "float32"
            kind = kind if c.official.is_floating_point() else "integers"
            found.setdefault((c.file, kind), []).append(c)
        for (file, kind), some in found.items():
            worst = max(some, key=lambda c: c.difference)
            yield {
                "file": file,
                "group": group,
                "numbers": kind,
                "comparisons": len(some),
                "largest_difference": worst.difference,
                "where": worst.what,
                "allowed": max(c.allowed for c in some),
            }


def main():
    """Print the table and store it."""
    torch.set_num_threads(1)
    table = list(rows())
    print(
        f"{'file':30} {'group':26} {'numbers':8} {'count':>5} {'largest':>8} {'allowed':>8}  where"
    )
    for row in table:
        print(
            f"{row['file']:30} {row['group']:26} {row['numbers']:8} {row['comparisons']:5} "
            f"{row['largest_difference']:8.1e} {row['allowed']:8.1e}  {row['where']}"
        )
    result = {
        "what": "largest difference to the numbers that the official codes gave",
        "command": "python tests/golden/differences.py",
        "torch": torch.__version__,
        "rows": table,
    }
    path = ROOT / "data" / "results" / "golden-differences.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
