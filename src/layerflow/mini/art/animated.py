"""Microsoft's animated emoji: 256x256 WebP loops of about 3 seconds with soft alpha, of which about 700 move."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from layerflow.mini.art.emoji import Emoji, plain_code, read_emoji
from layerflow.mini.art.packages import MICROSOFT, folder_of
from layerflow.mini.art.pictures import PHASES, ArtError, SpriteArt, is_held_out
from layerflow.mini.art.verbs import verb_of

PARTS = tuple(f"@lobehub/fluent-emoji-anim-{part}" for part in range(1, 5))


def moving_files(art: Path) -> dict[str, Path]:
    """Return the files with more than one frame, by code points. Files with one frame repeat the 3D emoji."""
    files = {}
    for part in PARTS:
        for file in sorted((folder_of(art, part) / "assets").glob("*.webp")):
            if frames_of(file) > 1:
                files[plain_code(file.stem)] = file
    return files


def sprites(art: Path) -> Iterator[SpriteArt]:
    """Yield the animated emoji that move and have a name."""
    files = moving_files(art)
    for code, emoji in read_emoji(art).items():
        if code in files:
            yield SpriteArt(
                code, emoji.name, "3d", "animated", "MIT", MICROSOFT, partial(phases, files[code]), emoji.words,
                verb_for(emoji), is_held_out(emoji.name),
            )  # fmt: skip


def verb_for(emoji: Emoji) -> str:
    """Return the verb of an animated emoji, "" where its name has another one: a "person raising a hand" waves."""
    verb = verb_of(emoji.label)
    own = re.search(r"\b(?:person|people|man|men|woman|women|face|hand|arm|monkey) (\w+ing)\b", emoji.name)
    return verb if own is None or verb.split()[:1] == [own[1]] else ""


def frames_of(file: Path) -> int:
    """Return the number of frames of a WebP file.

    Raises:
        ArtError: the file cannot be read.
    """
    try:
        with Image.open(file) as loop:
            return int(getattr(loop, "n_frames", 1))
    except OSError as error:
        raise ArtError(f"{file} is no picture; fetch the art again with `tools/atlas.py fetch`") from error


def phases(file: Path) -> list[Image.Image]:
    """Return PHASES frames at equal distances over a loop, RGBA.

    Raises:
        ArtError: the file cannot be read.
    """
    frames = frames_of(file)
    result = []
    with Image.open(file) as loop:
        for phase in range(PHASES):
            loop.seek(phase * frames // PHASES)
            result.append(loop.convert("RGBA"))
    return result
