"""Files and folders that appear whole or not at all, and their checksums.

Everything is written under a hidden name on the same file system and renamed when it is complete. An error, Ctrl-C or a
full disk leaves what was there before; a killed process leaves at most a hidden folder whose name ends in `.partial`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def whole_path(path: Path, flush: bool = False) -> Iterator[Path]:
    """Give a temporary path for a file or folder; rename it to `path` when the block ends without error.

    It has the same name in a hidden folder beside `path`, since libraries choose a format by the name. See
    `replace_path` for what is replaced.

    Args:
        path: file or folder to write; its parent is created when missing.
        flush: wait until the content is on the disk, so that it also survives a power failure.
    """
    with _hidden_folder(path.parent) as hidden:
        partial = hidden / path.name
        yield partial
        if flush:
            _flush_all(partial)
        replace_path(partial, path)
        if flush:
            _flush(path.parent)


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Give a new hidden folder beside `path`; flush it to the disk and rename it when the block ends without error.

    Its name is always the same, so that what a killed process left is removed by the next one. One process at a time
    may write a folder.

    Args:
        path: folder to write; its parent is created when missing.
        replace: whether to replace a folder that is not empty.

    Raises:
        OSError: a folder that is not empty is in the way and `replace` is not set, or writing failed.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    partial.mkdir()
    try:
        yield partial
        _flush_all(partial)
        if replace:
            replace_path(partial, path)
        else:
            os.rename(partial, path)  # over nothing or an empty folder
        _flush(path.parent)
    finally:
        _remove(partial)


@contextmanager
def whole_files(folder: Path, last: str = "") -> Iterator[Path]:
    """Give a new hidden folder; move its content into `folder` when the block ends without error, all of it or nothing.

    Other files in `folder` stay.

    Args:
        folder: folder to fill; created when missing.
        last: name of the file to move last, such as an index of the others.
    """
    with _hidden_folder(folder.parent) as partial:
        yield partial
        folder.mkdir(exist_ok=True)
        paths = sorted(partial.iterdir(), key=lambda path: (path.name == last, path.name))
        replace_paths({path: folder / path.name for path in paths})


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that others see either nothing of it or all of it; its parent is created when missing."""
    with whole_path(path) as partial:
        partial.write_bytes(content)


def replace_path(source: Path, target: Path) -> None:
    """Rename a file or folder; an earlier one of the same kind at `target` is replaced, and stays where that fails.

    A file is replaced in one step. A folder cannot be: for a moment there is none at `target`.

    Raises:
        OSError: renaming failed, or a folder is to replace a file, or a file a folder.
    """
    if target.is_dir() and source.is_dir():
        replace_paths({source: target})
    else:
        os.replace(source, target)


def replace_paths(moves: Mapping[Path, Path]) -> None:
    """Rename files and folders, from source to target, all of them or none.

    What is at a target is kept beside its source until all moves are done; it is put back where one fails.

    Raises:
        OSError: renaming failed.
    """
    begun: list[tuple[Path, Path, Path]] = []
    try:
        for source, target in moves.items():
            old = source.with_name(f".{source.name}.old")
            begun.append((source, target, old))
            if os.path.lexists(target):
                os.replace(target, old)
            os.replace(source, target)
    except BaseException:
        for source, target, old in reversed(begun):
            if not os.path.lexists(source) and os.path.lexists(target):
                os.replace(target, source)
            if os.path.lexists(old):
                os.replace(old, target)
        raise
    for _, _, old in begun:
        _remove(old)


@contextmanager
def _hidden_folder(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(".partial", ".", parent, ignore_cleanup_errors=True) as hidden:
        yield Path(hidden)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the folder for files that can be made again: `layerflow` in the user's cache (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "layerflow"


def hash_path(path: Path) -> str:
    """Return the sha256 of a file, or of the contents of all files in a folder in the order of their names.

    Raises:
        OSError: the path does not exist or cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as content:  # weights and videos are larger than what one would hold in memory
            while block := content.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _flush_all(path: Path) -> None:
    for inner in path.rglob("*") if path.is_dir() else ():
        _flush(inner)
    _flush(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
