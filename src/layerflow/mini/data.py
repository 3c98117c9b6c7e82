"""Drawn scenes as a source of training clips."""

from __future__ import annotations

import numpy as np
import torch

from ..core.schema import BACKGROUND, BLENDED, CLIPS
from ..datasets.encoding import held
from ..training.recipe import DataRecipe, StageRecipe
from ..training.sources import Query, Sample, Size, Source, shown_frames
from .world import SceneSource
from .world.crude import crude_layers, pasted_layers


class DrawnScenes(Source):
    """Drawn scenes, clean or as footage would give them."""

    def __init__(self, data: DataRecipe, recipe: StageRecipe) -> None:
        self.recipe, self.seed, self.frames = data, recipe.seed, recipe.clip_frames
        self.extra_objects = recipe.mini.extra_objects
        self.core, self.all = (
            SceneSource("train", recipe.size, recipe.clip_frames, objects, recipe.mini.variations)
            for objects in ("core", "all")
        )

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
