"""Seeded, endless layered clips with perfect layers, for training and measuring the small model."""

from .backgrounds import BACKGROUND_COLOURS, FAMILIES, TRAIN_FAMILIES, Family, background
from .captions import captions
from .motions import MOTION_PLACES, MOTIONS, PLACES, MotionParams
from .objects import EXTRA_OBJECTS, OBJECTS, ObjectSpec
from .scenes import SPLITS, Scene, SceneSource, SceneSpec, Split, is_held_out
from .sprites import FOREGROUND_COLOURS, MissingFontError, find_font, sprite

__all__ = [
    "BACKGROUND_COLOURS",
    "EXTRA_OBJECTS",
    "FAMILIES",
    "FOREGROUND_COLOURS",
    "MOTIONS",
    "MOTION_PLACES",
    "OBJECTS",
    "PLACES",
    "SPLITS",
    "TRAIN_FAMILIES",
    "Family",
    "MissingFontError",
    "MotionParams",
    "ObjectSpec",
    "Scene",
    "SceneSource",
    "SceneSpec",
    "Split",
    "background",
    "captions",
    "find_font",
    "is_held_out",
    "sprite",
]
