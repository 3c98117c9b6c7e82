"""The door between a LayeredVideo and the model: values in [-1, 1], foreground over mid-grey, alpha in 3 channels."""

from __future__ import annotations

from torch import Tensor

from ..layered_video import LayeredVideo, extend_colour


def to_model_space(video: LayeredVideo) -> dict[str, Tensor]:
    """The clips that a video holds, each (F, 3, H, W) in [-1, 1].

    The foreground is colour times alpha, so transparent means 0, mid-grey; without an alpha clip its colour is
    taken as being over mid-grey already. `blended = foreground + (1 - alpha) * background` holds here too.
    """
    clips = {name: clip * 2 - 1 for name, clip in video.clips().items()}
    if "alpha" in clips:
        if "foreground" in clips:
            clips["foreground"] = clips["foreground"] * video.clips()["alpha"]
        clips["alpha"] = clips["alpha"].expand(-1, 3, -1, -1)
    return clips


def from_model_space(clips: dict[str, Tensor], fps: float) -> LayeredVideo:
    """Clips (F, 3, H, W) in model space back to a video of straight colour.

    Colour is divided by alpha where alpha is large enough and extended outwards where it is not, so that edges
    don't darken when somebody composes them over something else.
    """
    video = {name: ((clip.float() + 1) / 2).clamp(0, 1) for name, clip in clips.items() if name != "alpha"}
    if "alpha" in clips:
        alpha = ((clips["alpha"].float().mean(1, keepdim=True) + 1) / 2).clamp(0, 1)
        # Noise of a few grey levels in the matte is invisible as alpha and ugly as haze; snap its two ends.
        alpha = ((alpha - 0.02) / 0.96).clamp(0, 1)
        video["alpha"] = alpha
        if "foreground" in clips:
            premultiplied = clips["foreground"].float()
            straight = (premultiplied / alpha.clamp(min=0.1) + 1) / 2
            video["foreground"] = extend_colour(straight.clamp(0, 1), alpha)
    return LayeredVideo(**video, fps=fps)


def batch_to_model_space(foreground: Tensor, alpha: Tensor, background: Tensor, blended: Tensor) -> dict[str, Tensor]:
    """Whole scenes (..., C, H, W) in [0, 1] to clips (..., 3, H, W) in model space; used by training."""
    return {
        "foreground": (foreground * 2 - 1) * alpha,
        "alpha": (alpha * 2 - 1).expand_as(foreground),
        "background": background * 2 - 1,
        "blended": blended * 2 - 1,
    }


__all__ = ["batch_to_model_space", "from_model_space", "to_model_space"]
