"""Backgrounds as a camera sees them: views of photographs and film shots, and perspective views into panoramas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .opencv import opencv
from .paths import Path, Placement

STILL = Path(x=0.0, y=0.0)
"""Path of a still camera."""

_LEAST_VIEW = 0.45  # least side of a view relative to the picture's shorter side, before the camera's travel is reduced
_LEAST_DEPTH = 0.1  # of things at a distance of 1; nearer ones are far outside of the view of a panorama
_DENSE = np.linspace(0, 1, 33)  # times at which a camera must stay within its picture


@dataclass(frozen=True)
class Camera:
    """Where a camera looks, and its motion."""

    path: Path
    """Motion in sides of the view of the middle of the clip; still at the default."""
    side: float
    """Side of the view of the middle of the clip in pixels of the picture; for panoramas the field of view, radians."""
    x: float
    """Horizontal position of that view's centre in pixels of the picture; for panoramas the yaw in radians."""
    y: float
    """Vertical position in pixels of the picture; for panoramas the pitch in radians, downwards."""
    panorama: bool = False
    """The picture is a panorama in equirectangular projection."""
    depth: float = 0.0
    """Parallax: the lower part's horizontal motion is faster than the upper part's by this factor plus 1."""

    @property
    def moves(self) -> bool:
        """Whether it is not still."""
        return self.path != STILL

    def carry(self, place: Placement, times: np.ndarray) -> Placement:
        """Return where a camera at `times` (T,) sees things that are at a place in the view of the middle of the clip.

        Places are relative to the frame.
        """
        own = self.path.at(times)
        right, down = place.x - 0.5, place.y - 0.5
        if self.panorama:
            right, down = self._turned(right, down, own)
        else:
            right = right - own.x * (1 + self.depth * _ramp(np.clip(place.y, 0, 1)))
            down = down - own.y
        cos, sin = np.cos(own.angle), np.sin(own.angle)
        x, y = (right * cos + down * sin) * own.scale, (down * cos - right * sin) * own.scale
        return Placement(x + 0.5, y + 0.5, own.scale * place.scale, place.angle - own.angle)

    def _turned(self, right: np.ndarray, down: np.ndarray, own: Placement) -> tuple[np.ndarray, np.ndarray]:
        """Return where things in a panorama are seen after yaw and pitch, relative to the middle of the frame."""
        reach = 2 * np.tan(self.side / 2)
        yaw, pitch = own.x * self.side, self.y + own.y * self.side
        right, down = right * reach, down * reach
        ahead, below = np.cos(self.y) - down * np.sin(self.y), np.sin(self.y) + down * np.cos(self.y)
        right, ahead = right * np.cos(yaw) - ahead * np.sin(yaw), right * np.sin(yaw) + ahead * np.cos(yaw)
        depth = np.maximum(ahead * np.cos(pitch) + below * np.sin(pitch), _LEAST_DEPTH)
        return right / depth / reach, (below * np.cos(pitch) - ahead * np.sin(pitch)) / depth / reach


def place_camera(
    path: Path, shape: tuple[int, int], rng: np.random.Generator, *, panorama: bool = False, depth: float = 0.0
) -> Camera:
    """Place a camera so that its views stay within a picture of height and width `shape`.

    Its view is as large as it may be with this motion, or up to a factor smaller; where it would be too small, the
    travel is reduced. It looks at the middle of a panorama.
    """
    if panorama:
        field = float(np.deg2rad(rng.uniform(50, 85)))
        return Camera(path, field, 0.0, float(rng.normal(0.05, 0.12)), panorama=True)
    height, width = shape
    wanted = float(rng.uniform(0.55, 1.0)) * min(height, width)
    while True:
        place = path.at(_DENSE)
        reach = 0.5 * (np.abs(np.cos(place.angle)) + np.abs(np.sin(place.angle))) / place.scale
        left, right = ((sign * place.x * (1 + depth) + reach).max() for sign in (-1, 1))
        top, bottom = ((sign * place.y + reach).max() for sign in (-1, 1))
        side = min(wanted, width / (left + right), height / (top + bottom))
        if side >= _LEAST_VIEW * min(height, width) or abs(path.dx) + abs(path.dy) < 0.01:
            break
        path = path.reduced(0.8)
    x = rng.uniform(left * side, max(left * side, width - right * side))
    y = rng.uniform(top * side, max(top * side, height - bottom * side))
    return Camera(path, float(side), float(x), float(y), depth=depth)


