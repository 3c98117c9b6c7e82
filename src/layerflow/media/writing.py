"""Write one clip, with or without alpha, as a file that editors open.

Every file is written under a temporary name and renamed when it is whole, so that a failure leaves the
old file as it was. The same clip gives the same bytes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..core.atomic import whole_path
from ..core.compositing import extend_colour
from ..core.layered_video import LayeredVideo
from ..core.schema import DEFAULT_FPS
from .colour import BT709, FULL, LIMITED, tensors_to_frame
from .formats import FORMATS, Format, find_format
from .video import MediaError


def write_video(
    path: str | Path,
    colour: Tensor,
    alpha: Tensor | None = None,
    fps: float = DEFAULT_FPS,
    format: str | None = None,
    timecode: str | None = None,
) -> Path:
    """Write a clip and return its path.

    Args:
        path: file, or folder for the formats `png` and `png16`; its parent is created when missing.
        colour: (F, 3, H, W) float32 in [0, 1], straight.
        alpha: (F, 1, H, W) float32 in [0, 1], or None.
        fps: frames per second.
        format: a name of `FORMATS`; by the suffix of `path` when None (without a suffix: `png`).
        timecode: HH:MM:SS:FF of the first frame, for `prores`; other formats ignore it.

    For lossy formats with alpha, invisible colour (alpha below 1/512) is filled in from its
    surroundings, so that edges do not darken. An existing file, or folder of PNG frames, is replaced.
    H.264 (`mp4`) pads odd sizes by one row or column of their edge. `webp` merges equal frames into a
    longer one (`read_video(path, fps=fps)` gives them back), and makes a still of a clip that never moves.

    Raises:
        MediaError: the format cannot hold the clip, or the file cannot be written.
        ValueError: the clip is not valid (see `LayeredVideo`).
    """
    path, chosen = Path(path), find_format(format, path)
    LayeredVideo(foreground=colour, alpha=alpha, fps=fps)  # checks shapes, types, ranges and fps
    if alpha is not None and not chosen.alpha:
        others = ", ".join(name for name, other in FORMATS.items() if other.alpha)
        raise MediaError(
            f"{path}: format {chosen.name} cannot hold alpha; choose one of {others}, or write alpha as a separate file"
        )
    colour = colour.detach().cpu()
    alpha = alpha.detach().cpu() if alpha is not None else None
    if alpha is not None and not chosen.lossless:
        colour = extend_colour(colour, alpha, 1 / 512)
    write: Callable[[Path], None]
    if chosen.name == "webp":
        write = functools.partial(_write_webp, colour=colour, alpha=alpha, fps=fps)
    elif chosen.folder:
        write = functools.partial(_write_frames, colour=colour, alpha=alpha, chosen=chosen)
    else:
        write = functools.partial(_encode, colour=colour, alpha=alpha, fps=fps, chosen=chosen, timecode=timecode)
    if chosen.folder and path.is_dir() and not _only_frames(path):
        raise MediaError(f"{path}: a folder with other files is in the way; choose another name.")
    with writing(path):
        try:
            with whole_path(path) as partial:
                write(partial)
        except av.error.FFmpegError as error:
            raise MediaError(
                f"{path}: {chosen.codec} could not write it ({error.strerror}); check the space and the rights, "
                "or choose another format."
            ) from error
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise errors of the file system as `MediaError`."""
    try:
        yield
    except OSError as error:
        raise MediaError(
            f"{path}: it cannot be written ({error.strerror or error}); check the space and the rights."
        ) from error


def _only_frames(folder: Path) -> bool:
    return all(file.is_file() and file.suffix == ".png" for file in folder.iterdir())


def padded_size(chosen: Format, height: int, width: int) -> tuple[int, int]:
    """Return height and width as written: H.264 in 4:2:0 takes only even ones."""
    return (height + height % 2, width + width % 2) if chosen.codec == "libx264" else (height, width)


