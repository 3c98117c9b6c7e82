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
    from ..datasets import build_shards, load_footage_recipe

    read = load_footage_recipe(recipe)
    _told(
        f"build {read.name}", output, lambda report: build_shards(read, output, workers, ray, report),
        cores=not ray,  # what other machines do is not known here
    )  # fmt: skip


@app.command()
def precompute(
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="Folder that data build wrote.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to train: a folder or a hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the new shards.")],
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of a sample.", show_default="those of most clips")
    ] = None,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Also a frame of each moving clip, held, for sources with frozen: true.")
    ] = False,
    tiled: Annotated[
        bool, typer.Option("--tiled", help="The autoencoder works tile by tile: less memory, other latents.")
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
    """Write shards anew with the latents and text states of a model in them; run again, it goes on where it was.

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
    _told(
        f"precompute {shards}", output,
        lambda report: make(
            shards, folder, output, name=model, frames=frames, frozen=frozen, tiled=tiled, dtype=dtype, device=device,
            workers=workers, ray=ray, report=report,
        ),
    )  # fmt: skip


Report = Callable[[int, int, int], None]


def _told(what: str, output: Path, make: Callable[[Report], dict[str, Any]], cores: bool = False) -> None:
    """Make a set of shards under a bar, and say what it holds, what failed, and perhaps how busy the cores were."""
    from ..datasets.pool import INDEX, stopwatch
    from .progress import progress_bar, say

    busy = stopwatch()
    with progress_bar() as bar:
        row = bar.add_task(what, total=None, note="")

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
