"""The commands that run a model: generate, decompose, add-background, add-foreground and complete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..core.garbage_collection import paused_collection
from ..core.schema import ALPHA, BACKGROUND, COMPONENTS, FOREGROUND, TASKS
from ..generation.request import Request
from .options import Alpha, Target, parse_given, with_request


@with_request(*COMPONENTS)
def generate(request: Request, target: Target) -> None:
    """Generate all layers from prompts.

    [bold]Example[/]: layerflow generate --foreground "a red balloon" --background "green hills" -o out/balloon
    """
    _run(request, {}, target)


@with_request()
def decompose(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="The blended video to decompose.")],
    request: Request,
    target: Target,
) -> None:
    """Decompose a video into foreground, alpha and background. Prompts help but are optional.

    [bold]Example[/]: layerflow decompose clip.mp4 --foreground "a red balloon" -o out/apart
    """
    _run(request, dict.fromkeys(TASKS["decompose"], video), target)


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
    _run(request, {FOREGROUND: video, ALPHA: alpha or video}, target)


@with_request(FOREGROUND)
def add_foreground(
    video: Annotated[Path, typer.Argument(metavar="BACKGROUND", help="The background, a video or a still.")],
    request: Request,
    target: Target,
) -> None:
    """Generate a foreground with alpha, and the blended video, for a background.

    [bold]Example[/]: layerflow add-foreground hills.mp4 --foreground "a red balloon rising" -o out/added
    """
    _run(request, dict.fromkeys(TASKS["add-foreground"], video), target)


@with_request()
def complete(
    given: Annotated[
        list[str],
        typer.Option(
            metavar="CLIP=VIDEO",
            help="A clip to keep: foreground, alpha, background or blended; may be repeated.",
        ),
    ],
    request: Request,
    target: Target,
) -> None:
    """Generate the missing clips from any set of given ones.

    [bold]Example[/]: layerflow complete --given background=hills.mp4 --given alpha=matte.mp4 -o out/completed
    """
    _run(request, parse_given(given), target)


def _run(request: Request, given: dict[str, Path], target: Target) -> None:
    with paused_collection():
        from ..generation.run import run
    from .progress import Terminal

    index = run(replace(request, given=given), target.model, target.output, target.overwrite, Terminal())
    if index is not None:
        for name in (*(file["name"] for file in index["files"]), index["preview"], "layers.json"):
            print(target.output / name)
