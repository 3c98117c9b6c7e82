"""Given files and clicks as text: clips by name, frames such as "0,15", clicks such as "320,200@0".

This module imports no torch, see `request`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortly

from ..core.errors import FieldError, UserError
from ..core.schema import (
    ALL_CLIPS,
    ALPHA,
    ALPHA_OF,
    CLIPS,
    FOREGROUND,
    clip_names,
    foreground_count,
    scene_layers,
)

Files = Mapping[str, Path | Mapping[str, Path]]
"""By clip a file for all frames, or files by the frames that they are given at, such as {"0": path, "4-7": other}."""

FRAMES = r"-?[0-9]{1,6}(--?[0-9]{1,6})?(,-?[0-9]{1,6}(--?[0-9]{1,6})?)*"
"""Frames as text: numbers from 0 on, negative ones from the end, ranges with both ends, separated by commas."""
CLICK = r"((foreground(-[2-8])?)=)?(-?[0-9]{1,6}(\.[0-9]{1,3})?),(-?[0-9]{1,6}(\.[0-9]{1,3})?)@(-?[0-9]{1,6})"
"""A click as text: [LAYER=]X,Y@FRAME."""
_RANGE = re.compile(r"(-?\d+)(?:-(-?\d+))?")
FURTHER = f", and those of further foregrounds, such as {ALL_CLIPS[3]}"
EXAMPLES = "numbers such as 0 or 0,15, a range such as 0-3, or -1 for the last"


@dataclass(frozen=True)
class GivenFile:
    """A file that is given for a clip."""

    clip: str
    path: Path
    frames: str | None = None
    """Frames of the result that it is given at; None for all."""

    @property
    def text(self) -> str:
        """PATH or PATH@FRAMES."""
        return str(self.path) if self.frames is None else f"{self.path}@{self.frames}"


def listed(files: Files) -> list[GivenFile]:
    """Return all given files one by one."""
    result = []
    for clip, source in files.items():
        if isinstance(source, Mapping):
            result += [GivenFile(clip, path, frames) for frames, path in source.items()]
        else:
            result.append(GivenFile(clip, source))
    return result


def joined(files: Iterable[GivenFile], field: str = "given") -> Files:
    """Return files by clip and frames; raises FieldError where one of two files leaves no frames for the other."""
    whole: dict[str, Path] = {}
    parts: dict[str, dict[str, Path]] = {}
    for file in files:
        own = parts.get(file.clip, {})
        if file.clip in whole or (file.frames is None and own) or file.frames in own:
            raise FieldError(
                field, f"names {file.clip} twice; give each clip once, or each file with frames of its own, PATH@FRAMES"
            )
        if file.frames is None:
            whole[file.clip] = file.path
        else:
            parts.setdefault(file.clip, {})[file.frames] = file.path
    return whole | parts


def check_files(field: str, files: Files, clips: Iterable[str] = ALL_CLIPS) -> None:
    """Raise FieldError for a clip that does not exist, or text that is no frames."""
    known = set(clips)
    for file in listed(files):
        if file.clip not in known:
            names = ", ".join(clip for clip in CLIPS if clip in known) + FURTHER
            raise FieldError(field, f"names {shortly(file.clip)}, which is no clip; the clips are {names}")
        if file.frames is not None:
            check_frames(field, file.frames, file.path)
    for clip, source in files.items():
        if isinstance(source, Mapping) and not source:
            raise FieldError(field, f"names no file for {clip}; leave the clip out")


def check_something_left(files: Files, foregrounds: int) -> None:
    """Raise UserError if every clip of a scene is given in all frames."""
    whole = {file.clip for file in listed(files) if file.frames is None}
    if whole >= set(clip_names(scene_layers(max(foregrounds, foreground_count(whole))))):
        raise UserError("every clip is given, so nothing is left to make; leave one of `given` out")


def check_frames(field: str, text: str, path: Path | str) -> None:
    """Raise FieldError for text after the "@" of a file that is no frames, such as "first"."""
    if re.fullmatch(FRAMES, text) is None:
        raise FieldError(field, f"{path}@{text}: {shortly(text)} are no frames; write {EXAMPLES}")


def frame_numbers(text: str, count: int) -> tuple[int, ...]:
    """Return the numbers of frames in order, from 0 on, of text that `check_frames` accepts.

    Raises:
        ValueError: a frame lies outside of `count` frames, is named twice, or a range runs backwards.
    """
    numbers: list[int] = []
    for part in text.split(","):
        ends = [int(end) for end in re.fullmatch(_RANGE, part).groups() if end is not None]  # type: ignore[union-attr]
        for end in ends:
            if not -count <= end < count:
                raise ValueError(f"frame {end} does not exist: there are {count}, from 0 to {count - 1}")
        first, last = ends[0] % count, ends[-1] % count
        if last < first:
            raise ValueError(f"{part} runs backwards, from {first} to {last}; write the first frame first")
        numbers += range(first, last + 1)
    twice = [number for number in numbers if numbers.count(number) > 1]
    if twice:
        raise ValueError(f"it names frame {twice[0]} twice; name it once")
    return tuple(sorted(numbers))


def frames_in_words(numbers: Iterable[int]) -> str:
    """Return "frame 3", "frames 0 to 3" or "frames 0, 4 to 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    many = len(runs) > 1 or len(runs[0]) > 1
    return f"frame{'s' if many else ''} {', '.join(texts)}"


