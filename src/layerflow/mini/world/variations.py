"""Variations of scenes beyond one solid object on a background without camera motion.

Each variation has its own random numbers, so that scenes do not depend on variations they lack.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

from .motions import PLACES, UNITS, MotionParams
from .objects import ObjectSpec


@dataclass(frozen=True)
class Variations:
    """Shares of varied scenes in [0, 1], independent of each other."""

    see_through: float = 0.0
    """Share of scenes, in [0, 1], with a soft object or a see-through foreground."""
    company: float = 0.0
    """Share of scenes, in [0, 1], with one or two smaller objects behind the first, each with its own motion."""
    camera: float = 0.0
    """Share of scenes, in [0, 1], with a camera that pans or zooms over the background."""
    cast: float = 0.0
    """Share of scenes, in [0, 1], whose foreground casts a shadow or light on the background of the blended clip."""
    free_words: float = 0.0
    """Share of scenes, in [0, 1], whose captions have attributes, plurals and asides without an effect on the picture;
    see `wordings`."""
    photographs: float = 0.0
    """Share of scenes, in [0, 1], with a photograph as background; see `pictures`."""
    collages: float = 0.0
    """Share of scenes, in [0, 1], with a collage of textured shapes as background; photographs take precedence."""

    def __post_init__(self) -> None:
        for field in fields(self):
            share = getattr(self, field.name)
            if not 0 <= share <= 1:
                raise ValueError(f"{field.name} {share} is not a share in [0, 1]")


@dataclass(frozen=True)
class Companion:
    """A further object of the foreground."""

    object: ObjectSpec
    """The object."""
    colour: str | None
    """A name of `FOREGROUND_COLOURS`, or None for natural colours."""
    motion: str
    """A name of `MOTIONS`."""
    side: int
    """Side of the first object: -1 left, 1 right."""


CAMERAS: dict[str, tuple[str, ...]] = {
    "panning right": ("the camera panning right", "filmed from left to right", "the camera moving to the right"),
    "panning left": ("the camera panning left", "filmed from right to left", "the camera moving to the left"),
    "zooming in": ("the camera zooming in", "coming nearer", "the camera moving closer"),
    "zooming out": ("the camera zooming out", "going away", "the camera moving back"),
}
"""Phrases of captions by camera motion."""

CASTS: dict[str, tuple[str, ...]] = {
    "shadow": ("casting a shadow", "throwing a shadow", "with a soft shadow"),
    "light": ("casting light around it", "lighting up what is behind it", "shining on everything"),
}
"""Phrases of captions by cast."""

WIDER = 1.25
"""Size of a background under a moving camera relative to the frame."""
COMPANY_SCALE = 0.62
"""Size of a companion relative to the first object."""
_ASIDE = 17.0  # units between the centres of an object and its companion
_SHADOW = 0.45  # share of the background's light that a shadow removes
_LIGHT = np.array([0.45, 0.36, 0.18], np.float32)  # brightness that light adds at its strongest


def move_camera(wide: np.ndarray, camera: str, times: list[float], size: int) -> np.ndarray:
    """Crop the view (F, size, size, 3) of a moving camera from a wide background (F, S, S, 3), S about 1.25 * size."""
    narrow = 1 / WIDER
    grids = []
    for t in times:
        share, shift = narrow, 0.0
        if camera.startswith("zooming"):
            share = 1 + (narrow - 1) * (t if camera == "zooming in" else 1 - t)
        else:
            shift = (1 - narrow) * (2 * t - 1) * (1 if camera == "panning right" else -1)
        grids.append(torch.tensor([[share, 0, shift], [0, share, 0]], dtype=torch.float32))
    frames = torch.from_numpy(np.ascontiguousarray(wide.transpose(0, 3, 1, 2)))
    grid = F.affine_grid(torch.stack(grids), [len(times), 3, size, size], align_corners=False)
    view = F.grid_sample(frames, grid, padding_mode="border", align_corners=False)
    return view.permute(0, 2, 3, 1).numpy()


def companion_params(params: MotionParams, side: int) -> MotionParams:
    """Return the motion parameters of a companion: to one side of the first object, and smaller."""
    x, _ = PLACES[params.place]
    offset = side * _ASIDE if x == 0 else -np.sign(x) * 1.2 * _ASIDE  # towards the middle if the first is at a side
    return MotionParams(params.place, params.dx + offset, params.dy, params.scale * COMPANY_SCALE)


def apply_cast(background: torch.Tensor, alpha: torch.Tensor, cast: str) -> torch.Tensor:
    """Darken or light a background (F, 3, H, W) in [0, 1] by a foreground with alpha (F, 1, H, W)."""
    unit = alpha.shape[-1] / UNITS
    radius = max(1, round((2 if cast == "shadow" else 6) * unit))
    soft = alpha
    for _ in range(3):  # three box filters approximate a Gaussian
        soft = F.avg_pool2d(F.pad(soft, [radius] * 4), 2 * radius + 1, stride=1)
    if cast == "shadow":
        shift = max(1, round(4 * unit))
        soft = F.pad(soft, (shift, 0, shift, 0))[..., : alpha.shape[-2], : alpha.shape[-1]]
        return background * (1 - _SHADOW * soft)
    light = torch.from_numpy(_LIGHT)[None, :, None, None]
    return (background + 2 * soft * light).clamp(0, 1)
