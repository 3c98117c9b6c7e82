"""Checksums of large files, cached between runs: reading all weights at each start would take longer than the start.

A cached checksum is valid as long as the file's size and both of its times of change are the same, to the nanosecond. A
program can set back the time of a file's content (mtime), but not that of its inode (ctime).
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
"""Least size in bytes of a file whose checksum is cached."""
SETTLED = 2 * 10**9
"""Nanoseconds since the last change before a checksum is cached: clocks of file systems are coarse."""


def remembered_hashes(files: Sequence[Path]) -> list[str]:
    """Return the sha256 of each file, see `hash_path`; files unchanged since an earlier run are not read."""
    cached = _read()
    hashes, fresh = [], {}
    for file in files:
        key, state = str(file.resolve()), _state(file)
        known = cached.get(key, [])
        if known[:-1] == state:
            hashes.append(str(known[-1]))
            continue
        hashes.append(hash_path(file))
        if state[0] >= SMALLEST and state == _state(file) and time.time_ns() - max(state[1:]) > SETTLED:
            fresh[key] = [*state, hashes[-1]]
    if fresh:
        kept = {key: known for key, known in cached.items() if os.path.exists(key)}
        with contextlib.suppress(OSError):  # no right to write there: then nothing is cached
            write_atomically(_place(), json.dumps(kept | fresh, indent=1).encode())
    return hashes


def _state(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _place() -> Path:
    return cache_folder() / "checksums.json"


def _read() -> dict[str, list[int | str]]:
    """Return the cache; empty where its file is missing or damaged."""
    try:
        content = json.loads(_place().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: known for key, known in content.items() if isinstance(known, list) and len(known) == 4}
