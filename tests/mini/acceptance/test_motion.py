"""The motion rule on drawn ellipses, and on real clips."""

import math

import pytest
import torch
from torch import Tensor

from layerflow.mini.acceptance import name_motion
from layerflow.mini.world import MOTIONS, MotionParams, SceneSource


def ellipse(motion: str, frames: int = 8, size: int = 64, turn: float = 1.0) -> Tensor:
    """A matte (F, 1, S, S) of an ellipse of 24 by 12 units that moves as real objects do."""
    unit = 64 / size
    centres = (torch.arange(size) + 0.5) * unit
    mattes = []
    for i in range(frames):
        x, y, scale, angle = MOTIONS[motion](i / max(frames - 1, 1), MotionParams())
        radians = math.radians(angle * turn)
        dx, dy = centres[None] - x, centres[:, None] - y
        along = dx * math.cos(radians) + dy * math.sin(radians)
        across = dy * math.cos(radians) - dx * math.sin(radians)
        distance = torch.hypot(along / (12 * scale), across / (6 * scale))
        mattes.append(((1 - distance) * 6 * scale / unit + 0.5).clamp(0, 1))
    return torch.stack(mattes)[:, None]


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("size", [32, 64])
def test_every_motion_is_named(motion: str, size: int) -> None:
    assert name_motion(ellipse(motion, size=size)) == motion


@pytest.mark.parametrize("motion", MOTIONS)
def test_noise_does_not_change_the_name(motion: str) -> None:
    noise = torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.08
    assert name_motion((ellipse(motion) + noise).clamp(0, 1)) == motion


@pytest.mark.parametrize("turn", [-1.0, 0.75, 1.4])
def test_a_spin_may_go_the_other_way_or_at_another_speed(turn: float) -> None:
    assert name_motion(ellipse("spinning", turn=turn)) == "spinning"


def test_a_smaller_way_is_still_the_same_motion() -> None:
    alpha = ellipse("moving right")
    alpha[0], alpha[-1] = alpha[1], alpha[-2]
    assert name_motion(alpha) == "moving right"


def test_an_empty_matte_has_no_motion() -> None:
    assert name_motion(torch.zeros(8, 1, 16, 16)) is None
    assert name_motion(torch.full((8, 1, 16, 16), 0.1)) is None


def test_one_frame_stands_still() -> None:
    assert name_motion(ellipse("spinning", frames=1)) == "still"


def test_a_missing_frame_is_passed_over() -> None:
    alpha = ellipse("falling")
    alpha[3] = 0
    assert name_motion(alpha) == "falling"


@pytest.mark.real_scenes
def test_real_clips_are_named_nearly_always() -> None:
    source = SceneSource("train")
    scenes = [source.scene(index, 9) for index in range(50)]
    right = sum(name_motion(scene.alpha) == scene.spec.motion for scene in scenes)
    assert right >= 48
