"""`layerflow batch`: a file of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..generation.request import ModelOptions
from .options import with_model


@with_model
def batch(
    jobs: Annotated[Path, typer.Argument(metavar="JOBS.jsonl", help="The jobs, one JSON object a line.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder that gets a folder for each job.")
    ],
    model: ModelOptions,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on a Ray cluster; local starts one on this machine.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Models on the cluster.", show_default="one for each GPU, else 1"),
    ] = None,
) -> None:
    """Run a file of jobs; repeated, it runs new, changed and failed jobs.

    Keys of a job: id, given and trimap (clips and their files, or frames of clips and their files, relative to the
    folder of the jobs file), and the options of the single commands with _ for -, such as noise_scale; those that may
    be repeated are lists. Defaults are those of the single commands.

    [bold]Example[/]: layerflow batch jobs.jsonl -o out/batch
    """
    from ..generation.batch import run_batch
    from .progress import Terminal

    done, failed = run_batch(jobs, output, model, ray, workers, Terminal())
    for folder in done:
        print(folder)
    if failed:
        raise typer.Exit(1)
