"""A deaf network's error doesn't depend on what it is told, a hearing one's does."""

import pytest
import torch

from minidit import Diffusion, data, straight
from minidit.data import scenes
from minidit.data.captions import describe
from minidit.lab import EXPERIMENTS, listening
from minidit.lab.runner import merge

PROCESS = Diffusion(straight(), "x0")


class Oracle(torch.nn.Module):
    """Answers the image whose number it is told, at a distance that `deafness` sets."""

    def __init__(self, images, deafness):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.images, self.deafness = images, deafness

    def forward(self, x, t, y):
        told = self.images[y]
        return told + self.deafness * (self.images.mean(dim=0) - told)


@pytest.mark.parametrize("deafness, heard", [(1.0, False), (0.5, True)])
def test_surplus(deafness, heard):
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model, y = Oracle(images, deafness), torch.arange(20)
    found = listening.surplus(model, PROCESS, images, y, t=900)
    if not heard:
        assert found == pytest.approx(0, abs=1e-5)
    else:
        mean = images.mean(dim=0)
        right = (0.5 * (images - mean)).square().mean()
        wrong = (0.5 * (images.roll(1, 0) + mean) - images).square().mean()
        assert found == pytest.approx((wrong / right - 1).item(), rel=1e-4) and found > 1


def test_every_way_of_hearing_is_trained_and_measured(monkeypatch):
    images, objects, held_out = scenes.render(40, seed=0)
    told = describe(objects, seed=0)
    few = data.Scenes(
        images, torch.zeros(40).long(), ("", "", ""), "scenes", "train", objects, told, held_out
    )
    monkeypatch.setattr(listening.data, "load", lambda name: few)
    monkeypatch.setattr(listening, "HELD_OUT", 8)
    experiment, found = EXPERIMENTS["caption-blocks"], {}
    small = {"model": {"hidden_size": 16, "depth": 1, "num_heads": 2, "patch_size": 8}}
    small["recipe"] = {"steps": 12, "batch_size": 8, "warmup": 0, "lr": 0.03}
    for variant, settings in experiment.variants.items():
        run = experiment.trial(merge(settings, small), 0)
        assert run["surplus by t"].keys() == {"600", "750", "850", "950"}
        found[variant] = tuple(run["surplus by t"].values())
    assert len(set(found.values())) == 3, found
    assert experiment.trial(merge(settings, small), 0)["surplus"] == run["surplus"]
