"""The commands that run a model: generate, decompose, animate, add-background, add-foreground and complete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UserError
from ..core.garbage_collection import paused_collection
from ..core.schema import ALPHA, BACKGROUND, BLENDED, COMPONENTS, FOREGROUND, TASKS
from ..generation.givens import GivenFile, joined, listed
from ..generation.request import Request
from .options import Alpha, Target, with_request


@with_request(*COMPONENTS)
def generate(request: Request, target: Target) -> None:
    """Generate all layers from prompts.

    [bold]Example[/]: layerflow generate --foreground "a red balloon" --background "green hills" -o out/balloon
    """
    _run(request, [], target)


@with_request()
def decompose(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="The blended video to decompose.")],
    request: Request,
    target: Target,
) -> None:
    """Decompose a video into foreground, alpha and background. Prompts help but are optional.

    Clicks, a matte of one frame or a trimap say which of several things is the foreground.

    [bold]Example[/]: layerflow decompose clip.mp4 --foreground "a red balloon" -o out/apart

    [bold]Example[/]: layerflow decompose clip.mp4 --object 320,200@0 --not-object 90,40@0 -o out/apart
    """
    _run(request, [GivenFile(clip, video) for clip in TASKS["decompose"]], target)


@with_request()
def animate(
    request: Request,
    target: Target,
    still: Annotated[
        Path | None,
        typer.Argument(metavar="STILL", help="A picture: with transparency of the foreground, else of the scene."),
    ] = None,
) -> None:
    """Generate layers that start with a still: a foreground with alpha, or an opaque picture of the whole scene.

    [bold]Example[/]: layerflow animate hero.png --foreground "a knight" --background "a green valley" -o out/knight

    [bold]Example[/]: layerflow animate --given background=valley.png@0 --foreground "a knight" -o out/knight
    """
    if still is None and not request.given:
        raise UserError("no still is given; name a picture, or stills with --given, such as blended=still.png@0")
    _run(request, [] if still is None else [GivenFile(clip_of_still(still), still, "0")], target)


@with_request(BACKGROUND)
def add_background(
    video: Annotated[Path, typer.Argument(metavar="FOREGROUND", help="A video with alpha, or see --alpha.")],
    request: Request,
    target: Target,
    alpha: Alpha = None,
) -> None:
    """Generate a background, and the blended video, for a foreground with alpha.

    [bold]Example[/]: layerflow add-background balloon.mov --background "snowy hills at dusk" -o out/snow
    """
    _run(request, [GivenFile(FOREGROUND, video), GivenFile(ALPHA, alpha or video)], target)


@with_request(FOREGROUND)
def add_foreground(
    video: Annotated[Path, typer.Argument(metavar="BACKGROUND", help="The background, a video or a still.")],
    request: Request,
    target: Target,
) -> None:
    """Generate a foreground with alpha, and the blended video, for a background.

    [bold]Example[/]: layerflow add-foreground hills.mp4 --foreground "a red balloon rising" -o out/added
    """
    _run(request, [GivenFile(clip, video) for clip in TASKS["add-foreground"]], target)


@with_request("given")
def complete(request: Request, target: Target) -> None:
    """Generate the missing clips and frames from any set of given ones.

    [bold]Example[/]: layerflow complete --given background=hills.mp4 --given alpha=matte.mp4 -o out/completed

    [bold]Example[/]: layerflow complete --given foreground=hero.png@0,-1 --background "a green valley" -o out/hero
    """
    _run(request, [], target)


def clip_of_still(path: Path) -> str:
    """Return the clip that a still is the first frame of: with transparency the foreground, else the blended video.

    Raises:
        MediaError: it cannot be read.
        UserError: it is a video.
    """
    from ..media import read_video

    picture = read_video(path, frames=2)
    if len(picture.colour) > 1:
        raise UserError(
            f"{path} is a video, and a still is animated; decompose it, or give one of its frames: complete --given "
            f"blended={path}@0"
        )
    return FOREGROUND if picture.alpha is not None and float(picture.alpha.min()) < 1 else BLENDED


def _run(request: Request, given: list[GivenFile], target: Target) -> None:
    with paused_collection():
        from ..generation.run import run
    from .progress import Terminal

    files = joined([*given, *listed(request.given)])
    index = run(replace(request, given=files), target.model, target.output, target.overwrite, Terminal())
    if index is not None:
        for name in (*(file["name"] for file in index["files"]), index["preview"], "layers.json"):
            print(target.output / name)
