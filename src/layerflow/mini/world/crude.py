"""Degraded drawn scenes that resemble footage with masks: hard, jittering mattes and smeared backgrounds.

Such crude video is abundant, and the training stages lead from it to clean layers.
Letters in shape comments: F frames, C channels, H height, W width. Clips are in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.compositing import blend, extend_colour
from ...core.schema import ALPHA, BACKGROUND, BLENDED, FOREGROUND
from ...datasets.copy_paste import harmonise
from ...datasets.mattes import crude_matte, grow

HIDDEN = 2
"""Width in pixels of the rim around a crude matte that counts as hidden when the background is filled in."""
HARMONISE = 0.3
"""Share by which colours of a pasted foreground approach those of its new background."""


def crude_layers(clips: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Return the layers that masks and inpainting would give for the blended clip of a scene.

    The blended clip is unchanged. The matte is hard, up to two pixels too wide and jitters; the background behind it is
    smeared in from its surroundings frame by frame, so that it flickers.

    Args:
        clips: all clips of the scene, (F, C, H, W) by name.
        generator: source of randomness.
    """
    blended, true_alpha = clips[BLENDED].clamp(0, 1), clips[ALPHA]
    alpha = crude_matte(true_alpha > 0.5, generator)
    hidden = grow(torch.maximum(alpha, (true_alpha > 0).float()), HIDDEN)
    foreground, background = extend_colour(blended, alpha), extend_colour(blended, 1 - hidden)
    return {FOREGROUND: foreground, ALPHA: alpha, BACKGROUND: background, BLENDED: blended}


def pasted_layers(front: dict[str, Tensor], behind: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Return the crude foreground of one scene over the clean background of another."""
    crude, background = crude_layers(front, generator), behind[BACKGROUND].clamp(0, 1)
    alpha = crude[ALPHA]
    foreground = harmonise(crude[FOREGROUND], alpha, background, HARMONISE)
    return {
        FOREGROUND: foreground,
        ALPHA: alpha,
        BACKGROUND: background,
        BLENDED: blend(foreground, alpha, background),
    }
