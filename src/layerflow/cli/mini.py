"""`layerflow mini`: training of the bundled model's own parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train parts of the bundled model.", no_args_is_help=True)

Recipe = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Recipe of this part; see recipes/.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for runs.")]


@app.command()
def upscaler(
    recipe: Recipe,
    output: Output = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
) -> None:
    """Train the upscaler on drawn scenes, small and large.

    [bold]Example[/]: layerflow mini upscaler recipes/upscaler.yaml --resume
    """
    from ..training.family import load_family
    from .progress import progress_bar

    family = load_family("mini")
    family.check_installation()
    with progress_bar() as bar:
        row = bar.add_task("train upscaler", total=None, note="")

        def report(step: int, values: dict[str, float]) -> None:
            bar.update(row, completed=step, note=f"loss {values['loss']:.4f}")

        folder = family.train_upscaler(recipe, output, resume, report)
    print(folder)


@app.command("text-encoder")
def text_encoder(recipe: Recipe, output: Output = Path("runs")) -> None:
    """Distil the text encoder from all-MiniLM-L6-v2, on WordNet and captions of a grammar.

    [bold]Example[/]: layerflow mini text-encoder recipes/text.yaml
    """
    from ..training.family import load_family
    from .progress import progress_bar, say

    with progress_bar() as bar:
        row = bar.add_task("distil text encoder", total=1.0, note="")

        def report(step: int, values: dict[str, float]) -> None:
            bar.update(row, completed=min(values["done"], 1.0), note=f"step {step}, loss {values['loss']:.4f}")

        folder = load_family("mini").distil_text_encoder(recipe, output, report, say)
    print(folder)


@app.command("book")
def book(recipe: Recipe, output: Output = Path("runs")) -> None:
    """Fit the sprite book to an atlas; an interrupted fit continues.

    [bold]Example[/]: layerflow mini book recipes/book.yaml
    """
    from ..training.family import load_family
    from .progress import progress_bar

    with progress_bar() as bar:
        row = bar.add_task("fit sprite book", total=1.0, note="")

        def report(part: str, share: float) -> None:
            bar.update(row, completed=share, note=part)

        file = load_family("mini").fit_sprite_book(recipe, output, report)
    print(file)
