"""OpenEXR: every layer of a frame in one file, linear light, alpha premultiplied, as compositors expect it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.layered_video import LayeredVideo
from ...core.schema import ALPHA_OF

CONVENTION = "linear light of sRGB / BT.709 primaries, 16-bit float, foreground premultiplied with its alpha"
CHROMATICITIES = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)
"""x and y of red, green, blue and white: BT.709 and D65."""


def to_linear(colour: Tensor) -> Tensor:
    """Convert sRGB code values in [0, 1] to linear light (IEC 61966-2-1)."""
    return torch.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def channels(video: LayeredVideo, frame: int) -> dict[str, np.ndarray]:
    """Return one frame as planes (H, W), float16, named as compositors group them: `foreground.R` ... `background.B`.

    Further foregrounds are `foreground-2.R` and so on, from near to far. The blended video, which viewers show first,
    has no layer name: `R`, `G`, `B`.
    """
    planes: dict[str, Tensor] = {}
    for (layer, matte), foreground in zip(ALPHA_OF.items(), video.foregrounds, strict=False):
        colour, alpha = foreground.colour, foreground.alpha
        if colour is not None:
            share = alpha[frame] if alpha is not None else 1.0
            planes |= _named(f"{layer}.", to_linear(colour[frame]) * share)
        if alpha is not None:
            planes[f"{layer if colour is not None else matte}.A"] = alpha[frame, 0]
    if video.background is not None:
        planes |= _named("background.", to_linear(video.background[frame]))
    if video.blended is not None:
        planes |= _named("", to_linear(video.blended[frame]))
    return {name: plane.numpy().astype(np.float16) for name, plane in planes.items()}


def _named(prefix: str, colour: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}{name}": plane for name, plane in zip("RGB", colour, strict=True)}


def write_exr(video: LayeredVideo, folder: Path) -> Path:
    """Write `layers.0000.exr` and so on into a new folder."""
    import OpenEXR

    header: dict[str, Any] = {
        "compression": OpenEXR.ZIP_COMPRESSION,
        "type": OpenEXR.scanlineimage,
        "chromaticities": CHROMATICITIES,
        "framesPerSecond": Fraction(video.fps).limit_denominator(1001),
    }
    folder.mkdir()
    for frame in range(video.frames):
        with OpenEXR.File(dict(header), channels(video, frame)) as file:
            file.write(str(folder / f"layers.{frame:04d}.exr"))
    return folder
