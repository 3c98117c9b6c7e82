"""Random numbers of a scene: a generator for each aspect, so that one aspect does not change another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ASPECTS = (
    "scene", "background", "camera", "clutter", "art", "path", "look", "warp", "whole", "grain", "wording", "company",
)  # fmt: skip


@dataclass(frozen=True)
class Dice:
    """Generators of a scene."""

    key: tuple[int, ...]
    """Non-negative numbers that determine the scene."""

    def rng(self, aspect: str, *more: int) -> np.random.Generator:
        """Return the generator of one of `ASPECTS`, and of non-negative numbers within it."""
        return np.random.default_rng([*self.key, ASPECTS.index(aspect), *more])
