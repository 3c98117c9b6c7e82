"""Foreground sprites with alpha: emoji glyphs and paintings, in natural colours or tinted."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ...core.compositing import unpremultiply
from ...core.errors import UserError
from .objects import ObjectSpec
from .soft import PAINTERS

SPRITE_SIZE = 96
"""Side of a sprite in pixels, about the resolution of the font's cropped bitmaps."""

FOREGROUND_COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.14, 0.16),
    "orange": (0.97, 0.54, 0.10),
    "yellow": (0.97, 0.83, 0.16),
    "green": (0.20, 0.66, 0.28),
    "blue": (0.16, 0.42, 0.90),
    "purple": (0.55, 0.25, 0.78),
    "pink": (0.96, 0.50, 0.72),
    "white": (0.93, 0.93, 0.95),
}
"""Mean sRGB colours in [0, 1] of tinted sprites, by name."""

FONT_VARIABLE = "LAYERFLOW_EMOJI_FONT"
"""Environment variable with the path of the font."""
_FONT_SIZE = 109  # the only size at which the bitmap font can be loaded
_FONT_PATHS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",  # Debian, Ubuntu
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",  # Fedora
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",  # older Fedora
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",  # Arch
    "~/.local/share/fonts/NotoColorEmoji.ttf",
    "~/Library/Fonts/NotoColorEmoji.ttf",  # Homebrew cask
    "/Library/Fonts/NotoColorEmoji.ttf",
)


class MissingFontError(UserError):
    """Noto Color Emoji is missing, or is not a bitmap font that Pillow can draw."""


def find_font() -> Path:
    """Return the path of `NotoColorEmoji.ttf`, from the environment or the usual places.

    Raises:
        MissingFontError: the font is missing.
    """
    chosen = os.environ.get(FONT_VARIABLE)
    for candidate in (chosen,) if chosen else _FONT_PATHS:
        path = Path(candidate).expanduser()
        if path.is_file():
            return path
    where = f"{FONT_VARIABLE}={chosen} is not a file" if chosen else "NotoColorEmoji.ttf was not found"
    raise MissingFontError(
        f"{where}: install the Debian package fonts-noto-color-emoji or set {FONT_VARIABLE} to the font's path."
    )


@lru_cache(maxsize=1)
def _font(path: Path) -> ImageFont.FreeTypeFont:
    try:
        # Basic layout: one code point, one glyph, the same with and without libraqm.
        return ImageFont.truetype(str(path), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise MissingFontError(
            f"{path} cannot be drawn ({error}): install the Debian package fonts-noto-color-emoji "
            f"or set {FONT_VARIABLE} to a bitmap build of NotoColorEmoji.ttf."
        ) from error


def _luminance(rgba: np.ndarray) -> np.ndarray:
    """Return the luminance (..., 1) of the straight colour of premultiplied pixels (..., 4)."""
    pixels = torch.from_numpy(rgba)
    straight = unpremultiply(pixels[..., :3], pixels[..., 3:], floor=1 / 255).numpy()
    luminance: np.ndarray = straight @ np.array([0.30, 0.59, 0.11], np.float32)[:, None]
    return luminance


def measure_luminance(rgba: np.ndarray) -> tuple[float, float]:
    """Return the mean and spread of the luminance of premultiplied pixels (..., 4) in [0, 1], weighted by alpha."""
    luminance, alpha = _luminance(rgba), rgba[..., 3:]
    mean = float((luminance * alpha).sum() / alpha.sum())
    return mean, float(np.sqrt(((luminance - mean) ** 2 * alpha).sum() / alpha.sum()))


def tint(rgba: np.ndarray, colour: str, mean: float, spread: float) -> np.ndarray:
    """Map luminance to shades of one colour, which becomes the mean; dark features stay dark.

    Args:
        rgba: float32 (..., 4), premultiplied RGBA in [0, 1].
        colour: a name of `FOREGROUND_COLOURS`.
        mean: mean of the luminance, see `measure_luminance`.
        spread: its spread.

    Returns:
        Pixels of the same shape and alpha.
    """
    target, alpha = np.array(FOREGROUND_COLOURS[colour], np.float32), rgba[..., 3:]
    # A flat glyph gets more contrast, a contrasty one (panda) a little less.
    shade = (_luminance(rgba) - mean) * min(1.6, 0.17 / max(spread, 1e-3))
    darker = target * np.clip(1 + shade / 0.5, 0.1, 1)
    lighter = target + (1 - target) * np.clip(shade / 0.5, 0, 0.75)
    return np.concatenate([np.where(shade < 0, darker, lighter).astype(np.float32) * alpha, alpha], -1)


def _glyph(spec: ObjectSpec) -> np.ndarray:
    """Draw the font's glyph, tightly cropped and centred: premultiplied (S, S, 4)."""
    canvas = Image.new("RGBA", (192, 192))
    ImageDraw.Draw(canvas).text((24, 24), spec.char, font=_font(find_font()), embedded_color=True)
    box = canvas.getchannel("A").point(lambda value: 255 if value > 8 else 0).getbbox()
    if box is None:
        raise ValueError(f"the emoji font has no glyph for {spec.name!r} (U+{ord(spec.char):04X})")
    glyph = canvas.crop(box)
    side = max(glyph.size)
    square = Image.new("RGBA", (side, side))
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    resized = square.convert("RGBa").resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)
    # Read through bytes: numpy does not know Pillow's premultiplied mode.
    pixels = np.frombuffer(resized.tobytes(), np.uint8).reshape(SPRITE_SIZE, SPRITE_SIZE, 4)
    return pixels.astype(np.float32) / 255


