"""The door for files: what passes, what does not, and that nothing stays behind."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import av
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerflow.media import MediaError, read_video
from layerflow.studio.decoding import Header, check_header, decode
from layerflow.studio.limits import Limits
from layerflow.studio.sandbox import ChildError, ChildRefusedError, confined
from layerflow.studio.sniffing import KINDS, sniff
from layerflow.studio.uploads import MOST_PENDING, UploadError, Uploads

SMALL = Limits(
    upload_bytes=2**20, upload_seconds=5, upload_frames=20, upload_pixels=128 * 128, read_frames=3, child_seconds=60
)


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def send(uploads: Uploads, data: bytes, size: int = 1000) -> dict[str, object]:
    return uploads.take(*asyncio.run(uploads.receive(pieces(data, size))))


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path, SMALL)


@pytest.mark.parametrize(
    ("name", "frames", "alpha"),
    [("opaque.mp4", 3, False), ("see-through.webm", 3, True), ("moving.webp", 3, True), ("still.png", 1, True)],
)
def test_clip_is_stored_without_loss(
    uploads: Uploads, clips: dict[str, bytes], name: str, frames: int, alpha: bool, tmp_path: Path
) -> None:
    facts = send(uploads, clips[name])
    assert (facts["frames"], facts["width"], facts["height"], facts["alpha"]) == (frames, 32, 24, alpha)
    assert facts["note"] == ("the first 3 of 4 frames" if frames == 3 else "")
    path, again = uploads.clip(str(facts["id"]))
    assert again == facts
    (tmp_path / name).write_bytes(clips[name])
    expected, kept = read_video(tmp_path / name, frames=3), read_video(path)
    torch.testing.assert_close(kept.colour, expected.colour, atol=1 / 65535, rtol=0)
    assert sorted(p.name for p in path.parent.iterdir()) == ["clip.json", "clip.mkv"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"#EXTM3U\nfile:///etc/passwd\n" + b" " * 50, "the kind of file is unknown"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>" + b" " * 50, "the kind of file is unknown"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "damaged"),
        (b"\x1a\x45\xdf\xa3" + b"\0" * 50, "cannot be"),
        (b"\0\0\0\x20ftypisom" + b"\0" * 50, "cannot be"),
        (b"\x89PNG\r\n\x1a\n" + bytes(2**20), "larger than the 1048576 bytes"),
    ],
)
def test_other_files_are_refused_and_leave_no_file(uploads: Uploads, data: bytes, message: str) -> None:
    with pytest.raises(UploadError, match=message) as refusal:
        send(uploads, data, 4096)
    assert str(uploads.folder) not in str(refusal.value)
    assert not list(uploads.folder.iterdir())


def test_truncated_file_is_refused_and_leaves_no_file(uploads: Uploads, clips: dict[str, bytes]) -> None:
    with pytest.raises(UploadError):
        send(uploads, clips["opaque.mp4"][: len(clips["opaque.mp4"]) // 2])
    assert not list(uploads.folder.iterdir())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (Header(129, 128, 1, 0), "129x128 are more than the 16384 pixels"),
        (Header(8, 8, 10, 5.5), "5.5 seconds are more than the 5"),
        (Header(8, 8, 21, 1), "21 frames are more than the 20"),
        (Header(0, 8, 1, 1), "states no size"),
    ],
)
def test_header_over_the_limits_is_refused_before_decoding(header: Header, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        check_header(header, SMALL)


def test_decompression_bomb_is_refused(uploads: Uploads, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 2**20
    with pytest.raises(UploadError, match="pixels"):
        send(uploads, (tmp_path / "bomb.png").read_bytes())


def test_long_clip_is_refused(uploads: Uploads, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "long.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=1)
        stream.width = stream.height = 16
        for n in range(7):
            frame = av.VideoFrame(16, 16, "yuv420p")
            frame.pts = n
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UploadError, match="seconds are more than the 5"):
        send(uploads, (tmp_path / "long.mkv").read_bytes())


@settings(max_examples=1000)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**7), st.floats(0, 1e7), st.integers(1, 10**8))
def test_frames_read_stay_within_the_limits(w: int, h: int, frames: int, seconds: float, most: int) -> None:
    limits = Limits(read_pixels=most)
    try:
        count = check_header(Header(w, h, frames, seconds), limits)
    except MediaError:
        return
    assert 1 <= count <= limits.read_frames
    assert count == 1 or count * w * h <= most
    assert w * h <= limits.upload_pixels


@settings(max_examples=1000)
@given(st.binary(max_size=64))
def test_sniff_detects_its_kinds_only(head: bytes) -> None:
    assert sniff(head) is None or sniff(head) in KINDS


def test_concurrent_uploads_are_limited(uploads: Uploads) -> None:
    for n in range(MOST_PENDING):
        (uploads.folder / f".{n}").mkdir()
    with pytest.raises(UploadError, match="are being uploaded already"):
        send(uploads, b"\x89PNG\r\n\x1a\n")
    assert Uploads(uploads.folder.parent, SMALL).folder.is_dir()
    assert not list(uploads.folder.iterdir())  # what an earlier server left is gone


def test_broken_connection_leaves_no_file(uploads: Uploads) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"\x89PNG\r\n\x1a\n" + b"\0" * 50
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(uploads.receive(broken()))
    assert not list(uploads.folder.iterdir())


def test_uploads_expire_unless_used(tmp_path: Path, clips: dict[str, bytes]) -> None:
    now = [1000.0]
    uploads = Uploads(tmp_path, Limits(keep_seconds=100, keep_uploads=2), clock=lambda: now[0])
    ids = []
    for n in range(3):
        ids.append(str(send(uploads, clips["still.png"])["id"]))
        now[0] = 1000 + 10 * (n + 1)
        uploads.clip(ids[0])
    assert {path.name for path in uploads.folder.iterdir()} == {ids[0], ids[2]}
    now[0] = 1125
    uploads.clip(ids[0])
    uploads.sweep()
    assert {path.name for path in uploads.folder.iterdir()} == {ids[0]}


@pytest.mark.parametrize("name", ["", "..", "../jobs", "a" * 31, "A" * 32, "a" * 32, "/etc", "a" * 32 + "/.."])
def test_invalid_ids_find_no_upload(uploads: Uploads, name: str) -> None:
    with pytest.raises(UploadError, match="no such upload"):
        uploads.clip(name)


# The child


def _hang() -> None:
    while True:
        pass


def _sleep() -> None:
    import time

    time.sleep(1000)


def _eat() -> int:
    return len(bytearray(2**30))


def _die() -> None:
    import os

    os.kill(os.getpid(), 9)


def _fill(path: str) -> None:
    with open(path, "wb") as file:
        for _ in range(64):
            file.write(bytes(2**20))


def _refuse() -> None:
    raise ValueError("the clip is green\nand more")


@pytest.mark.parametrize(
    ("deed", "message"),
    [(_hang, "longer than 1 s"), (_eat, "more memory"), (_die, "crashed"), (_fill, "large|crashed")],
)
def test_failing_child_is_stopped(tmp_path: Path, deed: object, message: str) -> None:
    values, seconds = [str(tmp_path / "big")] if deed is _fill else [], 1 if deed is _hang else 60
    with pytest.raises(ChildError, match=message):
        confined(deed, *values, seconds=seconds, memory=2**28, bytes_written=2**24)  # type: ignore[arg-type]
    if deed is _fill:
        assert (tmp_path / "big").stat().st_size <= 2**24


def test_sleeping_child_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerflow.studio.sandbox.SLACK", 0.1)
    with pytest.raises(ChildError, match=r"longer than 0\.2 s"):
        confined(_sleep, seconds=0.2, memory=2**28)


def test_value_error_of_a_child_is_reported() -> None:
    with pytest.raises(ChildRefusedError, match=r"^the clip is green$"):
        confined(_refuse, seconds=10, memory=2**28)


# Damaged files, decoded as a child decodes them, but in this process so that there is time for many

CASES = int(os.environ.get("LAYERFLOW_FUZZ", "300"))


class Damaged:
    """Not a dataclass, whose representation would be the clips."""

    def __init__(self, folder: Path, clips: dict[str, bytes]) -> None:
        self.folder, self.clips = folder, clips


@pytest.fixture
def damaged(tmp_path: Path, clips: dict[str, bytes]) -> Damaged:
    return Damaged(tmp_path, clips)


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
@given(st.data())
def test_damaged_files_are_read_or_refused(damaged: Damaged, data: st.DataObject) -> None:
    tmp_path = damaged.folder
    name = data.draw(st.sampled_from(sorted(damaged.clips)))
    content = bytearray(damaged.clips[name])
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[where] = data.draw(st.integers(0, 255))
        else:
            content[where : where + data.draw(st.integers(1, 60))] = data.draw(st.binary(max_size=60))
        if not content:
            return
    kind = sniff(bytes(content[:32]))
    if kind is None:
        return
    source, target = tmp_path / f"sent.{kind}", tmp_path / "clip.mkv"
    source.write_bytes(content)
    target.unlink(missing_ok=True)
    try:
        facts = decode(source, target, kind, SMALL)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert str(tmp_path) not in refusal
        assert not target.exists()
        return
    assert facts["frames"] <= SMALL.read_frames
    assert facts["width"] * facts["height"] <= SMALL.upload_pixels
    assert target.exists()
