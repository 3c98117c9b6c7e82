"""Evaluation from the command line: a bar, the table, the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import TaskID
from rich.table import Table

from ..evaluation.folders import measure_folders, samples_in, write_folder_report
from ..evaluation.retrieval import load_embedder
from ..evaluation.run import run_on
from ..generation.load import load_pipeline, model_folder, model_hash, pick_device, quiet_libraries
from ..mini.acceptance import CASES, evaluate, load_judge, rich_table, write_report
from ..mini.acceptance.ablation import find_runs, measure_ablation, write_ablation
from ..mini.acceptance.cases import available_cases
from ..mini.world import find_font
from ..models.folders import INDEX
from ..pipeline import LayerFlowPipeline
from ..runtime.placement import cpu_has_bfloat16
from .progress import console, progress_bar, say


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
    find_font()
    cases = cases or available_cases()
    _, pipeline = _loaded(model, device)
    with progress_bar() as bar:
        rows: dict[str, TaskID] = {}

        def progress(done: int, total: int, what: str) -> None:
            stage = "measure" if what in CASES else what
            if stage not in rows:
                rows[stage] = bar.add_task(stage, total=total, note="")
            bar.update(rows[stage], completed=done, total=total, note=what if stage == "measure" else "")

        report = evaluate(
            pipeline, samples=samples, quick=quick, cases=cases, steps=steps, guidance=guidance,
            folder=output, name=model, progress=progress,
        )  # fmt: skip
    page = write_report(report, output)
    print_table(rich_table(report))
    say(f"figures: {output / 'report.json'}")
    print(page)


def _loaded(model: str, device: str) -> tuple[Path, LayerFlowPipeline]:
    """A model's folder, and the model in float32 on a device."""
    device = pick_device(device)
    folder = model_folder(model)
    quiet_libraries()
    with console.status(f"loading {model}"):
        return folder, load_pipeline(folder, device, "float32")


def print_table(table: Table) -> None:
    """Print a table; into a file it goes at full width, not at the 80 columns that Rich assumes there."""
    Console(width=None if Console().is_terminal else 200, highlight=False).print(table)


def is_results(name: str) -> bool:
    """Whether a name is a folder, and not one of a model."""
    return Path(name).is_dir() and not (Path(name) / INDEX).is_file()


def evaluate_results(made: Path, truth: Path | None, output: Path, features: str, embedder: str | None) -> None:
    """Measure folders of layers, print the table, write report.json and report.md."""
    with progress_bar() as bar:
        row = bar.add_task("measure", total=None, note="")
        report = measure_folders(
            made, truth, features, load_embedder(embedder) if embedder else None,
            lambda done, total: bar.update(row, completed=done, total=total),
        )  # fmt: skip
    for name, why in report.failed.items():
        say(f"{name}: {why}")
    table = Table("figure", "value", "spread", "n", "unit", title=f"Layers of {made}")
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
    """Run a model on true samples, each task that they allow, and measure what it made as any results."""
    samples_in(truth)  # that they are there is found out before any model is loaded
    folder, pipeline = _loaded(model, device)
    with progress_bar() as bar:
        rows: dict[str, TaskID] = {}

        def progress(task: str, done: int, total: int) -> None:
            if task not in rows:
                rows[task] = bar.add_task(task, total=total, note="")
            bar.update(rows[task], completed=done)

        made, failed = run_on(
            pipeline, truth, output / "results", steps=steps, guidance=guidance,
            settings={"model": model, "model_sha256": model_hash(folder)}, progress=progress,
        )  # fmt: skip
    for name, why in failed.items():
        say(f"{name}: {why}")
    for task, results in made.items():
        evaluate_results(results, truth, output / task, features, embedder)


def evaluate_ablation(folder: Path, output: Path, samples: int, steps: int | None) -> None:
    """Measure the runs in a folder alike, print the table, write Markdown and charts."""
    find_font()
    quiet_libraries()
    with progress_bar() as bar:
        find_runs(folder)  # a run without its model is found out before the judge is trained
        rows = {stage: bar.add_task(stage, total=None, note="") for stage in ("judge", "measure")}

        def report_of(stage: str) -> Callable[[int, int, str], None]:
            return lambda done, total, what: bar.update(rows[stage], completed=done, total=total, note=what)

        # Runs are compared with each other alone: the faster format will do.
        dtype = torch.bfloat16 if cpu_has_bfloat16() else torch.float32
        judge = load_judge(progress=report_of("judge"))
        report = measure_ablation(folder, samples, judge, report_of("measure"), dtype, steps)
    path = write_ablation(report, output)
    print(report.markdown())
    print(path)
