"""The application: commands by name. Modules that need torch are imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import batch, compose, convert, data, export, info, studio, tasks
from .options import Device

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
app.command("add-background")(tasks.add_background)
app.command("add-foreground")(tasks.add_foreground)
app.command()(tasks.complete)
app.command()(batch.batch)
app.command()(compose.compose)
app.command()(export.export)
app.command()(studio.studio)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Training recipe; see recipes/.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for runs.")] = Path("runs"),
    stage: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Train only this stage of the recipe.", show_default="all stages"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Another seed; added to the run's name.", show_default="the recipe's"),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what each stage needs, without training; needs no data.")
    ] = False,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="For --plan.", show_default="the model's")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="For --plan.", show_default="the recipe's most")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="For --plan: devices.")] = 1,
) -> None:
    """Train a model by a recipe; writes checkpoints, samples, TensorBoard curves and finally the model.

    [bold]Example[/]: layerflow train recipes/mini.yaml --resume

    [bold]Example[/]: layerflow train recipes/cogvideox-2b.yaml --plan --processes 8
    """
    from .train import plan_recipe, train_recipe

    if plan:
        for line in plan_recipe(recipe, size, frames, processes):
            print(line)
        return
    train_recipe(recipe, resume, output, stage, seed)


@app.command("eval")
def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL|RESULTS]", help="mini, a model folder, a hub id, or a folder of results."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for the report; a stopped run is continued there."),
    ] = Path("out/eval"),
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of true layers, to compare results of the same names or a model's results with."
        ),
    ] = None,
    features: Annotated[
        str, typer.Option(metavar="MODEL", help="Video features for FVD: random, or a VideoMAE model.")
    ] = "random",
    embedder: Annotated[
        str | None, typer.Option(metavar="MODEL", help="CLIP model for prompt retrieval.", show_default="none")
    ] = None,
    ablation: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of runs of recipes/ablations, to be compared."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Scenes of each trial, over three seeds.")] = 200,
    quick: Annotated[bool, typer.Option("--quick", help="Only a few scenes of each trial, as a test.")] = False,
    trial: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this trial; may be repeated.", show_default="all trials"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Denoising steps.", show_default="the model's")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(metavar="SCALE", help="Guidance of every trial.", show_default="the task's"),
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure a model on held-out scenes and compare it with baselines; prints a table, writes JSON and a page.

    A folder of results from any source is compared with --truth. A model with --truth is run on those samples, for each
    task that their clips and prompts allow, and its results are compared in the same way.

    [bold]Example[/]: layerflow eval mini -o out/eval --quick

    [bold]Example[/]: layerflow eval peers/decomposed --truth held-out -o out/peers

    [bold]Example[/]: layerflow eval mini --truth held-out -o out/mini
    """
    from .evaluate import evaluate_ablation, evaluate_beside, evaluate_model, evaluate_results, is_results

    if ablation is not None:
        evaluate_ablation(ablation, output, samples, steps)
        return
    if model is None:
        raise typer.BadParameter("name a model or a folder of results, or give --ablation")
    if is_results(model):
        evaluate_results(Path(model), truth, output, features, embedder)
        return
    if truth is not None:
        evaluate_beside(model, truth, output, features, embedder, steps, guidance, device)
        return
    evaluate_model(model, output, samples, quick, trial, steps, guidance, device)


app.command()(convert.convert)
app.command()(info.info)
app.add_typer(data.app, name="data")
