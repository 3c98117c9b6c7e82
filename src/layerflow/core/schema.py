"""Layers of a scene, and by rule from them: clips, channels, tasks. The one place that spells out their names.

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
"""The layers of a `LayeredVideo`."""
LAYERS = tuple(layer.name for layer in SCENE)
"""Layer names, in the order of a model's prompts."""
CLIPS = clip_names(SCENE)
"""Clip names, in the order used throughout."""
CHANNELS = {clip: 1 if clip == layer.alpha else 3 for layer in SCENE for clip in layer.clips}
"""Channels of each clip: 1 for alpha, 3 for colour."""
ALPHA_OF = {layer.name: layer.alpha for layer in SCENE if layer.alpha is not None}
"""Alpha clip of each transparent layer."""
COMPONENTS = tuple(name for name in LAYERS if name != BLENDED)
"""Layers that the blended video is composed of; without given clips each needs a prompt."""
LAYER_OF_CLIP = {clip: layer.name for layer in SCENE for clip in layer.clips}
"""The layer whose prompt describes a clip."""
TASKS = task_clips(SCENE)
"""Given clips of each named task; models that were trained on any subset take any other proper subset too."""

__all__ = [
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
    "SCENE",
    "TASKS",
    "Layer",
    "clip_names",
    "scene_layers",
    "task_clips",
]
