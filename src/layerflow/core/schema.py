"""Layers of a scene, and by rule from them: clips, channels, tasks. No other module spells out their names.

A layer is what a prompt describes; a clip is one stream that a model sees. A transparent layer has two clips, colour
and alpha; an opaque layer has one, named as the layer. Alpha clips are named after their layer: `foreground` has
`alpha`, `foreground-2` has `alpha-2`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FOREGROUND, ALPHA, BACKGROUND, BLENDED = "foreground", "alpha", "background", "blended"

DEFAULT_FPS = 8.0
"""Frames per second where nothing else gives a rate; models of this family are trained at 8."""
MOST_FOREGROUNDS = 8
"""Largest number of foregrounds of a layered video; the tables of names below go so far."""


@dataclass(frozen=True)
class Layer:
    """One layer of a scene."""

    name: str
    transparent: bool = False
    """True if the layer has alpha."""

    @property
    def alpha(self) -> str | None:
        """Name of the alpha clip; None when the layer is opaque."""
        return ALPHA + self.name.removeprefix(FOREGROUND) if self.transparent else None

    @property
    def clips(self) -> tuple[str, ...]:
        """Names of the layer's clips, colour first."""
        return (self.name,) if self.alpha is None else (self.name, self.alpha)


def scene_layers(foregrounds: int = 1) -> tuple[Layer, ...]:
    """Return the layers of a scene: foregrounds from the nearest to the farthest, the background, the blended video.

    Raises:
        ValueError: there is less than one foreground.
    """
    if foregrounds < 1:
        raise ValueError(f"foregrounds is {foregrounds}: a scene has at least one, such as 1.")
    names = [FOREGROUND, *(f"{FOREGROUND}-{number}" for number in range(2, foregrounds + 1))]
    return (*(Layer(name, transparent=True) for name in names), Layer(BACKGROUND), Layer(BLENDED))


def clip_names(layers: Iterable[Layer]) -> tuple[str, ...]:
    """Return the names of all clips of some layers, in order."""
    return tuple(clip for layer in layers for clip in layer.clips)


def task_clips(layers: Sequence[Layer]) -> dict[str, frozenset[str]]:
    """Return which clips are given in each named task: generate, decompose, add-background, add-foreground."""
    return {
        "generate": frozenset(),
        "decompose": frozenset(clip_names(layer for layer in layers if layer.name == BLENDED)),
        "add-background": frozenset(clip_names(layer for layer in layers if layer.transparent)),
        "add-foreground": frozenset(clip_names(layer for layer in layers if layer.name == BACKGROUND)),
    }


SCENE = scene_layers()
"""The layers of a scene with one foreground."""
LAYERS = tuple(layer.name for layer in SCENE)
"""Layer names of a scene with one foreground, in the order of a model's prompts."""
CLIPS = clip_names(SCENE)
"""Clip names of a scene with one foreground, in the order used throughout."""
COMPONENTS = tuple(name for name in LAYERS if name != BLENDED)
"""Layers that the blended video is composed of; without given clips each needs a prompt."""
TASKS = task_clips(SCENE)
"""Given clips of each named task; models that were trained on any subset take any other proper subset too."""

_LARGEST_SCENE = scene_layers(MOST_FOREGROUNDS)
ALL_CLIPS = clip_names(_LARGEST_SCENE)
"""Clip names of a scene with `MOST_FOREGROUNDS` foregrounds: foregrounds from near to far, background, blended."""
CHANNELS = {clip: 1 if clip == layer.alpha else 3 for layer in _LARGEST_SCENE for clip in layer.clips}
"""Channels of each of `ALL_CLIPS`: 1 for alpha, 3 for colour."""
ALPHA_OF = {layer.name: layer.alpha for layer in _LARGEST_SCENE if layer.alpha is not None}
"""Alpha clip of each transparent layer, from near to far."""
LAYER_OF_CLIP = {clip: layer.name for layer in _LARGEST_SCENE for clip in layer.clips}
"""The layer whose prompt describes a clip, for each of `ALL_CLIPS`."""


def foreground_count(clips: Iterable[str]) -> int:
    """Return the largest number of a foreground among names of layers or clips, at least 1: `alpha-3` makes 3."""
    names = set(clips)
    numbers = [number for number, pair in enumerate(ALPHA_OF.items(), start=1) if not names.isdisjoint(pair)]
    return max(numbers, default=1)


def prompt_layers(foregrounds: int = 1) -> tuple[str, ...]:
    """Return layer names in the order of a model's prompts: `LAYERS`, then `foreground-2`, `foreground-3`, ...

    The index of a layer does not depend on the number of foregrounds, so that weights keep their meaning.
    """
    return (*LAYERS, *(layer.name for layer in scene_layers(foregrounds)[1:foregrounds]))


def model_clips(foregrounds: int = 1) -> tuple[str, ...]:
    """Return clip names in the default order of a model's sequence: `CLIPS`, then `foreground-2`, `alpha-2`, ...

    As in `prompt_layers`, further foregrounds are appended; `ALL_CLIPS` has the order of the scene.
    """
    return (*CLIPS, *clip_names(scene_layers(foregrounds)[1:foregrounds]))


__all__ = [
    "ALL_CLIPS",
    "ALPHA",
    "ALPHA_OF",
    "BACKGROUND",
    "BLENDED",
    "CHANNELS",
    "CLIPS",
    "COMPONENTS",
    "DEFAULT_FPS",
    "FOREGROUND",
    "LAYERS",
    "LAYER_OF_CLIP",
    "MOST_FOREGROUNDS",
    "SCENE",
    "TASKS",
    "Layer",
    "clip_names",
    "foreground_count",
    "model_clips",
    "prompt_layers",
    "scene_layers",
    "task_clips",
]
