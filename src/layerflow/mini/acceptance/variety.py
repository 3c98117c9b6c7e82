"""How a model's clips differ: from each other with another seed, from frame to frame, and from its training scenes.

Pictures are compared by thumbnails of one frame, so that a record of a sample can hold them.
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
"""Training scenes that a clip is compared with."""
_STREAM = 50_000  # of the scenes that only this module draws


def thumbnail(clip: Tensor) -> list[int]:
    """The middle frame of a clip (F, 3, H, W) in [0, 1]: 3*16*16 levels from 0 to 255."""
    small = F.adaptive_avg_pool2d(clip[len(clip) // 2].float(), THUMBNAIL)
    levels: list[int] = (small.clamp(0, 1) * 255).round().int().flatten().tolist()
    return levels


def distance(one: Sequence[int], other: Sequence[int]) -> float:
    """Mean absolute difference of two thumbnails, in levels."""
    return float((torch.tensor(one, dtype=torch.float32) - torch.tensor(other, dtype=torch.float32)).abs().mean())


@lru_cache(maxsize=2)
def _training_thumbnails(size: int, frames: int) -> Tensor:
    source = SceneSource("train", size, frames)
    scenes = (source.scene(n, _STREAM, frame_indices=[frames // 2]) for n in range(TRAINING_SCENES))
    return torch.tensor([thumbnail(scene.blended) for scene in scenes], dtype=torch.float32)


def nearest_training_scene(one: Sequence[int], size: int, frames: int) -> float:
    """Distance, in levels, of a thumbnail to the nearest of `TRAINING_SCENES` training scenes."""
    every = _training_thumbnails(size, frames)
    return float((every - torch.tensor(one, dtype=torch.float32)).abs().mean(1).min())


def restlessness(clip: Tensor) -> float:
    """Mean absolute second difference over time of a clip (F, C, H, W): what comes and goes from one frame to the next,
    where steady change counts nothing; 0 below three frames."""
    return float(clip.double().diff(n=2, dim=0).abs().mean()) if len(clip) > 2 else 0.0


def variety(scene: Scene, clip: Tensor) -> dict[str, Any]:
    """What a record keeps of a blended clip (F, 3, H, W), beside the same of its true scene.

    `other_real` is the thumbnail of another scene of the same facts: as different as the prompts leave open.
    """
    frames, size = len(scene.blended), scene.blended.shape[-1]
    source = SceneSource("train", size, frames)
    other = source.render(replace(scene.spec, seed=scene.spec.seed ^ 1), frame_indices=[frames // 2])
    own, real = thumbnail(clip), thumbnail(scene.blended)
    return {
        "thumbnail": own,
        "real_variety": distance(real, thumbnail(other.blended)),
        "nearest_training": nearest_training_scene(own, size, frames),
        "real_nearest_training": nearest_training_scene(real, size, frames),
        "restlessness": restlessness(clip),
        "real_restlessness": restlessness(scene.blended),
    }
