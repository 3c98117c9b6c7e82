"""Objects with soft alpha, drawn by formula: see-through, glowing, thin or in many parts.

Each painter takes the side S of the sprite and returns straight colour (S, S, 3) and alpha (S, S, 1), both in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Painting = tuple[np.ndarray, np.ndarray]

_WHITE = np.ones(3, np.float32)


def _plane(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y, distance from the centre and angle of each pixel; the sprite spans [-1, 1]."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1
    x, y = np.meshgrid(axis, axis)
    return x, y, np.hypot(x, y), np.arctan2(y, x)


def _spot(x: np.ndarray, y: np.ndarray, at: tuple[float, float], radius: float) -> np.ndarray:
    return np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / radius**2)


def _spread(i: int, count: int, inner: float, outer: float) -> tuple[float, float]:
    """Return position i of `count` that fill a ring evenly, by steps of the golden angle."""
    radius, angle = inner + (outer - inner) * np.sqrt(i / count), i * 2.39996
    return float(radius * np.cos(angle)), float(radius * np.sin(angle))


def _inside(distance: np.ndarray, radius: float, side: int) -> np.ndarray:
    """Return 1 within the radius, with an edge of one pixel."""
    return np.clip((radius - distance) * side / 2 + 0.5, 0, 1)


def _mixed(colour: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    return colour + (other - colour) * share[..., None]


def bubble(side: int) -> Painting:
    """Draw a soap bubble: a shimmering rim around a nearly clear disc, and two highlights."""
    x, y, r, turn = _plane(side)
    rim = np.exp(-(((r - 0.88) / 0.09) ** 2))
    light = np.maximum(_spot(x, y, (-0.4, -0.45), 0.2), 0.7 * _spot(x, y, (0.45, 0.5), 0.12))
    hues = np.stack([0.72 + 0.28 * np.cos(turn * 2 + 5 * r + phase) for phase in (0.0, 2.1, 4.2)], axis=-1)
    alpha = _inside(r, 0.96, side) * np.clip(0.12 + 0.7 * rim + 0.8 * light, 0, 0.95)
    return _mixed(hues, _WHITE, light), alpha[..., None]


def glass_ball(side: int) -> Painting:
    """Draw a ball of bluish glass, denser towards its rim, lit from above."""
    x, y, r, _ = _plane(side)
    light = _spot(x, y, (-0.35, -0.4), 0.22)
    shade = np.clip(0.6 - 0.35 * y + 0.2 * r, 0, 1)
    colour = shade[..., None] * np.array([0.55, 0.8, 0.95], np.float32)
    alpha = _inside(r, 0.96, side) * np.clip(0.32 + 0.45 * r**4 + 0.7 * light, 0, 1)
    return _mixed(colour, _WHITE, light), alpha[..., None]


def smoke(side: int) -> Painting:
    """Draw a puff of smoke: overlapping clouds that fade out."""
    x, y, r, _ = _plane(side)
    density = np.zeros_like(r)
    for i in range(24):
        at, radius = _spread(i, 24, 0.0, 0.72), 0.16 + 0.1 * np.cos(5 * i)
        density += (0.5 + 0.3 * np.cos(11 * i)) * _spot(x, y, at, radius)
    density *= np.clip(2.5 - 2.5 * r, 0, 1)
    grey = np.clip(0.55 + 0.3 * density - 0.15 * y, 0, 0.95)
    return np.repeat(grey[..., None], 3, axis=-1), (1 - np.exp(-1.1 * density))[..., None]


def glow(side: int) -> Painting:
    """Draw a glowing light: a white core in a warm halo."""
    _, _, r, _ = _plane(side)
    core = np.exp(-((r / 0.28) ** 2))
    alpha = np.clip(0.75 * np.exp(-((r / 0.5) ** 2)) + core, 0, 1) * np.clip(4 - 4 * r, 0, 1)
    return _mixed(np.array([1.0, 0.78, 0.3], np.float32), _WHITE, core), alpha[..., None]


def sparks(side: int) -> Painting:
    """Draw a burst of sparks: many small bright parts, fewer and fainter towards the outside."""
    x, y, r, _ = _plane(side)
    light = np.zeros_like(r)
    for i in range(34):
        at = _spread(i, 34, 0.1, 0.92)
        light = np.maximum(light, (1.1 - 0.6 * np.hypot(*at)) * _spot(x, y, at, 0.07))
    colour = _mixed(np.array([1.0, 0.62, 0.12], np.float32), np.array([1.0, 1.0, 0.75], np.float32), light)
    return colour, np.clip(light, 0, 1)[..., None]


def dandelion(side: int) -> Painting:
    """Draw a dandelion clock: thin hairs around a small heart, on a stalk."""
    x, y, _, _ = _plane(side)
    y = y + 0.25
    r, turn = np.hypot(x, y), np.arctan2(y, x)
    hairs = np.cos(turn * 10) ** 6 * _inside(r, 0.68, side)
    tips = np.exp(-(((r - 0.62) / 0.09) ** 2)) * (0.35 + 0.45 * np.cos(turn * 30) ** 2)
    heart = np.exp(-((r / 0.14) ** 2))
    stalk = np.clip(1 - np.abs(x) * side / 5, 0, 1) * (y > 0) * _inside(y, 1.22, side)
    colour = _mixed(np.array([0.95, 0.95, 0.92], np.float32), np.array([0.45, 0.38, 0.2], np.float32), heart)
    colour = _mixed(colour, np.array([0.45, 0.6, 0.25], np.float32), stalk * (r > 0.66))
    return colour, np.clip(np.maximum.reduce([0.7 * hairs, 0.8 * tips, heart, stalk]), 0, 1)[..., None]


PAINTERS: dict[str, Callable[[int], Painting]] = {
    "soap bubble": bubble,
    "glass ball": glass_ball,
    "puff of smoke": smoke,
    "glowing light": glow,
    "burst of sparks": sparks,
    "dandelion": dandelion,
}
"""Painters by object name."""
