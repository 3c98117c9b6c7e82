"""`layerflow export`: layers for editors, pages, games and compositors, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UserError
from ..generation.request import parse_size
from .progress import console, say


def export(
    layers: Annotated[Path, typer.Argument(metavar="LAYERS", help="Folder of layers, as the other commands write it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.")],
    preset: Annotated[
        str,
        typer.Option(metavar="NAME", help="editors (ProRes, timeline), web, game (sprites) or compositing (OpenEXR)."),
    ],
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Pixels, or one number for a square.", show_default="as they are"),
    ] = None,
    edges: Annotated[
        float,
        typer.Option(
            metavar="STRENGTH",
            help="From 0 to 1: replace the colour of the foreground's edges by that of its inside, to remove traces of "
            "an old background.",
        ),
    ] = 0.0,
    timecode: Annotated[
        str, typer.Option(metavar="HH:MM:SS:FF", help="Of the first frame, for editors.")
    ] = "00:00:00:00",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Export layers for an editor, a web page, a game or a compositor.

    [bold]Example[/]: layerflow export out/balloon -o out/for-resolve --preset editors
    """
    from ..media import load_layers, lossy_layers
    from ..media.export import Settings, deliver

    if output.resolve() == layers.resolve():
        raise UserError(f"{output} holds the layers themselves; choose another folder with -o")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise UserError(f"{output} is not empty; add --overwrite to replace files in it, or choose another -o")
    settings = Settings(parse_size(size)[::-1] if size else None, edges, timecode)
    with console.status(f"reading {layers}"):
        video = load_layers(layers)
    if lossy := lossy_layers(layers):
        say(
            f"{layers}: {' and '.join(lossy)} exist as lossy files only; layers made with --format ffv1 are exported "
            "without loss"
        )
    with console.status("writing"):
        record = deliver(video, output, preset, settings)
    say(f"{preset}: {record['frames']} frames of {record['width']}x{record['height']}")
    for file in record["files"]:
        say(f"{file['name']}: {file['holds']}")
        print(output / file["name"])
