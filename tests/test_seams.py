"""New parts from outside: each is added in a few lines, and takes part in a training step."""

import math

import pytest
import torch
from torch import nn

from minidit import SAMPLERS, Diffusion, DiT, Recipe, UViT, fit, linear, load, sample, save
from minidit.blocks import BLOCKS, Block
from minidit.cli import main
from minidit.data import DATASETS, Entry
from minidit.embed import TIME_EMBEDDERS
from minidit.lab import EXPERIMENTS, Experiment
from minidit.sampling import State, walk

SMALL = dict(input_size=8, patch_size=4, in_channels=1, hidden_size=16, depth=1, num_heads=2)
SMALL |= dict(num_classes=3, learn_sigma=False)


def trained(model):
    images, labels = torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.arange(6) % 3
    recipe = Recipe(steps=1, batch_size=4)
    return fit(model, Diffusion(linear(), "x0"), images, labels, recipe=recipe)


class ParallelBlock(Block):
    """Attention and MLP side by side, scaled by the sum of the condition."""

    num_modulations = 1

    def forward(self, x, cond, mask=None):
        (scale,) = self.modulation(cond)
        x_norm = self.norm1(x) * (1 + scale[:, None])
        return x + self.attn(x_norm) + self.mlp(x_norm)


class FourierFeatures(nn.Module):
    """Random frequencies of log t."""

    def __init__(self, hidden_size):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(hidden_size // 2))

    def forward(self, t):
        angles = 2 * math.pi * (1 + t[:, None].float()).log() * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


@pytest.mark.parametrize(
    ("registry", "name", "part", "argument"),
    [
        (BLOCKS, "parallel", ParallelBlock, "block"),
        (TIME_EMBEDDERS, "fourier", FourierFeatures, "time_embed"),
    ],
)
def test_a_part_of_the_network(registry, name, part, argument, monkeypatch, tmp_path):
    monkeypatch.setitem(registry, name, part)
    model = trained(DiT(**SMALL, **{argument: name}))
    save(model, tmp_path / "own.safetensors")
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.tensor([0, 3])
    assert torch.equal(load(tmp_path / "own.safetensors").model(x, t, y), model(x, t, y))


def test_a_sampler(monkeypatch):
    def jump(model, diffusion, x, y=None, *, steps=None):
        """One prediction from pure noise."""
        for step, t, number in walk(diffusion.schedule, x):
            x0 = diffusion.pred_x0(model(x, number, y), x, t)
            yield State(step, x0, x0)
            return

    monkeypatch.setitem(SAMPLERS, "jump", jump)
    model, x, y = UViT(**SMALL), torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    drawn = sample(SAMPLERS["jump"](trained(model), Diffusion(linear(), "x0"), x, y))
    assert drawn.shape == x.shape and drawn.isfinite().all()


def test_a_data_set(monkeypatch, tmp_path, capsys):
    def stripes(folder, split, seed):
        """Images 28×28 of grey levels, their label the level."""
        labels = torch.arange(20) % 4
        return (60 * labels).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28), labels

    monkeypatch.setitem(DATASETS, "stripes", Entry(("a", "b", "c", "d"), stripes))
    command = [
        "train",
        "--data",
        "stripes",
        "--preset",
        "demo",
        "--steps",
        "1",
        "--batch-size",
        "4",
    ]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert load(tmp_path / "weights.safetensors").model.label_embed.num_classes == 4


def test_an_experiment(monkeypatch, tmp_path, capsys):
    def trial(settings, seed):
        model = trained(DiT(**SMALL, **settings["model"]))
        return {"parameters": sum(p.numel() for p in model.parameters())}

    variants = {block: {"model": {"block": block}} for block in ("adaln", "adaln_zero")}
    own = Experiment(
        "Which is larger?", lambda: variants, {"cpu": {}}, trial, {"parameters": ".0f"}
    )
    monkeypatch.setitem(EXPERIMENTS, "own", own)
    assert main(["experiment", "own", "--seeds", "2", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "own.md").read_text()
    assert page.startswith("# Which is larger?") and page.count("± 0 |") == 2
