"""Files of jobs, one JSON object per line; read and validated as a whole before any heavy work."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortly
from typing import Any

from ..core.errors import FieldError, UserError
from ..core.schema import CLIPS, COMPONENTS
from .givens import Files, joined, listed, split_objects
from .request import Request, from_plain, is_text, options, parse_lora

FAILURES = "failures.jsonl"
"""File beside the folders of the jobs; reserved, so no job can have this name."""
NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,98}[A-Za-z0-9_-])?")
"""Names that are valid on every file system and contain no path."""
FILES = {
    "given": '{"blended": "clip.mp4"} or {"blended": "clip.mp4", "alpha": {"0": "matte.png"}}',
    "trimap": '{"alpha": {"0": "trimap.png"}}',
}
"""Keys whose value names files by clip, or by clip and frames, with an example of each."""
KEYS = ("id", *FILES, *options(Request))


@dataclass(frozen=True)
class Job:
    """One line of the file."""

    line: int
    id: str
    request: Request
    folder: Path
    """Folder for its layers."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a job."""

    job: Job
    error: str = ""
    """One sentence; empty when it is done."""


def read_jobs(file: Path, output: Path) -> list[Job]:
    """Return the jobs of a file; each writes a folder named for its id in `output`.

    Raises UserError for the first line that is not a job; the message names line, key, value and remedy.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); name a file of jobs") from error
    # Workers on other machines have another working directory, so all paths are made absolute.
    here, output = Path(os.path.abspath(file)).parent, Path(os.path.abspath(output))
    jobs: dict[str, Job] = {}
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            job = parse_job(line, number, here, output)
            # Some file systems ignore case.
            if (same := jobs.setdefault(job.id.casefold(), job)) is not job:
                raise UserError(f"the id {job.id!r} is taken by line {same.line}; give each job its own")
        except ValueError as error:
            raise UserError(f"{file}, line {number}: {error}") from error
    if not jobs:
        raise UserError(f"{file} holds no jobs; write one JSON object a line")
    return list(jobs.values())


def parse_job(line: bytes, number: int, here: Path, output: Path) -> Job:
    """Return the job of one line, named for its number by default; paths are relative to `here`. Raises UserError."""
    values = {key: value for key, value in parse_object(line).items() if value is not None}
    if unknown := [key for key in values if key not in KEYS]:
        raise UserError(f"unknown key {shortly(unknown[0])}; the keys are {', '.join(KEYS)}")
    missing = [key for key in COMPONENTS if key not in values]
    if not set(FILES) & set(values) and missing:
        raise UserError(f"no {missing[0]}; a job without given clips needs prompts for foreground and background")
    id = values.pop("id", f"{number:04d}")
    if not isinstance(id, str) or NAME.fullmatch(id) is None or id.casefold() == FAILURES:
        names = f'a name of letters, digits, "_", "-" and ".", such as "balloon-1", and not "{FAILURES}"'
        raise FieldError("id", f"is {shortly(id)} but must be {names}")
    files: dict[str, Any] = {key: _files(key, values.pop(key), here) for key in FILES if key in values}
    fields = from_plain(Request, values)
    if isinstance(fields.get("object"), tuple) and all(is_text(text) for text in fields["object"]):
        fields["object"], mattes = split_objects(fields["object"], here)
        files["given"] = joined([*listed(files.get("given", {})), *mattes])
    if isinstance(fields.get("lora"), tuple):
        fields["lora"] = tuple(_at_home(text, here) for text in fields["lora"])
    request = Request(**files, **fields)
    for file in (*listed(request.given), *listed(request.trimap)):
        if not _exists(file.path):
            raise UserError(f"given {file.clip} is {file.path} but there is no such file; check the path")
    return Job(number, id, request, output / id)


def _files(key: str, value: Any, here: Path) -> Files:
    """Return files by clip, or by clip and frames, with paths relative to `here`; raises FieldError."""

    def is_file(path: Any) -> bool:
        return bool(path) and is_text(path)

    fits = isinstance(value, Mapping) and all(
        is_file(one) or (isinstance(one, Mapping) and one and all(is_file(path) for path in one.values()))
        for one in value.values()
    )
    if not fits or not value:
        raise FieldError(
            key, f"is {shortly(value)} but must be some of {', '.join(CLIPS)} and their files, such as {FILES[key]}"
        )
    return {
        clip: {frames.replace(" ", ""): here / path for frames, path in one.items()}
        if isinstance(one, Mapping)
        else here / one
        for clip, one in value.items()
    }


def _at_home(lora: Any, here: Path) -> Any:
    """Return a LoRA with its path made relative to `here` if such a file exists there."""
    if not is_text(lora):
        return lora
    path, weight = parse_lora(lora)
    return f"{here / path}:{weight:g}" if _exists(here / path) else lora


def parse_object(line: bytes) -> dict[str, Any]:
    """Return a JSON object whose keys are named once; raises UserError."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError("it is not UTF-8; save the file in that encoding") from error
    except RecursionError as error:
        raise UserError("it is nested too deeply; write one flat JSON object") from error
    except ValueError as error:
        position = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(f"it is not JSON: {reason}{position}; write one JSON object a line") from error
    if not isinstance(value, dict):
        raise UserError(f'it holds {shortly(value)}; write one JSON object, such as {{"id": "a", ...}}')
    return value


def _refuse_constant(name: str) -> None:
    raise UserError(f"{name} is not JSON; write a number")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise UserError(f"it names {shortly(duplicate)} twice; keep one")
    return values


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, a folder without the right to look into it
        return False
