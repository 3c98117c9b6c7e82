"""`layerflow convert`: official checkpoints to model folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import FieldError, UserError
from ..core.schema import TASKS
from ..generation.request import parse_size
from .progress import console, say


def convert(
    official: Annotated[
        Path, typer.Argument(metavar="OFFICIAL_DIR", help="Folder of an official LayerFlow checkpoint.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL_DIR", help="Model folder to write.")],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="generate, decompose, add-background or add-foreground; checked against the weights.",
            show_default="detected from the weights",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="CogVideoX-2B in diffusers layout, for text encoder and autoencoder."),
    ] = None,
    size: Annotated[
        str, typer.Option(metavar="WIDTHxHEIGHT", help="Pixels that the checkpoint was trained at.")
    ] = "720x480",
) -> None:
    """Convert an official LayerFlow checkpoint to a model folder.

    [bold]Example[/]: layerflow convert ckpts_2b_lora/gen_rgba -o models/gen --base CogVideoX-2b
    """
    from ..generation.load import quiet_libraries
    from ..models.cogvideox.conversion import convert as convert_checkpoint

    if task is not None and task not in TASKS:
        raise FieldError("task", f"{task} is not known; choose {', '.join(TASKS)}")
    height, width = parse_size(size)
    if width % 16 or height % 16:
        raise FieldError("size", f"{size} does not fit CogVideoX: width and height must divide by 16")
    if not official.exists():
        raise UserError(f"{official} does not exist; name the folder of an official LayerFlow checkpoint")

    quiet_libraries()
    try:
        with console.status(f"converting {official}"):
            made = convert_checkpoint(official, output, task=task, base=base, latent_size=(height // 8, width // 8))
    except OSError as error:
        raise UserError(
            f"{output} could not be written, and nothing of it is left ({error}); check free space and permissions"
        ) from error
    say(f"{made.configuration.name}: a model for {made.configuration.task}, with {', '.join(made.parts)}")
    if made.missing:
        say(f"still without {', '.join(made.missing)}: convert with --base and a CogVideoX-2B in diffusers layout")
    print(made.folder)
