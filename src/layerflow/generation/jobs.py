"""A file of jobs, one JSON object a line: read and checked whole, before anything heavy starts."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from reprlib import repr as shortly
from typing import Any

from ..cli.options import ModelOptions, RunOptions
from ..core.errors import UserError
from ..core.schema import CLIPS
from ..media import FORMATS
from .run import Request

FAILURES = "failures.jsonl"
"""Stands beside the folders of the jobs, so no job can have this name."""
NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,98}[A-Za-z0-9_-])?")
"""What every file system can hold, and no path."""
LARGEST = 2**63


@dataclass(frozen=True)
class Job:
    """One line of the file."""

    line: int
    id: str
    request: Request

    @property
    def folder(self) -> Path:
        """Where its layers go."""
        return self.request.options.output


@dataclass(frozen=True)
class Key:
    """What a key of a job may hold."""

    fits: Callable[[Any], bool]
    meaning: str


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None and value.casefold() != FAILURES


def _is_text(value: Any) -> bool:
    """Text that a file and a path can hold: JSON also allows NUL and halves of characters."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 0


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_given(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and 0 < len(value) < len(CLIPS)
        and all(name in CLIPS and path and _is_text(path) for name, path in value.items())
    )


def _are_formats(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name in FORMATS for name in value)


KEYS = {
    "id": Key(_is_name, f'a name of letters, digits, "_", "-" and ".", such as "balloon-1", and not "{FAILURES}"'),
    "foreground": Key(_is_text, "a prompt"),
    "background": Key(_is_text, "a prompt"),
    "blended": Key(_is_text, "a prompt"),
    "given": Key(_is_given, f'one to three of {", ".join(CLIPS)} and their files, such as {{"blended": "clip.mp4"}}'),
    "seed": Key(_is_whole, "a whole number from 0 to 2^63 - 1"),
    "steps": Key(_is_count, "a whole number from 1 on"),
    "guidance": Key(_is_number, "a number"),
    "noise_scale": Key(_is_number, "a number"),
    "frames": Key(_is_count, "a whole number from 1 on"),
    "size": Key(_is_text, 'WIDTHxHEIGHT as text, such as "96x64"'),
    "upscale": Key(_is_count, "a whole number from 1 on"),
    "fps": Key(_is_number, "a number"),
    "formats": Key(_are_formats, f"a list with some of {', '.join(FORMATS)}"),
}
OPTIONS = ("seed", "steps", "guidance", "noise_scale", "frames", "size", "upscale", "fps", "formats")
"""Keys that are options of the single commands."""


def read_jobs(file: Path, output: Path, options: ModelOptions) -> list[Job]:
    """The jobs of a file; each is to write a folder named for its id in `output`.

    Raises UserError for the first line that is no job, with line number, key, value and way out.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); name a file of jobs") from error
    # Workers elsewhere have another current folder, so every path is whole from here on.
    here, common = Path(os.path.abspath(file)).parent, RunOptions(Path(os.path.abspath(output)), **asdict(options))
    jobs: dict[str, Job] = {}
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            job = parse_job(line, number, here, common)
            # Some file systems take upper and lower case for the same.
            if (same := jobs.setdefault(job.id.casefold(), job)) is not job:
                raise UserError(f"the id {job.id!r} is taken by line {same.line}; give each job its own")
        except UserError as error:
            raise UserError(f"{file}, line {number}: {error}") from error
    if not jobs:
        raise UserError(f"{file} holds no jobs; write one JSON object a line")
    return list(jobs.values())


def parse_job(line: bytes, number: int, here: Path, common: RunOptions) -> Job:
    """The job of one line, by default named for its number; its paths start from `here`. Raises UserError."""
    values = {key: value for key, value in parse_object(line).items() if value is not None}
    for key, value in values.items():
        if key not in KEYS:
            raise UserError(f"unknown key {shortly(key)}; the keys are {', '.join(KEYS)}")
        if not KEYS[key].fits(value):
            raise UserError(f"{key} is {shortly(value)} but must be {KEYS[key].meaning}")
    missing = [key for key in ("foreground", "background") if key not in values]
    if "given" not in values and missing:
        raise UserError(f"no {missing[0]}; a job without given clips needs prompts for foreground and background")
    clips = {name: here / path for name, path in values.get("given", {}).items()}
    for name, path in clips.items():
        if not _is_there(path):
            raise UserError(f"given {name} is {path} but there is no such file; check the path")
    id = values.get("id", f"{number:04d}")
    prompts = values.get("foreground", ""), values.get("background", ""), values.get("blended")
    try:
        chosen = {key: values[key] for key in OPTIONS if key in values}
        options = replace(common, output=common.output / id, **chosen)
    except UserError as error:  # said of an option; here it is a key
        raise UserError(str(error).removeprefix("--")) from error
    return Job(number, id, Request(clips, *prompts, options))


def parse_object(line: bytes) -> dict[str, Any]:
    """A JSON object whose keys are named once; raises UserError."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_named_once)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError("it is not UTF-8; save the file in that encoding") from error
    except RecursionError as error:
        raise UserError("it is nested too deeply; write one flat JSON object") from error
    except ValueError as error:
        where = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(f"it is not JSON: {what}{where}; write one JSON object a line") from error
    if not isinstance(value, dict):
        raise UserError(f'it holds {shortly(value)}; write one JSON object, such as {{"id": "a", ...}}')
    return value


def _refuse_constant(name: str) -> None:
    raise UserError(f"{name} is not JSON; write a number")


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"it names {shortly(twice)} twice; keep one")
    return values


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, a folder without the right to look into it
        return False
