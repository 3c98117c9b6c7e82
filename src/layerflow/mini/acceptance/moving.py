"""Cut-outs that move over a photograph before a moving camera: true layers of scenes that no training source draws.

Letters in shape comments: P phases, F frames, S side of the square frame, h, w pixels of a cut-out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.compositing import blend, unpremultiply
from ...core.layered_video import Foreground, LayeredVideo
from ...core.schema import DEFAULT_FPS
from ...datasets.copy_paste import harmonise

OVERSAMPLING = 2
"""Layers are drawn at this multiple of their size, then averaged."""
START, END = (0.25, 0.75), (0.1, 0.9)
"""Range of an object's centre in the first and in the last frame, in sides of the frame. The object is thus in view in
the first frame and may leave it later."""
LEAST_TRAVEL = 0.2
"""Least distance between both centres, in sides of the frame."""
SIDE = (0.3, 0.75)
"""Range of the longer side of an object, in sides of the frame."""
GROWTH = 0.2
"""Standard deviation of the logarithm of its growth over the clip."""
TURN = 25.0
"""Largest rotation in degrees, either way, in the first and in the last frame."""
WARP = 0.05
"""Largest displacement of a still object's smooth non-rigid deformation, in its sides."""
WINDOW = (0.55, 0.9)
"""Range of the side of the camera's window, in heights of the photograph."""
PAN = 0.15
"""Largest travel of the camera over the clip along each axis, in sides of its window."""
ZOOM = 0.12
"""Largest logarithm of the camera's zoom over the clip."""
SHAKE = 0.012
"""Largest standard deviation of the camera's shake, in sides of its window."""
BLUR = 0.5
"""Share of the scenes that are softened as a whole."""


@dataclass(frozen=True)
class Cutout:
    """An object on a transparent ground, with one or more phases of its own motion."""

    name: str
    phases: Tensor
    """(P, 4, h, w) in [0, 1]: premultiplied colour and alpha."""
    rate: float = 1.0
    """Phases per frame."""


def move(
    cutouts: Sequence[Cutout], photograph: Tensor, rng: np.random.Generator, size: int, frames: int
) -> LayeredVideo:
    """Draw a scene of moving cut-outs, nearest first.

    Args:
        cutouts: at least one.
        photograph: (3, h, w) in [0, 1].
        rng: source of randomness.
        size: height and width of the scene in pixels.
        frames: frames of the scene.

    Returns:
        All layers. A foreground's colour is 0.5 where it is transparent.
    """
    large = size * OVERSAMPLING
    background = _film(photograph, rng, large, frames)
    foregrounds = []
    for cutout in cutouts:
        drawn = _draw(cutout, rng, large, frames)  # (F, 4, S, S), premultiplied
        colour = unpremultiply(drawn[:, :3], drawn[:, 3:], floor=1e-4)
        strength = float(rng.uniform(0, 0.5))
        colour = harmonise(colour, drawn[:, 3:], background, strength) if bool(drawn[:, 3:].any()) else colour
        foregrounds.append((colour, drawn[:, 3:]))
    gamma, soft = float(np.exp(rng.uniform(-0.25, 0.25))), rng.random() < BLUR

    def finish(clip: Tensor) -> Tensor:
        clip = F.avg_pool2d(F.avg_pool2d(clip, 3, 1, 1, count_include_pad=False) if soft else clip, OVERSAMPLING)
        return clip.clamp(0, 1)

    background = finish(background.pow(gamma))
    layers: list[Foreground] = []
    blended = background
    for colour, alpha in reversed(foregrounds):
        merged = finish(torch.cat([colour.clamp(0, 1).pow(gamma) * alpha, alpha], 1))
        alpha = merged[:, 3:]
        colour = torch.where(alpha > 0, unpremultiply(merged[:, :3], alpha, floor=1e-4), 0.5)
        layers.insert(0, Foreground(colour, alpha))
        blended = blend(colour, alpha, blended)
    first, *behind = layers
    return LayeredVideo(first.colour, first.alpha, background, blended, fps=DEFAULT_FPS, behind=tuple(behind))


