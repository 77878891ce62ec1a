"""Conditions other than a label: texts and layouts, as tokens that a network attends to; images."""

from minidit.conditions.encoders import ConditionEncoder, LayoutEncoder, TextEncoder
from minidit.conditions.images import ImageEncoder, InpaintEncoder, UpscaleEncoder
from minidit.conditions.tokenizer import Tokenizer
from minidit.embed import ENCODERS

__all__ = ["ConditionEncoder", "LayoutEncoder", "TextEncoder", "Tokenizer"]
__all__ += ["ImageEncoder", "InpaintEncoder", "UpscaleEncoder"]

ENCODERS |= {"text": TextEncoder, "layout": LayoutEncoder}
ENCODERS |= {"inpaint": InpaintEncoder, "upscale": UpscaleEncoder}
