"""Reader of an atlas: sprites and backgrounds as memory-mapped arrays, made by `tools/atlas.py build`.

An atlas is a folder of three files. `atlas.json` lists sprites and backgrounds. `sprites.npy` holds the phases of all
sprites after each other, uint8 (N, side, side, 4), premultiplied RGBA. `backgrounds.npy` holds the frames of all
backgrounds as one run of uint8 values, each (frames, height, width, 3) at an offset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from layerflow.core.errors import UserError
from layerflow.mini.world.nouns import with_article

VERSION = 1
INDEX, SPRITES, BACKGROUNDS = "atlas.json", "sprites.npy", "backgrounds.npy"
"""Names of the files in the folder."""

Pixels = npt.NDArray[np.uint8]

STYLES: dict[str, tuple[str, ...]] = {
    "3d": ("a 3D rendering of", "a glossy 3D picture of", "a 3D cartoon of"),
    "shaded": ("a shaded drawing of", "a drawing with soft shading of", "a smooth illustration of"),
    "flat": ("a flat drawing of", "a flat illustration of"),
    "cartoon": ("a cartoon drawing of", "a detailed cartoon of"),
    "blob": ("a rounded cartoon of", "a soft round drawing of"),
    "simple": ("a simple flat drawing of", "a simple icon of"),
    "bold": ("a bold drawing of", "a bold illustration of"),
    "clip art": ("a clip art picture of", "a piece of clip art showing"),
    "model": ("a computer model of", "a 3D model of"),
    "game": ("a game character of", "a video game picture of"),
}
"""Phrases of captions by style, each to be followed by a noun with its article."""


class AtlasError(UserError):
    """An atlas that is missing, incomplete or of another version."""


@dataclass(frozen=True)
class Sprite:
    """A cut-out object with one or more phases of its own motion."""

    number: int
    """Position in `Atlas.sprites`."""
    concept: str
    """Key of the object, the same in all styles, such as "1f98a" or "furniture/armchair-3"."""
    name: str
    """Plain noun without an article, such as "fox" or "person running"."""
    words: tuple[str, ...]
    """A few other nouns for it."""
    verb: str
    """Present participle of its own motion, such as "walking"; empty if it has none or none is known."""
    style: str
    """Key of `STYLES`."""
    start: int
    """Position of its first phase in the array of sprites."""
    phases: int
    """Number of phases, a loop of about 8 a second; 1 for a still."""
    kind: str
    """"animated", "drawing", "furniture" or "character"."""
    held_out: bool
    """Whether the concept is kept out of training."""
    moves: bool
    """Whether its phases differ."""
    licence: str
    author: str

    def phrase(self, verb: bool = True) -> str:
        """Return its name with an article, such as "a fox walking"; `verb` adds one that the name does not contain."""
        noun = with_article(self.name)
        said = set(noun.replace("-", " ").split())
        return f"{noun} {self.verb}" if verb and self.verb and not said & set(self.verb.split()[:1]) else noun


@dataclass(frozen=True)
class Background:
    """A photograph, a panorama or a shot of a film."""

    number: int
    """Position in `Atlas.backgrounds`."""
    name: str
    """Unique name, such as "desert3"."""
    caption: str
    """Description, such as "a photo of a desert at dusk"."""
    kind: str
    """"photograph", "panorama" (equirectangular, wraps around horizontally) or "film"."""
    frames: int
    """Number of frames, 8 a second; 1 for a still."""
    height: int
    width: int
    offset: int
    """Position of its first value in the array of backgrounds."""
    held_out: bool
    """Whether it is kept out of training."""
    licence: str
    author: str


@dataclass(frozen=True)
class Atlas:
    """Sprites and backgrounds of an opened atlas. Pixels are read from the disk when they are used."""

    folder: Path
    sprites: tuple[Sprite, ...]
    backgrounds: tuple[Background, ...]
    packages: tuple[Mapping[str, Any], ...]
    """Packages that the art comes from, with licences and authors."""
    sprite_pixels: Pixels
    background_pixels: Pixels

    @classmethod
    def open(cls, folder: Path) -> Atlas:
        """Open the atlas in a folder.

        Raises:
            AtlasError: the folder holds no atlas, or one that this version cannot read.
        """
        index, sprites, backgrounds = (folder / name for name in (INDEX, SPRITES, BACKGROUNDS))
        for file in (index, sprites, backgrounds):
            if not file.is_file():
                raise AtlasError(f"{file} is missing; build the atlas with `tools/atlas.py build`")
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
            version = content["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise AtlasError(f"{index} is no index of an atlas; build it again with `tools/atlas.py build`") from error
        if version != VERSION:
            raise AtlasError(
                f"{index} has version {version}, but {VERSION} is needed; build it again with `tools/atlas.py build`"
            )
        try:
            atlas = cls(
                folder,
                tuple(Sprite(**{**item, "words": tuple(item["words"])}) for item in content["sprites"]),
                tuple(Background(**item) for item in content["backgrounds"]),
                tuple(content["packages"]),
                np.load(sprites, mmap_mode="r"),
                np.load(backgrounds, mmap_mode="r"),
            )
            atlas._check(content["side"])
        except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
            if isinstance(error, AtlasError):
                raise
            raise AtlasError(f"{folder} holds a damaged atlas; build it again with `tools/atlas.py build`") from error
        return atlas

    def _check(self, side: int) -> None:
        """Refuse arrays that do not hold what the index lists."""
        phases = sum(sprite.phases for sprite in self.sprites)
        if self.sprite_pixels.shape != (phases, side, side, 4) or self.sprite_pixels.dtype != np.uint8:
            raise AtlasError(
                f"{self.folder / SPRITES} does not hold the {phases} phases of {side}x{side} pixels in {INDEX}; "
                "build it again with `tools/atlas.py build`"
            )
        values = sum(item.frames * item.height * item.width * 3 for item in self.backgrounds)
        if self.background_pixels.shape != (values,) or self.background_pixels.dtype != np.uint8:
            raise AtlasError(
                f"{self.folder / BACKGROUNDS} does not hold the {values} values that {INDEX} lists; "
                "build it again with `tools/atlas.py build`"
            )

    def sprite(self, sprite: Sprite, phase: int) -> Pixels:
        """Return a phase of a sprite, uint8 (side, side, 4), premultiplied RGBA; phases repeat in a loop."""
        return self.sprite_pixels[sprite.start + phase % sprite.phases]

    def phases(self, sprite: Sprite) -> Pixels:
        """Return all phases of a sprite, uint8 (phases, side, side, 4), premultiplied RGBA."""
        return self.sprite_pixels[sprite.start : sprite.start + sprite.phases]

    def background(self, background: Background) -> Pixels:
        """Return the frames of a background, uint8 (frames, height, width, 3)."""
        shape = background.frames, background.height, background.width, 3
        return self.background_pixels[background.offset :][: int(np.prod(shape))].reshape(shape)


def index_of(
    sprites: Iterable[Sprite], backgrounds: Iterable[Background], packages: Iterable[Mapping[str, Any]], side: int
) -> str:
    """Return the content of `atlas.json`, a line for each sprite and background."""
    parts = {"packages": packages, "sprites": map(asdict, sprites), "backgrounds": map(asdict, backgrounds)}
    lines = [f'{{"version": {VERSION}, "side": {side}']
    for key, items in parts.items():
        rows = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        lines.append(f', "{key}": [\n{rows}\n]')
    return "".join([*lines, "}\n"])


def write_array(file: Path, pieces: Iterable[Pixels], item: tuple[int, ...]) -> None:
    """Write pieces of uint8 (any number, *item) after each other as one array, without holding them all."""
    with file.open("wb") as output:
        count = 0
        _write_header(output, (count, *item))
        for piece in pieces:
            output.write(piece.tobytes())
            count += len(piece)
        output.seek(0)
        _write_header(output, (count, *item))  # numpy pads headers so that the first dimension may grow


def _write_header(output: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(output, {"descr": "|u1", "fortran_order": False, "shape": shape})
