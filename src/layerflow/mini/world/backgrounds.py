"""Opaque backgrounds: a few families, each in a few colours, some with slow motion.

Everything is a smooth function of the pixel's position, antialiased by its distance to the edge, so any frame size
works. Layouts have few random choices, because a small model cannot learn details that captions omit.
All lengths are in units of 1/64 of the frame's side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .motions import UNITS

Colour = tuple[float, float, float]

BACKGROUND_COLOURS: dict[str, Colour] = {
    "red": (0.76, 0.27, 0.25),
    "orange": (0.94, 0.62, 0.30),
    "yellow": (0.95, 0.83, 0.42),
    "green": (0.38, 0.66, 0.38),
    "blue": (0.34, 0.56, 0.86),
    "purple": (0.54, 0.39, 0.72),
    "pink": (0.95, 0.64, 0.76),
    "white": (0.95, 0.95, 0.94),
    "grey": (0.58, 0.61, 0.64),
    "brown": (0.58, 0.40, 0.26),
    "dark": (0.11, 0.13, 0.24),
}
"""sRGB values in [0, 1] by name, a little softer than the foreground's colours."""

PAN = 14.0
"""Distance in units by which a scrolling background moves to the left within a clip."""


class _Canvas:
    """Coordinates of one render, shaped to broadcast to (F, H, W)."""

    def __init__(self, size: int, t: np.ndarray) -> None:
        self.pixel = UNITS / size
        centres = (np.arange(size, dtype=np.float32) + 0.5) * self.pixel
        self.x = centres[None, None, :]  # (1, 1, W)
        self.y = centres[None, :, None]  # (1, H, 1)
        self.t = t.astype(np.float32)[:, None, None]  # (F, 1, 1)
        self.size = size

    def edge(self, distance: np.ndarray) -> np.ndarray:
        """Return the coverage in [0, 1] of a shape by its signed distance in units, positive inside."""
        return np.clip(distance / self.pixel + 0.5, 0, 1)


def _rgb(name: str) -> np.ndarray:
    return np.array(BACKGROUND_COLOURS[name], np.float32)


def _lighter(colour: np.ndarray, amount: float) -> np.ndarray:
    return colour + (1 - colour) * amount


