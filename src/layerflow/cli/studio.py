"""`layerflow studio`: the page and its API."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UserError
from ..generation.request import ModelOptions
from .options import with_model


@with_model
def studio(
    model: ModelOptions,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to bind to; other machines need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port; 0 selects a free one.")] = 7860,
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for jobs and uploads, which outlive the server.")
    ] = Path("out/studio"),
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Token that clients must send.", show_default="none for this machine only, else random"
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, metavar="N", help="Concurrent jobs, each with its own model.")] = 1,
    queue: Annotated[int, typer.Option(min=0, metavar="N", help="Jobs that may wait.")] = 20,
    job_minutes: Annotated[float, typer.Option(min=0.01, metavar="N", help="Time limit of a job.")] = 15,
    job_gib: Annotated[float, typer.Option(min=0.1, metavar="N", help="Limit of the main memory of a job.")] = 16,
    keep_days: Annotated[float, typer.Option(min=0.001, metavar="N", help="Days to keep jobs and uploads.")] = 7,
    loras: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of LoRAs that jobs may name.", show_default="none")
    ] = None,
) -> None:
    """Serve a web page that generates layers, decomposes videos and shows both; docs/studio.md has its API.

    [bold]Example[/]: layerflow studio --port 7860
    """
    for package in ("gradio", "fastapi", "uvicorn", "psutil"):
        if find_spec(package) is None:
            raise UserError(f"the studio needs {package}; install it with: pip install 'layerflow[studio]'")
    from ..studio.limits import Limits
    from ..studio.server import run_studio

    limits = Limits(
        concurrency=concurrency,
        queue=queue,
        job_seconds=job_minutes * 60,
        job_memory=int(job_gib * 2**30),
        keep_seconds=keep_days * 86400,
    )
    run_studio(host, port, work, token, model, limits, loras)
