"""Convert a LayeredVideo to model space and back: values in [-1, 1], foreground over mid-grey, alpha in 3 channels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.compositing import extend_colour, unpremultiply
from ..core.given import Given
from ..core.layered_video import LayeredVideo
from ..core.schema import ALPHA_OF, CHANNELS


def to_model_space(clips: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert any subset of clips, (..., C, H, W) in [0, 1] by name, to (..., 3, H, W) in [-1, 1].

    The foreground is colour times alpha, so transparent means 0, mid-grey; without an alpha clip its colour is
    taken as being over mid-grey already. `blended = foreground + (1 - alpha) * background` holds here too.
    """
    space = {name: clip * 2 - 1 for name, clip in clips.items()}
    for colour, alpha in ALPHA_OF.items():
        if alpha not in clips:
            continue
        if colour in clips:
            space[colour] = space[colour] * clips[alpha]
        grey = space[alpha]
        space[alpha] = grey.expand(*grey.shape[:-3], 3, *grey.shape[-2:])
    return space


def given_space(given: Given) -> dict[str, Tensor]:
    """Convert given clips to model space, (F, 3, H, W) by name. Frames that are not given hold the nearest given frame
    before them, or else the first one.

    A foreground is multiplied by alpha in those frames in which both are given; in the others its colour is taken as
    being over mid-grey already.
    """
    own = given.video.clips()
    clips = {name: own[name] for name in given.clips}
    for alpha in set(ALPHA_OF.values()) & set(clips):
        known = given.mask(alpha).to(clips[alpha].device)
        clips[alpha] = torch.where(known[:, None, None, None], clips[alpha], 1.0)
    return {name: clip[held_frames(given.mask(name))] for name, clip in to_model_space(clips).items()}


def held_frames(mask: Tensor) -> Tensor:
    """Return for each frame the number of the last given one up to it, or else of the first, from a mask (F,)."""
    numbers = torch.arange(len(mask))
    last = torch.where(mask, numbers, -1).cummax(0).values
    return torch.where(last < 0, mask.int().argmax(), last)


HAZE = 0.02
"""Alpha under which a predicted matte is noise."""


def without_haze(alpha: Tensor) -> Tensor:
    """Snap both ends of a predicted matte in [0, 1]: noise of a few grey levels is invisible as alpha, ugly as haze."""
    return ((alpha - HAZE) / (1 - 2 * HAZE)).clamp(0, 1)


def from_model_space(clips: dict[str, Tensor], fps: float) -> LayeredVideo:
    """Convert clips (F, 3, H, W) in model space to a video of straight colour.

    Colour is divided by alpha where alpha is large enough and extended outwards where it is not, so that edges
    don't darken when somebody composes them over something else.
    """
    video = {name: ((clip.float() + 1) / 2).clamp(0, 1) for name, clip in clips.items() if CHANNELS[name] == 3}
    for colour, name in ALPHA_OF.items():
        if name not in clips:
            continue
        alpha = ((clips[name].float().mean(1, keepdim=True) + 1) / 2).clamp(0, 1)
        alpha = video[name] = without_haze(alpha)
        if colour in clips:
            premultiplied = clips[colour].float()
            straight = (unpremultiply(premultiplied, alpha, floor=0.1, limits=None) + 1) / 2
            video[colour] = extend_colour(straight.clamp(0, 1), alpha)
    return LayeredVideo.from_clips(video, fps=fps)


__all__ = ["from_model_space", "given_space", "held_frames", "to_model_space", "without_haze"]
