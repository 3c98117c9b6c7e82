"""Result and limits of reading, and the error of all media code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..core.errors import UserError


class MediaError(UserError):
    """A file cannot be read or written. One sentence: the file, what is wrong, the way out."""


@dataclass(frozen=True)
class Video:
    """The frames of one file."""

    colour: Tensor
    """(F, 3, H, W) float32 in [0, 1], sRGB as displayed, straight."""
    alpha: Tensor | None
    """(F, 1, H, W) float32 in [0, 1]; None when the file has no alpha."""
    fps: float
    """Frames per second."""


@dataclass(frozen=True)
class ReadLimits:
    """Limits on the size and length of a file, checked on its header before decoding."""

    max_frames: int = 600
    """Most frames: 75 s at 8 fps, far more than the models generate."""
    max_pixels: int = 4096 * 4096
    """Most pixels in one frame."""
    max_total_pixels: int = 2**28
    """Most pixels over all frames: about 4 GB as float32 with alpha, 129 frames of 1920x1080."""

    def check(self, path: Path, width: int, height: int, frames: int) -> None:
        """Raise `MediaError` when a video of this size goes beyond a limit."""
        pixels = width * height
        for value, limit, name, way in (
            (pixels, self.max_pixels, "max_pixels", "scale it down"),
            (frames, self.max_frames, "max_frames", "read fewer with frames=N"),
            (pixels * frames, self.max_total_pixels, "max_total_pixels", "read fewer with frames=N"),
        ):
            if value > limit:
                raise MediaError(
                    f"{path}: {frames} frames of {width}x{height} go beyond the limit {name}={limit}; "
                    f"{way}, or allow it with limits=ReadLimits({name}={value})."
                )
