"""Art of foregrounds: pictures with alpha for the frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .looks import relight, relight_cutouts, straight_colour
from .shapes import Shape

_LEAST_FILLED = 0.015  # least share of its square that art fills


class Art(Protocol):
    """Pictures of a thing by frame."""

    def alpha(self, frame: int, time: float) -> np.ndarray:
        """Return the coverage (S, S) in [0, 255]."""

    def lit(
        self, frames: Sequence[int], times: np.ndarray, table: np.ndarray, known: dict[int, np.ndarray]
    ) -> list[np.ndarray]:
        """Return the pictures, premultiplied float32 (S, S, 4), after a table of colours (1, 256, 3).

        known: pictures by phase, to which further ones are added; for things that share phases and table.
        """

    def sample(self) -> np.ndarray:
        """Return some of the pictures, premultiplied bytes (P, S, S, 4)."""


@dataclass(frozen=True)
class SpriteArt:
    """Phases of a sprite."""

    phases: np.ndarray
    """uint8 (P, S, S, 4), premultiplied."""
    order: list[int]
    """Phase of each frame of the clip."""
    textured: bool = False
    """The colours are mixed with those of a photograph."""

    def alpha(self, frame: int, time: float) -> np.ndarray:
        """Return the coverage (S, S) in [0, 255]."""
        return self.phases[self.order[frame], ..., 3]

    def lit(
        self, frames: Sequence[int], times: np.ndarray, table: np.ndarray, known: dict[int, np.ndarray]
    ) -> list[np.ndarray]:
        """Return the pictures, premultiplied float32 (S, S, 4), after a table of colours (1, 256, 3).

        known: pictures by phase, to which further ones are added; for things that share phases and table.
        """
        new = sorted({self.order[frame] for frame in frames} - known.keys())
        known |= zip(new, relight_cutouts(self.phases[new], table), strict=True) if new else {}
        return [known[self.order[frame]] for frame in frames]

    def sample(self) -> np.ndarray:
        """Return some of the pictures, premultiplied bytes (P, S, S, 4)."""
        return self.phases[self.order[len(self.order) // 2]][None]


@dataclass(frozen=True)
class ShapeArt:
    """A random shape filled with a patch of a picture."""

    shape: Shape
    patch: np.ndarray
    """uint8 (S, S, 3)."""

    def alpha(self, frame: int, time: float) -> np.ndarray:
        """Return the coverage (S, S) in [0, 255]."""
        return self.shape.alpha(time) * 255

    def lit(
        self, frames: Sequence[int], times: np.ndarray, table: np.ndarray, known: dict[int, np.ndarray]
    ) -> list[np.ndarray]:
        """Return the pictures, premultiplied float32 (S, S, 4), after a table of colours (1, 256, 3).

        known: pictures by phase, to which further ones are added; for things that share phases and table.
        """
        patch = relight(self.patch, table)
        alphas = [self.shape.alpha(float(time))[..., None] for time in times]
        return [np.concatenate([patch * alpha, alpha], axis=-1) for alpha in alphas]

    def sample(self) -> np.ndarray:
        """Return some of the pictures, premultiplied bytes (P, S, S, 4)."""
        return np.concatenate([self.patch, np.full((*self.patch.shape[:2], 1), 255, np.uint8)], axis=-1)[None]


def textured(art: SpriteArt, patch: np.ndarray, share: float) -> SpriteArt:
    """Return sprites whose colours are mixed with those of a picture, shaded by their own brightness.

    patch: uint8 (S, S, 3), which moves along with the sprite. share: of the patch, in (0, 1].
    """
    used = sorted(set(art.order))
    phases = art.phases[used].astype(np.float32)
    colour, alpha = phases[..., :3], phases[..., 3:]
    shade = 0.5 + 0.7 * straight_colour(phases / 255).mean(axis=-1, keepdims=True)
    colour += share * (np.minimum(patch * shade, 255) * (alpha / 255) - colour)
    return SpriteArt(np.rint(phases).astype(np.uint8), [used.index(phase) for phase in art.order], textured=True)


def is_visible(art: Art, frames: int) -> bool:
    """Return whether art fills enough of its square in the middle of a clip, in which it may form or vanish."""
    times = times_of(frames)
    return all(art.alpha(frame, float(times[frame])).mean() > _LEAST_FILLED * 255 for frame in middle_frames(frames))


def times_of(frames: int) -> np.ndarray:
    """Return the times of all frames of a clip in [0, 1]."""
    return np.linspace(0, 1, frames) if frames > 1 else np.array([0.5])


def middle_frames(frames: int) -> tuple[int, ...]:
    """Return the frame in the middle of a clip, or the two there."""
    return tuple(sorted({(frames - 1) // 2, frames // 2}))
