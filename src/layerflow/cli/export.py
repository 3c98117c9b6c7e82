"""Layers to the places that they go to, without a model."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UserError
from ..media import load_layers, lossy_layers
from ..media.export import Settings, deliver
from .options import parse_size
from .progress import console, say


def export_layers(
    layers: Path, output: Path, place: str, size: str | None, edges: float, timecode: str, overwrite: bool
) -> None:
    """Write a folder of layers for a place; say what was written."""
    if output.resolve() == layers.resolve():
        raise UserError(f"{output} holds the layers themselves; choose another folder with -o")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise UserError(f"{output} is not empty; add --overwrite to replace files in it, or choose another -o")
    settings = Settings(parse_size(size), edges, timecode)
    with console.status(f"reading {layers}"):
        video = load_layers(layers)
    if lossy := lossy_layers(layers):
        say(
            f"{layers}: of {' and '.join(lossy)} there are lossy files only; layers made with --format ffv1 go out as "
            "they were made"
        )
    with console.status("writing"):
        record = deliver(video, output, place, settings)
    say(f"{place}: {record['frames']} frames of {record['width']}x{record['height']}")
    for file in record["files"]:
        say(f"{file['name']}: {file['holds']}")
        print(output / file["name"])
