"""Make the atlas of training art: fetch the packages, build the atlas, pack it into one file, look at it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from layerflow.core.errors import UserError
from layerflow.mini.art.build import build as build_atlas
from layerflow.mini.art.packages import fetch as fetch_packages

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def fetch(art: Annotated[Path, typer.Argument(help="folder for the packages, about 1.5 GB")]) -> None:
    """Download and unpack the packages; those that are there are skipped."""
    fetch_packages(art)


@app.command()
def build(
    art: Annotated[Path, typer.Argument(help="folder that `fetch` has filled")],
    atlas: Annotated[Path, typer.Argument(help="folder of the atlas, about 2 GB")],
    source: Annotated[list[str] | None, typer.Option(help="only this source of art; may be repeated")] = None,
) -> None:
    """Build the atlas."""
    build_atlas(art, atlas, sources=source)


if __name__ == "__main__":
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
