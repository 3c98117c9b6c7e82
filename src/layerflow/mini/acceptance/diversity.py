"""Diversity of generated clips: between seeds, between frames, and from the training scenes.

Clips are compared by a thumbnail of one frame, small enough for the record of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..world import Scene, SceneSource

THUMBNAIL = 16
"""Height and width of a thumbnail."""
TRAINING_SCENES = 500
"""Number of training scenes to compare a clip with."""
_STREAM = 50_000  # a stream of training scenes for this module alone


def thumbnail(clip: Tensor) -> list[int]:
    """Shrink the middle frame of a clip (F, 3, H, W) in [0, 1] to 3*16*16 levels from 0 to 255."""
    small = F.adaptive_avg_pool2d(clip[len(clip) // 2].float(), THUMBNAIL)
    levels: list[int] = (small.clamp(0, 1) * 255).round().int().flatten().tolist()
    return levels


def thumbnail_distance(one: Sequence[int], other: Sequence[int]) -> float:
    """Return the mean absolute difference of two thumbnails in levels."""
    return float((torch.tensor(one, dtype=torch.float32) - torch.tensor(other, dtype=torch.float32)).abs().mean())


@lru_cache(maxsize=2)
def _training_thumbnails(size: int, frames: int) -> Tensor:
    source = SceneSource("train", size, frames)
    scenes = (source.scene(n, _STREAM, frame_indices=[frames // 2]) for n in range(TRAINING_SCENES))
    return torch.tensor([thumbnail(scene.blended) for scene in scenes], dtype=torch.float32)


def nearest_training_distance(one: Sequence[int], size: int, frames: int) -> float:
    """Return the distance in levels of a thumbnail to the nearest of `TRAINING_SCENES` training scenes."""
    training = _training_thumbnails(size, frames)
    return float((training - torch.tensor(one, dtype=torch.float32)).abs().mean(1).min())


def second_difference(clip: Tensor) -> float:
    """Return the mean absolute second difference over time of a clip (F, C, H, W), a measure of flicker.

    Steady change counts as 0, and so do clips of fewer than three frames.
    """
    return float(clip.double().diff(n=2, dim=0).abs().mean()) if len(clip) > 2 else 0.0


def measure_diversity(scene: Scene, clip: Tensor) -> dict[str, Any]:
    """Return thumbnail and distances of a blended clip (F, 3, H, W), and the same of its true scene.

    `real_distance` is that to another scene of the same specification, the difference that prompts leave open.
    """
    frames, size = len(scene.blended), scene.blended.shape[-1]
    source = SceneSource("train", size, frames)
    other = source.render(replace(scene.spec, seed=scene.spec.seed ^ 1), frame_indices=[frames // 2])
    own, real = thumbnail(clip), thumbnail(scene.blended)
    return {
        "thumbnail": own,
        "real_distance": thumbnail_distance(real, thumbnail(other.blended)),
        "nearest_training": nearest_training_distance(own, size, frames),
        "real_nearest_training": nearest_training_distance(real, size, frames),
        "second_difference": second_difference(clip),
        "real_second_difference": second_difference(scene.blended),
    }
