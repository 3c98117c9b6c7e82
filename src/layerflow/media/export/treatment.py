"""Optional corrections of layers at export."""

from __future__ import annotations

import torch

from ...core.compositing import extend_colour
from ...core.layered_video import LayeredVideo

SOLID = 0.95
"""Alpha from which a pixel's colour counts as the foreground's own."""


def clean_edges(video: LayeredVideo, strength: float = 1.0) -> LayeredVideo:
    """Replace the colour of the foreground's edge by that of its inside, so that an old background does not fringe.

    Args:
        video: layers with foreground and alpha; other clips and alpha stay as they are.
        strength: from 0, which changes nothing, to 1, which keeps no colour of a pixel with alpha under 0.95.

    Raises:
        ValueError: the strength is out of its range, or foreground or alpha is missing.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}: it must lie from 0, off, to 1.")
    if video.foreground is None or video.alpha is None:
        raise ValueError("cleaning edges needs foreground and alpha; leave it off for other layers.")
    if strength == 0:
        return video
    inside = extend_colour(video.foreground, video.alpha, SOLID)
    return video.replace(foreground=torch.lerp(video.foreground, inside, strength))
