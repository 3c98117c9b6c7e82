"""Cut-outs: pictures with alpha, one for each phase of a thing's own motion, and how they are drawn into a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .opencv import opencv

SIDE = 128
"""Side of the square that holds all phases of a cut-out, in pixels."""

_COARSE = 9  # side of the grid on which a warp is computed


@dataclass(frozen=True)
class Warp:
    """A smooth displacement of a cut-out's parts that varies in time: sines of its two directions."""

    amplitude: np.ndarray
    """(N, 2) displacement relative to the cut-out's side."""
    waves: np.ndarray
    """(N, 4) cycles across, cycles down, cycles over the clip, and initial angle in radians."""

    def at(self, u: np.ndarray, v: np.ndarray, time: float) -> np.ndarray:
        """Return the displacement (..., 2) at positions u, v (...) in [0, 1] and a time in [0, 1]."""
        across, down, cycles, start = self.waves.T
        angle = 2 * np.pi * (u[..., None] * across + v[..., None] * down + cycles * time) + start
        return np.sin(angle) @ self.amplitude


def draw_warp(rng: np.random.Generator) -> Warp:
    """Draw a random warp."""
    count = int(rng.integers(2, 5))
    strength = float(np.exp(rng.uniform(np.log(0.012), np.log(0.06))))
    waves = np.stack(
        [
            *rng.uniform(-1.1, 1.1, (2, count)),
            rng.uniform(0.3, 1.6, count) * rng.choice([-1, 1], count),
            rng.uniform(0, 2 * np.pi, count),
        ],
        axis=1,
    )
    return Warp((rng.normal(size=(count, 2)) * strength / np.sqrt(count)).astype(np.float32), waves.astype(np.float32))


def phase_order(phases: int, frames: int, rng: np.random.Generator) -> list[int]:
    """Return the phase of each frame: a random start, and 0.7 to 1.5 phases further with each frame."""
    start, speed = rng.uniform(0, phases), rng.uniform(0.7, 1.5)
    return [int(start + speed * frame) % phases for frame in range(frames)]


def fit_cutout(picture: np.ndarray) -> np.ndarray:
    """Fit a picture into the square of a cut-out.

    Args:
        picture: uint8 (H, W, 4), straight RGBA of any size.

    Returns:
        uint8 (SIDE, SIDE, 4), premultiplied; the longer side fills the square and the other is centred.
    """
    cv2: Any = opencv()
    straight = picture.astype(np.float32)
    straight[..., :3] *= straight[..., 3:] / 255
    height, width = picture.shape[:2]
    factor = SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(straight, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    square = np.zeros((SIDE, SIDE, 4), np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = np.rint(small).clip(0, 255)
    return square


def extent(alphas: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the largest height and width of what is visible in alphas (S, S) of [0, 255], relative to the side."""
    sizes = [(0.05, 0.05)]
    for alpha in alphas:
        rows, columns = np.flatnonzero((alpha > 25).any(axis=1)), np.flatnonzero((alpha > 25).any(axis=0))
        if len(rows):
            sizes.append(((rows[-1] - rows[0] + 1) / len(alpha), (columns[-1] - columns[0] + 1) / len(alpha)))
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def paint(
    picture: np.ndarray,
    place: tuple[float, float, float, float],
    size: int,
    *,
    mirrored: bool = False,
    warp: Warp | None = None,
    time: float = 0.0,
) -> np.ndarray:
    """Draw a cut-out into an empty frame.

    Args:
        picture: (S, S, C) float32, premultiplied.
        place: x and y of the centre and side of the cut-out's square, relative to the frame, and the angle in radians.
        size: height and width of the frame in pixels.
        mirrored: left and right are swapped.
        warp: displacement of its parts.
        time: time of the warp in [0, 1].

    Returns:
        float32 (size, size, C), premultiplied.
    """
    cv2: Any = opencv()
    x, y, side, angle = place
    frame = np.zeros((size, size, picture.shape[2]), np.float32)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    reach = side * (0.5 * (abs(cos) + abs(sin)) + (0.15 if warp else 0.02)) + 1 / size
    left, right = (int(np.clip(np.floor((x + sign * reach) * size), 0, size)) for sign in (-1, 1))
    top, bottom = (int(np.clip(np.floor((y + sign * reach) * size), 0, size)) for sign in (-1, 1))
    if right <= left or bottom <= top:
        return frame
    pixels = int(np.clip(np.ceil(side * size), 1, picture.shape[0]))
    if pixels < picture.shape[0]:  # averaging first avoids aliasing
        picture = cv2.resize(picture, (pixels, pixels), interpolation=cv2.INTER_AREA)
    columns = ((np.arange(left, right, dtype=np.float32) + 0.5) / size - x) / side
    rows = ((np.arange(top, bottom, dtype=np.float32) + 0.5) / size - y) / side
    u = columns * cos + (rows * sin)[:, None]
    v = rows[:, None] * cos - columns * sin
    u = -u + 0.5 if mirrored else u + 0.5
    v = v + 0.5
    if warp is not None:
        steps_y, steps_x = (np.linspace(0, n - 1, _COARSE).round().astype(int) for n in u.shape)
        coarse = warp.at(u[np.ix_(steps_y, steps_x)], v[np.ix_(steps_y, steps_x)], time)
        shifts = cv2.resize(coarse.astype(np.float32), u.shape[::-1], interpolation=cv2.INTER_CUBIC)
        u, v = u + shifts[..., 0], v + shifts[..., 1]
    map_x, map_y = (np.ascontiguousarray(p * pixels - 0.5, dtype=np.float32) for p in (u, v))
    drawn = cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    frame[top:bottom, left:right] = drawn.reshape(bottom - top, right - left, -1)
    return frame
