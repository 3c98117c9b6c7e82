"""Uploaded files: limited in size, detected by content, decoded in a sandbox. File names are never used."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncIterable, Callable
from pathlib import Path
from typing import Any

from ..core.atomic import replace_path, write_atomically
from ..core.errors import UserError
from .entry_points import decode_upload
from .limits import Limits
from .sandbox import ChildError, confined
from .sniffing import KINDS, sniff
from .store import IDENTIFIER, new_identifier

CLIP, FACTS = "clip.mkv", "clip.json"
MOST_PENDING = 8
"""Maximum number of concurrent uploads."""


class UploadError(UserError):
    """A file that is not accepted; the message is one sentence that says why."""


class Uploads:
    """Uploaded clips on disk, each in `uploads/<id>/` as `clip.mkv` and `clip.json`."""

    def __init__(self, folder: Path, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        """Create the folder of uploads, and remove incomplete ones.

        Args:
            folder: the studio's work folder.
            limits: see `Limits`.
            clock: seconds since 1970.
        """
        self.folder, self.limits, self._clock = folder.resolve() / "uploads", limits, clock
        self.folder.mkdir(parents=True, exist_ok=True)
        for place in self.folder.glob(".*"):  # left by an earlier server
            shutil.rmtree(place, ignore_errors=True)
        self._decoding = threading.BoundedSemaphore(2)

    async def receive(self, body: AsyncIterable[bytes]) -> tuple[Path, str]:
        """Write a body into a new folder; return that folder and the kind of file.

        Raises:
            UploadError: the file is empty, too large or of an unknown kind; nothing is left of it then.
        """
        if len(list(self.folder.glob(".*"))) >= MOST_PENDING:
            raise UploadError(f"{MOST_PENDING} files are being uploaded already; try again in a moment")
        place = self.folder / f".{new_identifier()}"
        place.mkdir()
        try:
            kind, size = None, 0
            with (place / "sent").open("wb") as file:
                start = b""
                async for block in body:
                    size += len(block)
                    if size > self.limits.upload_bytes:
                        raise UploadError(
                            f"the file is larger than the {self.limits.upload_bytes} bytes that are accepted; cut it"
                        )
                    if kind is None:
                        start += block
                        if len(start) < 32:
                            continue
                        kind, block = known_kind(start), start
                    file.write(block)
                if kind is None:
                    kind = known_kind(start)
                    file.write(start)
            os.rename(place / "sent", place / f"sent.{kind}")
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return place, kind

    def take(self, place: Path, kind: str) -> dict[str, Any]:
        """Decode a file from `receive`; return its id and facts. Raises UploadError; nothing is left of it then."""
        identifier = new_identifier()
        limits = self.limits
        try:
            with self._decoding:
                facts = confined(
                    decode_upload,
                    place / f"sent.{kind}",
                    place / CLIP,
                    kind,
                    limits,
                    seconds=limits.child_seconds,
                    memory=limits.child_memory,
                )
            (place / f"sent.{kind}").unlink()
            facts = {"id": identifier, **facts}
            write_atomically(place / FACTS, json.dumps(facts).encode())
            os.utime(place, (self._clock(), self._clock()))
            replace_path(place, self.folder / identifier)
        except ChildError as error:
            raise UploadError(f"the file cannot be used: {error}") from error
        finally:
            shutil.rmtree(place, ignore_errors=True)
        self.sweep()
        return facts

    def clip(self, identifier: str) -> tuple[Path, dict[str, Any]]:
        """Return file and facts of an upload, and renew its age; raises UploadError."""
        place = self.folder / identifier
        try:
            if IDENTIFIER.fullmatch(identifier) is None:
                raise FileNotFoundError
            facts = json.loads((place / FACTS).read_text("utf-8"))
            os.utime(place, (self._clock(), self._clock()))
        except (OSError, ValueError) as error:
            raise UploadError("there is no such upload; it may have expired: upload the file again") from error
        return place / CLIP, facts

    def sweep(self) -> None:
        """Remove uploads that are too old or too many."""
        ages = []
        for place in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if not place.name.startswith("."):
                    ages.append((place.stat().st_mtime, place))
        oldest = self._clock() - self.limits.keep_seconds
        for n, (modified, place) in enumerate(sorted(ages, reverse=True)):
            if modified < oldest or n >= self.limits.keep_uploads:
                shutil.rmtree(place, ignore_errors=True)


def known_kind(head: bytes) -> str:
    """Return the kind of a file by its first bytes; raises UploadError."""
    if not head:
        raise UploadError("the file is empty; choose another")
    kind = sniff(head)
    if kind is None:
        raise UploadError(f"the kind of file is unknown; send one of {', '.join(KINDS)}")
    return kind
