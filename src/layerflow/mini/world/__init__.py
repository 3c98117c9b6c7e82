"""Drawn world: an endless, seeded source of layered videos with exact layers, for training and evaluation."""

from .backgrounds import BACKGROUND_COLOURS, FAMILIES, TRAIN_FAMILIES, Family, background
from .captions import captions
from .motions import MOTION_PLACES, MOTIONS, PLACES, MotionParams
from .objects import EXTRA_OBJECTS, OBJECTS, SOFT_OBJECTS, ObjectSpec
from .pictures import COLLAGE, PHOTOGRAPHS, MissingPhotographsError, find_photographs, picture, picture_captions
from .scenes import SPLITS, Scene, SceneSource, SceneSpec, Split, is_held_out
from .sprites import FOREGROUND_COLOURS, MissingFontError, find_font, sprite
from .variations import CAMERAS, CASTS, Companion, Variations

__all__ = [
    "BACKGROUND_COLOURS",
    "CAMERAS",
    "CASTS",
    "COLLAGE",
    "EXTRA_OBJECTS",
    "FAMILIES",
    "FOREGROUND_COLOURS",
    "MOTIONS",
    "MOTION_PLACES",
    "OBJECTS",
    "PHOTOGRAPHS",
    "PLACES",
    "SOFT_OBJECTS",
    "SPLITS",
    "TRAIN_FAMILIES",
    "Companion",
    "Family",
    "MissingFontError",
    "MissingPhotographsError",
    "MotionParams",
    "ObjectSpec",
    "Scene",
    "SceneSource",
    "SceneSpec",
    "Split",
    "Variations",
    "background",
    "captions",
    "find_font",
    "find_photographs",
    "is_held_out",
    "picture",
    "picture_captions",
    "sprite",
]
