"""How an object moves through a clip: few, clear paths with little chance in them.

A small model can only learn what its prompt tells it, so everything that a caption does not say stands
nearly still: the place is the centre, the size is the same, only a small jitter is left.
All lengths are in units of 1/64 of the frame's side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

UNITS = 64.0
"""A frame is this many units wide and high, whatever its pixels."""

BASE_WIDTH = 30.0
"""Side of the object's square at scale 1, in units."""

OFFSET = 13.0
"""How far a named place is from the centre, in units."""

PLACES: dict[str, tuple[float, float]] = {
    "centre": (0.0, 0.0),
    "left": (-OFFSET, 0.0),
    "right": (OFFSET, 0.0),
    "top": (0.0, -OFFSET),
    "bottom": (0.0, OFFSET),
}
"""Name to offset (x, y) from the frame's centre in units."""


@dataclass(frozen=True)
class MotionParams:
    """What varies between two scenes with the same motion."""

    place: str = "centre"
    """A name of `PLACES`."""
    dx: float = 0.0
    """Jitter to the right, units; within ±2."""
    dy: float = 0.0
    """Jitter downwards, units; within ±2."""
    scale: float = 1.0
    """Factor on the size; within 6 % of 1."""

    @property
    def centre(self) -> tuple[float, float]:
        x, y = PLACES[self.place]
        return UNITS / 2 + x + self.dx, UNITS / 2 + y + self.dy


Pose = tuple[float, float, float, float]
"""x and y of the centre in units, scale as a factor on `BASE_WIDTH`, angle in degrees clockwise."""


def still(t: float, params: MotionParams) -> Pose:
    return (*params.centre, params.scale, 0.0)


def moving_right(t: float, params: MotionParams) -> Pose:
    x, y = params.centre
    return x - 16 + 32 * t, y, params.scale, 0.0


def moving_left(t: float, params: MotionParams) -> Pose:
    x, y = params.centre
    return x + 16 - 32 * t, y, params.scale, 0.0


def rising(t: float, params: MotionParams) -> Pose:
    x, y = params.centre
    return x, y + 15 - 30 * t, params.scale, 0.0


def falling(t: float, params: MotionParams) -> Pose:
    x, y = params.centre
    return x, y - 15 + 30 * t, params.scale, 0.0


def bouncing(t: float, params: MotionParams) -> Pose:
    x, y = params.centre
    return x, y + 10 - 18 * abs(math.sin(1.5 * math.pi * t)), params.scale, 0.0


def growing(t: float, params: MotionParams) -> Pose:
    return (*params.centre, params.scale * (18 + 22 * t) / BASE_WIDTH, 0.0)


def shrinking(t: float, params: MotionParams) -> Pose:
    return (*params.centre, params.scale * (40 - 22 * t) / BASE_WIDTH, 0.0)


def spinning(t: float, params: MotionParams) -> Pose:
    return (*params.centre, params.scale, 360.0 * t)


def swaying(t: float, params: MotionParams) -> Pose:
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
"""Name to function of (t, params), t in [0, 1] from the first frame to the last."""

_ACROSS = ("centre", "top", "bottom")
_UPRIGHT = ("centre", "left", "right")

MOTION_PLACES: dict[str, tuple[str, ...]] = {
    "still": tuple(PLACES),
    "moving right": _ACROSS,
    "moving left": _ACROSS,
    "rising": _UPRIGHT,
    "falling": _UPRIGHT,
    "bouncing": _UPRIGHT,
    "growing": ("centre",),  # at its largest it would leave the frame anywhere else
    "shrinking": ("centre",),
    "spinning": tuple(PLACES),
    "swaying": tuple(PLACES),
}
"""The places that make sense for each motion."""
