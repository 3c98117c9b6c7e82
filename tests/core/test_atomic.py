"""Whole or absent: errors, Ctrl-C, a full disk and killed processes leave what was there before."""

import os
import resource
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from forked import fork

from layerflow.core import atomic
from layerflow.core.atomic import (
    replace_path,
    replace_paths,
    whole_files,
    whole_folder,
    whole_path,
    write_atomically,
)

Whole = Callable[[Path], AbstractContextManager[Path]]
Way = tuple[Whole, Callable[[Path, bytes], None]]


def content(folder: Path) -> dict[str, bytes | None]:
    """Return every path in a folder with its bytes; None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def write_file(partial: Path, text: bytes) -> None:
    partial.write_bytes(text)


def write_in_folder(partial: Path, text: bytes) -> None:
    partial.mkdir(exist_ok=True)
    (partial / "a").write_bytes(text)
    (partial / "b").mkdir()
    (partial / "b" / "c").write_bytes(text)


def replacing_folder(path: Path) -> AbstractContextManager[Path]:
    return whole_folder(path, replace=True)


def flushed_path(path: Path) -> AbstractContextManager[Path]:
    return whole_path(path, flush=True)


WAYS = [
    pytest.param((whole_path, write_file), id="file"),
    pytest.param((flushed_path, write_file), id="flushed-file"),
    pytest.param((whole_path, write_in_folder), id="path-folder"),
    pytest.param((flushed_path, write_in_folder), id="flushed-path-folder"),
    pytest.param((replacing_folder, write_in_folder), id="folder"),
    pytest.param((whole_files, write_in_folder), id="files"),
]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param  # type: ignore[no-any-return]


def write(way: Way, path: Path, text: bytes) -> None:
    whole, fill = way
    with whole(path) as partial:
        hidden = partial.relative_to(path.parent).parts[0]
        assert hidden.startswith(".")
        assert hidden.endswith(".partial")
        fill(partial, text)


def test_new_and_replaced(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "target.mov"
    write(way, path, b"old")
    old = content(tmp_path)
    write(way, path, b"new")
    assert content(tmp_path) == {name: text and b"new" for name, text in old.items()}
    assert [p.name for p in path.parent.iterdir()] == ["target.mov"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "ctrl-c"])
def test_error_while_writing(way: Way, tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "target"
    for old in (False, True):
        if old:
            write(way, path, b"old")
        before = content(tmp_path)
        with pytest.raises(type(error)):
            write_and_raise(way, path, error)
        assert content(tmp_path) == before


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["disk", "ctrl-c"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_error_at_each_rename(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, after: bool
) -> None:
    """A rename fails, or Ctrl-C arrives just before or after one: all is as before, or all is new."""
    path, rename = tmp_path / "target", os.replace
    write(way, path, b"old")
    old = content(tmp_path)
    new = {name: text and b"new" for name, text in old.items()}
    for failing in range(10):
        calls = iter(range(100))

        def fails(source: Path, target: Path, calls=calls, failing=failing) -> None:
            now = next(calls) == failing
            if now and not after:
                raise error
            rename(source, target)
            if now:
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(atomic.os, "replace", fails)
            try:
                write(way, path, b"new")
            except type(error):
                assert content(tmp_path) in (old, new)
                continue
        assert content(tmp_path) == new
        assert failing >= 1, "no rename was met"
        return
    pytest.fail("a rename failed every time")


def write_and_raise(way: Way, path: Path, error: BaseException) -> None:
    whole, fill = way
    with whole(path) as partial:
        fill(partial, b"new")
        raise error


def write_and_die(way: Way, path: Path) -> None:
    whole, fill = way
    with whole(path) as partial:
        fill(partial, b"new")
        os.kill(os.getpid(), signal.SIGKILL)


def test_kill_while_writing(way: Way, tmp_path: Path) -> None:
    write(way, tmp_path / "target", b"old")
    before = content(tmp_path)
    assert exit_code(write_and_die, way, tmp_path / "target") == -signal.SIGKILL
    after = content(tmp_path)
    assert {name: text for name, text in after.items() if ".partial" not in name} == before
    assert after != before


def write_beyond_the_limit(way: Way, path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    whole, fill = way
    with pytest.raises(OSError, match="File too large"), whole(path) as partial:
        fill(partial, bytes(5000))


def test_limit_on_file_size(way: Way, tmp_path: Path) -> None:
    """The system itself refuses to write on, as with a full disk."""
    write(way, tmp_path / "target", b"old")
    before = content(tmp_path)
    assert exit_code(write_beyond_the_limit, way, tmp_path / "target") == 0
    assert content(tmp_path) == before


def exit_code(work: Callable[..., None], *values: object) -> int | None:
    process = fork(work, *values)
    process.join(60)
    return process.exitcode


# Files


def test_whole_path_keeps_the_name_and_is_hidden_from_patterns(tmp_path: Path) -> None:
    with whole_path(tmp_path / "clip.webm") as partial:
        assert partial.name == "clip.webm"
        partial.write_bytes(b"x")
        assert list(tmp_path.glob("*.webm")) == []


def test_whole_path_is_not_flushed_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(atomic.os, "fsync", flushed.append)
    write_atomically(tmp_path / "a", b"x")
    assert not flushed
    with whole_path(tmp_path / "a", flush=True) as partial:
        partial.write_bytes(b"y")
    assert len(flushed) == 2  # the file and its folder


def test_file_permissions_follow_the_umask(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


# Folders


def test_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with whole_folder(tmp_path / "target") as partial:  # an empty one may be
        write_in_folder(partial, b"old")
    before = content(tmp_path)
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "target") as partial:
        write_in_folder(partial, b"new")
    assert content(tmp_path) == before


def test_next_folder_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / ".target.partial").mkdir()
    (tmp_path / ".target.partial" / "left").write_bytes(b"x")
    with whole_folder(tmp_path / "target") as partial:
        write_in_folder(partial, b"new")
    assert sorted(content(tmp_path)) == ["target", "target/a", "target/b", "target/b/c"]


def test_whole_folder_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(atomic.os, "fsync", flushed.append)
    with whole_folder(tmp_path / "target") as partial:
        write_in_folder(partial, b"x")
    assert len(flushed) == 5  # two files, two folders, their parent


# Several files


def test_files_fill_a_folder_the_last_one_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    rename = os.replace

    def noted(source: Path, target: Path) -> None:
        moved.append(Path(target).name)
        rename(source, target)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_bytes(b"mine")
    monkeypatch.setattr(atomic.os, "replace", noted)
    with whole_files(tmp_path / "out", last="index") as partial:
        for name in ("z", "index", "a"):
            (partial / name).write_bytes(b"x")
    assert moved == ["a", "z", "index"]
    assert sorted(content(tmp_path / "out")) == ["a", "index", "mine.txt", "z"]


def test_files_that_cannot_be_moved_create_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError), whole_files(tmp_path / "file") as partial:  # noqa: PT011
        (partial / "a").write_bytes(b"x")
    assert content(tmp_path) == {"file": b"x"}


# Renames


def test_replace_path_refuses_another_kind(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_bytes(b"mine")
    before = content(tmp_path)
    with pytest.raises(IsADirectoryError):
        replace_path(tmp_path / "file", tmp_path / "folder")
    with pytest.raises(NotADirectoryError):
        replace_path(tmp_path / "folder", tmp_path / "file")
    assert content(tmp_path) == before


def test_replace_paths_all_or_none(tmp_path: Path) -> None:
    for name in ("a", "b", "target-a"):
        (tmp_path / name).write_bytes(name.encode())
    before = content(tmp_path)
    with pytest.raises(FileNotFoundError):
        replace_paths({tmp_path / "a": tmp_path / "target-a", tmp_path / "gone": tmp_path / "target-b"})
    assert content(tmp_path) == before
    replace_paths({tmp_path / "a": tmp_path / "target-a", tmp_path / "b": tmp_path / "target-b"})
    assert content(tmp_path) == {"target-a": b"a", "target-b": b"b"}


def test_replaced_link_to_a_folder_leaves_its_content(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mine").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with whole_folder(tmp_path / "link", replace=True) as partial:
        write_in_folder(partial, b"new")
    assert (tmp_path / "real" / "mine").read_bytes() == b"mine"
    assert (tmp_path / "link" / "a").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
