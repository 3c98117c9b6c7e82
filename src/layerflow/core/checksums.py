"""Checksums of large files, remembered from run to run: to read all weights each time takes longer than a start.

What a file's checksum was is believed as long as its size and its times of change are the same, to the nanosecond. A
program can set the time of a file's contents back, but not that of its entry, which is looked at too.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from .atomic import cache_folder, hash_path, write_atomically

SMALLEST = 2**20
"""Bytes of a file from which on it is remembered."""
SETTLED = 2 * 10**9
"""Nanoseconds for which a file must have been as it is: file systems' clocks are coarse, so it could change unseen."""


def remembered_hashes(files: Sequence[Path]) -> list[str]:
    """sha256 of files, see `files.hash_path`; those that are as they were in an earlier run are not read."""
    memory = _read()
    hashes, fresh = [], {}
    for file in files:
        key, state = str(file.resolve()), _state(file)
        known = memory.get(key, [])
        if known[:-1] == state:
            hashes.append(str(known[-1]))
            continue
        hashes.append(hash_path(file))
        if state[0] >= SMALLEST and state == _state(file) and time.time_ns() - max(state[1:]) > SETTLED:
            fresh[key] = [*state, hashes[-1]]
    if fresh:
        kept = {key: known for key, known in memory.items() if os.path.exists(key)}
        with contextlib.suppress(OSError):  # no right to write there: then nothing is remembered
            write_atomically(_place(), json.dumps(kept | fresh, indent=1).encode())
    return hashes


def _state(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _place() -> Path:
    return cache_folder() / "checksums.json"


def _read() -> dict[str, list[int | str]]:
    """What is remembered; nothing where the file is missing or damaged."""
    try:
        found = json.loads(_place().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: known for key, known in found.items() if isinstance(known, list) and len(known) == 4}
