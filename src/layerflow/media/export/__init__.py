"""Export layers for editors, web pages, games and compositors. Independent of models."""

from .presets import PRESETS, Preset, Settings, deliver
from .treatment import clean_edges

__all__ = ["PRESETS", "Preset", "Settings", "clean_edges", "deliver"]
