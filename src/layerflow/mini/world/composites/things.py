"""Foregrounds of a composite: their art, path and look, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..atlas import Sprite
from .cutouts import Warp, draw_warp, extent, paint
from .dice import Dice
from .looks import Light, blur, draw_light, harmony, relight, relight_cutouts
from .paths import Path, Placement, object_path
from .scenery import Camera
from .settings import Composites
from .shapes import Shape

SUBFRAMES = np.linspace(-0.5, 0.5, 5)[:-1] + 0.125
"""Times within the exposure of a frame, relative to its length."""

_TRIES = 8
_LEAST_COVER = 0.006  # least share of the pixels of a middle frame that a foreground covers
_LEAST_FILLED = 0.015  # least share of its square that art fills
_LEAST_SEEN = 0.004  # least share that shows beside the nearer foreground
_CHECKED_AT = 64  # size of the frames in which that is checked
_WIDEST = 1.1  # largest width of an object relative to the frame
_MEET = 0.35  # probability that the second foreground passes the first
_OPACITY = (0.35, 0.8)
_FAINT = 0.7  # share of the see-through ones whose opacity is lower; the others are soft
_DEFOCUS = (0.002, 0.012)  # range of the blur


class Art(Protocol):
    """Pictures of a thing by frame."""

    def alpha(self, frame: int, time: float) -> np.ndarray:
        """Return the coverage (S, S) in [0, 255]."""

    def lit(self, frames: Sequence[int], times: np.ndarray, table: np.ndarray) -> list[np.ndarray]:
        """Return the pictures, premultiplied float32 (S, S, 4), after a table of colours (1, 256, 3)."""

    def sample(self) -> np.ndarray:
        """Return some of the pictures, premultiplied bytes (P, S, S, 4)."""


@dataclass(frozen=True)
class SpriteArt:
    """Phases of a sprite."""

    phases: np.ndarray
    """uint8 (P, S, S, 4), premultiplied."""
    order: list[int]
    """Phase of each frame of the clip."""

    def alpha(self, frame: int, time: float) -> np.ndarray:
        """Return the coverage (S, S) in [0, 255]."""
        return self.phases[self.order[frame], ..., 3]

    def lit(self, frames: Sequence[int], times: np.ndarray, table: np.ndarray) -> list[np.ndarray]:
        """Return the pictures, premultiplied float32 (S, S, 4), after a table of colours (1, 256, 3)."""
        used = sorted({self.order[frame] for frame in frames})
        pictures = dict(zip(used, relight_cutouts(self.phases[used], table), strict=True))
        return [pictures[self.order[frame]] for frame in frames]

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

    def lit(self, frames: Sequence[int], times: np.ndarray, table: np.ndarray) -> list[np.ndarray]:
        """Return the pictures, premultiplied float32 (S, S, 4), after a table of colours (1, 256, 3)."""
        patch = relight(self.patch, table)
        alphas = [self.shape.alpha(float(time))[..., None] for time in times]
        return [np.concatenate([patch * alpha, alpha], axis=-1) for alpha in alphas]

    def sample(self) -> np.ndarray:
        """Return some of the pictures, premultiplied bytes (P, S, S, 4)."""
        return np.concatenate([self.patch, np.full((*self.patch.shape[:2], 1), 255, np.uint8)], axis=-1)[None]


@dataclass(frozen=True)
class Thing:
    """A foreground: what it is, where it goes and how it looks. Lengths are relative to the frame's side."""

    art: Art
    sprite: Sprite | None
    """Sprite that it was drawn from; None for random shapes and given cut-outs."""
    path: Path
    side: float
    """Side of the square that holds the art."""
    height: float
    """Height of what is visible in it, in the middle of the clip."""
    mirrored: bool
    warp: Warp | None
    anchored: bool
    """It moves relative to the background, not to the frame."""
    opacity: float
    softness: float
    """Standard deviation of the blur of a soft thing."""
    harmony: float
    """Share by which its colours are shifted towards the background's."""
    light: Light
    defocus: float
    """Standard deviation of its blur."""

    def place(self, times: np.ndarray, camera: Camera) -> Placement:
        """Return where it is in the frame at `times` (T,)."""
        place = self.path.at(times)
        return camera.carry(place, times) if self.anchored else place

    def cover(self, frame: int, time: float, camera: Camera) -> np.ndarray:
        """Return the coverage, float32 in [0, 1], of a small frame, before it is made see-through."""
        place, one = self.place(np.array([time]), camera), self.art.alpha(frame, time).astype(np.float32)[..., None]
        at = float(place.x[0]), float(place.y[0]), float(self.side * place.scale[0]), float(place.angle[0])
        return paint(one / 255, at, _CHECKED_AT, mirrored=self.mirrored, warp=self.warp, time=time)[..., 0]

    def draw(
        self, frames: Sequence[int], times: np.ndarray, size: int, camera: Camera, behind: np.ndarray, exposure: float
    ) -> np.ndarray:
        """Draw it into empty frames.

        Args:
            frames: numbers of the frames, T of them.
            times: (T,) their times in [0, 1].
            size: height and width in pixels.
            camera: camera that an anchored thing is seen by.
            behind: (H, W, 3) in [0, 1], the background to harmonise with.
            exposure: time over which motion is averaged; 0 for none.

        Returns:
            float32 (T, size, size, 4), premultiplied.
        """
        scale, offset = harmony(self.art.sample(), behind, self.harmony) if self.harmony else (1.0, 0.0)
        pictures = self.art.lit(frames, times, self.light.table(scale, offset))
        offsets = SUBFRAMES * exposure if exposure else np.zeros(1)
        drawn = np.zeros((len(frames), size, size, 4), np.float32)
        for step in offsets:
            place = self.place(times + step, camera)
            sides = self.side * place.scale
            for n, picture in enumerate(pictures):
                at = float(place.x[n]), float(place.y[n]), float(sides[n]), float(place.angle[n])
                time = float(times[n] + step)
                drawn[n] += paint(picture, at, size, mirrored=self.mirrored, warp=self.warp, time=time)
        drawn /= len(offsets)
        drawn = blur(drawn, float(np.hypot(self.defocus, self.softness)) * size)
        return drawn * np.float32(self.opacity) if self.opacity < 1 else drawn


