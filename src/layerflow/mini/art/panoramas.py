"""Panoramas of Poly Haven (high dynamic range, equirectangular), tone-mapped to sRGB."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from PIL import Image

from layerflow.mini.art.packages import folder_of
from layerflow.mini.art.pictures import ArtError, BackgroundArt, Pixels

SIZE = 1024, 512
"""Width and height, pixels."""

_POLY_HAVEN = {
    "apartment": "an empty apartment with a wooden floor",
    "bridge": "a glass footbridge from inside",
    "city": "a wide square between office towers",
    "dawn": "a rocky desert at dawn",
    "esplanade": "a shopping mall",
    "forest": "a forest with tall trees",
    "hall": "a white ballroom with chandeliers",
    "lab": "an old green laboratory",
    "lobby": "a lobby with red benches",
    "night": "a steppe at night",
    "park": "a green meadow in the sun",
    "sky": "clouds over the sea",
    "studio": "a photo studio with a lamp",
    "sunset": "a square in venice at sunset",
    "venice": "a harbour in the evening",
    "warehouse": "an empty warehouse",
    "workshop": "a workshop with a green floor",
}
"""Captions by name. "sunrise" is the same as in Blender."""
_BLENDER = {
    "city": "a car park in a city",
    "courtyard": "a courtyard with a roof",
    "forest": "a park with trees and a path",
    "interior": "a hotel room with a bed",
    "night": "a field at night",
    "studio": "a photo studio with spotlights",
    "sunrise": "a meadow at sunrise",
    "sunset": "a waterfront at sunset",
}
_HELD_OUT = {"bridge", "forest", "lab", "night", "blender-city", "blender-interior"}
"""Panoramas without a near twin among the others."""


def backgrounds(art: Path) -> Iterator[BackgroundArt]:
    """Yield the panoramas, 1024x512.

    Raises:
        ArtError: a package is missing or damaged, or OpenEXR is not installed.
    """
    assets = folder_of(art, "@pmndrs/assets") / "hdri"
    blender = folder_of(art, "blender-data") / "usr/share/blender/datafiles/studiolights/world"
    for prefix, captions, folder, ending, author in (
        ("", _POLY_HAVEN, assets, ".exr.js", "Poly Haven"),
        ("blender-", _BLENDER, blender, ".exr", "Greg Zaal (Poly Haven)"),
    ):
        for key, caption in captions.items():
            name = prefix + key
            pixels = np.asarray(Image.fromarray(tone_map(read_panorama(folder / (key + ending)))).resize(SIZE))
            yield BackgroundArt(
                name, f"a photo of {caption}", "panorama", "CC0-1.0", author, pixels[None], name in _HELD_OUT
            )


def read_panorama(file: Path) -> npt.NDArray[np.float32]:
    """Return the linear light of an OpenEXR file, or of a module of JavaScript with one in base64, (H, W, 3).

    Raises:
        ArtError: OpenEXR is not installed, or the file cannot be read.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise ArtError("reading panoramas needs OpenEXR; install it with `pip install layerflow[art]`") from error
    try:
        with TemporaryDirectory() as scratch:
            path = file
            if file.suffix == ".js":
                content = re.search(r"base64,([A-Za-z0-9+/=]+)", file.read_text(encoding="ascii"))
                path = Path(scratch) / "panorama.exr"
                path.write_bytes(base64.b64decode(content[1] if content else ""))
            with OpenEXR.File(str(path)) as opened:
                channels = opened.channels()
                pixels = channels["RGB"].pixels if "RGB" in channels else channels["RGBA"].pixels[..., :3]
                return np.array(pixels, np.float32)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ArtError(f"{file} is no panorama; fetch the art again with `tools/atlas.py fetch`") from error


def tone_map(light: npt.NDArray[np.float32]) -> Pixels:
    """Return linear light (H, W, 3) as sRGB, uint8.

    The exposure brings the logarithmic mean to middle grey, unless that would overexpose two fifths of the picture.
    Highlights are compressed by the extended operator of Reinhard.
    """
    light = np.nan_to_num(light, nan=1e4, posinf=1e4).clip(0, 1e4)  # the sun may overflow
    luminance = light @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    mean, bright = float(np.exp(np.log(luminance + 1e-4).mean())), float(np.percentile(luminance, 60))
    scaled = light * min(0.18 / mean, 1 / max(bright, 1e-4))
    mapped = (scaled * (1 + scaled / 9) / (1 + scaled)).clip(0, 1)
    encoded = np.where(mapped <= 0.0031308, 12.92 * mapped, 1.055 * mapped ** (1 / 2.4) - 0.055)
    return (encoded * 255 + 0.5).astype(np.uint8)
