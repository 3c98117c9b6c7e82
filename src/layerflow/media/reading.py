"""Read any video, animated image, still image or folder of frames, with alpha where the file has it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import torch
from torch import Tensor

from ..core.compositing import unpremultiply
from ..core.schema import DEFAULT_FPS
from .colour import frame_to_tensors
from .stills import is_image, read_folder, read_image
from .timing import constant_rate
from .video import MediaError, ReadLimits, Video

_CONTAINERS = (
    "matroska,webm,mov,mp4,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,mxf,nut,ivf,yuv4mpegpipe,"
    "m4v,h264,hevc,obu,av1,apng,gif"
)
"""Containers of video alone: otherwise FFmpeg renders text files, and follows playlists to other files."""

_ALPHA_DECODERS = {"vp9": "libvpx-vp9", "vp8": "libvpx"}
"""FFmpeg's own VP8 and VP9 decoders drop alpha; these keep it."""

_HDR = {16: "PQ", 18: "HLG"}


def read_video(
    path: str | Path,
    *,
    frames: int | None = None,
    fps: float | None = None,
    limits: ReadLimits | None = None,
    premultiplied: bool = False,
) -> Video:
    """Read a video, an animated or still image, or a folder of frames.

    Args:
        frames: number of frames to read from the start; all when None.
        fps: constant rate to resample a video or animation to, by its timestamps: each tick shows the latest frame
            that has begun. For a still or a folder it is simply the rate (8 when None). When None, the file's rate
            is kept; a variable rate is resampled to that of its shortest gap, at most 60.
        limits: limits on size and length (see `ReadLimits`); the header is checked before decoding.
        premultiplied: the file's colour is premultiplied with its alpha, and is divided by it; else it is straight.

    Returns:
        `Video`: colour (F, 3, H, W), alpha (F, 1, H, W) or None, both float32 in [0, 1], and fps.
        Rotation tags are applied. Code values are taken as sRGB, without a transfer conversion.

    Raises:
        MediaError: the file is missing, empty, broken, cut short, too large, HDR, or not a video.
        ValueError: frames or fps is out of range.
    """
    path, limits = Path(path), limits or ReadLimits()
    if frames is not None and frames < 1:
        raise ValueError(f"frames is {frames}: it must be at least 1, or None for all.")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}: it must be above 0, or None for the file's own rate.")
    # With a rate to resample to, only decoding shows how many frames are needed.
    needed = frames if fps is None else None
    if path.is_dir():
        decoded = read_folder(path, limits, frames)
        chosen, rate = list(range(len(decoded))), fps or DEFAULT_FPS
    elif is_image(_head(path)):
        decoded, times, end = read_image(path, limits, needed)
        if len(decoded) == 1:
            chosen, rate = [0], fps or (1 / end if end and frames is None else DEFAULT_FPS)
        else:
            chosen, rate = constant_rate(times, end, None, fps)
    else:
        decoded, times, end, nominal = _decode(path, limits, needed)
        chosen, rate = constant_rate(times, end, nominal, fps)
    chosen = chosen[:frames]
    height, width = decoded[0][0].shape[-2:]
    limits.check(path, width, height, len(chosen))
    colour, alpha = _stack(decoded, chosen)
    if premultiplied and alpha is not None:
        colour = unpremultiply(colour, alpha)
    return Video(colour, alpha, rate)


def _head(path: Path) -> bytes:
    """Read the first bytes of a file; raises MediaError where it is missing or empty."""
    if not path.exists():
        raise MediaError(f"{path}: there is no such file; check the path.")
    if not path.is_file():
        raise MediaError(f"{path}: this is neither a file nor a folder; name one of those.")
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise MediaError(f"{path}: the file cannot be opened ({error.strerror}); check its rights.") from error
    if not head:
        raise MediaError(f"{path}: the file is empty (0 bytes); export it again.")
    return head


def _stack(decoded: list[tuple[Tensor, Tensor | None]], chosen: list[int]) -> tuple[Tensor, Tensor | None]:
    colour = torch.stack([decoded[index][0] for index in chosen])
    if decoded[0][1] is None:
        return colour, None
    return colour, torch.stack([alpha for index in chosen if (alpha := decoded[index][1]) is not None])


def _decode(
    path: Path, limits: ReadLimits, frames: int | None
) -> tuple[list[tuple[Tensor, Tensor | None]], list[float], float, float | None]:
    """Decode a video file; return frames, their start times, the end of the last one, and the rate in the header."""
    with open_video(path) as container:
        return _decode_stream(path, container, limits, frames)


