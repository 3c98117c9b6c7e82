"""Drawn scenes and composites as sources of training clips."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..core.compositing import blend_all
from ..core.schema import ALPHA_OF, BACKGROUND, BLENDED, CLIPS, scene_layers
from ..datasets.encoding import held
from ..training.givens import choose_foregrounds
from ..training.recipe import DataRecipe, StageRecipe
from ..training.sources import Query, Sample, Size, Source, shown_frames
from .world import Scene, SceneSource
from .world.art_scenes import ArtSceneSource
from .world.atlas import Atlas
from .world.composites import CompositeSource
from .world.crude import crude_layers, pasted_layers

TRIES = 4
"""Other scenes that are tried until one has an object elsewhere."""
MOST_SHARED = 0.3
"""Most of the smaller object that two objects of a stacked scene may share."""


def open_scenes(
    data: DataRecipe, recipe: StageRecipe, objects: Literal["core", "all"] = "all", size: int | None = None
) -> SceneSource:
    """Return scenes of a source of data: those of an atlas, whatever the objects, where it names a folder.

    Args:
        data: the source, of the kind `scenes`.
        recipe: stage that it belongs to.
        objects: as for `SceneSource`.
        size: height and width of the frames; those of the recipe if None, or if they are smaller.
    """
    side = recipe.size if size is None else min(size, recipe.size)
    if data.folder:
        atlas = Atlas.open(Path(data.folder))
        return ArtSceneSource(atlas, "train", side, recipe.clip_frames, recipe.mini.variations)
    return SceneSource("train", side, recipe.clip_frames, objects, recipe.mini.variations)


class DrawnScenes(Source):
    """Drawn scenes, clean or as footage would give them; with the art of an atlas where the data names its folder."""

    def __init__(self, data: DataRecipe, recipe: StageRecipe) -> None:
        self.recipe, self.seed, self.frames = data, recipe.seed, recipe.clip_frames
        self.extra_objects, self.stacks = recipe.mini.extra_objects, recipe.mini.stacks
        self.core, self.all = (open_scenes(data, recipe, objects) for objects in ("core", "all"))

    def sizes(self, frames: int) -> dict[Size, int]:
        return {(self.core.size, self.core.size): 0}

    def frozen(self, query: Query) -> bool:
        return self.recipe.frozen

    def read(self, query: Query, rng: np.random.Generator) -> Sample:
        source = self.all if rng.random() < self.extra_objects else self.core
        positions = shown_frames(self.frames, query, rng)
        drawn = [int(rng.integers(self.frames))] if self.recipe.frozen else positions.tolist()
        scene = source.scene(int(rng.integers(2**62)), self.seed, frame_indices=drawn)
        clips = {name: getattr(scene, name) for name in CLIPS}
        captions = dict(scene.captions)
        if self.stacks and self.recipe.form == "clean" and rng.random() < self.stacks:
            clips, captions = self._stacked(scene, source, drawn, rng)
        if self.recipe.form != "clean":
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            if self.recipe.form == "crude":
                clips = crude_layers(clips, generator)
            else:
                other = self.core.scene(int(rng.integers(2**62)), self.seed, frame_indices=drawn)
                clips = pasted_layers(clips, {name: getattr(other, name) for name in CLIPS}, generator)
                captions = {name: (other if name == BACKGROUND else scene).captions[name] for name in captions}
                captions.pop(BLENDED)
        return Sample(held(clips, query.frames), positions, captions)

    def _stacked(
        self, scene: Scene, source: SceneSource, drawn: list[int], rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the clips and captions of a scene with the foreground of another one before or behind its own."""
        for _ in range(TRIES):
            other = source.scene(int(rng.integers(2**62)), self.seed, frame_indices=drawn)
            shared = torch.minimum(scene.alpha, other.alpha).sum() / torch.minimum(scene.alpha.sum(), other.alpha.sum())
            if shared < MOST_SHARED:
                break
        layers = [layer.name for layer in scene_layers(2) if layer.transparent]
        order = (scene, other) if rng.random() < 0.5 else (other, scene)
        clips, captions = {BACKGROUND: scene.background}, {BACKGROUND: scene.captions[BACKGROUND]}
        for layer, one in zip(layers, order, strict=True):
            clips |= {layer: one.foreground, ALPHA_OF[layer]: one.alpha}
            captions[layer] = one.captions[layers[0]]
        clips[BLENDED] = blend_all([(one.foreground, one.alpha) for one in order], scene.background)
        return clips, captions


class CompositeScenes(Source):
    """Composites of an atlas, of one or two foregrounds."""

    def __init__(self, data: DataRecipe, recipe: StageRecipe) -> None:
        self.recipe, self.seed, self.frames = data, recipe.seed, recipe.clip_frames
        atlas = Atlas.open(Path(data.folder))
        self.source = CompositeSource(atlas, "train", recipe.size, recipe.clip_frames, recipe.mini.composites)

    def sizes(self, frames: int) -> dict[Size, int]:
        return {(self.source.size, self.source.size): 0}

    def frozen(self, query: Query) -> bool:
        return self.recipe.frozen

    def read(self, query: Query, rng: np.random.Generator) -> Sample:
        positions = shown_frames(self.frames, query, rng)
        drawn = [int(rng.integers(self.frames))] if self.recipe.frozen else positions.tolist()
        scene = self.source.scene(int(rng.integers(2**62)), self.seed, frame_indices=drawn)
        clips = {BACKGROUND: scene.background, BLENDED: scene.blended}
        foregrounds = [layer.name for layer in scene_layers(len(scene.layers)) if layer.transparent]
        for name, (colour, alpha) in zip(foregrounds, scene.layers, strict=True):
            clips |= {name: colour, ALPHA_OF[name]: alpha}
        captions = dict(scene.captions)
        if len(foregrounds) > 1 and rng.random() < self.source.settings.joined:
            clips, captions = choose_foregrounds(clips, captions, CLIPS, rng)
        return Sample(held(clips, query.frames), positions, captions)


def open_drawn(data: DataRecipe, recipe: StageRecipe) -> Source:
    """Return a source of drawn scenes or composites."""
    return CompositeScenes(data, recipe) if data.kind == "composites" else DrawnScenes(data, recipe)
