"""Optional corrections of layers at export."""

from __future__ import annotations

import torch

from ...core.compositing import extend_colour
from ...core.layered_video import Foreground, LayeredVideo

SOLID = 0.95
"""Alpha from which a pixel's colour counts as the foreground's own."""


def clean_edges(video: LayeredVideo, strength: float = 1.0) -> LayeredVideo:
    """Replace the colour of each foreground's edge by that of its inside, so that an old background does not fringe.

    Args:
        video: layers with the colour and alpha of each foreground; other clips and alphas stay as they are.
        strength: from 0, which changes nothing, to 1, which keeps no colour of a pixel with alpha under 0.95.

    Raises:
        ValueError: the strength is out of its range, or the colour or alpha of a foreground is missing.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}: it must lie from 0, off, to 1.")
    cleaned = []
    for one in video.foregrounds or (Foreground(),):
        if one.colour is None or one.alpha is None:
            raise ValueError("cleaning edges needs foreground and alpha; leave it off for other layers.")
        inside = extend_colour(one.colour, one.alpha, SOLID)
        cleaned.append(Foreground(torch.lerp(one.colour, inside, strength), one.alpha))
    return video.replace(foregrounds=cleaned) if strength else video
