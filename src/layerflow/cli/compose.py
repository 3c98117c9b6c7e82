"""`layerflow compose`: foregrounds over a background, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UserError
from ..core.schema import ALPHA, ALPHA_OF, BACKGROUND, DEFAULT_FPS, FOREGROUND
from .options import Alpha
from .progress import say

if TYPE_CHECKING:
    from ..generation.inputs import Source


def compose(
    foreground: Annotated[
        Path, typer.Argument(metavar="FOREGROUND", help="A video with alpha (or see --alpha), or a folder of layers.")
    ],
    background: Annotated[Path, typer.Argument(metavar="BACKGROUND", help="A video or a still.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File to write; its suffix names the format.")
    ],
    alpha: Alpha = None,
    behind: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOREGROUND",
            help="Another foreground, behind those before it: a video with alpha, or a folder of layers. Repeatable.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="Format, if the file's suffix does not determine it.")
    ] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Crop and resize the others to the foreground's size.")] = False,
    frames: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N frames of each.")] = None,
    fps: Annotated[float | None, typer.Option(metavar="RATE", help="Resample all to this rate.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Composite a foreground over a background: alpha * foreground + (1 - alpha) * background, without a model.

    Several foregrounds, from --behind or a folder of layers, are composited from the farthest to the nearest.

    [bold]Example[/]: layerflow compose out/balloon/foreground.webm beach.mp4 -o balloon-on-beach.mp4 --fit
    """
    from ..generation.inputs import check_exists, common_rate, cut, merge, read_sources
    from ..media import find_format, write_video

    paths = [foreground, *([alpha] if alpha else []), *(behind or []), background]
    chosen = find_format(format, output)
    check_exists(paths)
    if output.exists() and not overwrite:
        raise UserError(f"{output} is there already; add --overwrite to replace it")
    if output.resolve() in [path.resolve() for path in paths]:
        raise UserError(f"{output} is one of the files to read; choose another -o")

    sources = read_foregrounds([foreground, *(behind or [])], alpha, frames, fps)
    sources += read_sources({BACKGROUND: background}, frames, fps)
    moving = [source for source in sources if not source.still]
    counts = {source.video.frames for source in moving}
    if frames is None and len(counts) > 1:
        lengths = " and ".join(f"{source.path} has {source.video.frames} frames" for source in moving)
        raise UserError(f"{lengths}; use the first ones of each with --frames {min(counts)}")
    rate = common_rate(sources, fps)
    sources = at_one_size(cut(sources, frames, None), fit)
    for source in sources:
        for treatment in source.treatment:
            say(f"{source.path}: {treatment}")
    video = merge(sources, rate or DEFAULT_FPS).compose()
    assert video.blended is not None
    write_video(output, video.blended, None, video.fps, chosen.name)
    say(f"{video.frames} frames of {video.width}x{video.height} at {video.fps:g} frames a second")
    print(output)


def read_foregrounds(paths: Sequence[Path], alpha: Path | None, frames: int | None, fps: float | None) -> list[Source]:
    """Read videos with alpha, and all foregrounds of folders of layers, numbered from near to far.

    `alpha` is the file of the first one's alpha, if not its own; for the others see `read_sources`.
    """
    from ..core.layered_video import Foreground
    from ..generation.inputs import read_sources
    from ..media import saved_clips

    sources: list[Source] = []
    nearer = 0
    for path in paths:
        clips = {FOREGROUND: path, ALPHA: path if sources or alpha is None else alpha}
        if (path / "layers.json").is_file():
            saved = saved_clips(path)
            clips |= {name: path for pair in list(ALPHA_OF.items())[1:] for name in pair if name in saved}
        read = read_sources(clips, frames, fps)
        for one in read:
            foregrounds = [Foreground()] * nearer + list(one.video.foregrounds)
            sources.append(replace(one, video=one.video.replace(foregrounds=foregrounds)))
        nearer += max(len(one.video.foregrounds) for one in read)
    return sources


def at_one_size(sources: Sequence[Source], fit: bool) -> list[Source]:
    """Return the sources at the size of the first, cropped and resized if `fit`; else raise UserError."""
    from ..generation.inputs import fit as resize

    first = sources[0]
    width, height = first.video.width, first.video.height
    for source in sources[1:]:
        other = source.video.width, source.video.height
        if other != (width, height) and not fit:
            raise UserError(
                f"{first.path} is {width}x{height} but {source.path} {other[0]}x{other[1]}; "
                "--fit crops and resizes to the foreground's size"
            )
    return resize(sources, height, width)
