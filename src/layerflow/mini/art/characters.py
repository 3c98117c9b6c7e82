"""Walking characters of the library Arcade, drawn by Kenney: 8 phases of a walk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from layerflow.mini.art.packages import folder_of
from layerflow.mini.art.pictures import ArtError, SpriteArt

CHARACTERS = {
    "female_adventurer": ("woman in a hat", ("adventurer", "explorer")),
    "female_person": ("woman", ("girl",)),
    "male_adventurer": ("man in a hat", ("adventurer", "explorer")),
    "male_person": ("man", ("boy",)),
    "robot": ("robot", ()),
    "zombie": ("zombie", ("monster",)),
}  # fmt: skip
"""Name and other nouns by folder."""


def sprites(art: Path) -> Iterator[SpriteArt]:
    """Yield the characters, all for training, since there are few."""
    folder = folder_of(art, "arcade") / "arcade/resources/assets/images/animated_characters"
    for character, (name, words) in CHARACTERS.items():
        files = tuple(sorted((folder / character).glob("*_walk[0-9].png")))
        if not files:
            raise ArtError(f"{folder / character} has no pictures; fetch the art again with `tools/atlas.py fetch`")
        yield SpriteArt(
            f"character/{character.replace('_', '-')}", name, "game", "character", "CC0-1.0", "Kenney",
            partial(_open, files), words, "walking",
        )  # fmt: skip


def _open(files: tuple[Path, ...]) -> list[Image.Image]:
    return [Image.open(file).convert("RGBA") for file in files]
