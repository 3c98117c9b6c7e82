"""Still and animated images, and folders of frames."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from .colour import frame_to_tensors
from .video import MediaError, ReadLimits

SUFFIXES = {".png", ".webp", ".gif", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".apng", ".avif"}
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"GIF8", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*")

Frames = list[tuple[Tensor, Tensor | None]]


def is_image(head: bytes) -> bool:
    """Return whether a file with these first 32 bytes is an image that this module reads."""
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return riff or head[4:12] == b"ftypavif" or head.startswith(_SIGNATURES)


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """Return a sorting key by which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdigit() else (1, part.lower()) for part in parts if part]


def read_image(
    path: Path, limits: ReadLimits, frames: int | None = None, siblings: int = 1
) -> tuple[Frames, list[float], float]:
    """Read an image file; return its frames, their start times and the end of the last one, in seconds.

    A still has one frame and lasts 0 s. `siblings` is the number of images of this size to read in all, for the limits.
    Raises `MediaError`.
    """
    if _is_deep_png(path):
        return [_read_deep_png(path, limits, siblings)], [0.0], 0.0
    try:
        with Image.open(path) as image:
            count = int(getattr(image, "n_frames", 1))
            limits.check(path, *image.size, siblings * min(count, frames or count))
            decoded: Frames = []
            times, now = [], 0.0
            for index, shown in enumerate(ImageSequence.Iterator(image)):
                if frames is not None and index == frames:
                    break
                decoded.append(_pillow_to_tensors(shown))
                times.append(now)
                duration = float(shown.info.get("duration", 0) or 0)
                # As in browsers: 10 ms or less for an animation frame means "not set".
                now += (duration if duration > 10 else 100) / 1000 if count > 1 else 0
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path}: the image is too large to open ({error}); scale it down.") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise MediaError(f"{path}: the image cannot be read ({error}); export it again.") from error
    if count > 1 and all(alpha is None or bool((alpha == 1).all()) for _, alpha in decoded):
        # Encoders of animations use transparency to repeat earlier pixels: an opaque one has no alpha.
        return [(colour, None) for colour, _ in decoded], times, now
    return _alike(decoded), times, now


def read_folder(folder: Path, limits: ReadLimits, frames: int | None = None) -> Frames:
    """Read the images of a folder in natural order, one frame each. Raises `MediaError`."""
    files = [
        file
        for file in folder.iterdir()
        if file.is_file() and file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise MediaError(f"{folder}: the folder holds no images; put frames such as 0001.png into it, or name a video.")
    files = sorted(files, key=natural_order)[:frames]
    size: tuple[int, int] | None = None
    decoded: Frames = []
    for file in files:
        (frame, *_), *_ = read_image(file, limits, 1, len(files))
        if size is None:
            size = (frame[0].shape[-2], frame[0].shape[-1])
        elif frame[0].shape[-2:] != size:
            height, width = frame[0].shape[-2:]
            raise MediaError(
                f"{file}: it is {width}x{height} but {files[0].name} is {size[1]}x{size[0]}; "
                "all frames of a folder must be of one size."
            )
        decoded.append(frame)
    return _alike(decoded)


def _alike(decoded: Frames) -> Frames:
    """Add alpha to all frames when one has it."""
    if all(alpha is None for _, alpha in decoded):
        return decoded
    return [(colour, torch.ones_like(colour[:1]) if alpha is None else alpha) for colour, alpha in decoded]


def _pillow_to_tensors(image: Image.Image) -> tuple[Tensor, Tensor | None]:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey
        grey = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535).clamp(0, 1)
        return grey.expand(3, -1, -1).clone(), None
    transparent = image.has_transparency_data
    pixels = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    samples = torch.from_numpy(pixels.astype(np.float32) / np.float32(255)).permute(2, 0, 1).contiguous()
    return samples[:3].clone(), samples[3:].clone() if transparent else None


def _is_deep_png(path: Path) -> bool:
    """Return whether a file is a PNG of 16 bits per sample, which Pillow would cut to 8."""
    with path.open("rb") as file:
        head = file.read(26)
    return head.startswith(_SIGNATURES[0]) and len(head) == 26 and head[24] == 16


def _read_deep_png(path: Path, limits: ReadLimits, siblings: int) -> tuple[Tensor, Tensor | None]:
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    limits.check(path, width, height, siblings)
    whole = data[-12:] == b"\x00\x00\x00\x00IEND\xaeB`\x82"
    try:
        decoder = av.CodecContext.create("png", "r")
        shown = [*decoder.decode(av.Packet(data)), *decoder.decode(None)] if whole else []
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: the image cannot be read ({error}); export it again.") from error
    if not shown:
        raise MediaError(f"{path}: the image ends early; export it again.")
    return frame_to_tensors(shown[0])
