"""What is done with an uploaded file in a confined child: its header is read, checked, then its frames.

Whatever a person sends becomes one kind of file, FFV1 of 16 bits with alpha where there was alpha, that this package
wrote itself. Nothing else ever opens what was sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from PIL import Image

from ..core.schema import ALPHA
from ..media import MediaError, ReadLimits, read_video, write_video
from ..media.reading import open_video
from .limits import Limits
from .sniffing import PICTURES


@dataclass(frozen=True)
class Header:
    """What a file claims of itself."""

    width: int
    height: int
    frames: int
    seconds: float


def read_header(path: Path, kind: str) -> Header:
    """What a file claims of itself, before a frame is decoded; raises MediaError."""
    if kind in PICTURES:
        try:
            with Image.open(path, formats=["AVIF" if kind == "avif" else "JPEG" if kind == "jpg" else kind]) as image:
                return Header(*image.size, int(getattr(image, "n_frames", 1)), 0.0)
        except Image.DecompressionBombError as error:
            raise MediaError("the picture has too many pixels; scale it down") from error
        except Exception as error:  # Pillow's readers raise whatever a damaged header led them to
            raise MediaError("the picture is damaged; export it again") from error
    with open_video(path) as container:
        if not container.streams.video:
            raise MediaError("the file holds no video; name a video or a picture")
        stream: Any = container.streams.video[0]
        if stream.codec_context is None:
            raise MediaError("its video codec is not known here; export it as H.264 or ProRes")
        rate = float(stream.average_rate or 0)
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        seconds = seconds or (container.duration or 0) / av.time_base
        frames = stream.frames or round(seconds * rate) or 1
        return Header(stream.codec_context.width, stream.codec_context.height, frames, seconds)


def check_header(header: Header, limits: Limits) -> int:
    """How many frames to read; raises MediaError for a file that asks for too much."""
    pixels = header.width * header.height
    if pixels < 1:
        raise MediaError("its header names no size; export it again")
    if pixels > limits.upload_pixels:
        raise MediaError(
            f"{header.width}x{header.height} are more than the {limits.upload_pixels} pixels that a frame may have; "
            "scale it down"
        )
    for value, limit, unit in (
        (header.seconds, limits.upload_seconds, "seconds"), (header.frames, limits.upload_frames, "frames"),
    ):  # fmt: skip
        if value > limit:
            raise MediaError(f"{value:g} {unit} are more than the {limit:g} that a clip may have; cut it")
    return max(1, min(limits.read_frames, limits.read_pixels // pixels))


def decode(source: Path, target: Path, kind: str, limits: Limits) -> dict[str, Any]:
    """Read an uploaded file, write what it shows as FFV1; returns what the person is told of it.

    Raises:
        MediaError: the file is at fault; says how, without naming a path.
    """
    try:
        header = read_header(source, kind)
        frames = check_header(header, limits)
        most = 2 * max(limits.read_pixels, limits.upload_pixels)  # a file may hold more than its header says
        bounds = ReadLimits(limits.upload_frames, limits.upload_pixels, most)
        video = read_video(source, frames=frames, limits=bounds)
    except MediaError as error:
        raise MediaError(str(error).replace(f"{source}: ", "").replace(str(source), "the file")) from None
    alpha = video.alpha if video.alpha is not None and float(video.alpha.min()) < 1 else None
    write_video(target, video.colour, alpha, video.fps, "ffv1")
    count, _, height, width = video.colour.shape
    return {
        "frames": count,
        "width": width,
        "height": height,
        "fps": video.fps,
        ALPHA: alpha is not None,
        "note": f"the first {count} of {header.frames} frames" if header.frames > count else "",
    }
