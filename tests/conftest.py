"""What all tests share: one thread, reproducible examples, and small networks that are awake."""

import pytest
import torch
from hypothesis import settings

from minidit import DiT

pytest.register_assert_rewrite("students")  # a test that fails shows its values there, too

# One thread: faster for tensors this small, and kinder to whatever else runs on the machine.
torch.set_num_threads(1)

# The same examples in every run, and no deadline: a busy machine is not a bug.
settings.register_profile("minidit", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("minidit")


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same global random state, whichever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture
def tiny_dit():
    """Build a DiT small enough for any test; keywords replace its arguments."""

    def build(**changes) -> DiT:
        arguments = {
            "input_size": 8,
            "patch_size": 4,
            "in_channels": 1,
            "hidden_size": 16,
            "depth": 2,
            "num_heads": 2,
            "num_classes": 3,
            "class_dropout_prob": 0.1,
            "learn_sigma": False,
        }
        return DiT(**arguments | changes)

    return build


@pytest.fixture
def awaken():
    """Replace every weight by a random one: a fresh DiT answers zero, whatever is asked."""

    def fill(module: torch.nn.Module, std: float = 0.2) -> torch.nn.Module:
        rng = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in module.parameters():
                if p.requires_grad:
                    p.copy_(torch.randn(p.shape, generator=rng, dtype=p.dtype) * std)
        return module.eval()

    return fill
