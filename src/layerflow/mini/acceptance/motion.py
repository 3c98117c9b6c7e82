"""Rule that classifies the motion of a matte.

The path of its centroid and its size by area are compared with those of each drawn motion. Motions without a path are
distinguished by rotating the matte back: the rotation under which all frames agree wins.
Letters: F frames, M motions, N hypotheses of a turn, H, W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..world import MOTIONS, MotionParams
from ..world.motions import UNITS

EMPTY = 0.003
"""Share of the frame under which a matte counts as empty."""

_HAZE = 0.2  # alpha below counts as noise
_SCALE_WEIGHT = 20.0  # a factor of e in size weighs as much as a path of this many units
_TURNS = (180.0, 270.0, 360.0, 540.0)  # degrees over a clip, either way round
_SWAYS = (9.0, 18.0, 27.0)  # degrees to either side
_MARGIN = 0.62  # a rotation must leave less than this share of the difference that standing still leaves
_NOISE = 0.012  # a difference between frames below this is noise
_GRID = 48  # side in pixels at which rotated mattes are compared


def name_motion(alpha: Tensor) -> str | None:
    """Return the name of the motion, one of `layerflow.mini.world.MOTIONS`, or None where the matte is nearly empty.

    A spinning ball counts as still, because its matte is.

    Args:
        alpha: (F, 1, H, W) in [0, 1], frames at even intervals over the clip.
    """
    matte = ((alpha.float() - _HAZE) / (1 - 2 * _HAZE)).clamp(0, 1)
    area = matte.mean((1, 2, 3))  # (F,)
    shown = area > EMPTY
    if int(shown.sum()) * 2 < len(area) or not bool(shown.any()):
        return None
    if len(area) == 1:
        return "still"
    x, y = _centroids(matte)
    path = torch.stack([x, y, 0.5 * _SCALE_WEIGHT * area.clamp_min(1e-6).log()], dim=-1)  # (F, 3)
    names, templates = _paths(len(area))
    # A clip's place and size are free: only the deviation from its own mean counts.
    path = path - path[shown].mean(0)
    templates = templates - templates[:, shown].mean(1, keepdim=True)  # (M, F, 3)
    error = (templates - path)[:, shown].square().sum((1, 2))  # (M,)
    name = names[int(error.argmin())]
    if name != "still":
        return name
    return _name_turn(matte[shown], x[shown], y[shown], torch.linspace(0, 1, len(area))[shown])


def _centroids(matte: Tensor) -> tuple[Tensor, Tensor]:
    """Return centroid x and y of each frame in units of 1/64 of the frame's side; matte (F, 1, H, W)."""
    height, width = matte.shape[-2:]
    mass = matte.sum((1, 2, 3)).clamp_min(1e-6)
    columns = (torch.arange(width) + 0.5) * UNITS / width
    rows = (torch.arange(height) + 0.5) * UNITS / height
    return (matte.sum((1, 2)) * columns).sum(-1) / mass, (matte.sum((1, 3)) * rows).sum(-1) / mass


def _paths(frames: int) -> tuple[list[str], Tensor]:
    """Return names and templates (M, F, 3), x, y and weighted log size, of the motions that have a path."""
    names = [name for name in MOTIONS if name not in ("spinning", "swaying")]
    rows = []
    for name in names:
        poses = [MOTIONS[name](i / (frames - 1), MotionParams()) for i in range(frames)]
        rows.append([(x, y, _SCALE_WEIGHT * math.log(scale)) for x, y, scale, _ in poses])
    return names, torch.tensor(rows)


def _name_turn(matte: Tensor, x: Tensor, y: Tensor, t: Tensor) -> str:
    """Return still, spinning or swaying for a matte (F, 1, H, W), centroid (F,) in units and time (F,) in [0, 1]."""
    hypotheses: list[tuple[str, Tensor]] = [("still", torch.zeros_like(t))]
    for turn in _TURNS:
        hypotheses += [("spinning", turn * t), ("spinning", -turn * t)]
    for sway in _SWAYS:
        wave = sway * torch.sin(2 * math.pi * t)
        hypotheses += [("swaying", wave), ("swaying", -wave)]
    angles = torch.stack([angle for _, angle in hypotheses])  # (N, F)
    residual = _residual_after_rotation(matte, x, y, angles)  # (N,)
    best = int(residual[1:].argmin()) + 1
    if residual[0] < _NOISE or residual[best] > _MARGIN * residual[0]:
        return "still"
    return hypotheses[best][0]


def _residual_after_rotation(matte: Tensor, x: Tensor, y: Tensor, angles: Tensor) -> Tensor:
    """Return the difference between frames relative to their matte once each is rotated back by its angle: (N,).

    Each frame is rotated about its own centroid, so that a shape carried around an axis matches itself.
    """
    n, f = angles.shape
    radians = torch.deg2rad(angles)  # (N, F)
    cos, sin = radians.cos(), radians.sin()
    centre_x, centre_y = (x / UNITS * 2 - 1).expand(n, f), (y / UNITS * 2 - 1).expand(n, f)
    # Output pixel p samples R(angle) p + centre, angle clockwise with y downwards.
    rows = [torch.stack([cos, -sin, centre_x], -1), torch.stack([sin, cos, centre_y], -1)]
    theta = torch.stack(rows, dim=-2).flatten(0, 1)  # (N*F, 2, 3)
    grid = F.affine_grid(theta, [n * f, 1, _GRID, _GRID], align_corners=False)
    repeated = F.avg_pool2d(matte, 3, 1, 1).repeat(n, 1, 1, 1)  # (N*F, 1, H, W)
    rotated = F.grid_sample(repeated, grid, align_corners=False).unflatten(0, (n, f))
    spread = (rotated - rotated.mean(1, keepdim=True)).square().mean(1).sum((1, 2, 3))  # (N,)
    mass = rotated.square().mean(1).sum((1, 2, 3))
    return spread / mass.clamp_min(1e-6)
