"""Trivial decompositions of a blended clip, as baselines for models."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.layered_video import LayeredVideo


def temporal_median(blended: Tensor) -> LayeredVideo:
    """Decompose (F, 3, H, W): the background is the median over frames, alpha the distance of a pixel from it."""
    # torch.median takes the lower of two middle frames; the mean of both is the usual median.
    background = blended.quantile(0.5, dim=0, keepdim=True).expand_as(blended)
    return _by_distance(blended, background, low=0.04, high=0.16)


def border_colour(blended: Tensor) -> LayeredVideo:
    """Decompose (F, 3, H, W): the background is the mean colour of each frame's border, alpha the distance from it."""
    edges = [blended[..., 0, :], blended[..., -1, :], blended[..., :, 0], blended[..., :, -1]]
    colour = torch.cat(edges, dim=-1).mean(-1)[..., None, None]  # (F, 3, 1, 1)
    return _by_distance(blended, colour.expand_as(blended), low=0.1, high=0.3)


def centre_disc(blended: Tensor) -> LayeredVideo:
    """Decompose (F, 3, H, W): the foreground is a disc at the centre, its radius a fifth of the shorter side."""
    height, width = blended.shape[-2:]
    side = min(height, width)
    y = torch.arange(height, device=blended.device)[:, None] + 0.5 - height / 2
    x = torch.arange(width, device=blended.device) + 0.5 - width / 2
    disc = (side / 5 - torch.hypot(y, x) + 0.5).clamp(0, 1)  # (H, W)
    return _layers(blended, disc.expand(len(blended), 1, -1, -1).contiguous(), blended)


def empty_foreground(blended: Tensor) -> LayeredVideo:
    """Decompose (F, 3, H, W): alpha is 0 and the background is the blended clip."""
    return _layers(blended, torch.zeros_like(blended[:, :1]), blended)


BASELINES: dict[str, Callable[[Tensor], LayeredVideo]] = {
    "temporal median": temporal_median,
    "border colour": border_colour,
    "centre disc": centre_disc,
    "alpha = 0": empty_foreground,
}
"""Functions of a blended clip (F, 3, H, W), by name."""


def _by_distance(blended: Tensor, background: Tensor, low: float, high: float) -> LayeredVideo:
    """Return layers whose alpha rises from 0 to 1 as the largest channel difference goes from `low` to `high`."""
    distance = (blended - background).abs().amax(1, keepdim=True)  # (F, 1, H, W)
    alpha = ((distance - low) / (high - low)).clamp(0, 1)
    return _layers(blended, alpha, background.contiguous())


def _layers(blended: Tensor, alpha: Tensor, background: Tensor) -> LayeredVideo:
    return LayeredVideo(foreground=blended, alpha=alpha, background=background, blended=blended)
