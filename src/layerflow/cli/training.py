"""Training from the command line: the recipe's checks, a progress bar, where things lie."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..training.recipe import load_recipe
from .errors import UserError
from .progress import progress_bar, say


def train_recipe(path: Path, resume: bool, output: Path) -> None:
    """Train by the recipe at `path`, into a folder of the recipe's name under `output`."""
    recipe = load_recipe(path)
    if find_spec("tensorboard") is None:
        raise UserError(
            "training writes its curves with TensorBoard; install it with: pip install 'layerflow[train]'"
        )
    from ..data import find_font
    from ..training.loop import Trainer
    from .models import model_folder, quiet_libraries

    find_font()
    if recipe.start_from is not None:
        model_folder(recipe.start_from)
    quiet_libraries()
    folder = output / recipe.name
    with progress_bar() as bar:
        row = bar.add_task(f"train {recipe.name}", total=recipe.steps, note="")

        def report(step: int, values: dict[str, float]) -> None:
            speed = values.get("speed/frames_per_second")
            shown = [f"loss {values['loss']:.4f}"] if "loss" in values else []
            shown += [f"{speed:.0f} frames/s"] if speed else []
            shown += [f"{name} {share:.0%}" for name, share in values.items() if name.startswith(("sketch/", "fill/"))]
            bar.update(row, completed=step, note=", ".join(shown))

        trainer = Trainer(recipe, output, resume=resume, report=report)
        if trainer.step:
            say(f"continuing at step {trainer.step} of {recipe.steps}")
        bar.update(row, completed=trainer.step)
        try:
            trainer.train()
        except KeyboardInterrupt:
            say(f"stopped at step {trainer.step}; continue from the last checkpoint with --resume")
            raise
    say(f"curves: tensorboard --logdir {folder / 'logs'}")
    say(f"pictures: {folder / 'samples'}")
    print(folder / "model")
