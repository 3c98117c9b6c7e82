"""Foregrounds of a composite: their art, path and look, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..atlas import Sprite
from .art import Art, middle_frames, times_of
from .cutouts import Warp, draw_warp, extent, paint
from .dice import Dice
from .looks import Light, blur, draw_light, harmony
from .paths import Path, Placement, object_path
from .scenery import Camera
from .settings import Composites

SUBFRAMES = np.linspace(-0.5, 0.5, 5)[:-1] + 0.125
"""Times within the exposure of a frame, relative to its length."""

CHECKED_AT = 64
"""Size of the frames in which it is checked that foregrounds show."""

_TRIES = 8
_LEAST_COVER = 0.006  # least share of the pixels of a middle frame that a foreground covers
_LEAST_SEEN = 0.004  # least share that shows beside the nearer foreground
_WIDEST = 1.1  # largest width of an object relative to the frame
_MEET = 0.35  # probability that the second foreground passes the first
_OPACITY = (0.35, 0.8)
_FAINT = 0.7  # share of the see-through ones whose opacity is lower; the others are soft
_DEFOCUS = (0.002, 0.012)  # range of the blur


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
    company: tuple[Thing, ...] = ()
    """Further things of the same foreground, behind this one, with its look."""

    def place(self, times: np.ndarray, camera: Camera) -> Placement:
        """Return where it is in the frame at `times` (T,)."""
        place = self.path.at(times)
        return camera.carry(place, times) if self.anchored else place

    def cover(self, frame: int, time: float, camera: Camera) -> np.ndarray:
        """Return the coverage, float32 (H, W) in [0, 1], of a small frame, before it is made see-through."""
        free = np.ones((CHECKED_AT, CHECKED_AT), np.float32)
        for thing in (self, *self.company):
            free *= 1 - thing._cover(frame, time, camera)
        return 1 - free

    def _cover(self, frame: int, time: float, camera: Camera) -> np.ndarray:
        place, one = self.place(np.array([time]), camera), self.art.alpha(frame, time).astype(np.float32)[..., None]
        at = float(place.x[0]), float(place.y[0]), float(self.side * place.scale[0]), float(place.angle[0])
        return paint(one / 255, at, CHECKED_AT, mirrored=self.mirrored, warp=self.warp, time=time)[..., 0]

    def draw(
        self, frames: Sequence[int], times: np.ndarray, size: int, camera: Camera, behind: np.ndarray, exposure: float
    ) -> np.ndarray:
        """Draw it and its company into empty frames.

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
        drawn = np.zeros((len(frames), size, size, 4), np.float32)
        scale, offset = harmony(self.art.sample(), behind, self.harmony) if self.harmony else (1.0, 0.0)
        table = self.light.table(scale, offset)
        known: dict[int, np.ndarray] = {}
        for thing in (self, *self.company):
            pictures = thing.art.lit(frames, times, table, known)
            layer = thing._paint(pictures, times, size, camera, exposure)
            drawn = drawn + (1 - drawn[..., 3:]) * layer if self.company else layer
        drawn = blur(drawn, float(np.hypot(self.defocus, self.softness)) * size)
        return drawn * np.float32(self.opacity) if self.opacity < 1 else drawn

    def _paint(
        self, pictures: Sequence[np.ndarray], times: np.ndarray, size: int, camera: Camera, exposure: float
    ) -> np.ndarray:
        """Draw it alone, with a picture for each time, opaque and sharp."""
        offsets = SUBFRAMES * exposure if exposure else np.zeros(1)
        drawn = np.zeros((len(times), size, size, 4), np.float32)
        for step in offsets:
            place = self.place(times + step, camera)
            sides = self.side * place.scale
            for n, picture in enumerate(pictures):
                at = float(place.x[n]), float(place.y[n]), float(sides[n]), float(place.angle[n])
                time = float(times[n] + step)
                drawn[n] += paint(picture, at, size, mirrored=self.mirrored, warp=self.warp, time=time)
        return drawn / np.float32(len(offsets)) if exposure else drawn


@dataclass(frozen=True)
class Stage:
    """What foregrounds are placed in."""

    frames: int
    """Frames of the clip."""
    camera: Camera
    covered: np.ndarray | None = None
    """(CHECKED_AT, CHECKED_AT) coverage in [0, 1] of what stands before all foregrounds."""


def plan_thing(
    art: Art,
    sprite: Sprite | None,
    dice: Dice,
    number: int,
    settings: Composites,
    stage: Stage,
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
        stage: what it is placed in.
        allow_still: it may stand nearly still.
        nearer: foreground in front of it.
    """
    frames, camera = stage.frames, stage.camera
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
    tall, wide = extent([art.alpha(n, times_of(frames)[n]) for n in sorted({0, *middle_frames(frames), frames - 1})])
    for attempt in range(_TRIES):
        rng = dice.rng("path", number, attempt)
        path = object_path(rng, allow_still=allow_still and not thing.anchored)
        if nearer is not None and rng.random() < _MEET:
            path = path.through(nearer.path.x + rng.normal(0, 0.12), nearer.path.y + rng.normal(0, 0.08))
        height = float(np.exp(rng.uniform(np.log(settings.smallest), np.log(settings.largest))))
        height = float(min(height, _WIDEST * tall / wide))
        tried = replace(thing, path=path, side=height / tall, height=height)
        if _shows(tried, stage, nearer):
            return tried
    # Large, in the middle and nearly at rest, it always shows.
    height = float(min(settings.largest, _WIDEST * tall / wide))
    return replace(thing, side=height / tall, height=height, anchored=False, warp=None)


def add_company(thing: Thing, arts: Sequence[Art], dice: Dice, number: int) -> Thing:
    """Return a foreground with further things of its kind around it, of similar size, mostly on similar paths.

    arts: their art. number: number of the foreground in the scene.
    """
    rng, company = dice.rng("company", number), []
    for n, art in enumerate(arts):
        angle, distance = rng.uniform(-np.pi, np.pi), rng.uniform(0.7, 1.6) * thing.height
        x, y = thing.path.x + distance * np.cos(angle), thing.path.y + 0.5 * distance * np.sin(angle)
        path = replace(thing.path, dx=thing.path.dx * rng.uniform(0.7, 1.3), dy=thing.path.dy * rng.uniform(0.7, 1.3))
        if rng.random() < 0.3:
            path = object_path(rng, allow_still=False)
        size = float(rng.uniform(0.6, 1.1))
        warp = draw_warp(dice.rng("warp", number, n + 1)) if thing.warp else None
        path = path.through(float(np.clip(x, 0, 1)), float(np.clip(y, 0, 1)))
        company.append(
            replace(thing, art=art, path=path, side=thing.side * size, height=thing.height * size, warp=warp)
        )
    return replace(thing, company=tuple(company))


def _shows(thing: Thing, stage: Stage, nearer: Thing | None) -> bool:
    """Return whether a foreground covers enough of the middle frames and is not hidden by a nearer one."""
    frames, camera, times = stage.frames, stage.camera, times_of(stage.frames)
    middle, free = middle_frames(frames), 1 if stage.covered is None else 1 - stage.covered
    if min((thing.cover(frame, float(times[frame]), camera) * free).mean() for frame in middle) < _LEAST_COVER:
        return False
    if nearer is None:
        return True
    for frame in (middle[0], frames - 1, 0):
        hidden = nearer.cover(frame, float(times[frame]), camera)
        if (thing.cover(frame, float(times[frame]), camera) * (1 - hidden)).mean() > _LEAST_SEEN:
            return True
    return False
