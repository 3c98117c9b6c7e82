"""Work folder: a folder for each job, with a manifest that outlives the server.

    work/studio.lock            held by the one server that uses the folder
    work/jobs/<id>/job.json     the manifest
    work/jobs/<id>/...          given files and results of the job
    work/uploads/<id>/          see `uploads`

Names in it are random and hexadecimal, and never contain text from a client.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.atomic import whole_folder, write_atomically
from ..core.errors import UserError

IDENTIFIER = re.compile(r"[0-9a-f]{32}")
MANIFEST = "job.json"
WAITING, RUNNING = "queued", "running"
ENDED = ("done", "failed", "cancelled", "interrupted")


class WorkFolderError(UserError):
    """The work folder cannot be used."""


def new_identifier() -> str:
    """Return an unguessable name: 128 random bits."""
    return secrets.token_hex(16)


@dataclass
class Job:
    """One job. All but `progress` is in its manifest."""

    id: str
    request: dict[str, Any]
    session: str = ""
    """Session that the job belongs to, named by the client; empty for none."""
    state: str = WAITING
    created: float = 0.0
    """Seconds since 1970, as `started` and `ended`."""
    started: float | None = None
    ended: float | None = None
    error: str = ""
    """One sentence, when the state is failed or interrupted."""
    result: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def manifest(self) -> dict[str, Any]:
        """Return the state that is stored on disk, and sent to clients together with the progress."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("progress", "stopping")]
        return {name: getattr(self, name) for name in names}


class Store:
    """Jobs on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.jobs = self.folder / "jobs"
        try:
            self.jobs.mkdir(parents=True, exist_ok=True)
            os.chmod(self.folder, 0o700)
            self._lock = (self.folder / "studio.lock").open("w")
        except OSError as error:
            raise WorkFolderError(f"work folder {folder} cannot be written ({error.strerror}); name another") from error
        try:
            lock(self._lock.fileno())
        except OSError as error:
            self._lock.close()
            raise WorkFolderError(f"work folder {folder} is in use by another studio; name another") from error

    def place(self, job: Job) -> Path:
        """Return the folder of a job."""
        return self.jobs / job.id

    def add(self, job: Job, given: dict[str, Path]) -> None:
        """Create a job's folder with its given files, `given/<name>.mkv`, and manifest, whole or not at all."""
        with whole_folder(self.place(job)) as hidden:
            (hidden / "given").mkdir()
            for name, path in given.items():
                link(path, hidden / "given" / f"{name}.mkv")
            self._write(job, hidden)

    def save(self, job: Job) -> None:
        """Write the manifest of a job, if its folder exists."""
        if self.place(job).is_dir():
            self._write(job, self.place(job))

    def remove(self, job: Job) -> None:
        """Remove a job's folder; it disappears at once, even if removing the files takes a while."""
        hidden = self.jobs / f".{job.id}"
        try:
            os.rename(self.place(job), hidden)
        except FileNotFoundError:
            return
        shutil.rmtree(hidden, ignore_errors=True)

    def load(self) -> Iterator[Job]:
        """Yield the jobs of an earlier server, oldest first; remove incomplete folders."""
        jobs = []
        for place in self.jobs.iterdir():
            try:
                job = read_manifest(place)
            except (OSError, ValueError, TypeError, KeyError):
                shutil.rmtree(place, ignore_errors=True)
                continue
            jobs.append(job)
        yield from sorted(jobs, key=lambda job: job.created)

    def close(self) -> None:
        """Release the folder for another server."""
        self._lock.close()

    def _write(self, job: Job, place: Path) -> None:
        write_atomically(place / MANIFEST, json.dumps(job.manifest(), ensure_ascii=False).encode())


def read_manifest(place: Path) -> Job:
    """Return the job of a folder; raises ValueError, TypeError, KeyError or OSError if there is none."""
    values = json.loads((place / MANIFEST).read_text("utf-8"))
    job = Job(**values)
    if IDENTIFIER.fullmatch(place.name) is None or job.id != place.name or not isinstance(job.created, int | float):
        raise ValueError(place.name)
    if job.state not in (*ENDED, WAITING, RUNNING) or not isinstance(job.request, dict):
        raise ValueError(job.state)
    return job


def link(source: Path, target: Path) -> None:
    """Link a file under another name; copy it if the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def lock(descriptor: int) -> None:
    """Lock a file for this process; raises OSError if another process has locked it."""
    try:
        import fcntl
    except ImportError:  # Windows: a second server on the same folder is not detected there
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
