"""`layerflow eval`: a model on held-out scenes or on true layers, results of any model, or ablation runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Device

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table

    from ..pipeline import LayerFlowPipeline


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
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Scenes of each case, over three seeds.")] = 200,
    quick: Annotated[bool, typer.Option("--quick", help="Only a few scenes of each case, as a test.")] = False,
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this case; may be repeated.", show_default="all cases"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Denoising steps.", show_default="the model's")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(metavar="SCALE", help="Guidance scale of every case.", show_default="the task's"),
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
    evaluate_model(model, output, samples, quick, case, steps, guidance, device)


def evaluate_model(
    model: str,
    output: Path,
    samples: int,
    quick: bool,
    cases: list[str] | None,
    steps: int | None,
    guidance: float | None,
    device: str,
) -> None:
    """Measure a model on held-out scenes, print the table, write report.json and index.html."""
    from ..training.family import load_family
    from .progress import progress_bar, say

    family = load_family("mini")
    family.check_installation()
    _, pipeline = _load(model, device)
    with progress_bar() as bar:
        rows: dict[str, TaskID] = {}

        def progress(done: int, total: int, item: str) -> None:
            stage = item if item.startswith("judge") else "measure"
            if stage not in rows:
                rows[stage] = bar.add_task(stage, total=total, note="")
            bar.update(rows[stage], completed=done, total=total, note=item if stage == "measure" else "")

        evaluation = family.evaluate(pipeline, model, output, samples, quick, cases, steps, guidance, progress)
    page = evaluation.write(output)
    print_table(evaluation.table())
    say(f"figures: {output / 'report.json'}")
    print(page)


def _load(model: str, device: str) -> tuple[Path, LayerFlowPipeline]:
    """Return a model's folder, and the model in float32 on a device."""
    from ..generation.load import load_pipeline, model_folder, quiet_libraries
    from ..runtime.device import pick_device
    from .progress import console

    device = pick_device(device)
    folder = model_folder(model)
    quiet_libraries()
    with console.status(f"loading {model}"):
        return folder, load_pipeline(folder, device, "float32")


def print_table(table: Table) -> None:
    """Print a table; into a file at full width, not at the 80 columns that Rich assumes there."""
    from rich.console import Console

    Console(width=None if Console().is_terminal else 200, highlight=False).print(table)


def is_results(name: str) -> bool:
    """Return whether a name is a folder, and not one of a model."""
    from ..models.folders import INDEX

    return Path(name).is_dir() and not (Path(name) / INDEX).is_file()


def evaluate_results(results: Path, truth: Path | None, output: Path, features: str, embedder: str | None) -> None:
    """Measure folders of layers, print the table, write report.json and report.md."""
    from rich.table import Table

    from ..evaluation.folders import measure_folders, write_folder_report
    from ..evaluation.retrieval import load_embedder
    from .progress import progress_bar, say

    with progress_bar() as bar:
        row = bar.add_task("measure", total=None, note="")
        report = measure_folders(
            results,
            truth,
            features,
            load_embedder(embedder) if embedder else None,
            lambda done, total: bar.update(row, completed=done, total=total),
        )
    for name, why in report.failed.items():
        say(f"{name}: {why}")
    table = Table("figure", "value", "spread", "n", "unit", title=f"Layers of {results}")
    for line in report.lines():
        spread = "" if line.spread is None else f"{line.spread:.4g}"
        table.add_row(line.figure, f"{line.value:.4g}", spread, str(line.count), line.unit)
    print_table(table)
    print(write_folder_report(report, output))


def evaluate_beside(
    model: str,
    truth: Path,
    output: Path,
    features: str,
    embedder: str | None,
    steps: int | None,
    guidance: float | None,
    device: str,
) -> None:
    """Run a model on true samples, in each task that they allow, and measure its results like any others."""
    from ..evaluation.folders import samples_in
    from ..evaluation.run import run_on
    from ..generation.load import model_hash
    from .progress import progress_bar, say

    samples_in(truth)  # refuse an empty folder before a model is loaded
    folder, pipeline = _load(model, device)
    with progress_bar() as bar:
        rows: dict[str, TaskID] = {}

        def progress(task: str, done: int, total: int) -> None:
            if task not in rows:
                rows[task] = bar.add_task(task, total=total, note="")
            bar.update(rows[task], completed=done)

        results, failed = run_on(
            pipeline,
            truth,
            output / "results",
            steps=steps,
            guidance=guidance,
            settings={"model": model, "model_sha256": model_hash(folder)},
            progress=progress,
        )
    for name, why in failed.items():
        say(f"{name}: {why}")
    for task, made in results.items():
        evaluate_results(made, truth, output / task, features, embedder)


def evaluate_ablation(folder: Path, output: Path, samples: int, steps: int | None) -> None:
    """Measure the runs in a folder alike, print the table, write Markdown and charts."""
    import torch

    from ..generation.load import quiet_libraries
    from ..runtime.placement import cpu_has_bfloat16
    from ..training.family import load_family
    from .progress import progress_bar

    family = load_family("mini")
    family.check_installation()
    quiet_libraries()
    with progress_bar() as bar:
        rows = {stage: bar.add_task(stage, total=None, note="") for stage in ("judge", "measure")}

        def progress(done: int, total: int, item: str) -> None:
            stage = "judge" if item.startswith("judge") else "measure"
            bar.update(rows[stage], completed=done, total=total, note=item)

        # Runs are compared with each other alone: the faster format will do.
        dtype = torch.bfloat16 if cpu_has_bfloat16() else torch.float32
        ablation = family.evaluate_runs(folder, samples, steps, dtype, progress)
    path = ablation.write(output)
    print(ablation.markdown())
    print(path)
