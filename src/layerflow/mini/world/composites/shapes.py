"""Random shapes that deform: only motion and edges tell them from what is behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .cutouts import SIDE
from .opencv import opencv

_SHIFT = 4  # fractional bits of the coordinates of polygons


@dataclass(frozen=True)
class Shape:
    """A shape that deforms: a blob, or a polygon with corners."""

    blob: bool
    """A level set of a sum of Gaussians, with `balls`; else a polygon, with `corners`."""
    parts: np.ndarray
    """Blob: (N, 4) x and y of the centre in [-1, 1], radius, and weight, negative for holes. Polygon: (N, 2) x and y
    of the corners in [-1, 1]."""
    waves: np.ndarray
    """(N, 2, 3) amplitude, cycles over the clip, and initial angle in radians, of the motion of centres or corners."""
    sharpness: float
    """Slope of a blob's edge; 1 / (2 * sharpness) of the half side is soft."""

    def alpha(self, time: float) -> np.ndarray:
        """Return the coverage, float32 (SIDE, SIDE) in [0, 1], at a time in [0, 1]."""
        amplitude, cycles, start = np.moveaxis(self.waves, -1, 0)
        centres = self.parts[:, :2] + amplitude * np.sin(2 * np.pi * cycles * time + start)
        if not self.blob:
            return self._polygon(centres)
        axis = (np.arange(SIDE, dtype=np.float32) + 0.5) * 2 / SIDE - 1
        field = np.zeros((SIDE, SIDE), np.float32)
        for (x, y), radius, weight in zip(centres, self.parts[:, 2], self.parts[:, 3], strict=True):
            across = np.exp(-(((axis - x) / radius) ** 2)).astype(np.float32)
            down = np.exp(-(((axis - y) / radius) ** 2)).astype(np.float32)
            field += np.float32(weight) * down[:, None] * across
        alpha = ((field - 0.45) * self.sharpness + 0.5).clip(0, 1)
        # Nothing is cut off at the border of the square.
        fade = ((1 - np.abs(axis)) * 12).clip(0, 1).astype(np.float32)
        return alpha * fade * fade[:, None]

    def _polygon(self, corners: np.ndarray) -> np.ndarray:
        cv2: Any = opencv()
        pixels = np.rint(((corners + 1) * SIDE / 2 - 0.5) * 2**_SHIFT).astype(np.int32)
        canvas = np.zeros((SIDE, SIDE), np.uint8)
        cv2.fillPoly(canvas, [pixels], 255, cv2.LINE_AA, _SHIFT)
        return canvas.astype(np.float32) / 255


def draw_shape(rng: np.random.Generator) -> Shape:
    """Draw a random shape: a blob, perhaps with holes or of several parts, or a polygon."""
    blob = bool(rng.random() < 0.7)
    if blob:
        solid, holes = int(rng.integers(2, 7)), int(rng.choice([0, 1, 2], p=[0.65, 0.25, 0.1]))
        spread = rng.uniform(0.25, 0.6)
        count = solid + holes
        centres = rng.uniform(-spread, spread, (count, 2))
        radii = np.concatenate([rng.uniform(0.18, 0.5, solid), rng.uniform(0.12, 0.22, holes)])
        weights = np.concatenate([rng.uniform(0.7, 1.1, solid), -rng.uniform(1.5, 3, holes)])
        parts = np.column_stack([centres, radii, weights])
        amplitude = rng.uniform(0.02, 0.18)
    else:
        count = int(rng.integers(3, 10))
        angles = (
            np.sort(rng.uniform(0, 2 * np.pi, count)) if rng.random() < 0.5 else np.arange(count) * 2 * np.pi / count
        )
        lengths = rng.uniform(0.35, 0.85, count) if rng.random() < 0.6 else np.full(count, 0.8)
        flat = rng.uniform(0.25, 1)
        parts = np.column_stack([lengths * np.cos(angles), lengths * np.sin(angles) * flat])
        amplitude = rng.uniform(0, 0.12)
    waves = np.stack(
        [
            np.full((count, 2), amplitude) * rng.uniform(0.3, 1, (count, 2)),
            rng.uniform(0.3, 1.5, (count, 2)) * rng.choice([-1, 1], (count, 2)),
            rng.uniform(0, 2 * np.pi, (count, 2)),
        ],
        axis=-1,
    )
    return Shape(blob, parts, waves, float(np.exp(rng.uniform(np.log(3), np.log(30)))))


def draw_patch(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a random patch out of a picture uint8 (H, W, 3), resized to uint8 (SIDE, SIDE, 3)."""
    cv2: Any = opencv()
    height, width = picture.shape[:2]
    side = round(rng.uniform(0.3, 0.9) * min(height, width))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    patch = np.ascontiguousarray(picture[top : top + side, left : left + side])
    patch = np.rot90(patch, int(rng.integers(4)))
    shrinks = side > SIDE
    return cv2.resize(
        np.ascontiguousarray(patch), (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
