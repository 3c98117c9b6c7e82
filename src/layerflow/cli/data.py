"""Layered clips from real footage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Device

app = typer.Typer(
    help="Layered clips from real footage, for training: docs/footage.md.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Recipe of the footage; see docs/footage.md.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the shards.")],
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes.", show_default="as many as CPUs")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster, or local, instead of processes here.")
    ] = None,
) -> None:
    """Build WebDataset shards; repeated, it continues where it stopped.

    [bold]Example[/]: layerflow data build footage.yaml -o shards
    """
    from ..datasets import build_shards, load_footage_recipe

    read = load_footage_recipe(recipe)
    _run_with_progress(
        f"build {read.name}",
        output,
        lambda report: build_shards(read, output, workers, ray, report),
        cores=not ray,  # the load of other machines is unknown here
    )


@app.command()
def precompute(
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder that data build wrote.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to train: a folder or a hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the new shards.")],
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Frames of a sample.", show_default="those of most clips")
    ] = None,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Also encode frozen frames of moving clips, for sources with frozen: true.")
    ] = False,
    tiled: Annotated[
        bool, typer.Option("--tiled", help="Run the autoencoder in tiles: less memory, slightly different latents.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="float32 or bfloat16.", show_default="bfloat16 on a GPU")
    ] = None,
    device: Device = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes.", show_default="one for each GPU, else 1")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster, or local, instead of processes here.")
    ] = None,
) -> None:
    """Copy shards with a model's latents and text states added; repeated, it continues where it stopped.

    [bold]Example[/]: layerflow data precompute shards THUDM/CogVideoX-2b -o shards-2b
    """
    from ..core.errors import FieldError
    from ..datasets.precompute import precompute as make
    from ..generation.load import model_folder, quiet_libraries
    from ..runtime.device import pick_device

    device = pick_device(device)
    dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    if dtype not in ("float32", "bfloat16"):
        raise FieldError("dtype", f"{dtype} is not known; choose float32 or bfloat16")
    quiet_libraries()
    folder = model_folder(model)
    _run_with_progress(
        f"precompute {shards}",
        output,
        lambda report: make(
            shards,
            folder,
            output,
            name=model,
            frames=frames,
            frozen=frozen,
            tiled=tiled,
            dtype=dtype,
            device=device,
            workers=workers,
            ray=ray,
            report=report,
        ),
    )


Report = Callable[[int, int, int], None]


def _run_with_progress(name: str, output: Path, make: Callable[[Report], dict[str, Any]], cores: bool = False) -> None:
    """Write a set of shards under a progress bar; print its content, failures and, with `cores`, the load of the CPU.

    Args:
        name: label of the bar.
        output: folder of the shards.
        make: function that writes the shards and returns their index.
        cores: print the load.
    """
    from ..datasets.pool import INDEX, stopwatch
    from .progress import progress_bar, say

    busy = stopwatch()
    with progress_bar() as bar:
        row = bar.add_task(name, total=None, note="")

        def report(done: int, total: int, failed: int) -> None:
            bar.update(row, total=total, completed=done, note=f"{failed} clips failed" if failed else "")

        index = make(report)
    if cores:
        say(f"cores busy {busy():.0%}")
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

    from ..datasets.inspection import statistics, write_page
    from .progress import console

    numbers = statistics(shards)
    columns = list(next(iter(numbers.values()), {}))
    table = Table("kind", *columns)
    for kind, own in numbers.items():
        shown = (f"{value:.4f}" if isinstance(value, float) else str(value) for value in own.values())
        table.add_row(kind, *shown)
    console.print(table)
    print(write_page(shards, output or shards / "page"))
