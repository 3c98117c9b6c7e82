"""Composites: layered clips of sprites and random shapes in front of photographs, panoramas and film shots."""

from .opencv import MissingOpenCVError
from .render import Composite, CompositeSpec, Foreground
from .settings import Composites
from .source import SPLITS, CompositeSource, Split, compose

__all__ = [
    "SPLITS",
    "Composite",
    "CompositeSource",
    "CompositeSpec",
    "Composites",
    "Foreground",
    "MissingOpenCVError",
    "Split",
    "compose",
]
