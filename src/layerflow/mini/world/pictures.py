"""Pictures as backgrounds: collages, and the few photographs that come with scikit-image, CC0 or in the public domain.

Nothing is downloaded, and no photograph is kept in this project. A scene shows part of one, as large and as bright as
its seed says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...core.errors import UserError
from .collage import COLLAGE_WORDS, collage

Tint = tuple[float, float, float]


class MissingPhotographsError(UserError):
    """scikit-image, which brings the photographs, is not installed."""


@dataclass(frozen=True)
class Photograph:
    """One photograph of scikit-image's."""

    captions: tuple[str, ...]
    """What it may be called."""
    tint: Tint = (1.0, 1.0, 1.0)
    """sRGB factors on a grey one, where what it shows has a colour."""
    held_out: bool = False
    """True: never part of a training scene."""


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
"""Names of functions of `skimage.data`, whose docstrings name author and licence. Left out: what those download,
what no caption could name, and whose licence they do not name (the moon)."""

COLLAGE = "collage"
"""Stands for a collage of the scene's own seed."""

_SMALLEST = 0.4  # side of the part that is shown, over the photograph's shorter one
_GAIN = (0.8, 1.15)  # factor on all of it; of each colour a tenth more or less


def find_photographs() -> Any:
    """The module that has the photographs.

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
    """Part of a photograph or of a collage.

    Args:
        name: one of `PHOTOGRAPHS`, or `COLLAGE`.
        seed: which part, whether mirrored, how bright.
        size: height and width in pixels.

    Returns:
        float32 (size, size, 3) in [0, 1], sRGB.

    Raises:
        MissingPhotographsError: scikit-image is not installed.
    """
    rng = np.random.default_rng([seed, 6])
    whole = collage(seed) if name == COLLAGE else _whole(name)
    height, width = whole.shape[:2]
    side = round(rng.uniform(_SMALLEST, 1) * min(height, width))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    part = whole[top : top + side, left : left + side]
    part = part[:, ::-1] if rng.random() < 0.5 else part
    gain = rng.uniform(*_GAIN) * (1 + rng.uniform(-0.1, 0.1, 3))
    pixels = torch.from_numpy(np.ascontiguousarray(part.transpose(2, 0, 1)))[None]
    fitted = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)[0]
    return (fitted.permute(1, 2, 0).numpy() * gain.astype(np.float32)).clip(0, 1)


def picture_words(name: str) -> tuple[str, ...]:
    """What captions call it."""
    return COLLAGE_WORDS if name == COLLAGE else PHOTOGRAPHS[name].captions


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _whole(name: str) -> np.ndarray:
    """All of a photograph, float32 (H, W, 3) in [0, 1]."""
    pixels = getattr(find_photographs(), name)().astype(np.float32) / 255
    return pixels if pixels.ndim == 3 else pixels[..., None] * np.array(PHOTOGRAPHS[name].tint, np.float32)
