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
"""Only containers of video: FFmpeg would else render a text file, or follow a playlist to other files."""

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
        frames: read only the first so many frames (all when None).
        fps: the constant rate wanted. A video or animation is resampled to it by its timestamps, each
            tick showing the latest frame that has begun; a still or a folder simply gets it (else 8).
            When None, the rate is the file's own; one of variable rate is resampled to that of its
            shortest gap, at most 60.
        limits: what the file may ask for (see `ReadLimits`); the header is checked before decoding.
        premultiplied: the file's colour was multiplied with its alpha; it is divided again. When False,
            the file is taken as straight.

    Returns:
        `Video`: colour (F, 3, H, W), alpha (F, 1, H, W) or None, both float32 in [0, 1], and fps.
        Rotation tags are applied. Code values are taken as sRGB, without a change of transfer.

    Raises:
        MediaError: the file is missing, empty, broken, cut short, too large, HDR, or no video.
        ValueError: frames or fps is out of range.
    """
    path, limits = Path(path), limits or ReadLimits()
    if frames is not None and frames < 1:
        raise ValueError(f"frames is {frames}: it must be at least 1, or None for all.")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}: it must be above 0, or None for the file's own rate.")
    # Frames to decode: with a wanted rate it takes decoding to know how many are needed.
    needed = frames if fps is None else None
    if path.is_dir():
        found = read_folder(path, limits, frames)
        chosen, rate = list(range(len(found))), fps or DEFAULT_FPS
    elif is_image(_head(path)):
        found, times, end = read_image(path, limits, needed)
        if len(found) == 1:
            chosen, rate = [0], fps or (1 / end if end and frames is None else DEFAULT_FPS)
        else:
            chosen, rate = constant_rate(times, end, None, fps)
    else:
        found, times, end, nominal = _decode(path, limits, needed)
        chosen, rate = constant_rate(times, end, nominal, fps)
    chosen = chosen[:frames]
    height, width = found[0][0].shape[-2:]
    limits.check(path, width, height, len(chosen))
    colour, alpha = _stack(found, chosen)
    if premultiplied and alpha is not None:
        colour = unpremultiply(colour, alpha)
    return Video(colour, alpha, rate)


def _head(path: Path) -> bytes:
    """The first bytes of a file that is there and not empty."""
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


def _stack(found: list[tuple[Tensor, Tensor | None]], chosen: list[int]) -> tuple[Tensor, Tensor | None]:
    colour = torch.stack([found[index][0] for index in chosen])
    if found[0][1] is None:
        return colour, None
    return colour, torch.stack([alpha for index in chosen if (alpha := found[index][1]) is not None])


def _decode(
    path: Path, limits: ReadLimits, frames: int | None
) -> tuple[list[tuple[Tensor, Tensor | None]], list[float], float, float | None]:
    """Frames of a video file, when each begins, when the last one ends, and the rate the file claims."""
    with open_video(path) as container:
        return _decode_stream(path, container, limits, frames)


@contextmanager
def open_video(path: Path) -> Iterator[Any]:
    """A PyAV container, of a local file of video alone. FFmpeg's errors, inside too, become `MediaError`."""
    try:
        # The prefix keeps a name with a colon from being taken for a protocol.
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(
            f"{path}: it cannot be read as a video ({error.strerror}); it may be cut short, broken or no "
            "video at all: export it again, for example as mp4, mov, webm or mkv."
        ) from error


def _decode_stream(
    path: Path, container: Any, limits: ReadLimits, frames: int | None
) -> tuple[list[tuple[Tensor, Tensor | None]], list[float], float, float | None]:
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
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

    found: list[tuple[Tensor, Tensor | None]] = []
    times: list[float] = []
    end = 0.0
    for frame in _frames(path, container, stream):
        if frame.is_corrupt:
            raise MediaError(
                f"{path}: frame {len(found)} is damaged; export it again, or read what comes before "
                f"with frames={max(1, len(found))}."
            )
        tick = float(frame.time_base or 0)
        time = frame.pts * tick if frame.pts is not None and tick else len(found) / rate
        if times and time <= times[-1]:
            time = times[-1] + 1e-6
        times.append(time)
        end = time + ((frame.duration or 0) * tick or 1 / rate)
        colour, alpha = frame_to_tensors(frame, int(context.colorspace), int(context.color_range))
        turns = round(frame.rotation / 90) % 4
        if turns:
            colour = torch.rot90(colour, turns, (1, 2))
            alpha = torch.rot90(alpha, turns, (1, 2)) if alpha is not None else None
        if found and colour.shape != found[0][0].shape:
            raise MediaError(f"{path}: its size changes at frame {len(found)}; export it again with one size.")
        found.append((colour, alpha))
        limits.check(path, frame.width, frame.height, len(found))
        if len(found) == frames:
            break
    if not found:
        raise MediaError(f"{path}: no frame could be decoded; export it again.")
    stopped = frames is not None and len(found) == frames
    # Matroska and QuickTime count every frame; other containers only guess their duration.
    exact = container.format.name.startswith(("matroska", "mov"))
    slack = 0.75 / rate if exact else max(1.5 / rate, 0.02 * (duration or 0))
    if duration and not stopped and duration - (end - times[0]) > slack:
        raise MediaError(
            f"{path}: the file ends early, after {end - times[0]:.3g} of {duration:.3g} s; export it again, "
            f"or read what is there with frames={len(found)}."
        )
    return found, [time - times[0] for time in times], end - times[0], nominal


def _claimed_duration(container: Any, stream: Any) -> float | None:
    """Seconds that the header claims for the video stream, or None."""
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
    """Decoded frames, by a decoder that keeps alpha."""
    name = stream.codec_context.name
    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and name in _ALPHA_DECODERS:
        wanted = _ALPHA_DECODERS[name]
        if wanted not in av.codecs_available:
            raise MediaError(
                f"{path}: it has alpha, but this PyAV has no {wanted} decoder, which alone reads it; "
                "install a PyAV wheel, or export the file as ProRes 4444."
            )
        decoder = av.CodecContext.create(wanted, "r")
    for packet in container.demux(stream):
        yield from decoder.decode(packet)
