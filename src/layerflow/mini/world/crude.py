"""Drawn scenes as footage with masks would give them: hard, jumping mattes and smeared backgrounds.

Crude video is what there is much of; the training stages exist to get from it to clean layers.
Shapes: F frames, H, W pixels; clips in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.compositing import blend, extend_colour
from ...datasets.copy_paste import harmonise
from ...datasets.mattes import crude_matte, grow

HIDDEN = 2
"""Pixels around a crude matte that count as hidden when the background is filled in."""
HARMONISE = 0.3
"""How far a pasted foreground's colours move towards its new background's."""


def crude_layers(clips: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """What masks and inpainting would make of a scene's blended clip, by the scene's four clips (F, C, H, W).

    The blended clip stays as it is. The matte is hard, lies up to two pixels too far out and jumps; the background
    behind it is smeared in from around it, each frame on its own, so that it flickers.
    """
    blended = clips["blended"].clamp(0, 1)
    alpha = crude_matte(clips["alpha"] > 0.5, generator)
    hidden = grow(torch.maximum(alpha, (clips["alpha"] > 0).float()), HIDDEN)
    return {
        "foreground": extend_colour(blended, alpha),
        "alpha": alpha,
        "background": extend_colour(blended, 1 - hidden),
        "blended": blended,
    }


def pasted_layers(front: dict[str, Tensor], behind: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """The foreground of one scene, cut out crudely, over the clean background of another."""
    cut, background = crude_layers(front, generator), behind["background"].clamp(0, 1)
    foreground = harmonise(cut["foreground"], cut["alpha"], background, HARMONISE)
    return {
        "foreground": foreground,
        "alpha": cut["alpha"],
        "background": background,
        "blended": blend(foreground, cut["alpha"], background),
    }
