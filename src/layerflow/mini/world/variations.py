"""What makes scenes richer than one solid object on a background that is filmed standing still.

Each variation is drawn apart from the scene it varies: with all shares 0 scenes are as they always were.
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
    """How often scenes are varied: shares in [0, 1], each drawn by itself."""

    see_through: float = 0.0
    """The foreground is a soft object or a see-through one."""
    company: float = 0.0
    """One or two smaller objects stand behind the first, each with a motion of its own."""
    camera: float = 0.0
    """The camera pans or zooms over the background."""
    cast: float = 0.0
    """The foreground casts a shadow, or light, on the background: the blended clip is more than the composite."""
    free_words: float = 0.0
    """Captions have attributes, plurals and asides that change nothing in the picture; see `wordings`."""
    photographs: float = 0.0
    """The background is a photograph that stands still or is filmed; see `pictures`."""
    collages: float = 0.0
    """The background is a collage of textured shapes, likewise; photographs come first."""

    def __post_init__(self) -> None:
        for field in fields(self):
            share = getattr(self, field.name)
            if not 0 <= share <= 1:
                raise ValueError(f"{field.name} {share} is not a share in [0, 1]")


@dataclass(frozen=True)
class Companion:
    """A further object of the foreground."""

    object: ObjectSpec
    colour: str | None
    motion: str
    side: int
    """-1: to the left of the first, 1: to its right."""


CAMERAS: dict[str, tuple[str, ...]] = {
    "panning right": ("the camera panning right", "filmed from left to right", "the camera moving to the right"),
    "panning left": ("the camera panning left", "filmed from right to left", "the camera moving to the left"),
    "zooming in": ("the camera zooming in", "coming nearer", "the camera moving closer"),
    "zooming out": ("the camera zooming out", "going away", "the camera moving back"),
}
"""Name to what captions say of it."""

CASTS: dict[str, tuple[str, ...]] = {
    "shadow": ("casting a shadow", "throwing a shadow", "with a soft shadow"),
    "light": ("casting light around it", "lighting up what is behind it", "shining on everything"),
}

WIDER = 1.25
"""So much wider than the frame a background is drawn that a camera moves over."""
COMPANY_SCALE = 0.62
"""Size of a companion beside the first object."""
_ASIDE = 17.0  # units between the centres of an object and its companion
_SHADOW = 0.45  # how much of the background's light a shadow takes
_LIGHT = np.array([0.45, 0.36, 0.18], np.float32)  # what light adds where it is strongest


def filmed(behind: np.ndarray, camera: str, times: list[float], size: int) -> np.ndarray:
    """What a camera sees of a wide background (F, S, S, 3), S about 1.25 * size: (F, size, size, 3)."""
    narrow = 1 / WIDER
    grids = []
    for t in times:
        share, shift = narrow, 0.0
        if camera.startswith("zooming"):
            share = 1 + (narrow - 1) * (t if camera == "zooming in" else 1 - t)
        else:
            shift = (1 - narrow) * (2 * t - 1) * (1 if camera == "panning right" else -1)
        grids.append(torch.tensor([[share, 0, shift], [0, share, 0]], dtype=torch.float32))
    frames = torch.from_numpy(np.ascontiguousarray(behind.transpose(0, 3, 1, 2)))
    grid = F.affine_grid(torch.stack(grids), [len(times), 3, size, size], align_corners=False)
    seen = F.grid_sample(frames, grid, padding_mode="border", align_corners=False)
    return seen.permute(0, 2, 3, 1).numpy()


def beside(params: MotionParams, side: int) -> MotionParams:
    """Where a companion stands: to one side of the first object, and smaller."""
    x, _ = PLACES[params.place]
    away = side * _ASIDE if x == 0 else -np.sign(x) * 1.2 * _ASIDE  # towards the middle where the first is at a side
    return MotionParams(params.place, params.dx + away, params.dy, params.scale * COMPANY_SCALE)


def with_cast(backdrop: torch.Tensor, alpha: torch.Tensor, cast: str) -> torch.Tensor:
    """A background (F, 3, H, W) in [0, 1] under the shadow or in the light of a foreground with alpha (F, 1, H, W)."""
    unit = alpha.shape[-1] / UNITS
    radius = max(1, round((2 if cast == "shadow" else 6) * unit))
    soft = alpha
    for _ in range(3):  # three boxes are nearly a Gaussian
        soft = F.avg_pool2d(F.pad(soft, [radius] * 4), 2 * radius + 1, stride=1)
    if cast == "shadow":
        shift = max(1, round(4 * unit))
        soft = F.pad(soft, (shift, 0, shift, 0))[..., : alpha.shape[-2], : alpha.shape[-1]]
        return backdrop * (1 - _SHADOW * soft)
    light = torch.from_numpy(_LIGHT)[None, :, None, None]
    return (backdrop + 2 * soft * light).clamp(0, 1)