def _mix(below: np.ndarray, above: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Return below + coverage * (above - below), with coverage (F, H, W)."""
    return below + coverage[..., None] * (above - below)


def _sky(canvas: _Canvas, colour: str) -> np.ndarray:
    """Draw a vertical gradient, lighter towards the horizon: (1, H, 1, 3)."""
    top = _rgb(colour)
    amount = (0.12 if colour == "dark" else 0.55) * np.clip(canvas.y / UNITS, 0, 1)  # (1, H, 1)
    return _mix(top, np.array((1, 1, 1), np.float32), amount)


# Circles (x, y, radius) of one cloud around its centre, flat at the bottom.
_CLOUD = ((-6.0, 0.5, 3.4), (-1.8, -2.0, 4.6), (3.6, -0.8, 3.9), (7.6, 1.2, 2.6))
_CLOUD_LAYOUTS = (
    ((16.0, 14.0, 1.0), (49.0, 25.0, 1.1), (20.0, 46.0, 0.9)),
    ((46.0, 13.0, 1.0), (14.0, 27.0, 1.1), (44.0, 48.0, 0.9)),
)


def sky(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a sky with drifting clouds."""
    layout = _CLOUD_LAYOUTS[rng.integers(len(_CLOUD_LAYOUTS))]
    jitter = rng.uniform(-2, 2, (len(layout), 2)).astype(np.float32)
    cover = np.zeros((1, 1, 1), np.float32)
    period = UNITS + 26  # a cloud has left before it returns
    for (cx, cy, scale), (dx, dy) in zip(layout, jitter, strict=True):
        x = (canvas.x - (cx + dx) - PAN * canvas.t + period / 2) % period - period / 2
        y = canvas.y - (cy + dy)
        inside = np.full((1, 1, 1), -1e3, np.float32)
        for px, py, radius in _CLOUD:
            inside = np.maximum(inside, radius * scale - np.hypot(x - px * scale, y - py * scale))
        inside = np.minimum(inside, 3.0 * scale - y)
        cover = np.maximum(cover, canvas.edge(inside))
    cloud = np.array((0.99, 0.99, 1.0), np.float32)
    return _mix(_sky(canvas, colour), cloud, 0.92 * cover)


def hills(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw two rows of hills under a sky."""
    image = _sky(canvas, colour)
    phase = rng.uniform(0, 2 * np.pi, 2)
    wave = 2 * np.pi / UNITS
    for level, amplitude, speed, shade, p in (
        (37.0, 5.0, 0.6, (0.55, 0.76, 0.45), phase[0]),
        (47.0, 5.0, 1.0, (0.33, 0.62, 0.31), phase[1]),
    ):
        x = canvas.x + PAN * speed * canvas.t
        ridge = level + amplitude * np.sin(wave * x + p) + 1.6 * np.sin(2 * wave * x + 2.3 * p)
        # Each hill darkens downwards, in contrast to the next one.
        depth = np.clip((canvas.y - ridge) / 40, 0, 1)
        body = _mix(np.array(shade, np.float32), np.array(shade, np.float32) * 0.7, depth)
        image = _mix(image, body, canvas.edge(canvas.y - ridge))
    return image


def sea(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a sea with rows of waves."""
    horizon = 22.0 + rng.uniform(-2, 2)
    phase = rng.uniform(0, 2 * np.pi)
    image = _mix(np.array((0.72, 0.85, 0.95), np.float32), np.array((0.95, 0.96, 0.95), np.float32), canvas.y / 26)
    base = _rgb(colour)
    foam = _lighter(base, 0.6)
    for row in range(5):
        level = horizon + (0.0, 6.0, 14.0, 24.0, 36.0)[row]
        amplitude = (0.0, 0.9, 1.4, 1.9, 2.4)[row]
        period = (16.0, 16.0, 64 / 3, 32.0, 32.0)[row]
        x = canvas.x + PAN * canvas.t * (0.6 + 0.1 * row)
        crest = level + amplitude * np.sin(2 * np.pi * x / period + phase + 1.7 * row)
        distance = canvas.y - crest
        water = _lighter(base, 0.30 - 0.075 * row) * (1 - 0.04 * row)
        image = _mix(image, water, canvas.edge(distance))
        if row:
            image = _mix(image, foam, 0.8 * canvas.edge(0.55 + 0.1 * row - np.abs(distance)))
    return image


def bricks(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a brick wall."""
    width, height, gap = 16.0, 8.0, 0.65
    shades = rng.permutation(np.array([0.90, 0.96, 1.0, 1.06], np.float32))
    row = np.floor(canvas.y / height).astype(int)
    x = canvas.x + PAN * canvas.t + (row % 2) * width / 2
    column = np.floor(x / width).astype(int)
    base = _rgb(colour)
    body = np.clip(base * shades[(column + 2 * row) % 4][..., None], 0, 1)
    inside = np.minimum(width / 2 - np.abs(x % width - width / 2), height / 2 - np.abs(canvas.y % height - height / 2))
    # A light upper edge gives each brick some depth.
    body = body + 0.06 * np.clip(1 - (canvas.y % height) / 3, 0, 1)[..., None]
    mortar = base * 0.76 if base.mean() > 0.7 else 0.45 * base + 0.42
    return np.clip(_mix(mortar, body, canvas.edge(inside - gap)), 0, 1)


def wood(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a wall of wooden planks."""
    height = 64 / 5
    phases = rng.uniform(0, 2 * np.pi, 5)
    shades = rng.permutation(np.array([0.84, 0.89, 0.94, 0.98, 1.02], np.float32))
    row = np.clip(np.floor(canvas.y / height), 0, 4).astype(int)
    phase = phases[row]
    bend = 1.6 * np.sin(2 * np.pi * canvas.x / 64 + phase)
    fine, coarse = np.sin(1.5 * (canvas.y + bend) + phase), np.sin(0.8 * (canvas.y - bend) + 2 * phase)
    grain = 0.035 * fine + 0.02 * coarse
    body = _rgb(colour) * (shades[row] * (1 + grain))[..., None]
    inside = height / 2 - np.abs(canvas.y % height - height / 2)
    return np.clip(_mix(_rgb(colour) * 0.5, body, canvas.edge(inside - 0.5 + 0 * canvas.x)), 0, 1)


def grass(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw rows of grass in the wind."""
    base = _rgb(colour)
    phase = rng.uniform(0, 8)
    image = np.broadcast_to(_lighter(base, 0.25), (1, 1, 1, 3))
    for row in range(6):
        level, blade = 2.0 + 11.0 * row, 8.0
        period = 64 / 10
        # Blades bend at the tip only, as if rooted.
        rooted = np.clip((level + blade - canvas.y) / blade, 0, 1)
        lean = 2.6 * np.sin(2 * np.pi * canvas.t + 0.9 * row) * rooted
        u = np.abs((canvas.x + lean + phase + 2.3 * row) / period % 1 - 0.5) * 2  # 0 at the tip, 1 between
        distance = (canvas.y - level - blade * u) * 0.37
        depth = np.clip((canvas.y - level) / 18, 0, 1)
        body = _mix(_lighter(base, 0.16), base * 0.72, depth)
        image = _mix(image, body, canvas.edge(distance))
    return image


def stars(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a night sky with twinkling stars."""
    base = _rgb(colour) * (1.0 if colour == "dark" else 0.45)
    image = _mix(base, _lighter(base, 0.14), canvas.y / UNITS)
    cells = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2)  # (16, 2)
    centre = (cells + 0.5) * 16 + rng.uniform(-4.5, 4.5, (16, 2))
    # Neighbours differ in size and phase, so that a twinkling sky never dims as a whole.
    kind = (cells[:, 0] + 2 * cells[:, 1]) % 4
    radius = np.array([1.5, 0.9, 1.2, 1.0], np.float32)[kind]
    glow = np.exp(-(((canvas.x[0] - centre[:, :1]) / radius[:, None]) ** 2))  # (16, W)
    fall = np.exp(-(((canvas.y[0, :, 0] - centre[:, 1:]) / radius[:, None]) ** 2))  # (16, H)
    power = 0.58 + 0.42 * np.cos(2 * np.pi * (1.5 * canvas.t[:, 0] + kind / 4))  # (F, 16)
    light = np.einsum("fs,sh,sw->fhw", power, fall, glow)
    return _mix(image, np.array((1.0, 0.98, 0.86), np.float32), np.clip(light, 0, 1))


def skyline(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a city skyline with lit windows."""
    image = _sky(canvas, colour)
    night = colour == "dark"
    for level, heights, shade, speed, lit in (
        (34.0, rng.permutation(np.array([0, 3, 6, 8, 2, 10, 5, 9.0])), (0.42, 0.47, 0.58), 0.5, False),
        (40.0, rng.permutation(np.array([0, 4, 9, 12, 2, 7, 14, 5.0])), (0.22, 0.25, 0.35), 1.0, True),
    ):
        # Walls have pixel-sharp edges: a shift by whole pixels keeps them sharp.
        shift = np.round(PAN * speed * canvas.t / canvas.pixel) * canvas.pixel
        x = canvas.x + shift + (0.0 if lit else 4.0)
        top = level + heights[np.floor(x / 8).astype(int) % 8]
        body = np.array(shade, np.float32) * (0.75 if night else 1.0)
        image = _mix(image, body, canvas.edge(canvas.y - top))
        if lit:
            wx = 1.0 - np.abs(x % 4 - 2)
            wy = 1.0 - np.abs(canvas.y % 4 - 2)
            on = (np.floor(x / 4).astype(int) * 3 + np.floor(canvas.y / 4).astype(int) * 5) % 7 < 4
            window = canvas.edge(np.minimum(wx, wy)) * on * canvas.edge(canvas.y - top - 2)
            image = _mix(image, np.array((1.0, 0.86, 0.45), np.float32), window)
    return image


def _pair(colour: str) -> tuple[np.ndarray, np.ndarray]:
    first, second = colour.split(" and ")
    return _rgb(first), _rgb(second)


def dots(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw polka dots."""
    ground, ink = _pair(colour)
    period = (16.0, 64 / 3)[rng.integers(2)]
    row = np.floor(canvas.y / (period / 2)).astype(int)
    x = (canvas.x + PAN * canvas.t + (row % 2) * period / 2) % period - period / 2
    y = canvas.y % (period / 2) - period / 4
    return _mix(ground, ink, canvas.edge(0.19 * period - np.hypot(x, y)))


def stripes(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw vertical stripes."""
    one, other = _pair(colour)
    period = (16.0, 64 / 3)[rng.integers(2)]
    u = (canvas.x + PAN * canvas.t + 0 * canvas.y) % period
    return _mix(one, other, canvas.edge(period / 4 - np.abs(u - period / 2)))


def checks(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a checkerboard."""
    one, other = _pair(colour)
    period = (16.0, 64 / 3)[rng.integers(2)]

    def wave(position: np.ndarray) -> np.ndarray:
        return 2 * canvas.edge(period / 4 - np.abs(position % period - period / 2)) - 1

    return _mix(one, other, (1 + wave(canvas.x + PAN * canvas.t) * wave(canvas.y)) / 2)


def mountains(canvas: _Canvas, colour: str, rng: np.random.Generator) -> np.ndarray:
    """Draw snowy mountains behind a meadow."""
    image = _sky(canvas, colour)
    for level, slope, shade, speed, spread in (
        (27.0, 1.0, (0.58, 0.63, 0.76), 0.5, 32.0),
        (19.0, 1.15, (0.40, 0.45, 0.60), 1.0, 64.0),
    ):
        at = rng.uniform(0, spread)
        x = (canvas.x + PAN * speed * canvas.t - at + spread / 2) % spread - spread / 2
        top = level + slope * np.abs(x)
        body = np.array(shade, np.float32)
        lit = canvas.edge(-x + 0.12 * (canvas.y - level))  # from the left
        body = _mix(body * 0.84, body * 1.08, lit)
        # The snow line zigzags around a fixed height below the peak.
        snow = level + 8 + 2.2 * np.abs((x / 5) % 2 - 1) * 2 - canvas.y
        white = np.array((0.97, 0.98, 1.0), np.float32)
        body = _mix(body, _mix(white * 0.88, white, canvas.edge(-x + 0 * canvas.y)), canvas.edge(snow * 0.7))
        image = _mix(image, body, canvas.edge((canvas.y - top) * 0.68))
    meadow = 54 + 1.5 * np.sin(2 * np.pi * (canvas.x + PAN * canvas.t) / UNITS)
    return _mix(image, np.array((0.36, 0.58, 0.36), np.float32), canvas.edge(canvas.y - meadow))


@dataclass(frozen=True)
class Family:
    """One kind of background."""

    render: Callable[[_Canvas, str, np.random.Generator], np.ndarray]
    """Function of (canvas, colour, rng) to an array that broadcasts to (F, H, W, 3)."""
    colours: tuple[str, ...]
    """Names of its colours; two-coloured families have `ground and ink`."""
    natural: str | None
    """Default colour, which captions may omit."""
    moves: bool
    """The family has an animated version."""
    held_out: bool = False
    """The family is never part of a training scene."""


_SKIES = ("blue", "orange", "pink", "purple", "grey")
_PAIRS = (
    "red and white", "orange and white", "yellow and white", "green and white", "blue and white",
    "purple and white", "pink and white", "grey and white", "dark and white", "red and yellow",
    "blue and yellow", "green and yellow", "purple and pink", "blue and pink", "dark and yellow",
)  # fmt: skip

FAMILIES: dict[str, Family] = {
    "sky": Family(sky, _SKIES, "blue", True),
    "hills": Family(hills, _SKIES, "blue", True),
    "sea": Family(sea, ("blue", "green", "purple", "grey", "dark"), "blue", True),
    "bricks": Family(bricks, tuple(name for name in BACKGROUND_COLOURS if name != "dark"), "red", True),
    "wood": Family(wood, ("brown", "red", "green", "blue", "white", "grey", "dark"), "brown", False),
    "grass": Family(grass, ("green", "yellow", "blue"), "green", True),
    "stars": Family(stars, ("dark", "blue", "purple", "green"), "dark", True),
    "skyline": Family(skyline, (*_SKIES, "dark"), "blue", True),
    "dots": Family(dots, _PAIRS, None, True),
    "stripes": Family(stripes, _PAIRS, None, True),
    "checks": Family(checks, _PAIRS, None, True),
    "mountains": Family(mountains, _SKIES, "blue", True, held_out=True),
}
"""Families by name; `mountains` is held out."""

TRAIN_FAMILIES: tuple[str, ...] = tuple(name for name, family in FAMILIES.items() if not family.held_out)
"""Names of the families of training scenes."""


def background(family: str, colour: str, *, moves: bool, seed: int, t: Sequence[float], size: int = 64) -> np.ndarray:
    """Draw the frames of a background.

    Args:
        family: a name of `FAMILIES`.
        colour: one of that family's colours.
        moves: draw the animated version.
        seed: seed of the layout.
        t: times in [0, 1], one for each frame.
        size: height and width in pixels.

    Returns:
        float32 (F, size, size, 3) in [0, 1].
    """
    # A still background is drawn once.
    canvas = _Canvas(size, np.asarray(t) if moves else np.zeros(1))
    image = FAMILIES[family].render(canvas, colour, np.random.default_rng([seed, 2]))
    return np.broadcast_to(image, (len(t), size, size, 3)).astype(np.float32)
