"""Smooth paths of objects and cameras over a clip. Lengths are relative to the frame's side, y points down.

Times run from 0 at the first frame of the clip to 1 at the last; positions refer to time 0.5, the middle of the clip.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

EASES = ("linear", "smooth", "late", "early", "there and back")
"""Ways of progress along a path."""
Wave = tuple[float, float, float]
"""Amplitude, cycles over the clip, and initial angle in radians of a sine."""

_EASE_SHARES = (0.5, 0.2, 0.1, 0.1, 0.1)
_KINDS = {"still": 0.1, "drift": 0.2, "move": 0.5, "cross": 0.12, "near": 0.08}
"""Shares of the kinds of paths of objects."""


@dataclass(frozen=True)
class Placement:
    """Places at some times, arrays (T,)."""

    x: np.ndarray
    """Horizontal position of the centre."""
    y: np.ndarray
    """Vertical position of the centre."""
    scale: np.ndarray
    """Size relative to that of the middle of the clip."""
    angle: np.ndarray
    """Clockwise turn in radians."""


@dataclass(frozen=True)
class Path:
    """A smooth path: travel from one place to another, with waves, growth and rotation."""

    x: float = 0.5
    """Horizontal position at the middle of the clip."""
    y: float = 0.5
    """Vertical position at the middle of the clip."""
    dx: float = 0.0
    """Horizontal travel over the clip."""
    dy: float = 0.0
    """Vertical travel over the clip."""
    ease: str = "linear"
    """One of `EASES`."""
    growth: float = 0.0
    """Logarithm of the size at the end relative to that at the start."""
    angle: float = 0.0
    """Turn at the middle of the clip in radians, clockwise."""
    turn: float = 0.0
    """Change of the turn over the clip in radians."""
    x_waves: tuple[Wave, ...] = ()
    """Waves of the horizontal position."""
    y_waves: tuple[Wave, ...] = ()
    """Waves of the vertical position."""
    angle_waves: tuple[Wave, ...] = ()
    """Waves of the turn, in radians."""
    kind: str = "still"
    """A key of the kinds of paths, for captions."""

    def at(self, times: np.ndarray) -> Placement:
        """Return the places at `times` (T,)."""
        done = _progress(times, self.ease) - _progress(np.array([0.5]), self.ease)
        return Placement(
            self.x + self.dx * done + _sum(self.x_waves, times),
            self.y + self.dy * done + _sum(self.y_waves, times),
            np.exp(self.growth * done),
            self.angle + self.turn * done + _sum(self.angle_waves, times),
        )

    def through(self, x: float, y: float) -> Path:
        """Return the path with another place in the middle of the clip."""
        return replace(self, x=float(x), y=float(y))

    def reduced(self, factor: float) -> Path:
        """Return the path with its travel and waves of the position times a factor."""
        x_waves, y_waves = (
            tuple((factor * amplitude, cycles, start) for amplitude, cycles, start in waves)
            for waves in (self.x_waves, self.y_waves)
        )
        return replace(self, dx=factor * self.dx, dy=factor * self.dy, x_waves=x_waves, y_waves=y_waves)


def object_path(rng: np.random.Generator, *, allow_still: bool) -> Path:
    """Draw the path of an object: nearly still, drifting, moving, crossing the frame, or coming nearer."""
    kinds = [kind for kind in _KINDS if allow_still or kind != "still"]
    shares = np.array([_KINDS[kind] for kind in kinds])
    kind = str(rng.choice(kinds, p=shares / shares.sum()))
    least, most = {"still": (1e-3, 0.015), "drift": (0.03, 0.15), "move": (0.15, 0.9), "cross": (0.9, 1.7)}.get(
        kind, (0.01, 0.25)
    )
    distance = float(np.exp(rng.uniform(np.log(least), np.log(most))))
    # Most things move rather horizontally.
    direction = rng.uniform(-np.pi, np.pi) if rng.random() < 0.3 else rng.normal(0, 0.3) + np.pi * rng.integers(2)
    growth = rng.normal(0, 0.15) if rng.random() < 0.6 else 0.0
    if kind == "near":
        growth = float(rng.choice([-1, 1]) * rng.uniform(np.log(1.3), np.log(2.5)))
    x_waves: tuple[Wave, ...] = ()
    y_waves: tuple[Wave, ...] = ()
    angle_waves: tuple[Wave, ...] = ()
    if kind == "still":
        growth = growth * 0.1
    else:
        if rng.random() < 0.3:
            y_waves = (_wave(rng, (0.008, 0.06), (0.5, 3)),)
        if rng.random() < 0.15:
            x_waves = (_wave(rng, (0.01, 0.08), (0.5, 1.5)),)
        if rng.random() < 0.3:
            angle_waves = (_wave(rng, (0.02, 0.2), (0.5, 3)),)
    return Path(
        x=float(rng.uniform(0.15, 0.85)),
        y=float(rng.uniform(0.2, 0.85)),
        dx=float(distance * np.cos(direction)),
        dy=float(distance * np.sin(direction)),
        ease=str(rng.choice(EASES, p=_EASE_SHARES)) if kind != "cross" else "linear",
        growth=float(growth),
        angle=float(rng.normal(0, 0.12)),
        turn=float(rng.normal(0, 0.2)) if kind != "still" and rng.random() < 0.5 else 0.0,
        kind=kind,
        x_waves=x_waves,
        y_waves=y_waves,
        angle_waves=angle_waves,
    )


def camera_path(rng: np.random.Generator) -> Path:
    """Draw the path of a moving camera, at least one of pan, zoom, turn and shake, in sides of the view."""
    pans, zooms, turns, shakes = rng.random(4) < (0.75, 0.4, 0.2, 0.4)
    if not (pans or zooms or shakes):
        pans = True
    distance = float(np.exp(rng.uniform(np.log(0.03), np.log(0.9)))) if pans else 0.0
    direction = rng.normal(0, 0.25) + np.pi * rng.integers(2) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi)
    waves: list[tuple[Wave, ...]] = []
    if shakes:
        strength = float(np.exp(rng.uniform(np.log(0.002), np.log(0.02))))
        for factor in (1.0, 1.0, 0.5):
            slow = _wave(rng, (0.5 * factor * strength, factor * strength), (0.7, 2.5))
            fast = _wave(rng, (0.2 * factor * strength, 0.6 * factor * strength), (2.5, 7))
            waves.append((slow, fast))
    x_waves, y_waves, angle_waves = waves or ((), (), ())
    return Path(
        x=0.0,
        y=0.0,
        dx=float(distance * np.cos(direction)),
        dy=float(0.6 * distance * np.sin(direction)),
        ease=str(rng.choice(EASES, p=_EASE_SHARES)),
        growth=float(rng.choice([-1, 1]) * rng.uniform(np.log(1.05), np.log(1.5))) if zooms else 0.0,
        turn=float(rng.normal(0, 0.08)) if turns else 0.0,
        kind="move",
        x_waves=x_waves,
        y_waves=y_waves,
        angle_waves=angle_waves,
    )


def _wave(rng: np.random.Generator, amplitude: tuple[float, float], cycles: tuple[float, float]) -> Wave:
    return float(rng.uniform(*amplitude)), float(rng.uniform(*cycles)), float(rng.uniform(0, 2 * np.pi))


def _sum(waves: tuple[Wave, ...], times: np.ndarray) -> np.ndarray:
    """Return the sum of waves, 0 in the middle of the clip."""
    total = np.zeros_like(times)
    for amplitude, cycles, start in waves:
        angle = 2 * np.pi * cycles
        total = total + amplitude * (np.sin(angle * times + start) - np.sin(angle / 2 + start))
    return total


def _progress(times: np.ndarray, ease: str) -> np.ndarray:
    """Return the share of a path that is done; slightly beyond [0, 1] where the times of sub-frames are."""
    if ease == "smooth":
        inside = times.clip(0, 1)
        return inside**2 * (3 - 2 * inside)
    if ease == "late":
        return ((times - 0.35) / 0.65).clip(0, None) ** 1.5
    if ease == "early":
        return 1 - ((0.65 - times) / 0.65).clip(0, None) ** 1.5
    if ease == "there and back":
        return 0.5 - 0.5 * np.cos(2 * np.pi * times)
    return times
