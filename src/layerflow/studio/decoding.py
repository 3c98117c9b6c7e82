"""Decoding of uploaded files in a sandbox: first the header, which is checked, then the frames.

Every upload is converted to 16-bit FFV1, with alpha if it had alpha. The uploaded file is opened nowhere else.
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
    """Properties that a file's header states."""

    width: int
    height: int
    frames: int
    seconds: float


def read_header(path: Path, kind: str) -> Header:
    """Read the header of a file, without decoding a frame; raises MediaError."""
    if kind in PICTURES:
        try:
            with Image.open(path, formats=["AVIF" if kind == "avif" else "JPEG" if kind == "jpg" else kind]) as image:
                return Header(*image.size, int(getattr(image, "n_frames", 1)), 0.0)
        except Image.DecompressionBombError as error:
            raise MediaError("the picture has too many pixels; scale it down") from error
        except Exception as error:  # Pillow raises arbitrary errors for damaged headers
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
    """Return the number of frames to read; raises MediaError for a file over the limits."""
    pixels = header.width * header.height
    if pixels < 1:
        raise MediaError("its header states no size; export it again")
    if pixels > limits.upload_pixels:
        raise MediaError(
            f"{header.width}x{header.height} are more than the {limits.upload_pixels} pixels that a frame may have; "
            "scale it down"
        )
    for value, limit, unit in (
        (header.seconds, limits.upload_seconds, "seconds"),
        (header.frames, limits.upload_frames, "frames"),
    ):
        if value > limit:
            raise MediaError(f"{value:g} {unit} are more than the {limit:g} that a clip may have; cut it")
    return max(1, min(limits.read_frames, limits.read_pixels // pixels))


def decode(source: Path, target: Path, kind: str, limits: Limits) -> dict[str, Any]:
    """Convert an uploaded file to FFV1; return its properties as clients get them.

    Raises:
        MediaError: the file cannot be used; the message says why, without a path.
    """
    try:
        header = read_header(source, kind)
        frames = check_header(header, limits)
        most = 2 * max(limits.read_pixels, limits.upload_pixels)  # a file may hold more than its header states
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
