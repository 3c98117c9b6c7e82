"""`layerflow average`: the mean of two models' weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def average(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="mini, a model folder or a hub id.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="A model that was trained on from it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the new model.")],
    share: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE", help="Share of the other's weights.")] = 0.5,
) -> None:
    """Average the weights of two models of one architecture.

    The mean of a model and one that was trained on from it keeps most of what either can do (arXiv 2109.01903).

    [bold]Example[/]: layerflow average mini runs/mini-continue/model --share 0.6 -o models/mine
    """
    from ..generation.load import quiet_libraries
    from ..training.average import average as average_models

    quiet_libraries()
    average_models(model, other, output, share)
    print(output)
