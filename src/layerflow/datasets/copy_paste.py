"""Paste a foreground of one video into the background of another, with matching colours and a shadow.

Letters in shape comments: F frames, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.compositing import extend_colour, unpremultiply
from ..core.layered_video import LayeredVideo

MOST_ENLARGED = 2.0
"""Largest factor that a cut-out is enlarged by; beyond it would be blurred."""


def bounds(alpha: Tensor) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right of the pixels that a matte (F, 1, H, W) covers in any frame.

    Raises:
        ValueError: the matte is transparent everywhere.
    """
    shown = (alpha > 0.1).any(0)[0]
    rows, columns = shown.any(1).nonzero(), shown.any(0).nonzero()
    if not len(rows):
        raise ValueError("the foreground is transparent everywhere")
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def place(foreground: LayeredVideo, height: int, width: int, share: float, generator: torch.Generator) -> LayeredVideo:
    """Place a foreground at a random position in a frame of another size.

    The object's path fills `share` of the frame in its tighter direction, less where that would enlarge it more than
    `MOST_ENLARGED` times.
    """
    assert foreground.alpha is not None
    top, left, bottom, right = bounds(foreground.alpha)
    cut = foreground.crop(top, left, bottom - top, right - left)
    scale = min(MOST_ENLARGED, share * min(height / cut.height, width / cut.width))
    cut = cut.resize(max(1, round(cut.height * scale)), max(1, round(cut.width * scale)))
    assert cut.foreground is not None
    assert cut.alpha is not None
    down = int(torch.randint(0, height - cut.height + 1, (), generator=generator))
    across = int(torch.randint(0, width - cut.width + 1, (), generator=generator))
    padding = (across, width - cut.width - across, down, height - cut.height - down)
    alpha = F.pad(cut.alpha, padding)
    colour = extend_colour(F.pad(cut.foreground, padding), alpha)
    return LayeredVideo(colour, alpha, fps=foreground.fps)


def harmonise(colour: Tensor, alpha: Tensor, background: Tensor, strength: float) -> Tensor:
    """Move the foreground's colours (F, 3, H, W) towards mean and spread of the background's, over all frames.

    Reinhard et al. 2001, Color Transfer between Images, here in sRGB. A strength of 0 leaves the colours, 1 gives them
    the background's statistics.
    """
    weight = alpha / alpha.sum().clamp(min=1e-6)
    mean = (colour * weight).sum((0, 2, 3), keepdim=True)
    spread = ((colour - mean).square() * weight).sum((0, 2, 3), keepdim=True).sqrt()
    other = background.mean((0, 2, 3), keepdim=True)
    other_spread = background.std((0, 2, 3), keepdim=True)
    ratio = (other_spread / spread.clamp(min=1e-3)).clamp(0.5, 2)
    return torch.lerp(colour, (colour - mean) * ratio + other, strength).clamp(0, 1)


def cast_shadow(video: LayeredVideo, strength: float, softness: float = 0.04) -> LayeredVideo:
    """Add a soft shadow below the foreground, as part of its alpha, so that blending stays exact.

    Args:
        video: layers with foreground and alpha.
        strength: alpha of the shadow where it is darkest; 0 leaves the video as it is.
        softness: blur of its edge, as a share of the frame's height.
    """
    if strength <= 0:
        return video
    assert video.foreground is not None
    assert video.alpha is not None
    blur = max(1, round(softness * video.height))
    offset = 2 * blur
    fallen = F.pad(video.alpha, (0, 0, offset, 0))[..., : video.height, :]
    for _ in range(2):  # two box filters approximate a Gaussian
        fallen = F.avg_pool2d(fallen, 2 * blur + 1, 1, blur)
    shadow = strength * fallen * (1 - video.alpha)
    alpha = video.alpha + shadow
    colour = unpremultiply(video.foreground * video.alpha, alpha, floor=1e-6, limits=None)
    colour = torch.where(alpha > 0, colour, video.foreground)
    return video.replace(foreground=colour.clamp(0, 1), alpha=alpha.clamp(0, 1))
