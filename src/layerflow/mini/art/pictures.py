"""What the sources of art hand over, and how pictures are cut to the squares of the atlas."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from layerflow.core.errors import UserError

SIDE = 128
"""Width and height of a sprite, pixels."""
PHASES = 24
"""Phases of an animated sprite over its whole loop of about 3 seconds."""
HELD_OUT = 10
"""One concept in so many is kept out of training."""
_VISIBLE = 12
"""Alpha, of 255, from which a pixel counts for the crop."""
_MOVES = 1.5
"""Mean difference to the first phase, of 255, from which a sprite counts as moving."""

Pixels = npt.NDArray[np.uint8]


class ArtError(UserError):
    """Art that is missing or not what was expected."""


@dataclass(frozen=True)
class SpriteArt:
    """An object that a source can draw."""

    concept: str
    name: str
    style: str
    kind: str
    licence: str
    author: str
    draw: Callable[[], list[Image.Image]]
    """Returns its phases as RGBA pictures of one size, straight alpha; must be picklable."""
    words: tuple[str, ...] = ()
    verb: str = ""
    held_out: bool = False


@dataclass(frozen=True)
class BackgroundArt:
    """A background of a source."""

    name: str
    caption: str
    kind: str
    licence: str
    author: str
    pixels: Pixels
    """uint8 (frames, height, width, 3)"""
    held_out: bool = False


def is_held_out(name: str) -> bool:
    """Return whether objects of this name are kept out of training.

    Variants of an object share it: a man, a woman and a person running, or an armchair of any source.
    """
    plain = re.sub(r"\b(man|woman|men|women|people|person)\b", "person", name.lower())
    return int.from_bytes(hashlib.sha256(plain.encode()).digest()[:4], "big") % HELD_OUT == 0


def cut(pictures: Iterable[Image.Image]) -> Pixels:
    """Cut the phases of an object to one square around all of them.

    Args:
        pictures: phases, RGBA of one size, straight alpha.

    Returns:
        uint8 (phases, SIDE, SIDE, 4), premultiplied.

    Raises:
        ArtError: no pixel is visible.
    """
    phases = [picture.convert("RGBA") for picture in pictures]
    seen = np.maximum.reduce([np.asarray(phase.getchannel("A")) for phase in phases]) >= _VISIBLE
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not rows.size:
        raise ArtError("a picture without a visible pixel cannot be a sprite")
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(bottom - top, right - left) * SIDE / (SIDE - 2)  # a pixel of margin keeps soft edges soft
    x, y = (left + right - side) / 2, (top + bottom - side) / 2
    pad = int(np.ceil(max(0, -x, -y, x + side - seen.shape[1], y + side - seen.shape[0]))) + 1
    box = x + pad, y + pad, x + pad + side, y + pad + side
    result = np.empty((len(phases), SIDE, SIDE, 4), np.uint8)
    for index, phase in enumerate(phases):
        padded = phase.crop((-pad, -pad, phase.width + pad, phase.height + pad))
        # Premultiplied while resizing, so that the colour of invisible pixels does not bleed into the edge.
        small = padded.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)
        result[index] = np.frombuffer(small.tobytes(), np.uint8).reshape(SIDE, SIDE, 4)
    np.minimum(result[..., :3], result[..., 3:], out=result[..., :3])  # resampling may overshoot
    return result


def motion(phases: Pixels) -> float:
    """Return the largest mean difference of a phase (P, H, W, 4) to the first, of 255, where the object ever is."""
    seen = phases[..., 3].max(0) >= _VISIBLE
    inside = phases[:, seen].astype(np.int16)  # (P, pixels, 4)
    return float(np.abs(inside - inside[0]).mean((1, 2)).max())


def moves(phases: Pixels) -> bool:
    """Return whether the phases (P, H, W, 4) differ visibly."""
    return len(phases) > 1 and motion(phases) >= _MOVES
