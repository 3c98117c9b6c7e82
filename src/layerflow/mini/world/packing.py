"""One file of a given size with all of an atlas, for machines that it must be carried to.

The file is a ZIP archive of `atlas.json` and a lossy WebP picture for each sprite and background, their phases or
frames below each other. What does not fit the size at a good quality is coded at a lower one; then films are shortened,
and loops get fewer phases. An unpacked atlas has the format of the first one.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from layerflow.core.atomic import whole_folder, write_atomically
from layerflow.mini.world.atlas import (
    BACKGROUNDS,
    INDEX,
    SPRITES,
    Atlas,
    AtlasError,
    Background,
    Pixels,
    Sprite,
    index_of,
    write_array,
)

BUDGET = 55 * 2**20
"""Usual size of the file, bytes."""


@dataclass(frozen=True)
class Level:
    """How well an atlas is coded."""

    quality: int
    """Quality of WebP, 0 to 100."""
    frames: int
    """Frames of a film at most; the first ones."""
    phases: int
    """Phases of a loop at most, at equal distances over it."""


LEVELS = (
    Level(85, 24, 24), Level(75, 24, 24), Level(65, 24, 24), Level(60, 16, 24), Level(50, 16, 24), Level(40, 16, 24),
    Level(50, 16, 16), Level(50, 16, 12), Level(40, 16, 12), Level(40, 16, 8), Level(30, 8, 8),
)  # fmt: skip
"""From the best to the smallest."""
_SAMPLED = 24
"""One picture in so many is coded to estimate the size of a level."""
_ENTRY = 160
"""Bytes of a ZIP archive around each picture."""
_LARGEST_SIDE = 16383
"""Largest height of a WebP picture, pixels."""


def pack(folder: Path, file: Path, budget: int = BUDGET, report: Callable[[str], None] = print) -> Level:
    """Write an atlas as one file of at most `budget` bytes, at the best level that fits.

    Args:
        folder: folder of the atlas.
        file: file to write; it appears whole or not at all.
        budget: largest size, bytes.
        report: receives lines of progress.

    Returns:
        The level.

    Raises:
        AtlasError: there is no atlas, or it does not fit at the lowest level.
    """
    atlas = Atlas.open(folder)
    for level in LEVELS:
        size = _estimate(atlas, level)
        if size <= budget * 1.03:  # the estimate may be off by as much
            content = _encode(atlas, level)
            size = len(content)
            report(f"quality {level.quality}, {level.phases} phases, {level.frames} frames: {size / 2**20:.1f} MiB")
            if size <= budget:
                write_atomically(file, content)
                return level
    raise AtlasError(
        f"the atlas in {folder} needs about {size / 2**20:.1f} MiB at the lowest quality, but {budget / 2**20:.1f} are "
        "allowed; allow more, or build it of fewer sources"
    )


def unpack(file: Path, folder: Path) -> None:
    """Write the atlas in a packed file as a folder; it appears whole or not at all, and replaces an earlier one.

    Raises:
        AtlasError: the file is no packed atlas.
    """
    try:
        with zipfile.ZipFile(file) as archive, whole_folder(folder, replace=True) as partial:
            index = archive.read(INDEX)
            content = json.loads(index)
            side = content["side"]
            heights = {item["number"]: item["height"] for item in content["backgrounds"]}
            sprites = (_decode(archive, _sprite_entry(item["number"]), "RGBa", side) for item in content["sprites"])
            frames = (
                _decode(archive, _background_entry(number), "RGB", height).reshape(-1)
                for number, height in heights.items()
            )
            write_array(partial / SPRITES, sprites, (side, side, 4))
            write_array(partial / BACKGROUNDS, frames, ())
            (partial / INDEX).write_bytes(index)
    except FileNotFoundError as error:
        raise AtlasError(f"{file} is missing; write it with `tools/atlas.py pack`") from error
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, OSError) as error:
        raise AtlasError(f"{file} is no packed atlas ({error}); write it with `tools/atlas.py pack`") from error


def _encode(atlas: Atlas, level: Level) -> bytes:
    """Return the packed file."""
    output = io.BytesIO()
    sprites: list[Sprite] = []
    backgrounds: list[Background] = []
    start = offset = 0
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for sprite in atlas.sprites:
            phases = _phases(atlas, sprite, level)
            archive.writestr(_entry(_sprite_entry(sprite.number)), _webp(phases, level))
            sprites.append(replace(sprite, start=start, phases=len(phases)))
            start += len(phases)
        for background in atlas.backgrounds:
            frames = _frames(atlas, background, level)
            archive.writestr(_entry(_background_entry(background.number)), _webp(frames, level))
            backgrounds.append(replace(background, offset=offset, frames=len(frames)))
            offset += frames.size
        index = index_of(sprites, backgrounds, atlas.packages, atlas.sprite_pixels.shape[1])
        archive.writestr(_entry(INDEX), index, zipfile.ZIP_DEFLATED)
    return output.getvalue()


def _estimate(atlas: Atlas, level: Level) -> int:
    """Return about how many bytes the packed file has."""
    size = 0.0
    for kind in {sprite.kind for sprite in atlas.sprites}:
        group = [sprite for sprite in atlas.sprites if sprite.kind == kind]
        sample = group[:: _SAMPLED if len(group) >= 4 * _SAMPLED else 1]
        size += sum(len(_webp(_phases(atlas, item, level), level)) for item in sample) * len(group) / len(sample)
    for kind in {background.kind for background in atlas.backgrounds}:
        pieces = [background for background in atlas.backgrounds if background.kind == kind]
        some = pieces[:: 8 if len(pieces) >= 32 else 1]
        size += sum(len(_webp(_frames(atlas, item, level), level)) for item in some) * len(pieces) / len(some)
    return int(size) + _ENTRY * (len(atlas.sprites) + len(atlas.backgrounds))


def _phases(atlas: Atlas, sprite: Sprite, level: Level) -> Pixels:
    count = min(sprite.phases, level.phases)
    return atlas.phases(sprite)[np.arange(count) * sprite.phases // count]


def _frames(atlas: Atlas, background: Background, level: Level) -> Pixels:
    """Return as many frames as fit the level and a WebP picture."""
    return atlas.background(background)[: max(1, min(level.frames, _LARGEST_SIDE // background.height))]


def _webp(pictures: Pixels, level: Level) -> bytes:
    """Return pictures (P, H, W, 3 or 4 premultiplied) below each other as WebP."""
    count, height, width, channels = pictures.shape
    mode = "RGBa" if channels == 4 else "RGB"
    picture = Image.frombytes(mode, (width, count * height), np.ascontiguousarray(pictures).tobytes())
    output = io.BytesIO()
    straight = picture.convert("RGBA") if channels == 4 else picture
    straight.save(output, "WEBP", quality=level.quality, alpha_quality=min(level.quality + 10, 100), method=4)
    return output.getvalue()


def _decode(archive: zipfile.ZipFile, entry: str, mode: str, height: int) -> Pixels:
    """Return the pictures of `height` pixels in an entry, (P, height, W, 3 or 4 premultiplied)."""
    with Image.open(io.BytesIO(archive.read(entry))) as picture:
        straight = picture.convert("RGBA" if mode == "RGBa" else mode)
        pixels = straight.convert(mode)
        return np.frombuffer(pixels.tobytes(), np.uint8).reshape(-1, height, pixels.width, len(mode))


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry with a fixed time, so that the same atlas gives the same bytes."""
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def _sprite_entry(number: int) -> str:
    return f"s{number}.webp"


def _background_entry(number: int) -> str:
    return f"b{number}.webp"
