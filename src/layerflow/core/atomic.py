"""Files and folders that appear whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(output: Path, replace: bool = False) -> Iterator[Path]:
    """A hidden folder beside `output` to write into; flushed to disk and renamed when the block ends well.

    If it does not, nothing is left behind. What a killed process left is removed by the next one. A folder that is
    there already is only replaced if `replace` says so; an empty one may always be in the way.
    """
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            _flush(path)
        if replace:
            shutil.rmtree(output, ignore_errors=True)
        os.rename(partial, output)
        _flush(output.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that others see either nothing of it or all of it; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)  # mkstemp's files are for nobody else
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Where is kept what can be made again: `layerflow` in the user's cache folder (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "layerflow"


def hash_path(path: Path) -> str:
    """sha256 of a file, or of the contents of all files in a folder one after another, in the order of their names.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as content:  # weights and videos are larger than what one would hold in memory
            while block := content.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