@contextmanager
def open_video(path: Path) -> Iterator[Any]:
    """Open a local video file as a PyAV container. FFmpeg's errors, inside the block too, become `MediaError`."""
    try:
        # The prefix keeps a name with a colon from being taken for a protocol.
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(
            f"{path}: it cannot be read as a video ({error.strerror}); it may be cut short, broken or not "
            "a video: export it again, for example as mp4, mov, webm or mkv."
        ) from error


def _decode_stream(
    path: Path, container: Any, limits: ReadLimits, frames: int | None
) -> tuple[list[tuple[Tensor, Tensor | None]], list[float], float, float | None]:
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
        raise MediaError(f"{path}: the file holds no video stream, only {kinds}; name a video file.")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise MediaError(f"{path}: its video codec is not supported here; export it as H.264 or ProRes.")
    if int(context.color_trc or 0) in _HDR:
        raise MediaError(
            f"{path}: its colour is HDR ({_HDR[int(context.color_trc)]}), which sRGB cannot hold; "
            "export it in Rec. 709 first."
        )
    nominal = float(stream.average_rate) if stream.average_rate else None
    rate = nominal or DEFAULT_FPS
    duration = _claimed_duration(container, stream)
    count = stream.frames or (math.floor(duration * nominal + 0.5) if duration and nominal else 1)
    limits.check(path, context.width, context.height, min(count, frames or count))

    decoded: list[tuple[Tensor, Tensor | None]] = []
    times: list[float] = []
    end = 0.0
    for frame in _frames(path, container, stream):
        if frame.is_corrupt:
            raise MediaError(
                f"{path}: frame {len(decoded)} is damaged; export it again, or read what comes before "
                f"with frames={max(1, len(decoded))}."
            )
        tick = float(frame.time_base or 0)
        time = frame.pts * tick if frame.pts is not None and tick else len(decoded) / rate
        if times and time <= times[-1]:
            time = times[-1] + 1e-6
        times.append(time)
        end = time + ((frame.duration or 0) * tick or 1 / rate)
        colour, alpha = frame_to_tensors(frame, int(context.colorspace), int(context.color_range))
        turns = round(frame.rotation / 90) % 4
        if turns:
            colour = torch.rot90(colour, turns, (1, 2))
            alpha = torch.rot90(alpha, turns, (1, 2)) if alpha is not None else None
        if decoded and colour.shape != decoded[0][0].shape:
            raise MediaError(f"{path}: its size changes at frame {len(decoded)}; export it again with one size.")
        decoded.append((colour, alpha))
        limits.check(path, frame.width, frame.height, len(decoded))
        if len(decoded) == frames:
            break
    if not decoded:
        raise MediaError(f"{path}: no frame could be decoded; export it again.")
    stopped = frames is not None and len(decoded) == frames
    # Matroska and QuickTime count every frame; other containers only guess their duration.
    exact = container.format.name.startswith(("matroska", "mov"))
    slack = 0.75 / rate if exact else max(1.5 / rate, 0.02 * (duration or 0))
    if duration and not stopped and duration - (end - times[0]) > slack:
        raise MediaError(
            f"{path}: the file ends early, after {end - times[0]:.3g} of {duration:.3g} s; export it again, "
            f"or read what is there with frames={len(decoded)}."
        )
    return decoded, [time - times[0] for time in times], end - times[0], nominal


def _claimed_duration(container: Any, stream: Any) -> float | None:
    """Return the duration of the video stream in seconds by the header, or None."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    clock = stream.metadata.get("DURATION", "").split(":")  # Matroska, as FFmpeg and mkvmerge write it
    if len(clock) == 3:
        try:
            return int(clock[0]) * 3600 + int(clock[1]) * 60 + float(clock[2])
        except ValueError:
            return None
    if container.duration and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


def _frames(path: Path, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """Yield decoded frames, from a decoder that keeps alpha."""
    name = stream.codec_context.name
    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and name in _ALPHA_DECODERS:
        needed = _ALPHA_DECODERS[name]
        if needed not in av.codecs_available:
            raise MediaError(
                f"{path}: it has alpha, but this PyAV has no {needed} decoder, the only one that reads it; "
                "install a PyAV wheel, or export the file as ProRes 4444."
            )
        decoder = av.CodecContext.create(needed, "r")
    for packet in container.demux(stream):
        yield from decoder.decode(packet)
