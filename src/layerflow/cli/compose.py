"""Compositing of files, without a model."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UserError
from ..core.schema import DEFAULT_FPS
from ..generation.inputs import check_exists, common_rate, cut, fit, merge, read_sources
from ..media import find_format, write_video
from .progress import say


def compose_files(
    foreground: Path,
    alpha: Path | None,
    background: Path,
    output: Path,
    format: str | None,
    fit_background: bool,
    frames: int | None,
    fps: float | None,
    overwrite: bool,
) -> None:
    """Write the foreground over the background to `output`; refuse, or say, where the two do not fit."""
    clips = {"foreground": foreground, "alpha": alpha or foreground, "background": background}
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
        said = " and ".join(f"{source.path} has {source.video.frames} frames" for source in moving)
        raise UserError(f"{said}; take the first ones of each with --frames {min(counts)}")
    rate = common_rate(sources, fps)
    cut(sources, frames, None)
    size = sources[0].video.width, sources[0].video.height
    for source in sources[1:]:
        other = source.video.width, source.video.height
        if other != size and not fit_background:
            raise UserError(
                f"{foreground} is {size[0]}x{size[1]} but {source.path} {other[0]}x{other[1]}; "
                "--fit crops and resizes to the foreground's size"
            )
    fit(sources, *size)
    for source in sources:
        for treatment in source.treatment:
            say(f"{source.path}: {treatment}")
    video = merge(sources, rate or DEFAULT_FPS).compose()
    assert video.blended is not None
    write_video(output, video.blended, None, video.fps, chosen.name)
    say(f"{video.frames} frames of {video.width}x{video.height} at {video.fps:g} frames a second")
    print(output)
