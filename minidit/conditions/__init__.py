"""Conditions other than a label: texts and layouts, as tokens that a network attends to."""

from minidit.conditions.encoders import ConditionEncoder, LayoutEncoder, TextEncoder
from minidit.conditions.tokenizer import Tokenizer
from minidit.embed import ENCODERS

__all__ = ["ConditionEncoder", "LayoutEncoder", "TextEncoder", "Tokenizer"]

ENCODERS |= {"text": TextEncoder, "layout": LayoutEncoder}
