"""Where training clips come from: drawn scenes without end, and shards of footage. Each clip has a number.

Shapes: F frames, C channels, H, W pixels; clips in [0, 1], straight colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..core.config import ConfigError
from ..core.schema import CLIPS
from ..datasets.encoding import held
from ..datasets.reader import HELD, LATENTS, TEXT, Row, ShardSet
from ..mini.world import SceneSource
from ..mini.world.crude import crude_layers, pasted_layers
from .recipe import DataRecipe, Recipe

Size = tuple[int, int]
"""Height and width in pixels."""
SHUFFLED_SHARDS = 8
"""Samples are shuffled among so many shards at a time, so that a reader stays with a few files."""


@dataclass
class Wanted:
    """What a sample asks of a source."""

    size: Size
    frames: int
    """Frames that are shown."""
    number: int
    """Which clip: counts up for each source, size and number of frames."""
    scattered: bool
    """The frames shown may be any of the clip's, in order; else they follow each other."""


@dataclass
class Found:
    """A clip as a source gives it."""

    clips: dict[str, Tensor]
    """(F, C, H, W) by name, all of `CLIPS`."""
    positions: Tensor
    """(F,) which frames of the clip these are."""
    captions: Mapping[str, str]
    """A text for each layer that has one."""
    latents: Mapping[str, Tensor] = field(default_factory=dict)
    """Instead of `clips`, where they are precomputed: (f, C, h, w) by clip, and `NEAR` and `HIDDEN` (N, 1, h, w)."""
    text: Mapping[str, Tensor] = field(default_factory=dict)
    """Precomputed states (S, D) of the prompt of each layer, in turn."""


class Scenes:
    """Drawn scenes, clean or as footage would give them."""

    has: frozenset[str] = frozenset()
    nothing: Mapping[str, Tensor] = {}

    def __init__(self, data: DataRecipe, recipe: Recipe) -> None:
        self.recipe, self.seed, self.frames = data, recipe.seed, recipe.clip_frames
        self.extra_objects = recipe.extra_objects
        self.core, self.all = (
            SceneSource("train", recipe.size, recipe.clip_frames, objects, recipe.variations)
            for objects in ("core", "all")
        )

    def sizes(self, frames: int) -> dict[Size, int]:
        """Sizes of clips that can show so many frames, and how many there are of each; 0: without end."""
        return {(self.core.size, self.core.size): 0}

    def frozen(self, wanted: Wanted) -> bool:
        """Whether the clip is a still, held."""
        return self.recipe.frozen

    def clip(self, wanted: Wanted, rng: np.random.Generator) -> Found:
        """The clip; the same for the same request and state of `rng`."""
        source = self.all if rng.random() < self.extra_objects else self.core
        positions = shown_frames(self.frames, wanted, rng)
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
                captions = {name: (other if name == "background" else scene).captions[name] for name in captions}
                captions.pop("blended")
        return Found(held(clips, wanted.frames), positions, captions)


