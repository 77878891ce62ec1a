"""The named experiments: python -m minidit experiment NAME; results lie in data/results."""

from minidit.lab import after, architecture, autoencoders, recipes, samplers
from minidit.lab.runner import EXPERIMENTS, Experiment

__all__ = ["EXPERIMENTS", "Experiment"]
__all__ += ["after", "architecture", "autoencoders", "recipes", "samplers"]  # which fill it
