"""Backgrounds of composites: pictures, the camera on them, and the still things that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..atlas import Sprite
from .cutouts import extent, paint
from .looks import Light, blur, relight, relight_cutouts
from .scenery import Camera, panorama_position, view
from .things import SUBFRAMES


@dataclass(frozen=True)
class Pasted:
    """A still thing that belongs to the background. Lengths are relative to the middle frame's side."""

    picture: np.ndarray
    """uint8 (S, S, 4), premultiplied."""
    sprite: Sprite
    x: float
    y: float
    height: float
    mirrored: bool
    near: bool = False
    """It stands before the foregrounds and hides them."""


@dataclass(frozen=True)
class Backdrop:
    """A background and how it is seen."""

    pixels: np.ndarray
    """uint8 (N, H, W, 3)."""
    order: list[int]
    """Picture of each frame of the clip."""
    kind: str
    """"photograph", "panorama", "film" or "plain"."""
    number: int
    """Number of the background in the atlas; -1 for none of it."""
    caption: str
    camera: Camera
    light: Light
    defocus: float
    """Standard deviation of its blur relative to the frame."""
    pasted: tuple[Pasted, ...] = ()
    _lit: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def picture(self, frame: int) -> np.ndarray:
        """Return the picture of a frame with the things that stand there, float32 (H, W, 3) in [0, 1]."""
        number = self.order[frame]
        if number not in self._lit:
            table = self.light.table()
            picture = self._lit[number] = relight(self.pixels[number], table)
            for one in self.pasted:
                rows, columns, drawn = self._placed(one, relight_cutouts(one.picture[None], table)[0])
                picture[rows, columns] = drawn[..., :3] + (1 - drawn[..., 3:]) * picture[rows, columns]
        return self._lit[number]

    def _placed(self, one: Pasted, cutout: np.ndarray) -> tuple[slice, slice, np.ndarray]:
        """Return rows and columns of the picture, and what a thing shows there, premultiplied float32 (H, W, 4)."""
        height, width = self.pixels.shape[1:3]
        if self.kind == "panorama":
            x, y, unit = panorama_position(self.camera, one.x, one.y, (height, width))
        else:
            unit = self.camera.side
            x, y = self.camera.x + (one.x - 0.5) * unit, self.camera.y + (one.y - 0.5) * unit
        side = one.height / extent([one.picture[..., 3]])[0] * unit
        reach = int(np.ceil(side / 2)) + 1
        left, top, size = int(x) - reach, int(y) - reach, 2 * reach + 1
        place = (x - left) / size, (y - top) / size, side / size, 0.0
        drawn = paint(cutout, place, size, mirrored=one.mirrored)
        rows = slice(min(max(top, 0), height), min(max(top + size, 0), height))
        columns = slice(min(max(left, 0), width), min(max(left + size, 0), width))
        return rows, columns, drawn[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]

    def draw(self, frames: Sequence[int], times: np.ndarray, size: int, exposure: float = 0.0) -> np.ndarray:
        """Return what the camera sees, float32 (T, size, size, 3) in [0, 1].

        frames: numbers of T frames. times: (T,) in [0, 1]. size: height and width in pixels. exposure: time over which
        the motion of the camera is averaged.
        """
        return self._seen(self.picture, frames, times, size, exposure)

    def cover(self, frames: Sequence[int], times: np.ndarray, size: int, exposure: float = 0.0) -> np.ndarray | None:
        """Return the coverage (T, size, size, 1) of the near things, None where there are none; see `draw`."""
        near = [one for one in self.pasted if one.near]
        if not near:
            return None
        mask = np.zeros((*self.pixels.shape[1:3], 3), np.float32)
        for one in near:
            rows, columns, drawn = self._placed(one, one.picture.astype(np.float32) / 255)
            mask[rows, columns] = np.maximum(mask[rows, columns], drawn[..., 3:])
        return self._seen(lambda _: mask, frames, times, size, exposure)[..., :1]

    def _seen(
        self,
        pictures: Callable[[int], np.ndarray],
        frames: Sequence[int],
        times: np.ndarray,
        size: int,
        exposure: float,
    ) -> np.ndarray:
        if exposure and self.camera.moves:
            parts = (view(pictures, self.camera, frames, times + step * exposure, size) for step in SUBFRAMES)
            shown = np.asarray(sum(parts) / np.float32(len(SUBFRAMES)))
        else:
            shown = view(pictures, self.camera, frames, times, size)
        return blur(shown, self.defocus * size)


def film_order(length: int, frames: int, rng: np.random.Generator) -> list[int]:
    """Return the picture of each frame: a random part of a shot, played to and fro where it is too short."""
    speed = rng.uniform(0.7, 1.5)
    start = rng.uniform(0, max(1.0, length - speed * frames))
    positions = [int(start + speed * frame) % max(1, 2 * length - 2) for frame in range(frames)]
    return [min(position, 2 * length - 2 - position) if length > 1 else 0 for position in positions]
