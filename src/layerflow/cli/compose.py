"""`layerflow compose`: a foreground over a background, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UserError
from ..core.schema import ALPHA, ALPHA_OF, BACKGROUND, DEFAULT_FPS, FOREGROUND
from .options import Alpha
from .progress import say


def compose(
    foreground: Annotated[
        Path, typer.Argument(metavar="FOREGROUND", help="A video with alpha (or see --alpha), or a folder of layers.")
    ],
    background: Annotated[Path, typer.Argument(metavar="BACKGROUND", help="A video or a still.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File to write; its suffix names the format.")
    ],
    alpha: Alpha = None,
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="Format, if the file's suffix does not determine it.")
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Crop and resize the background to the foreground's size.")
    ] = False,
    frames: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N frames of both.")] = None,
    fps: Annotated[float | None, typer.Option(metavar="RATE", help="Resample both to this rate.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Composite a foreground over a background: alpha * foreground + (1 - alpha) * background, without a model.

    All foregrounds of a folder of layers are composited, from the farthest to the nearest.

    [bold]Example[/]: layerflow compose out/balloon/foreground.webm beach.mp4 -o balloon-on-beach.mp4 --fit
    """
    from ..generation.inputs import check_exists, common_rate, cut, merge, read_sources
    from ..generation.inputs import fit as resize
    from ..media import find_format, saved_clips, write_video

    clips = {FOREGROUND: foreground, ALPHA: alpha or foreground, BACKGROUND: background}
    if (foreground / "layers.json").is_file():
        saved = saved_clips(foreground)
        clips |= {name: foreground for pair in list(ALPHA_OF.items())[1:] for name in pair if name in saved}
    chosen = find_format(format, output)
    check_exists(clips.values())
    if output.exists() and not overwrite:
        raise UserError(f"{output} is there already; add --overwrite to replace it")
    if output.resolve() in [path.resolve() for path in clips.values()]:
        raise UserError(f"{output} is one of the files to read; choose another -o")

    sources = read_sources(clips, frames, fps)
    moving = [source for source in sources if not source.still]
    counts = {source.video.frames for source in moving}
    if frames is None and len(counts) > 1:
        lengths = " and ".join(f"{source.path} has {source.video.frames} frames" for source in moving)
        raise UserError(f"{lengths}; use the first ones of each with --frames {min(counts)}")
    rate = common_rate(sources, fps)
    sources = cut(sources, frames, None)
    size = sources[0].video.width, sources[0].video.height
    for source in sources[1:]:
        other = source.video.width, source.video.height
        if other != size and not fit:
            raise UserError(
                f"{foreground} is {size[0]}x{size[1]} but {source.path} {other[0]}x{other[1]}; "
                "--fit crops and resizes to the foreground's size"
            )
    sources = resize(sources, size[1], size[0])
    for source in sources:
        for treatment in source.treatment:
            say(f"{source.path}: {treatment}")
    video = merge(sources, rate or DEFAULT_FPS).compose()
    assert video.blended is not None
    write_video(output, video.blended, None, video.fps, chosen.name)
    say(f"{video.frames} frames of {video.width}x{video.height} at {video.fps:g} frames a second")
    print(output)
