"""Training from the command line: the recipe's checks, a progress bar, where things lie."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from rich.progress import TaskID

from ..core.errors import UserError
from ..generation.request import parse_size
from ..training.recipe import Recipe, load_recipe
from .progress import progress_bar, say


def plan_recipe(path: Path, size: str | None, frames: int | None, processes: int) -> list[str]:
    """What each stage of the recipe at `path` needs, in lines."""
    from ..generation.load import quiet_libraries
    from ..training.plan import described, plan_training

    recipe = load_recipe(path)
    quiet_libraries()
    wanted = parse_size(size) if size else None
    return [line for plan in plan_training(recipe, wanted, frames, processes) for line in described(plan)]


def train_recipe(path: Path, resume: bool, output: Path, stage: str | None = None, seed: int | None = None) -> None:
    """Train by the recipe at `path`, into a folder of the recipe's name under `output`; a seed of its own is added to
    that name."""
    recipe = load_recipe(path)
    if seed is not None:
        recipe = replace(recipe, seed=seed, name=f"{recipe.name}-seed{seed}")
    if find_spec("tensorboard") is None:
        raise UserError("training writes its curves with TensorBoard; install it with: pip install 'layerflow[train]'")
    from ..generation.load import model_folder, quiet_libraries
    from ..mini.world import find_font
    from ..training.stages import train_stages

    stages = recipe.in_stages()
    if any(data.kind == "scenes" for one in stages for data in one.data):
        find_font()
    if recipe.start_from is not None:
        model_folder(recipe.start_from)
    quiet_libraries()
    with progress_bar() as bar:
        rows: dict[str, TaskID] = {}
        waited: dict[str, float] = {}

        def report(step: int, values: dict[str, float], of: Recipe) -> None:
            if of.stage not in rows:
                name = recipe.name + (f", {of.stage}" if recipe.stages else "")
                rows[of.stage] = bar.add_task(f"train {name}", total=of.steps, note="")
            speed = values.get("speed/frames_per_second")
            shown = [f"loss {values['loss']:.4f}"] if "loss" in values else []
            shown += [f"{speed:.0f} frames/s"] if speed else []
            if "speed/waited_for_data" in values:
                waited[of.stage] = values["speed/waited_for_data"]
            shown += [f"{name} {share:.0%}" for name, share in values.items() if name.startswith(("sketch/", "fill/"))]
            bar.update(rows[of.stage], completed=step, note=", ".join(shown))

        try:
            folder = train_stages(recipe, output, resume, report, stage)
        except KeyboardInterrupt:
            say("stopped; continue from the last checkpoint with --resume")
            raise
    if waited:
        say("waited for data: " + ", ".join(f"{share:.1%} of {name}" for name, share in waited.items()))
    say(f"curves: tensorboard --logdir {folder}")
    print(folder / "model" if (folder / "model").is_dir() else folder)