class Shards:
    """Clips from shards, each once in every round; rounds are shuffled anew."""

    def __init__(self, data: DataRecipe, recipe: Recipe, number: int) -> None:
        self.recipe, self.clip_frames = data, recipe.clip_frames
        self.seed = [recipe.seed, 7, number]
        self.set = ShardSet(data.folder)
        self.rows = [row for row in self.set.rows if not data.kinds or row.kind in data.kinds]
        missing = set(data.kinds) - {row.kind for row in self.rows}
        if missing or not self.rows:
            raise ConfigError(
                f"data: {data.folder} holds no clips" + (f" of kind {', '.join(sorted(missing))}" if missing else "")
            )
        self.precomputed = self.set.precomputed if data.precomputed else None
        self.has = frozenset(self.precomputed["has"]) if self.precomputed else frozenset()
        """What is precomputed: text, latents, or nothing."""
        self.nothing: Mapping[str, Tensor] = self.set.unconditional() if self.precomputed else {}
        """Precomputed states (S, D) of no prompt, by layer."""
        if "latents" in self.has:
            self._check_latents(recipe)
        self._sizes = sorted({(row.height, row.width) for row in self.rows})
        self._shard = np.array([row.shard for row in self.rows])
        self._pools: dict[tuple[Size, int], np.ndarray] = {}
        self._orders: dict[tuple[Size, int], tuple[int, np.ndarray]] = {}

    def _check_latents(self, recipe: Recipe) -> None:
        """Raise ConfigError where the recipe asks for what latents that were made before cannot give."""
        assert self.precomputed is not None
        frames, folder = self.precomputed["frames"], self.recipe.folder
        other = sorted({count for phase in recipe.phases for count in phase.frames} - {frames})
        if other:
            raise ConfigError(
                f"data: {folder} was precomputed for {frames} frames and phases ask for {other[0]}; ask for {frames}, "
                f"precompute with `frames` {other[0]}, or set precomputed: false"
            )
        if self.recipe.frozen and not self.precomputed["frozen"]:
            raise ConfigError(
                f"data: frozen wants latents of held frames, and {folder} was precomputed without; precompute with "
                "`frozen`, or set precomputed: false"
            )

    def _is_frozen(self, frames: int) -> bool:
        return self.recipe.frozen or frames == 1

    def sizes(self, frames: int) -> dict[Size, int]:
        """Sizes of clips that can show so many frames, and how many there are of each."""
        return {size: len(pool) for size in self._sizes if len(pool := self.pool(size, frames))}

    def pool(self, size: Size, frames: int) -> np.ndarray:
        """Rows of a size that can show so many frames."""
        if (size, frames) not in self._pools:
            fit = [
                place
                for place, row in enumerate(self.rows)
                if (row.height, row.width) == size and self._can_show(row, frames)
            ]
            self._pools[size, frames] = np.array(fit, dtype=np.int64)
        return self._pools[size, frames]

    def _can_show(self, row: Row, frames: int) -> bool:
        if "latents" in self.has and not row.latents and not self.recipe.frozen:
            return False  # too short
        return row.frames >= frames or self._is_frozen(row.frames)

    def order(self, size: Size, frames: int, turn: int) -> np.ndarray:
        """The pool in the order of a round: shards shuffled, then samples among neighbouring shards."""
        known = self._orders.get((size, frames))
        if known is None or known[0] != turn:
            pool = self.pool(size, frames)
            rng = np.random.default_rng([*self.seed, *size, frames, turn])
            place = rng.permutation(len(self.set.paths))[self._shard[pool]]
            known = turn, pool[np.lexsort((rng.random(len(pool)), place // SHUFFLED_SHARDS))]
            self._orders[size, frames] = known
        return known[1]

    def row(self, wanted: Wanted) -> int:
        """Which of the rows a request is for."""
        turn, place = divmod(wanted.number, len(self.pool(wanted.size, wanted.frames)))
        return int(self.order(wanted.size, wanted.frames, turn)[place])

    def frozen(self, wanted: Wanted) -> bool:
        return self._is_frozen(self.rows[self.row(wanted)].frames)

    def clip(self, wanted: Wanted, rng: np.random.Generator) -> Found:
        row = self.rows[self.row(wanted)]
        text = self.set.tensors(row, TEXT) if "text" in self.has else {}
        if "latents" in self.has:
            kind = HELD if self.recipe.frozen and row.frames > 1 else LATENTS
            positions = torch.arange(wanted.frames)
            return Found({}, positions, self.set.captions(row), self.set.tensors(row, kind), text)
        sample = self.set.read(row)
        clips = sample.video.clips()
        if self._is_frozen(row.frames):
            positions = shown_frames(self.clip_frames, wanted, rng)
            drawn = [int(rng.integers(row.frames))]
        else:
            length = min(row.frames, self.clip_frames)
            start = int(rng.integers(row.frames - length + 1))
            positions = shown_frames(length, wanted, rng)
            drawn = (start + positions).tolist()
        clips = held({name: clips[name][drawn] for name in CLIPS}, wanted.frames)
        return Found(clips, positions, sample.captions, text=text)


def shown_frames(length: int, wanted: Wanted, rng: np.random.Generator) -> Tensor:
    """Which of a clip's frames are shown, (F,) in order: any, or the first ones of it."""
    if not wanted.scattered:
        return torch.arange(wanted.frames)
    # A clip that is held has no end.
    return torch.from_numpy(np.sort(rng.choice(max(length, wanted.frames), wanted.frames, replace=False)))


def open_sources(recipe: Recipe) -> list[Scenes | Shards]:
    """The sources that a recipe names.

    Raises:
        ConfigError: shards hold nothing of what is asked for.
        MediaError: a folder holds no shards.
    """
    return [
        Scenes(data, recipe) if data.kind == "scenes" else Shards(data, recipe, number)
        for number, data in enumerate(recipe.data)
    ]


__all__ = ["Found", "Scenes", "Shards", "Wanted", "open_sources"]
