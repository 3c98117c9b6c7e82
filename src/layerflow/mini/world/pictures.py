"""Pictures as backgrounds: collages, and the few photographs of scikit-image that are CC0 or in the public domain.

Nothing is downloaded, and no photograph is part of this project. A scene shows a random part at random brightness.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...core.errors import UserError
from .collage import COLLAGE_CAPTIONS, collage

Tint = tuple[float, float, float]


class MissingPhotographsError(UserError):
    """scikit-image, which contains the photographs, is not installed."""


@dataclass(frozen=True)
class Photograph:
    """One photograph of scikit-image."""

    captions: tuple[str, ...]
    """Captions of the photograph."""
    tint: Tint = (1.0, 1.0, 1.0)
    """sRGB factors on a grey photograph whose subject has a colour."""
    held_out: bool = False
    """The photograph is never part of a training scene."""


PHOTOGRAPHS: dict[str, Photograph] = {
    "grass": Photograph(("a photo of grass", "a photograph of a lawn", "a real lawn"), (0.75, 1.0, 0.45)),
    "brick": Photograph(
        ("a photo of a brick wall", "a photograph of brickwork", "a real brick wall"), (1.0, 0.72, 0.62)
    ),
    "chelsea": Photograph(("a photo of a cat's face", "a photograph of a tabby cat", "a real cat, close up")),
    "camera": Photograph(("a photo of a man with a camera", "a black and white photograph of a photographer")),
    "rocket": Photograph(("a photo of a rocket launch", "a photograph of a rocket at night", "a real rocket launch")),
    "hubble_deep_field": Photograph(("a photo of galaxies", "a photograph of deep space", "galaxies in deep space")),
    "coins": Photograph(("a photo of old coins", "a photograph of coins", "rows of old coins"), held_out=True),
    "coffee": Photograph(("a photo of a cup of coffee", "a photograph of coffee on a wooden table"), held_out=True),
    "gravel": Photograph(("a photo of gravel", "a photograph of small stones"), (1.0, 0.95, 0.88), held_out=True),
}
"""Photographs by function of `skimage.data`, whose docstrings name author and licence. Excluded are downloads, subjects
that captions cannot name, and pictures without a named licence (the moon)."""

COLLAGE = "collage"
"""Name of a collage drawn with the scene's seed."""

_SMALLEST = 0.4  # least side of the shown part relative to the photograph's shorter side
_GAIN = (0.8, 1.15)  # range of the brightness


def find_photographs() -> Any:
    """Import the module with the photographs.

    Raises:
        MissingPhotographsError: scikit-image is not installed.
    """
    try:
        import skimage.data
    except ImportError as error:
        raise MissingPhotographsError(
            "photographs as backgrounds come with scikit-image; install it with: pip install 'layerflow[train]'"
        ) from error
    return skimage.data


def picture(name: str, *, seed: int, size: int) -> np.ndarray:
    """Draw a part of a photograph or of a collage.

    Args:
        name: one of `PHOTOGRAPHS`, or `COLLAGE`.
        seed: seed of the part, mirroring and brightness.
        size: height and width in pixels.

    Returns:
        float32 (size, size, 3) in [0, 1], sRGB.

    Raises:
        MissingPhotographsError: scikit-image is not installed.
    """
    whole = collage(seed) if name == COLLAGE else _whole(name)
    return show_part(whole[None], np.random.default_rng([seed, 6]), size, _SMALLEST)[0]


def show_part(
    frames: np.ndarray, rng: np.random.Generator, size: int, smallest: float, tint: float = 0.1
) -> np.ndarray:
    """Show a random square of pictures, the same of all, perhaps mirrored, at random brightness.

    Args:
        frames: (F, H, W, 3), float32 in [0, 1] or uint8.
        rng: source of the part, mirroring and brightness.
        size: height and width of the result in pixels.
        smallest: least side of the part relative to the shorter side of the pictures.
        tint: each channel's brightness varies by this share of it.

    Returns:
        float32 (F, size, size, 3) in [0, 1].
    """
    height, width = frames.shape[1:3]
    side = round(rng.uniform(smallest, 1) * min(height, width))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    part = frames[:, top : top + side, left : left + side]
    part = part[:, :, ::-1] if rng.random() < 0.5 else part
    gain = rng.uniform(*_GAIN) * (1 + rng.uniform(-tint, tint, 3))
    pixels = torch.from_numpy(np.ascontiguousarray(part.transpose(0, 3, 1, 2)))
    pixels = pixels if pixels.is_floating_point() else pixels.float() / 255
    fitted = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return (fitted.permute(0, 2, 3, 1).numpy() * gain.astype(np.float32)).clip(0, 1)


def picture_captions(name: str) -> tuple[str, ...]:
    """Return the captions of a picture."""
    return COLLAGE_CAPTIONS if name == COLLAGE else PHOTOGRAPHS[name].captions


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _whole(name: str) -> np.ndarray:
    """Load a whole photograph, float32 (H, W, 3) in [0, 1]."""
    pixels = getattr(find_photographs(), name)().astype(np.float32) / 255
    return pixels if pixels.ndim == 3 else pixels[..., None] * np.array(PHOTOGRAPHS[name].tint, np.float32)
