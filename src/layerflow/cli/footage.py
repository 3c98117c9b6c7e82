"""Layered clips from real footage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Layered clips from real footage, for training: docs/footage.md.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What to make of which footage.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the shards.")],
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes.", show_default="as many as CPUs")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster, or local, instead of processes here.")
    ] = None,
) -> None:
    """Make WebDataset shards; run again, it goes on where it was.

    [bold]Example[/]: layerflow data build footage.yaml -o shards
    """
    from ..footage import build_shards, load_footage_recipe
    from ..footage.build import INDEX
    from .progress import progress_bar, say

    read = load_footage_recipe(recipe)
    with progress_bar() as bar:
        row = bar.add_task(f"build {read.name}", total=None, note="")

        def report(done: int, total: int, failed: int) -> None:
            bar.update(row, total=total, completed=done, note=f"{failed} clips failed" if failed else "")

        index = build_shards(read, output, workers, ray, report)
    for failure in index["failed"]:
        say(f"{failure['id']}: {failure['error']}")
    kinds = ", ".join(f"{count} {kind}" for kind, count in index["kinds"].items()) or "none"
    say(f"{index['clips']} clips ({kinds}) in {len(index['shards'])} shards; {len(index['failed'])} failed")
    print(output / INDEX)
    if not index["clips"]:
        raise typer.Exit(1)


@app.command()
def inspect(
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder that data build wrote.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder of the page.", show_default="SHARDS/page"),
    ] = None,
) -> None:
    """Check the shards, print statistics, and write a page with samples.

    [bold]Example[/]: layerflow data inspect shards
    """
    from rich.table import Table

    from ..footage.inspection import statistics, write_page
    from .progress import console

    numbers = statistics(shards)
    columns = list(next(iter(numbers.values()), {}))
    table = Table("kind", *columns)
    for kind, own in numbers.items():
        shown = (f"{value:.4f}" if isinstance(value, float) else str(value) for value in own.values())
        table.add_row(kind, *shown)
    console.print(table)
    print(write_page(shards, output or shards / "page"))
