"""The door between a LayeredVideo and the model: values in [-1, 1], foreground over mid-grey, alpha in 3 channels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..core.compositing import extend_colour, unpremultiply
from ..core.layered_video import LayeredVideo


def to_model_space(clips: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Clips (..., C, H, W) in [0, 1] by name, any of them, each to (..., 3, H, W) in [-1, 1].

    The foreground is colour times alpha, so transparent means 0, mid-grey; without an alpha clip its colour is
    taken as being over mid-grey already. `blended = foreground + (1 - alpha) * background` holds here too.
    """
    space = {name: clip * 2 - 1 for name, clip in clips.items()}
    if "alpha" in clips:
        if "foreground" in clips:
            space["foreground"] = space["foreground"] * clips["alpha"]
        alpha = space["alpha"]
        space["alpha"] = alpha.expand(*alpha.shape[:-3], 3, *alpha.shape[-2:])
    return space


HAZE = 0.02
"""Alpha under which a predicted matte is noise."""


def without_haze(alpha: Tensor) -> Tensor:
    """A predicted matte in [0, 1] with its two ends snapped: noise of a few grey levels is invisible as alpha and ugly
    as haze."""
    return ((alpha - HAZE) / (1 - 2 * HAZE)).clamp(0, 1)


def from_model_space(clips: dict[str, Tensor], fps: float) -> LayeredVideo:
    """Clips (F, 3, H, W) in model space back to a video of straight colour.

    Colour is divided by alpha where alpha is large enough and extended outwards where it is not, so that edges
    don't darken when somebody composes them over something else.
    """
    video = {name: ((clip.float() + 1) / 2).clamp(0, 1) for name, clip in clips.items() if name != "alpha"}
    if "alpha" in clips:
        alpha = ((clips["alpha"].float().mean(1, keepdim=True) + 1) / 2).clamp(0, 1)
        alpha = video["alpha"] = without_haze(alpha)
        if "foreground" in clips:
            premultiplied = clips["foreground"].float()
            straight = (unpremultiply(premultiplied, alpha, floor=0.1, limits=None) + 1) / 2
            video["foreground"] = extend_colour(straight.clamp(0, 1), alpha)
    return LayeredVideo(**video, fps=fps)


__all__ = ["from_model_space", "to_model_space", "without_haze"]