def plan_thing(
    art: Art,
    sprite: Sprite | None,
    dice: Dice,
    number: int,
    settings: Composites,
    clip: tuple[int, Camera],
    *,
    allow_still: bool,
    nearer: Thing | None = None,
) -> Thing:
    """Draw size, path and look of a foreground so that it shows in the middle of the clip.

    Args:
        art: its pictures.
        sprite: the sprite of the art.
        dice: random numbers of the scene.
        number: number of the foreground in the scene.
        settings: shares and sizes.
        clip: number of frames, and the camera.
        allow_still: it may stand nearly still.
        nearer: foreground in front of it.
    """
    frames, camera = clip
    looks = dice.rng("look", number)
    chances = looks.random(6)
    faint, soft = float(looks.uniform(*_OPACITY)), float(looks.uniform(0.015, 0.045))
    harmony_share = float(looks.uniform(0.15, 0.6))
    defocus = float(np.exp(looks.uniform(*np.log(_DEFOCUS))))
    thing = Thing(
        art,
        sprite,
        Path(dx=0.1, kind="drift"),
        side=1.0,
        height=1.0,
        mirrored=bool(chances[2] < 0.5),
        warp=draw_warp(dice.rng("warp", number)) if chances[0] < settings.warped else None,
        anchored=camera.moves and bool(chances[5] < settings.anchored),
        opacity=faint if chances[1] < _FAINT * settings.see_through else 1.0,
        softness=soft if _FAINT * settings.see_through <= chances[1] < settings.see_through else 0.0,
        harmony=harmony_share if chances[3] < settings.harmonised else 0.0,
        light=draw_light(dice.rng("look", number, 1), settings.light),
        defocus=defocus if chances[4] < settings.defocus else 0.0,
    )
    middle = middle_frames(frames)
    tall, wide = extent([art.alpha(n, times_of(frames)[n]) for n in sorted({0, *middle, frames - 1})])
    for attempt in range(_TRIES):
        rng = dice.rng("path", number, attempt)
        path = object_path(rng, allow_still=allow_still and not thing.anchored)
        if nearer is not None and rng.random() < _MEET:
            path = path.through(nearer.path.x + rng.normal(0, 0.12), nearer.path.y + rng.normal(0, 0.08))
        height = float(np.exp(rng.uniform(np.log(settings.smallest), np.log(settings.largest))))
        height = float(min(height, _WIDEST * tall / wide))
        tried = replace(thing, path=path, side=height / tall, height=height)
        if _shows(tried, middle, frames, camera, nearer):
            return tried
    # Large, in the middle and nearly at rest, it always shows.
    height = float(min(settings.largest, _WIDEST * tall / wide))
    return replace(thing, side=height / tall, height=height, anchored=False, warp=None)


def is_visible(art: Art, frames: int) -> bool:
    """Return whether art fills enough of its square in the middle of a clip, in which it may form or vanish."""
    times = times_of(frames)
    return all(art.alpha(frame, float(times[frame])).mean() > _LEAST_FILLED * 255 for frame in middle_frames(frames))


def _shows(thing: Thing, middle: Sequence[int], frames: int, camera: Camera, nearer: Thing | None) -> bool:
    """Return whether a foreground covers enough of the middle frames and is not hidden by a nearer one."""
    times = times_of(frames)
    covers = [thing.cover(frame, float(times[frame]), camera) for frame in middle]
    if min(cover.mean() for cover in covers) < _LEAST_COVER:
        return False
    if nearer is None:
        return True
    for frame in (middle[0], frames - 1, 0):
        hidden = nearer.cover(frame, float(times[frame]), camera)
        if (thing.cover(frame, float(times[frame]), camera) * (1 - hidden)).mean() > _LEAST_SEEN:
            return True
    return False


def times_of(frames: int) -> np.ndarray:
    """Return the times of all frames of a clip in [0, 1]."""
    return np.linspace(0, 1, frames) if frames > 1 else np.array([0.5])


def middle_frames(frames: int) -> tuple[int, ...]:
    """Return the frame in the middle of a clip, or the two there."""
    return tuple(sorted({(frames - 1) // 2, frames // 2}))
