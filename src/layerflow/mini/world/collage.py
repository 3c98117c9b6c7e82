"""Collages as backgrounds: overlapping shapes of all sizes, each with its own texture.

They follow the "dead leaves" model of image statistics, from which networks learn much of what photographs teach (arXiv
2106.05963).
"""

from __future__ import annotations

import numpy as np

COLLAGE_CAPTIONS = ("a collage of shapes", "many shapes over one another", "a heap of coloured shapes", "a collage")
"""Captions of a collage."""

_CANVAS = 128  # height and width of a collage in pixels
_SHAPES = (15, 80)
_RADIUS = (4.0, 44.0)  # pixels
_POWER = 1.5  # radii fall off as 1 / r ** (1 + _POWER)


def collage(seed: int) -> np.ndarray:
    """Draw a collage, float32 (128, 128, 3) in [0, 1], sRGB."""
    rng = np.random.default_rng([seed, 7])
    y, x = np.mgrid[:_CANVAS, :_CANVAS].astype(np.float32)
    base, spread = rng.uniform(0.2, 0.8) + rng.uniform(0, 0.2) * rng.standard_normal(3), rng.uniform(0.05, 0.3)
    rough = _clouds(rng)
    picture = _painted(base, spread, rough, x, y, rng)
    smallest, largest = (radius**-_POWER for radius in _RADIUS)
    for _ in range(rng.integers(*_SHAPES)):
        radius = rng.uniform(largest, smallest) ** (-1 / _POWER)
        middle, angle = rng.uniform(0, _CANVAS, 2), rng.uniform(0, 2 * np.pi)
        u = np.cos(angle) * (x - middle[0]) + np.sin(angle) * (y - middle[1])
        v = (-np.sin(angle) * (x - middle[0]) + np.cos(angle) * (y - middle[1])) * rng.uniform(1, 2.5)
        inside = radius - _SHAPE_DISTANCES[rng.integers(len(_SHAPE_DISTANCES))](u, v)
        cover = np.clip(inside + 0.5, 0, 1)[..., None]
        if cover.any():
            picture += cover * (_painted(base, spread, rough, x, y, rng) - picture)
    return picture.clip(0, 1).astype(np.float32)


_SHAPE_DISTANCES = (
    np.hypot,
    lambda u, v: np.maximum(np.abs(u), np.abs(v)),
    lambda u, v: np.maximum(np.maximum(-u, 0.5 * u + 0.866 * v), 0.5 * u - 0.866 * v) * 1.4,
)
"""Distances from the middle whose level sets are discs, boxes and triangles."""


def _painted(
    base: np.ndarray, spread: float, rough: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return a colour near the collage's base colour, with light from one side and part of its texture: (H, W, 3)."""
    colour = base + spread * (rng.standard_normal() + rng.uniform(0, 0.8) * rng.standard_normal(3))
    slope = rng.normal(0, 0.0015, 2)
    light = slope[0] * (x - _CANVAS / 2) + slope[1] * (y - _CANVAS / 2)
    shift = tuple(rng.integers(_CANVAS, size=2))
    texture = rng.choice((0.0, 0.04, 0.1)) * np.roll(rough, shift, (0, 1))
    return (colour + (light + texture)[..., None]).astype(np.float32)


def _clouds(rng: np.random.Generator) -> np.ndarray:
    """Return noise (H, W) of deviation 1 whose spectrum falls as a power of frequency, like that of photographs."""
    frequency = np.hypot(np.fft.fftfreq(_CANVAS)[:, None], np.fft.rfftfreq(_CANVAS)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((_CANVAS, _CANVAS))) / frequency ** rng.uniform(0.5, 1.7)
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (_CANVAS, _CANVAS))
    return (noise / noise.std()).astype(np.float32)