def _draw(cutout: Cutout, rng: np.random.Generator, size: int, frames: int) -> Tensor:
    """Draw an object along a random path: (F, 4, S, S), premultiplied."""
    time = torch.linspace(0, 1, frames)
    longest = max(cutout.phases.shape[-2:])
    side = float(rng.uniform(*SIDE))
    scale = side * torch.exp(time * float(rng.normal(0, GROWTH)))  # (F,) in sides of the frame
    start, end = (float(value) for value in rng.uniform(-TURN, TURN, 2))
    angle = torch.deg2rad(start + (end - start) * time)
    centre = _path(rng, time)  # (F, 2) in [0, 1], x then y
    picture = _shrunk(cutout.phases, size * float(scale.max()) / longest)
    first = float(rng.uniform(0, len(picture)))
    chosen = [int(first + frame * cutout.rate) % len(picture) for frame in range(frames)]
    height, width = picture.shape[-2:]
    # Pixel of the frame to place on the object, in its sides from its middle.
    grid = (torch.arange(size) + 0.5) / size
    x, y = grid[None, None, :] - centre[:, 0, None, None], grid[None, :, None] - centre[:, 1, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    u, v = ((cos * x + sin * y) / scale[:, None, None], (cos * y - sin * x) / scale[:, None, None])  # (F, S, S)
    if len(picture) == 1:
        u, v = _warp(u, v, time, rng)
    longest = max(height, width)
    places = torch.stack([2 * u * longest / width, 2 * v * longest / height], -1)
    return F.grid_sample(picture[chosen], places, align_corners=False)


def _path(rng: np.random.Generator, time: Tensor) -> Tensor:
    """Return the centres (F, 2) of a gently bent path, x then y, in sides of the frame."""
    start = rng.uniform(*START, 2)
    while True:
        end = rng.uniform(*END, 2)
        if float(np.hypot(*(end - start))) >= LEAST_TRAVEL:
            break
    bend = rng.normal(0, 0.12, 2)
    t = time[:, None]
    return torch.lerp(torch.tensor(start).float(), torch.tensor(end).float(), t) + torch.tensor(bend).float() * (
        4 * t * (1 - t)
    )


def _warp(u: Tensor, v: Tensor, time: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Deform an object's places (F, S, S) by a smooth wave that changes over time."""
    strength = float(rng.uniform(0, WARP))
    result = []
    for own, across in ((u, v), (v, u)):
        waves, turns, phase = float(rng.uniform(0.5, 1.2)), float(rng.uniform(0.3, 1.5)), float(rng.uniform(0, 1))
        wave = torch.sin(2 * math.pi * (waves * across + (turns * time + phase)[:, None, None]))
        result.append(own + strength * wave)
    return result[0], result[1]


def _shrunk(picture: Tensor, factor: float) -> Tensor:
    """Shrink pictures (P, C, h, w) by a factor below 1, antialiased."""
    if factor >= 1:
        return picture
    sides = [max(2, round(side * factor)) for side in picture.shape[-2:]]
    return F.interpolate(picture, sides, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def _film(photograph: Tensor, rng: np.random.Generator, size: int, frames: int) -> Tensor:
    """Return what a camera sees that pans, zooms and shakes before a photograph: (F, 3, S, S)."""
    height, width = photograph.shape[-2:]
    shorter = min(height, width)
    time = torch.linspace(-0.5, 0.5, frames)
    window = float(rng.uniform(*WINDOW)) * shorter
    sides = window * torch.exp(time * float(rng.uniform(-ZOOM, ZOOM)))
    sides = sides.clamp(max=shorter)  # (F,) in pixels of the photograph
    walk = np.cumsum(rng.normal(0, 1, (frames, 2)), 0)
    shake = torch.tensor(walk - walk.mean(0)).float() * float(rng.uniform(0, SHAKE)) * window
    travel = torch.tensor(rng.uniform(-PAN, PAN, 2)).float() * window
    middle = torch.tensor([rng.uniform(window / 2, max(side - window / 2, window / 2)) for side in (width, height)])
    centre = middle.float() + time[:, None] * travel + shake  # (F, 2), x then y
    limits = torch.tensor([width, height]).float()
    half = sides[:, None] / 2
    centre = torch.minimum(torch.maximum(centre, half), limits - half)
    scaled = _shrunk(photograph[None], 1.5 * size / float(sides.max()))
    grid = (torch.arange(size) + 0.5) / size - 0.5
    x = 2 * (centre[:, 0, None, None] + grid[None, None, :] * sides[:, None, None]) / width - 1
    y = 2 * (centre[:, 1, None, None] + grid[None, :, None] * sides[:, None, None]) / height - 1
    places = torch.stack(torch.broadcast_tensors(x, y), -1)  # (F, S, S, 2)
    film = F.grid_sample(scaled.expand(frames, -1, -1, -1), places, padding_mode="border", align_corners=False)
    return film.clamp(0, 1)


__all__ = ["Cutout", "move"]
