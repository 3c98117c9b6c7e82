"""The application: commands by name. Modules that need torch are imported when a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from . import average, batch, compose, convert, data, evaluate, export, info, mini, studio, tasks, train

app = typer.Typer(
    help="Layered video: a transparent foreground, a clean background and the blended video.\n\n"
    "    layerflow generate --foreground 'a red balloon rising' --background 'green hills' -o out/balloon",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(requested: bool) -> None:
    if requested:
        from .. import __version__

        print(f"layerflow {__version__}")
        raise typer.Exit


@app.callback()
def _layerflow(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command()(tasks.generate)
app.command()(tasks.decompose)
app.command()(tasks.animate)
app.command("add-background")(tasks.add_background)
app.command("add-foreground")(tasks.add_foreground)
app.command()(tasks.complete)
app.command()(batch.batch)
app.command()(compose.compose)
app.command()(export.export)
app.command()(studio.studio)


app.command()(train.train)
app.command("eval")(evaluate.evaluate)
app.command()(convert.convert)
app.command()(info.info)
app.command()(average.average)
app.add_typer(data.app, name="data")
app.add_typer(mini.app, name="mini")