def _painting(spec: ObjectSpec) -> np.ndarray:
    """Draw an object by its painter: premultiplied (S, S, 4)."""
    colour, alpha = PAINTERS[spec.name](SPRITE_SIZE)
    return np.concatenate([np.clip(colour, 0, 1) * alpha, alpha], axis=-1).astype(np.float32)


@lru_cache(maxsize=512)
def sprite(spec: ObjectSpec, colour: str | None = None) -> np.ndarray:
    """Draw an object on a transparent square, tightly cropped and centred.

    Args:
        spec: the object.
        colour: a name of `FOREGROUND_COLOURS`, or None for natural colours.

    Returns:
        float32 (S, S, 4), premultiplied RGBA in [0, 1], read-only, S = `SPRITE_SIZE`.

    Raises:
        MissingFontError: the emoji font is not installed.
        ValueError: the font lacks the glyph, or the colour is unknown.
    """
    if colour is not None and colour not in FOREGROUND_COLOURS:
        raise ValueError(f"colour {colour!r} is not one of {', '.join(FOREGROUND_COLOURS)}")
    rgba = _glyph(spec) if spec.char else _painting(spec)
    if colour is not None:
        rgba = tint(rgba, colour, *measure_luminance(rgba))
    rgba[..., :3] = np.minimum(rgba[..., :3], rgba[..., 3:])  # the filter may overshoot
    rgba.setflags(write=False)
    return rgba


@lru_cache(maxsize=16384)
def _level(spec: ObjectSpec, colour: str | None, side: int) -> Image.Image:
    """Return the sprite as an image for `place`."""
    return with_margin(resize((sprite(spec, colour) * 255 + 0.5).astype(np.uint8), side))


def resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return premultiplied bytes (S, S, 4) at a smaller size (side, side, 4), by area."""
    if side == len(pixels):
        return pixels
    image = Image.frombytes("RGBa", pixels.shape[:2], pixels.tobytes()).resize((side, side), Image.Resampling.BOX)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(side, side, 4)


def with_margin(pixels: np.ndarray) -> Image.Image:
    """Return premultiplied bytes (S, S, 4) as an image within a transparent margin."""
    # An affine transform cuts hard at the border of its source; the margin lets the sprite fade out before it.
    padded = np.pad(pixels, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)))
    return Image.frombytes("RGBa", padded.shape[:2], padded.tobytes())


_SIDES = (12, 16, 20, 24, 28, 32, 36, 42, 48, 64, 96)
_MARGIN = 3


def level_side(width: float, largest: int = SPRITE_SIZE) -> int:
    """Return the side at which a sprite of `largest` pixels is resampled to be `width` pixels wide.

    The bicubic kernel of `place` does not widen when it shrinks, so its source is a level that is nearly as small as
    the result, which avoids aliasing and blur.
    """
    return next((side for side in _SIDES if side >= width), largest)


def draw(spec: ObjectSpec, colour: str | None, size: int, x: float, y: float, width: float, angle: float) -> np.ndarray:
    """Draw a sprite on an empty frame.

    Args:
        spec: the object.
        colour: as for `sprite`.
        size: side of the frame in pixels.
        x: centre in pixels from the left.
        y: centre in pixels from the top.
        width: side of the sprite's square in pixels.
        angle: degrees, clockwise.

    Returns:
        float32 (size, size, 4), premultiplied RGBA in [0, 1].
    """
    return place(_level(spec, colour, level_side(width)), size, x, y, width, angle)


def place(image: Image.Image, size: int, x: float, y: float, width: float, angle: float) -> np.ndarray:
    """Draw an image that `with_margin` returned on an empty frame; the other arguments are those of `draw`."""
    side = image.width - 2 * _MARGIN
    ratio, turn = side / width, np.deg2rad(angle)
    a, b = ratio * np.cos(turn), ratio * np.sin(turn)
    middle = side / 2 + _MARGIN
    matrix = (a, b, middle - a * x - b * y, -b, a, middle + b * x - a * y)
    frame = image.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    pixels = np.frombuffer(frame.tobytes(), np.uint8).reshape(size, size, 4)
    rgba = pixels.astype(np.float32) / 255
    rgba[..., :3] = np.minimum(rgba[..., :3], rgba[..., 3:])
    return rgba