def view(
    pictures: Callable[[int], np.ndarray], camera: Camera, frames: Sequence[int], times: np.ndarray, size: int
) -> np.ndarray:
    """Return what a camera sees.

    Args:
        pictures: function from a frame's number to its picture, float32 (H, W, 3); the same object for frames that
            show the same.
        camera: the camera.
        frames: numbers of the frames, T of them.
        times: (T,) times in [0, 1].
        size: height and width in pixels.

    Returns:
        float32 (T, size, size, 3).
    """
    cv2: Any = opencv()
    place = camera.path.at(times)
    shown = np.empty((len(frames), size, size, 3), np.float32)
    # Reduced once for the closest view, by averages; the other views are a little sharper than they need to be.
    factor = 1.0 if camera.panorama else min(1.0, size / (camera.side / camera.path.at(_DENSE).scale.max()))
    source = reduced = seen = before = None
    for n, frame in enumerate(frames):
        picture = pictures(frame)
        if picture is not source or reduced is None:
            source = reduced = picture
            if factor < 1:
                target = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
                reduced = cv2.resize(picture, target, interpolation=cv2.INTER_AREA)
        now = float(place.x[n]), float(place.y[n]), float(place.scale[n]), float(place.angle[n])
        if picture is seen and now == before:
            shown[n] = shown[n - 1]
            continue
        seen, before = picture, now
        if camera.panorama:
            map_x, map_y = _panorama_maps(camera, now, reduced.shape[:2], size)
            shown[n] = cv2.remap(reduced, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        else:
            scales = reduced.shape[1] / picture.shape[1], reduced.shape[0] / picture.shape[0]
            map_x, map_y = _view_maps(camera, now, scales, size)
            shown[n] = cv2.remap(reduced, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return shown


def _offsets(size: int) -> np.ndarray:
    """Return the positions of pixels relative to the middle of the frame, in (-0.5, 0.5)."""
    return (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5


def _view_maps(
    camera: Camera, now: tuple[float, float, float, float], scales: tuple[float, float], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions in a reduced picture that each pixel of the frame shows."""
    dx, dy, scale, angle = now
    side = np.float32(camera.side / scale)
    across, cos, sin = _offsets(size), np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x = camera.x + dx * camera.side + side * (across * cos - (across * sin)[:, None])
    y = camera.y + dy * camera.side + side * (across * sin + (across * cos)[:, None])
    if camera.depth:
        # The ramp is fixed in the picture, so that things keep their depth under tilts and zooms.
        seen_at = (y - (camera.y - camera.side / 2)) / camera.side
        x = x + camera.depth * dx * camera.side * _ramp(seen_at.clip(0, 1))
    return (
        np.ascontiguousarray(x * scales[0] - 0.5, dtype=np.float32),
        np.ascontiguousarray(y * scales[1] - 0.5, dtype=np.float32),
    )


def _panorama_maps(
    camera: Camera, now: tuple[float, float, float, float], shape: tuple[int, int], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions in a panorama of height and width `shape` that each pixel of the frame shows."""
    cv2: Any = opencv()
    dx, dy, scale, angle = now
    height, width = shape
    reach = np.float32(2 * np.tan(camera.side / 2) / scale)
    across, cos, sin = _offsets(size) * reach, np.float32(np.cos(angle)), np.float32(np.sin(angle))
    right = across * cos - (across * sin)[:, None]
    down = across * sin + (across * cos)[:, None]
    pitch = camera.y + dy * camera.side
    up_cos, up_sin = np.float32(np.cos(pitch)), np.float32(np.sin(pitch))
    ahead, below = up_cos - down * up_sin, up_sin + down * up_cos
    flat, yaw = cv2.cartToPolar(ahead, np.ascontiguousarray(right))
    _, fall = cv2.cartToPolar(flat, below)  # in [0, 2 * pi)
    fall = np.where(fall > np.pi, fall - np.float32(2 * np.pi), fall)
    x = ((yaw + (camera.x + dx * camera.side)) / (2 * np.pi) + 0.5) % 1 * width - 0.5
    y = ((fall / np.pi + 0.5) * height - 0.5).clip(0, height - 1)
    return x.astype(np.float32), y.astype(np.float32)


def panorama_position(camera: Camera, x: float, y: float, shape: tuple[int, int]) -> tuple[float, float, float]:
    """Return where in a panorama of height and width `shape` the position x, y of the middle frame is.

    Returns:
        x and y in pixels of the panorama, and the number of them that span the frame there.
    """
    height, width = shape
    reach = 2 * np.tan(camera.side / 2)
    right, down = (x - 0.5) * reach, (y - 0.5) * reach
    ahead, below = np.cos(camera.y) - down * np.sin(camera.y), np.sin(camera.y) + down * np.cos(camera.y)
    yaw, fall = np.arctan2(right, ahead) + camera.x, np.arctan2(below, np.hypot(right, ahead))
    pixels = reach * width / (2 * np.pi) / (1 + right**2 + down**2)
    return float((yaw / (2 * np.pi) + 0.5) % 1 * width), float((fall / np.pi + 0.5) * height), float(pixels)


def _ramp(y: np.ndarray) -> np.ndarray:
    """Return the nearness in [0, 1] of the ground seen at a height y in [0, 1] of the frame, which rises downwards."""
    near = ((y - 0.35) / 0.65).clip(0, 1)
    return near * near * (3 - 2 * near) * near


def plain_picture(rng: np.random.Generator, height: int = 256, width: int = 512) -> tuple[np.ndarray, str]:
    """Draw a flat colour, a smooth gradient or a texture.

    Returns:
        uint8 (height, width, 3), and the caption.
    """
    cv2: Any = opencv()
    kind = str(rng.choice(["flat", "gradient", "clouds", "pattern"], p=[0.2, 0.35, 0.25, 0.2]))
    colours = rng.uniform(0, 1, (8, 3)).astype(np.float32)
    if kind == "flat":
        values = np.broadcast_to(colours[0], (height, width, 3))
    elif kind == "gradient":
        rows, columns = (int(rng.integers(1, 4)) for _ in range(2))
        corners = rng.uniform(0, 1, (rows + 1, columns + 1, 3)).astype(np.float32)
        values = cv2.resize(corners, (width, height), interpolation=cv2.INTER_CUBIC)
    elif kind == "clouds":
        share = np.zeros((height, width), np.float32)
        finest = int(rng.integers(4, 8))
        fall = rng.uniform(0.4, 0.8)
        for level in range(1, finest):
            noise = rng.standard_normal((2**level, 2 ** (level + 1)), dtype=np.float32)
            share += np.float32(fall**level) * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        share = (0.5 + share / (3 * share.std() + 1e-6)).clip(0, 1)[..., None]
        values = colours[0] + share * (colours[1] - colours[0])
    else:
        angle, cycles = rng.uniform(0, np.pi), rng.uniform(6, 30)
        across = np.arange(width, dtype=np.float32) / height
        down = np.arange(height, dtype=np.float32)[:, None] / height
        first = np.sin(2 * np.pi * cycles * (across * np.cos(angle) + down * np.sin(angle)))
        second = np.sin(2 * np.pi * cycles * (down * np.cos(angle) - across * np.sin(angle)))
        wave = first if rng.random() < 0.5 else first * second
        share = (wave * rng.uniform(1, 6) + 0.5).clip(0, 1)[..., None]
        values = colours[0] + share * (colours[1] - colours[0])
    caption = str(rng.choice(PLAIN_CAPTIONS[kind]))
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8), caption


PLAIN_CAPTIONS: dict[str, tuple[str, ...]] = {
    "flat": ("a plain background", "a single colour", "a flat colour", "a plain wall"),
    "gradient": ("a colour gradient", "a smooth gradient", "blurred colours", "soft colours"),
    "clouds": ("a cloudy texture", "a mottled wall", "an abstract texture", "a rough texture"),
    "pattern": ("a pattern", "a regular pattern", "a patterned wall"),
}
"""Captions of plain backgrounds by kind."""
