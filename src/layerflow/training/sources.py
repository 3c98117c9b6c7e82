"""Sources of training clips: shards of footage, and those that a family of models draws. Each clip has a number.

Shapes: F frames, C channels, H, W pixels; clips in [0, 1], straight colour.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..core.config import ConfigError
from ..datasets.encoding import held
from ..datasets.reader import HELD, LATENTS, TEXT, Row, ShardSet
from .family import load_family
from .recipe import DataRecipe, StageRecipe

Size = tuple[int, int]
"""Height and width in pixels."""
SHUFFLED_SHARDS = 8
"""Shards among which samples are shuffled at a time, so that a reader stays with a few files."""


@dataclass
class Query:
    """Request for a sample."""

    size: Size
    frames: int
    """Frames that are shown."""
    number: int
    """Number of the clip; it counts up for each source, size and number of frames."""
    scattered: bool
    """The frames shown may be any of the clip's, in order; else they follow each other."""


@dataclass
class Sample:
    """All clips of one training sample."""

    clips: dict[str, Tensor]
    """(F, C, H, W) by name, all of `CLIPS` and perhaps further foregrounds."""
    positions: Tensor
    """(F,) positions of these frames in the clip."""
    captions: Mapping[str, str]
    """Caption of each layer that has one."""
    latents: Mapping[str, Tensor] = field(default_factory=dict)
    """Precomputed latents instead of `clips`: (f, C, h, w) by clip, and `NEAR` and `HIDDEN` (N, 1, h, w)."""
    text: Mapping[str, Tensor] = field(default_factory=dict)
    """Precomputed states (S, D) of the prompt of each layer."""


class Source(ABC):
    """Training clips of one kind."""

    recipe: DataRecipe
    has: frozenset[str] = frozenset()
    """Parts that are precomputed: text, latents, or neither."""
    unconditional: Mapping[str, Tensor] = {}
    """Precomputed states (S, D) of the empty prompt, by layer."""

    @abstractmethod
    def sizes(self, frames: int) -> dict[Size, int]:
        """Return the sizes of clips that can show a number of frames, and how many there are of each; 0: no end."""

    @abstractmethod
    def frozen(self, query: Query) -> bool:
        """Return whether one frame is held for the whole sample."""

    @abstractmethod
    def read(self, query: Query, rng: np.random.Generator) -> Sample:
        """Return the sample of a query; the same for the same state of `rng`."""


class Shards(Source):
    """Clips from shards, each once in every round; rounds are shuffled anew."""

    def __init__(self, data: DataRecipe, recipe: StageRecipe, number: int) -> None:
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
        self.unconditional = self.set.unconditional() if self.precomputed else {}
        if "latents" in self.has:
            self._check_latents(recipe)
        self._sizes = sorted({(row.height, row.width) for row in self.rows})
        self._shard = np.array([row.shard for row in self.rows])
        self._pools: dict[tuple[Size, int], np.ndarray] = {}
        self._orders: dict[tuple[Size, int], tuple[int, np.ndarray]] = {}

    def _check_latents(self, recipe: StageRecipe) -> None:
        """Raise ConfigError where the recipe asks for more than precomputed latents can give."""
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
                f"data: frozen needs latents of held frames, and {folder} was precomputed without; precompute with "
                "`frozen`, or set precomputed: false"
            )

    def _is_frozen(self, frames: int) -> bool:
        return self.recipe.frozen or frames == 1

    def sizes(self, frames: int) -> dict[Size, int]:
        return {size: len(pool) for size in self._sizes if len(pool := self.pool(size, frames))}

    def pool(self, size: Size, frames: int) -> np.ndarray:
        """Return the rows of a size that can show a number of frames."""
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
        """Return the pool in the order of a round: shards shuffled, then samples among neighbouring shards."""
        known = self._orders.get((size, frames))
        if known is None or known[0] != turn:
            pool = self.pool(size, frames)
            rng = np.random.default_rng([*self.seed, *size, frames, turn])
            place = rng.permutation(len(self.set.paths))[self._shard[pool]]
            known = turn, pool[np.lexsort((rng.random(len(pool)), place // SHUFFLED_SHARDS))]
            self._orders[size, frames] = known
        return known[1]

    def row(self, query: Query) -> int:
        """Return the index of the row that a query is for."""
        turn, place = divmod(query.number, len(self.pool(query.size, query.frames)))
        return int(self.order(query.size, query.frames, turn)[place])

    def frozen(self, query: Query) -> bool:
        return self._is_frozen(self.rows[self.row(query)].frames)

    def read(self, query: Query, rng: np.random.Generator) -> Sample:
        row = self.rows[self.row(query)]
        text = self.set.tensors(row, TEXT) if "text" in self.has else {}
        if "latents" in self.has:
            kind = HELD if self.recipe.frozen and row.frames > 1 else LATENTS
            positions = torch.arange(query.frames)
            return Sample({}, positions, self.set.captions(row), self.set.tensors(row, kind), text)
        stored = self.set.read(row)
        clips = stored.video.clips()
        if self._is_frozen(row.frames):
            positions = shown_frames(self.clip_frames, query, rng)
            drawn = [int(rng.integers(row.frames))]
        else:
            length = min(row.frames, self.clip_frames)
            start = int(rng.integers(row.frames - length + 1))
            positions = shown_frames(length, query, rng)
            drawn = (start + positions).tolist()
        clips = held({name: clip[drawn] for name, clip in clips.items()}, query.frames)
        return Sample(clips, positions, stored.captions, text=text)


def shown_frames(length: int, query: Query, rng: np.random.Generator) -> Tensor:
    """Return which of a clip's frames are shown, (F,) in order: any of them, or the first ones."""
    if not query.scattered:
        return torch.arange(query.frames)
    # A clip that is held has no end.
    return torch.from_numpy(np.sort(rng.choice(max(length, query.frames), query.frames, replace=False)))


def open_sources(recipe: StageRecipe) -> list[Source]:
    """Return the sources that a recipe names.

    Raises:
        ConfigError: shards hold nothing of what is asked for.
        MediaError: a folder holds no shards.
    """
    return [
        Shards(data, recipe, number) if data.kind == "shards" else load_family("mini").open_source(data, recipe)
        for number, data in enumerate(recipe.data)
    ]


__all__ = ["Query", "Sample", "Shards", "Source", "open_sources", "shown_frames"]