def split_frames(text: str, field: str = "given", place: Path = Path()) -> tuple[Path, str | None]:
    """Return path and frames of PATH[@FRAMES]; a file that exists under the whole text wins.

    Raises:
        FieldError: what follows the "@" after the name of a file is no frames.
    """
    path, at, frames = text.rpartition("@")
    if not at or not path or _exists(place / text):
        return place / text, None
    frames = frames.replace(" ", "")
    if re.fullmatch(FRAMES, frames) is None:
        if not _exists(place / path):
            return place / text, None
        check_frames(field, frames, path)
    return place / path, frames


def parse_given(texts: Iterable[str], field: str = "given", default: str = "") -> Files:
    """Return files by clip of texts CLIP=PATH[@FRAMES]; the clip may be left out if there is a default.

    Raises:
        FieldError: a text has another form, a clip does not exist, or is named twice.
    """
    files = []
    for text in texts:
        clip, equals, path = text.partition("=")
        if default == ALPHA:  # of a foreground, which may be named itself
            clip = ALPHA_OF.get(clip, clip)
        if default and (not equals or _exists(Path(text)) or clip not in ALL_CLIPS):
            clip, path = default, text
        elif not equals or not path:
            raise FieldError(field, f"{text} must be CLIP=PATH or CLIP=PATH@FRAMES, such as background=hills.mp4")
        if clip not in ALL_CLIPS:
            raise FieldError(field, f"{text}: {clip!r} is no clip; the clips are {', '.join(CLIPS)}{FURTHER}")
        files.append(GivenFile(clip, *split_frames(path, field)))
    return joined(files, field)


@dataclass(frozen=True)
class Click:
    """A pixel of the given blended video that shows a foreground, or that does not."""

    x: float
    y: float
    frame: int
    """Negative numbers count from the end."""
    alpha: str = ALPHA
    """Alpha clip of the foreground."""
    text: str = ""

    @classmethod
    def of(cls, field: str, text: str) -> Click:
        """Return the click of [LAYER=]X,Y@FRAME; raises FieldError."""
        found = re.fullmatch(CLICK, text)
        if found is None:
            raise FieldError(field, f"{shortly(text)} is no click; write X,Y@FRAME, such as 320,200@0")
        layer, x, y, frame = found[2] or FOREGROUND, found[4], found[6], found[8]
        return cls(float(x), float(y), int(frame), ALPHA_OF[layer], text)


def split_objects(texts: Iterable[str], place: Path = Path()) -> tuple[tuple[str, ...], list[GivenFile]]:
    """Return the clicks among texts [LAYER=]X,Y@FRAME and [LAYER=]PATH@FRAMES, and the others as mattes.

    Raises:
        FieldError: a matte has no frames.
    """
    clicks, mattes = [], []
    for text in texts:
        if re.fullmatch(CLICK, text) is not None and not _exists(place / text):
            clicks.append(text)
            continue
        layer, equals, path = text.partition("=")
        if not equals or layer not in ALPHA_OF or _exists(place / text):
            layer, path = FOREGROUND, text
        file, frames = split_frames(path, "object", place)
        if frames is None or not _exists(file):
            raise FieldError(
                "object",
                f"{shortly(text)} is neither a click X,Y@FRAME, such as 320,200@0, nor a matte PATH@FRAME of a file "
                "that exists, such as matte.png@0",
            )
        mattes.append(GivenFile(ALPHA_OF[layer], file, frames))
    return tuple(clicks), mattes


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, NUL, a folder without the right to look into it
        return False
