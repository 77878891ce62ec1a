"""The hidden tests: what a submission is worth. Students don't get this file.

The checks of `minidit.check` know the common mistakes and name them; a test of your own may ask
for any other property, as the last one does.
"""

import pytest
import torch

from minidit import check

POINTS = {"patchify": 3, "timestep_embedding": 2, "x0_from_v": 2, "respaced_betas": 3}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.points(n)) for name, n in POINTS.items()]
)
def test_part(submission, name):
    """A function of the submission passes the check of the same name."""
    written = getattr(submission, name, None)
    if written is None:
        pytest.fail(f"the submission has no function {name}", pytrace=False)
    verdict = getattr(check, name)(written)
    if not verdict:
        pytest.fail(str(verdict), pytrace=False)


@pytest.mark.points(2)
def test_every_pixel_is_kept(submission):
    """Patches of any size hold every pixel once, whatever their order."""
    for patch in (1, 2, 5):
        rng = torch.Generator().manual_seed(patch)
        images = torch.randn(2, 3, 3 * patch, 2 * patch, generator=rng)
        tokens = submission.patchify(images, patch)
        if not torch.equal(tokens.flatten(1).sort().values, images.flatten(1).sort().values):
            pytest.fail(f"with patches of {patch} pixels get lost or changed", pytrace=False)
