"""Checksums of weights are cached as long as a file has not changed."""

import hashlib
import os
from pathlib import Path

import pytest

from layerflow.core import checksums
from layerflow.core.atomic import hash_path
from layerflow.core.checksums import remembered_hashes
from layerflow.generation.load import model_hash

LARGE = checksums.SMALLEST


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache file in an empty folder, a minute after any file was written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    now = checksums.time.time_ns
    monkeypatch.setattr(checksums.time, "time_ns", lambda: now() + 60 * 10**9)
    return tmp_path / "cache" / "layerflow" / "checksums.json"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were really read."""
    files: list[Path] = []
    monkeypatch.setattr(checksums, "hash_path", lambda path: files.append(path) or hash_path(path))
    return files


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"a" * LARGE)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_read_once(weights: Path, read: list[Path]) -> None:
    for _ in range(3):
        assert remembered_hashes([weights]) == [sha256(b"a" * LARGE)]
    assert read == [weights]


def test_a_file_that_changed_is_read_again_even_if_its_time_was_set_back(weights: Path, read: list[Path]) -> None:
    remembered_hashes([weights])
    stat = weights.stat()
    weights.write_bytes(b"b" * LARGE)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert remembered_hashes([weights]) == [sha256(b"b" * LARGE)]
    assert read == [weights] * 2


def test_what_was_just_written_and_what_is_small_is_not_remembered(
    weights: Path, tmp_path: Path, read: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "config.json"
    small.write_bytes(b"{}")
    monkeypatch.setattr(checksums, "SETTLED", 3600 * 10**9)
    for _ in range(2):
        assert remembered_hashes([weights, small]) == [sha256(b"a" * LARGE), sha256(b"{}")]
    assert read == [weights, small] * 2
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"x": 1}', b"\xff"])
def test_a_damaged_memory_is_none(weights: Path, cache: Path, content: bytes) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    assert remembered_hashes([weights]) == [sha256(b"a" * LARGE)]


def test_without_a_place_to_remember_all_is_read(weights: Path, cache: Path) -> None:
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    assert remembered_hashes([weights]) == [sha256(b"a" * LARGE)]


def test_files_that_are_gone_are_forgotten(weights: Path, tmp_path: Path, cache: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"c" * LARGE)
    remembered_hashes([weights])
    weights.unlink()
    remembered_hashes([other])
    assert str(weights) not in cache.read_text()
    assert str(other) in cache.read_text()


def test_the_hash_of_a_model_is_the_same_remembered_or_not(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "model"
    (folder / "transformer").mkdir(parents=True)
    weights.rename(folder / "transformer" / "model.safetensors")
    (folder / "model_index.json").write_text("{}")
    (folder / "README.md").write_text("decides nothing")
    first = model_hash(folder)
    assert model_hash(folder) == model_hash(folder, anew=True) == first
    (folder / "README.md").write_text("decides nothing still")
    assert model_hash(folder) == first
    (folder / "transformer" / "model.safetensors").rename(folder / "transformer" / "other.safetensors")
    assert model_hash(folder) != first
