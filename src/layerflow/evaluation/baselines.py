"""What takes no learning: trivial ways to decompose a blended clip, for a model to be measured against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.layered_video import LayeredVideo


def temporal_median(blended: Tensor) -> LayeredVideo:
    """Background is the median of the frames, alpha how far a pixel is from it. blended (F, 3, H, W)."""
    # torch.median takes the lower of two middle frames; the mean of both is the usual median.
    background = blended.quantile(0.5, dim=0, keepdim=True).expand_as(blended)
    return _by_distance(blended, background, low=0.04, high=0.16)


def border_colour(blended: Tensor) -> LayeredVideo:
    """Background is the mean colour of each frame's outermost pixels, alpha how far a pixel is from it."""
    edges = [blended[..., 0, :], blended[..., -1, :], blended[..., :, 0], blended[..., :, -1]]
    colour = torch.cat(edges, dim=-1).mean(-1)[..., None, None]  # (F, 3, 1, 1)
    return _by_distance(blended, colour.expand_as(blended), low=0.1, high=0.3)


def centre_disc(blended: Tensor) -> LayeredVideo:
    """Foreground is a disc of a fifth of the frame's side in radius, in the middle of every frame."""
    height, width = blended.shape[-2:]
    side = min(height, width)
    y = torch.arange(height, device=blended.device)[:, None] + 0.5 - height / 2
    x = torch.arange(width, device=blended.device) + 0.5 - width / 2
    disc = (side / 5 - torch.hypot(y, x) + 0.5).clamp(0, 1)  # (H, W)
    return _layers(blended, disc.expand(len(blended), 1, -1, -1).contiguous(), blended)


def nothing(blended: Tensor) -> LayeredVideo:
    """Alpha is 0 and the background is the blended clip itself."""
    return _layers(blended, torch.zeros_like(blended[:, :1]), blended)


BASELINES: dict[str, Callable[[Tensor], LayeredVideo]] = {
    "temporal median": temporal_median,
    "border colour": border_colour,
    "centre disc": centre_disc,
    "alpha = 0": nothing,
}
"""Name to function of a blended clip (F, 3, H, W)."""


def _by_distance(blended: Tensor, background: Tensor, low: float, high: float) -> LayeredVideo:
    """Alpha rises from 0 to 1 as the largest difference of a channel goes from `low` to `high`."""
    distance = (blended - background).abs().amax(1, keepdim=True)  # (F, 1, H, W)
    alpha = ((distance - low) / (high - low)).clamp(0, 1)
    return _layers(blended, alpha, background.contiguous())


def _layers(blended: Tensor, alpha: Tensor, background: Tensor) -> LayeredVideo:
    return LayeredVideo(foreground=blended, alpha=alpha, background=background, blended=blended)
