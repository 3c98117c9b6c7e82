"""`layerflow train`: a recipe, planned or trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ..training.recipe import StageRecipe


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
    if plan:
        for line in plan_recipe(recipe, size, frames, processes):
            print(line)
        return
    train_recipe(recipe, resume, output, stage, seed)


def plan_recipe(path: Path, size: str | None, frames: int | None, processes: int) -> list[str]:
    """Return lines about the memory and arithmetic of each stage of a recipe."""
    from ..generation.load import quiet_libraries
    from ..generation.request import parse_size
    from ..training.plan import described, plan_training
    from ..training.recipe import load_recipe

    recipe = load_recipe(path)
    quiet_libraries()
    pixels = parse_size(size) if size else None
    return [line for plan in plan_training(recipe, pixels, frames, processes) for line in described(plan)]


def train_recipe(path: Path, resume: bool, output: Path, stage: str | None = None, seed: int | None = None) -> None:
    """Train by a recipe into a folder of its name, and of the seed if one is given."""
    from importlib.util import find_spec

    from ..core.errors import UserError
    from ..training.family import load_family
    from ..training.recipe import load_recipe
    from .progress import progress_bar, say

    recipe = load_recipe(path)
    if seed is not None:
        recipe = recipe.with_seed(seed)
    if find_spec("tensorboard") is None:
        raise UserError("training writes its curves with TensorBoard; install it with: pip install 'layerflow[train]'")
    from ..generation.load import model_folder, quiet_libraries
    from ..training.stages import train_stages

    if any(data.kind == "scenes" for one in recipe.stages for data in one.data):
        load_family("mini").check_installation()
    if recipe.start_from is not None:
        model_folder(recipe.start_from)
    quiet_libraries()
    with progress_bar() as bar:
        rows: dict[str, TaskID] = {}
        waited: dict[str, float] = {}

        def report(step: int, values: dict[str, float], of: StageRecipe) -> None:
            if of.stage not in rows:
                name = recipe.name + (f", {of.stage}" if recipe.staged else "")
                rows[of.stage] = bar.add_task(f"train {name}", total=of.steps, note="")
            if "speed/waited_for_data" in values:
                waited[of.stage] = values["speed/waited_for_data"]
            bar.update(rows[of.stage], completed=step, note=_note(values))

        try:
            folder = train_stages(recipe, output, resume, report, stage)
        except KeyboardInterrupt:
            say("stopped; continue from the last checkpoint with --resume")
            raise
    if waited:
        say("waited for data: " + ", ".join(f"{share:.1%} of {name}" for name, share in waited.items()))
    say(f"curves: tensorboard --logdir {folder}")
    print(folder / "model" if (folder / "model").is_dir() else folder)


def _note(values: dict[str, float]) -> str:
    """Return what the progress bar shows of measured values."""
    parts = [f"loss {values['loss']:.4f}"] if "loss" in values else []
    if speed := values.get("speed/frames_per_second"):
        parts.append(f"{speed:.0f} frames/s")
    parts += [f"{name} {share:.0%}" for name, share in values.items() if name.startswith(("sketch/", "fill/"))]
    return ", ".join(parts)
