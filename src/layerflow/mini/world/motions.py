"""Motions of an object through a clip: few, clear paths with little randomness.

A small model only learns what its prompt determines, so everything that a caption omits is nearly constant: the object
is in the centre, at the same size, with a small jitter.
All lengths are in units of 1/64 of the frame's side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

UNITS = 64.0
"""Width and height of a frame in units, whatever its size in pixels."""

BASE_WIDTH = 30.0
"""Side of the object's square at scale 1, in units."""

OFFSET = 13.0
"""Distance of a named place from the centre in units."""

PLACES: dict[str, tuple[float, float]] = {
    "centre": (0.0, 0.0),
    "left": (-OFFSET, 0.0),
    "right": (OFFSET, 0.0),
    "top": (0.0, -OFFSET),
    "bottom": (0.0, OFFSET),
}
"""Offsets (x, y) from the frame's centre in units, by name."""


@dataclass(frozen=True)
class MotionParams:
    """Parameters that vary between scenes with the same motion."""

    place: str = "centre"
    """A name of `PLACES`."""
    dx: float = 0.0
    """Jitter to the right in units, within ±2."""
    dy: float = 0.0
    """Jitter downwards in units, within ±2."""
    scale: float = 1.0
    """Factor on the size, within 6 % of 1."""

    @property
    def centre(self) -> tuple[float, float]:
        """Centre (x, y) of the path in units."""
        x, y = PLACES[self.place]
        return UNITS / 2 + x + self.dx, UNITS / 2 + y + self.dy


Pose = tuple[float, float, float, float]
"""x and y of the centre in units, scale as a factor on `BASE_WIDTH`, angle in degrees clockwise."""


def still(t: float, params: MotionParams) -> Pose:
    """Stay in place."""
    return (*params.centre, params.scale, 0.0)


def moving_right(t: float, params: MotionParams) -> Pose:
    """Move right by half of the frame."""
    x, y = params.centre
    return x - 16 + 32 * t, y, params.scale, 0.0


def moving_left(t: float, params: MotionParams) -> Pose:
    """Move left by half of the frame."""
    x, y = params.centre
    return x + 16 - 32 * t, y, params.scale, 0.0


def rising(t: float, params: MotionParams) -> Pose:
    """Move up by nearly half of the frame."""
    x, y = params.centre
    return x, y + 15 - 30 * t, params.scale, 0.0


def falling(t: float, params: MotionParams) -> Pose:
    """Move down by nearly half of the frame."""
    x, y = params.centre
    return x, y - 15 + 30 * t, params.scale, 0.0


def bouncing(t: float, params: MotionParams) -> Pose:
    """Bounce up and down one and a half times."""
    x, y = params.centre
    return x, y + 10 - 18 * abs(math.sin(1.5 * math.pi * t)), params.scale, 0.0


def growing(t: float, params: MotionParams) -> Pose:
    """Grow from 18 to 40 units."""
    return (*params.centre, params.scale * (18 + 22 * t) / BASE_WIDTH, 0.0)


def shrinking(t: float, params: MotionParams) -> Pose:
    """Shrink from 40 to 18 units."""
    return (*params.centre, params.scale * (40 - 22 * t) / BASE_WIDTH, 0.0)


def spinning(t: float, params: MotionParams) -> Pose:
    """Rotate once, clockwise."""
    return (*params.centre, params.scale, 360.0 * t)


def swaying(t: float, params: MotionParams) -> Pose:
    """Sway by 18 degrees to either side, once."""
    return (*params.centre, params.scale, 18.0 * math.sin(2 * math.pi * t))


MOTIONS: dict[str, Callable[[float, MotionParams], Pose]] = {
    "still": still,
    "moving right": moving_right,
    "moving left": moving_left,
    "rising": rising,
    "falling": falling,
    "bouncing": bouncing,
    "growing": growing,
    "shrinking": shrinking,
    "spinning": spinning,
    "swaying": swaying,
}
"""Functions of (t, params) by name, with t in [0, 1] from the first frame to the last."""

_ACROSS = ("centre", "top", "bottom")
_UPRIGHT = ("centre", "left", "right")

MOTION_PLACES: dict[str, tuple[str, ...]] = {
    "still": tuple(PLACES),
    "moving right": _ACROSS,
    "moving left": _ACROSS,
    "rising": _UPRIGHT,
    "falling": _UPRIGHT,
    "bouncing": _UPRIGHT,
    "growing": ("centre",),  # elsewhere it would leave the frame at its largest
    "shrinking": ("centre",),
    "spinning": tuple(PLACES),
    "swaying": tuple(PLACES),
}
"""Possible places of each motion."""
