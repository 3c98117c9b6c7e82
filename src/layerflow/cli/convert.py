"""Converting official checkpoints from the command line."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UserError
from ..core.schema import TASKS
from .options import parse_size
from .progress import console, say


def convert_checkpoint(official: Path, output: Path, task: str | None, base: Path | None, size: str) -> None:
    """Write the model folder, say what it is and what it still lacks."""
    if task is not None and task not in TASKS:
        raise UserError(f"--task {task} is not known; choose {', '.join(TASKS)}")
    width, height = parse_size(size) or (0, 0)
    if width % 16 or height % 16:
        raise UserError(f"--size {size} does not fit CogVideoX: width and height must divide by 16")
    if not official.exists():
        raise UserError(f"{official} is not there; give the folder of an official LayerFlow checkpoint")

    from ..generation.load import quiet_libraries
    from ..models.cogvideox.conversion import convert

    quiet_libraries()
    try:
        with console.status(f"converting {official}"):
            made = convert(official, output, task=task, base=base, latent_size=(height // 8, width // 8))
    except OSError as error:
        raise UserError(
            f"{output} could not be written, and nothing of it is left ({error}); check the space and the rights"
        ) from error
    say(f"{made.configuration.name}: a model for {made.configuration.task}, with {', '.join(made.parts)}")
    if made.missing:
        say(f"still without {', '.join(made.missing)}: convert with --base and a CogVideoX-2B in diffusers layout")
    print(made.folder)
