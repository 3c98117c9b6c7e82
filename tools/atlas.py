"""Make the atlas of training art: fetch its packages, build it, pack it into one file, look at it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from layerflow.core.errors import UserError
from layerflow.mini.art import build as building
from layerflow.mini.art import packages
from layerflow.mini.art.sheet import contact_sheet
from layerflow.mini.world import packing
from layerflow.mini.world.atlas import Atlas

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def fetch(art: Annotated[Path, typer.Argument(help="folder for the packages, about 2 GB")]) -> None:
    """Download and unpack the packages; those that are there are skipped."""
    packages.fetch(art)


@app.command()
def build(
    art: Annotated[Path, typer.Argument(help="folder that `fetch` has filled")],
    atlas: Annotated[Path, typer.Argument(help="folder of the atlas, about 2 GB")],
    source: Annotated[list[str] | None, typer.Option(help="take only this source; may be repeated")] = None,
) -> None:
    """Build the atlas; it replaces an earlier one."""
    building.build(art, atlas, sources=source or None)


@app.command()
def pack(
    atlas: Annotated[Path, typer.Argument(help="folder of the atlas")],
    file: Annotated[Path, typer.Argument(help="file to write")],
    budget: Annotated[float, typer.Option(help="largest size, MiB")] = packing.BUDGET / 2**20,
) -> None:
    """Write the atlas as one file, at the best quality that fits."""
    packing.pack(atlas, file, int(budget * 2**20))


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(help="file that `pack` has written")],
    atlas: Annotated[Path, typer.Argument(help="folder to write")],
) -> None:
    """Write the atlas in a packed file as a folder."""
    packing.unpack(file, atlas)


@app.command()
def sheet(
    atlas: Annotated[Path, typer.Argument(help="folder of the atlas")],
    picture: Annotated[Path, typer.Argument(help="PNG to write")],
    rows: Annotated[int, typer.Option(help="rows for each kind of sprite and background", min=1)] = 4,
) -> None:
    """Draw a contact sheet of sprites and backgrounds with their captions."""
    contact_sheet(Atlas.open(atlas), rows).save(picture)


if __name__ == "__main__":
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
