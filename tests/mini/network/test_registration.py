"""Backgrounds are aligned between frames and copied along their motion."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from layerflow.mini.network.registration import background_motion, own_motion, uncovered

SIZE = 64


def picture(seed: int = 0) -> Tensor:
    """Return a smooth random picture (3, 2 * SIZE, 2 * SIZE) in [-1, 1]."""
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(noise, (2 * SIZE, 2 * SIZE), mode="bicubic").clamp(-1, 1)[0]


def camera(x: float, y: float, zoom: float = 1.0, degrees: float = 0.0) -> Tensor:
    """Return the map (3, 3) from coordinates of a frame to those of the picture behind it, twice as large."""
    cos, sin = (0.5 * zoom * f(math.radians(degrees)) for f in (math.cos, math.sin))
    return torch.tensor([[cos, -sin, x], [sin, cos, y], [0.0, 0.0, 1.0]])


def shot(cameras: list[Tensor], behind: Tensor) -> Tensor:
    """Return the frames (1, F, 3, SIZE, SIZE) that cameras see of a picture."""
    frames = len(cameras)
    grid = F.affine_grid(torch.stack(cameras)[:, :2], [frames, 3, SIZE, SIZE], align_corners=False)
    return F.grid_sample(behind.expand(frames, -1, -1, -1), grid, align_corners=False)[None]


MOVES = {
    "still": [camera(0, 0)] * 4,
    "pan": [camera(0.04 * t, -0.02 * t) for t in range(4)],
    "zoom": [camera(0, 0, 1 - 0.04 * t) for t in range(4)],
    "turn": [camera(0.02 * t, 0, 1, 2 * t) for t in range(4)],
}


@pytest.mark.parametrize("move", MOVES)
def test_motion_of_the_background_is_found(move: str) -> None:
    cameras = MOVES[move]
    seen = shot(cameras, picture())
    maps = background_motion(seen, torch.ones(1, 4, 1, SIZE, SIZE))
    for first in range(4):
        for second in range(4):
            true = torch.linalg.inv(cameras[second]) @ cameras[first]
            off = (maps[0, first, second] - true)[:2].abs().sum(1).max() * SIZE / 2  # pixels at the corners
            assert off < 0.35, (move, first, second, off)


def covered(seen: Tensor, speed: int) -> tuple[Tensor, Tensor]:
    """Return a shot with a striped square in front, which moves across, and the visibility of its background."""
    seen, visible = seen.clone(), torch.ones(*seen.shape[:2], 1, SIZE, SIZE)
    stripes = torch.arange(20).remainder(4).div(2, rounding_mode="floor") * 2.0 - 1
    for t in range(seen.shape[1]):
        left = 8 + speed * t
        seen[:, t, :, 22:42, left : left + 20] = stripes
        visible[:, t, :, 22:42, left : left + 20] = 0
    return seen, visible


@pytest.mark.parametrize("move", MOVES)
def test_what_a_foreground_hides_is_copied_along_the_motion(move: str) -> None:
    behind = shot(MOVES[move], picture(1))
    seen, visible = covered(behind, speed=9)
    background, certainty = uncovered(seen, visible)
    hidden = (visible == 0).expand_as(behind)
    sure = certainty.expand_as(behind) > 0.5
    assert (sure & hidden).sum() > 0.5 * hidden.sum()
    assert (background - behind)[sure & hidden].square().mean() < 2e-3


def test_what_no_frame_shows_is_uncertain() -> None:
    behind = shot(MOVES["still"], picture(2))
    seen, visible = covered(behind, speed=0)
    _, certainty = uncovered(seen, visible)
    assert (certainty[visible == 0] < 1e-3).all()
    assert (certainty[visible == 1] > 0.9).all()


def test_frames_that_contradict_each_other_are_uncertain() -> None:
    shots = torch.cat([shot(MOVES["still"][:1], picture(seed)) for seed in range(3)], dim=1)
    visible = torch.ones(1, 3, 1, SIZE, SIZE)
    visible[:, 1, :, 20:40, 20:40] = 0
    _, certainty = uncovered(shots, visible)
    assert certainty[:, 1, :, 24:36, 24:36].mean() < 0.1


@pytest.mark.parametrize("frames", [1, 2])
def test_nothing_visible_or_a_single_frame_does_no_harm(frames: int) -> None:
    seen = shot(MOVES["pan"][:frames], picture())
    background, certainty = uncovered(seen, torch.zeros(1, frames, 1, SIZE, SIZE))
    assert background.isfinite().all()
    assert not certainty.any()
    background, certainty = uncovered(seen, torch.ones(1, frames, 1, SIZE, SIZE))
    assert torch.allclose(background[:, 0], seen[:, 0], atol=0.05)


@pytest.mark.parametrize("move", MOVES)
def test_what_moves_by_itself_differs_from_aligned_frames(move: str) -> None:
    seen, visible = covered(shot(MOVES[move], picture(3)), speed=9)
    planes = own_motion(seen, torch.ones(1, 4, dtype=torch.bool)).abs()
    for start in (0, 3, 6):  # the frame before, the next one, the median
        strength = planes[:, 1:3, start : start + 3].mean(2, keepdim=True)
        hidden = visible[:, 1:3] == 0
        still = F.max_pool2d(1 - visible[0], (3, 25), 1, (1, 12))[None, 1:3] == 0  # away from the square
        assert strength[hidden].mean() > 8 * strength[still].mean(), start


def test_frames_that_are_not_given_do_not_count() -> None:
    seen = shot(MOVES["pan"], picture(4))
    known = torch.tensor([[True, True, False, True]])
    seen[:, 2] = torch.randn(3, SIZE, SIZE)
    planes = own_motion(seen, known)
    assert not planes[:, 2].any()
    assert not planes[:, 1, 3:6].any()
    assert planes.abs().mean() < 0.05
