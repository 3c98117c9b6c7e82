"""Layers as the places they go to want them: editors, pages, games, compositors. Knows nothing of models."""

from .presets import PRESETS, Preset, Settings, deliver
from .treatment import clean_edges

__all__ = ["PRESETS", "Preset", "Settings", "clean_edges", "deliver"]