def _encode(
    path: Path, colour: Tensor, alpha: Tensor | None, fps: float, chosen: Format, timecode: str | None = None
) -> None:
    if chosen.codec not in av.codecs_available:
        raise MediaError(
            f"{path}: this PyAV has no {chosen.codec} encoder; install a PyAV wheel, or choose another format."
        )
    pixels = chosen.alpha_pixels if alpha is not None and chosen.alpha_pixels else chosen.pixels
    known = {one.name for one in av.Codec(chosen.codec, "w").video_formats or []}
    if pixels not in known:
        raise MediaError(
            f"{path}: the {chosen.codec} of this PyAV cannot write {pixels}, which format {chosen.name} "
            "needs; install a PyAV wheel, or choose another format."
        )
    height, width = padded_size(chosen, *colour.shape[-2:])
    if (height, width) != tuple(colour.shape[-2:]):
        padding = (0, width - colour.shape[-1], 0, height - colour.shape[-2])
        colour = F.pad(colour, padding, mode="replicate")
    # bitexact omits the date, random identifiers and the versions of libraries.
    options = {"fflags": "+bitexact", **chosen.container_options}
    with av.open(f"file:{path}", "w", format=chosen.container, options=options) as container:
        if timecode is not None and chosen.container == "mov":
            container.metadata["timecode"] = timecode
        stream: Any = container.add_stream(chosen.codec, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.options = dict(chosen.options)
        context = stream.codec_context
        context.flags |= av.codec.context.Flags.bitexact
        context.thread_count = 1  # with more, some encoders depend on timing
        is_yuv = "yuv" in pixels
        context.color_range = LIMITED if is_yuv else FULL
        context.colorspace = BT709 if is_yuv else 0
        if is_yuv:
            context.color_primaries = context.color_trc = BT709
        for index in range(colour.shape[0]):
            frame = tensors_to_frame(pixels, colour[index], None if alpha is None else alpha[index])
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def images_of(colour: Tensor, alpha: Tensor | None) -> Iterator[Image.Image]:
    """Yield 8-bit images, RGBA with alpha and RGB without."""
    together = colour if alpha is None else torch.cat([colour, alpha], dim=1)
    for frame in together:
        pixels = (frame.permute(1, 2, 0) * 255 + 0.5).floor().clamp(0, 255).numpy().astype(np.uint8)
        yield Image.fromarray(np.ascontiguousarray(pixels))


def _write_frames(folder: Path, colour: Tensor, alpha: Tensor | None, chosen: Format) -> None:
    folder.mkdir()
    names = [folder / f"{index:04d}.png" for index in range(colour.shape[0])]
    if chosen.codec == "pillow":
        for name, image in zip(names, images_of(colour, alpha), strict=True):
            image.save(name, "PNG", compress_level=6)
        return
    for index, name in enumerate(names):
        encoder = av.CodecContext.create("png", "w")
        encoder.pix_fmt = chosen.pixels if alpha is None or not chosen.alpha_pixels else chosen.alpha_pixels
        encoder.height, encoder.width = colour.shape[-2:]
        encoder.time_base = Fraction(1, 8)
        encoder.options = {"pred": "mixed"}
        frame = tensors_to_frame(encoder.pix_fmt, colour[index], None if alpha is None else alpha[index])
        name.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))


def _write_webp(path: Path, colour: Tensor, alpha: Tensor | None, fps: float) -> None:
    images = list(images_of(colour, alpha))
    save_webp(path, images, fps, lossless=True, method=4)


def save_webp(path: Path, images: list[Image.Image], fps: float, **options: object) -> None:
    """Write an endless animated WebP; see `save_animation`."""
    save_animation(path, "WEBP", images, fps, loop=0, **options)


def save_animation(path: Path, kind: str, images: list[Image.Image], fps: float, **options: object) -> None:
    """Write an animated image with Pillow; frame times are rounded to whole milliseconds without drift."""
    ticks = [math.floor(1000 * index / fps + 0.5) for index in range(len(images) + 1)]
    durations = [max(1, after - before) for before, after in pairwise(ticks)]
    first, *rest = images
    first.save(
        path,
        kind,
        save_all=True,
        append_images=rest,
        duration=durations if rest else durations[0],
        **options,
    )
