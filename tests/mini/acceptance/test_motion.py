"""The motion rule on drawn ellipses and on drawn scenes."""

import math

import pytest
import torch
from torch import Tensor

from layerflow.mini.acceptance import name_motion
from layerflow.mini.world import MOTIONS, MotionParams, SceneSource


def ellipse(motion: str, frames: int = 8, size: int = 64, turn: float = 1.0) -> Tensor:
    """Return a matte (F, 1, S, S) of an ellipse of 24 by 12 units that moves like the drawn objects."""
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
def test_motions_of_an_ellipse(motion: str, size: int) -> None:
    assert name_motion(ellipse(motion, size=size)) == motion


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions_of_a_noisy_ellipse(motion: str) -> None:
    noise = torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.08
    assert name_motion((ellipse(motion) + noise).clamp(0, 1)) == motion


@pytest.mark.parametrize("turn", [-1.0, 0.75, 1.4])
def test_spinning_at_other_speeds(turn: float) -> None:
    assert name_motion(ellipse("spinning", turn=turn)) == "spinning"


def test_shorter_path() -> None:
    alpha = ellipse("moving right")
    alpha[0], alpha[-1] = alpha[1], alpha[-2]
    assert name_motion(alpha) == "moving right"


def test_empty_matte() -> None:
    assert name_motion(torch.zeros(8, 1, 16, 16)) is None
    assert name_motion(torch.full((8, 1, 16, 16), 0.1)) is None


def test_single_frame_is_still() -> None:
    assert name_motion(ellipse("spinning", frames=1)) == "still"


def test_missing_frame() -> None:
    alpha = ellipse("falling")
    alpha[3] = 0
    assert name_motion(alpha) == "falling"


@pytest.mark.real_scenes
def test_motions_of_drawn_scenes() -> None:
    source = SceneSource("train")
    scenes = [source.scene(index, 9) for index in range(50)]
    correct = sum(name_motion(scene.alpha) == scene.spec.motion for scene in scenes)
    assert correct >= 48
