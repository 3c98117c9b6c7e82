"""Ablation reports: the variants of a recipe, measured on the same held-out scenes and compared.

A folder of runs holds VARIANT-seedN/, as training of recipes/ablations/VARIANT.yaml with seed N leaves them. Spread is
over the seeds of training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from ...core.atomic import write_atomically
from ...core.layered_video import LayeredVideo
from ...core.schema import ALPHA, BACKGROUND, CLIPS, FOREGROUND, LAYERS, TASKS
from ...evaluation import metrics
from ...models.folders import INDEX, UnknownModelError
from ...pipeline import LayerFlowPipeline
from ..world import Scene
from .cases import case_scene, case_source, name_layers, noise_generator, prompt_matches, require_clips
from .judge import Judge

RUN = re.compile(r"(?P<variant>.+)-seed(?P<seed>\d+)$")
MOTION_ON = "motion-left-on"
"""Variant without separate runs: the full recipe's models with the motion adapter kept."""
BATCH, SEED = 4, 0
"""Scenes denoised together, and the seed of all scenes."""
FULL = "full"
SEPARATE = "separate"
"""Prefix of variants for one task, such as separate-decompose; together they are one column."""

FIGURES: dict[str, tuple[str, bool]] = {
    "alpha MAE": ("decompose", False), "alpha SAD": ("decompose", False), "alpha Grad": ("decompose", False),
    "alpha Conn": ("decompose", False), "alpha dtSSD": ("decompose", False), "background PSNR": ("decompose", True),
    "background leak": ("decompose", False), "composite PSNR": ("generate", True),
    "layer agreement": ("generate", True), "prompt fidelity": ("generate", True), "motion": ("generate", True),
}  # fmt: skip
"""Task of each figure, and whether higher is better. Prompt fidelity is the share of object, colours, motion and
background that match the prompts, and motion the travel of the matte in hundredths of the frame."""


@dataclass(frozen=True)
class Run:
    """One trained model."""

    variant: str
    seed: int
    model: Path
    tasks: tuple[str, ...] = ("decompose", "generate")
    """Tasks to measure."""
    keep_motion: bool = False
    """Fuse the motion adapter instead of leaving it out."""


@dataclass
class AblationReport:
    """Figures of all runs."""

    samples: int
    """Scenes of each task."""
    figures: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    """Values by variant, seed and figure."""

    def table(self) -> dict[str, dict[str, tuple[float, float | None]]]:
        """Return mean and standard deviation over seeds by variant and figure."""
        result: dict[str, dict[str, tuple[float, float | None]]] = {}
        for variant, seeds in self.figures.items():
            row = {}
            for figure in FIGURES:
                values = [own[figure] for own in seeds.values() if figure in own]
                if values:
                    row[figure] = fmean(values), stdev(values) if len(values) > 1 else None
            result[variant] = row
        return result

    def markdown(self) -> str:
        """Return the table as Markdown, a row for each figure and a column for each variant."""
        table = self.table()
        seeds = {variant: len(own) for variant, own in self.figures.items()}
        lines = [
            f"{self.samples} held-out scenes of each task; mean and standard deviation over seeds of training "
            f"({', '.join(f'{variant}: {n}' for variant, n in seeds.items())}).",
            "",
            f"| figure | {' | '.join(table)} |",
            f"| --- |{' ---: |' * len(table)}",
        ]
        for figure, (_, higher) in FIGURES.items():
            results = {variant: row[figure] for variant, row in table.items() if figure in row}
            if not results:
                continue
            best = (max if higher else min)(value for value, _ in results.values())
            cells = []
            for variant in table:
                if variant not in results:
                    cells.append("")
                    continue
                value, spread = results[variant]
                text = f"{value:.4g}" + (f" ± {spread:.2g}" if spread is not None else "")
                cells.append(f"**{text}**" if value == best else text)
            lines.append(f"| {figure} {'↑' if higher else '↓'} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def find_runs(folder: Path) -> list[Run]:
    """Return the runs in a folder with their tasks.

    Raises:
        UnknownModelError: there are none, or one is not trained to its end.
    """
    runs = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = RUN.match(path.name)
        if match is None or not path.is_dir():
            continue
        variant, seed = match["variant"], int(match["seed"])
        if not (path / "model" / INDEX).is_file():
            raise UnknownModelError(f"{path} has no model yet; train it to its end, or move it elsewhere")
        tasks: tuple[str, ...] = ("decompose", "generate")
        if variant.startswith(f"{SEPARATE}-"):
            variant, task = SEPARATE, variant.removeprefix(f"{SEPARATE}-")
            if task not in TASKS:
                raise UnknownModelError(f"{path}: {task!r} is no task; name it {SEPARATE}-TASK-seedN")
            tasks = tuple({task} & {"decompose", "generate"})
        if tasks:
            runs.append(Run(variant, seed, path / "model", tasks))
        if variant == FULL and (path / "model" / "adapters" / "motion").is_dir():
            runs.append(Run(MOTION_ON, seed, path / "model", tasks, keep_motion=True))
    if not runs:
        raise UnknownModelError(f"{folder} holds no runs named VARIANT-seedN; see recipes/ablations")
    return sorted(runs, key=lambda run: (run.variant != FULL, run.variant, run.seed))


def load_run(run: Run, dtype: torch.dtype = torch.float32) -> LayerFlowPipeline:
    """Load the model of a run in a dtype, with the motion adapter fused if the run keeps it."""
    pipeline = LayerFlowPipeline.from_pretrained(run.model)
    if run.keep_motion:
        transformer: Any = pipeline.transformer
        folder = run.model / "adapters" / "motion"
        transformer.load_lora_adapter(folder, adapter_name="motion", use_safetensors=True)
        transformer.fuse_lora(adapter_names=["motion"])
        transformer.unload_lora()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype)


def measure_run(
    pipeline: LayerFlowPipeline,
    tasks: Sequence[str],
    samples: int,
    judge: Judge,
    steps: int | None = None,
) -> dict[str, float]:
    """Measure a model on held-out scenes, the same for every model.

    Args:
        pipeline: the model.
        tasks: "decompose", "generate" or both.
        samples: scenes of each task.
        judge: judge of prompt fidelity.
        steps: denoising steps; the model's default if None.

    Returns:
        Means by figure, see `FIGURES`.
    """
    config: Any = pipeline.transformer.config
    values: dict[str, list[float]] = {}
    for task in tasks:
        source = case_source(task, config.sample_size, config.sample_frames)
        for start in range(0, samples, BATCH):
            numbers = range(start, min(start + BATCH, samples))
            scenes = [case_scene(task, source, SEED, number) for number in numbers]
            true = [LayeredVideo(**{name: getattr(scene, name).clamp(0, 1) for name in CLIPS}) for scene in scenes]
            inputs: dict[str, Any] = {} if steps is None else {"num_inference_steps": steps}
            if task == "decompose":
                inputs["given"] = [LayeredVideo(blended=video.blended) for video in true]
            else:
                inputs |= {layer: [scene.captions[layer] for scene in scenes] for layer in LAYERS}
            output: Any = pipeline(
                **inputs,
                num_frames=config.sample_frames,
                height=config.sample_size,
                width=config.sample_size,
                generator=[noise_generator(task, SEED, number) for number in numbers],
            )
            for scene, video, target in zip(scenes, output.videos, true, strict=True):
                own = _decomposed(video, target) if task == "decompose" else _generated(scene, video, judge)
                for figure, value in own.items():
                    values.setdefault(figure, []).append(value)
    return {figure: fmean(own) for figure, own in values.items()}


def _decomposed(video: LayeredVideo, true: LayeredVideo) -> dict[str, float]:
    alpha, background = require_clips(video, ALPHA, BACKGROUND)
    true_alpha, true_background = require_clips(true, ALPHA, BACKGROUND)
    return {
        "alpha MAE": metrics.alpha_mae(alpha, true_alpha),
        "alpha SAD": metrics.sad(alpha, true_alpha),
        "alpha Grad": metrics.gradient_error(alpha, true_alpha),
        "alpha Conn": metrics.connectivity_error(alpha, true_alpha),
        "alpha dtSSD": metrics.dtssd(alpha, true_alpha),
        "background PSNR": metrics.psnr(background, true_background),
        "background leak": metrics.background_leak(background, true_background, true_alpha),
    }


def _generated(scene: Scene, video: LayeredVideo, judge: Judge) -> dict[str, float]:
    named, _ = name_layers(scene, video, judge, (FOREGROUND, BACKGROUND))
    return {
        "composite PSNR": metrics.composite_psnr(video),
        "layer agreement": metrics.layer_agreement(video),
        "prompt fidelity": fmean(prompt_matches(scene, named).values()),
        "motion": 100 * metrics.matte_travel(*require_clips(video, ALPHA)),
    }


def measure_ablation(
    folder: Path,
    samples: int,
    judge: Judge,
    progress: Callable[[int, int, str], None] | None = None,
    dtype: torch.dtype = torch.float32,
    steps: int | None = None,
) -> AblationReport:
    """Measure every run in a folder.

    Figures are saved beside the run and reused until samples, steps, dtype or weights change.

    Raises:
        UnknownModelError: a folder without runs, or a run without a model.
    """
    runs, report = find_runs(folder), AblationReport(samples)
    for done, run in enumerate(runs):
        if progress is not None:
            progress(done, len(runs), f"{run.variant}, seed {run.seed}")
        key = {
            "samples": samples,
            "written": (run.model / INDEX).stat().st_mtime_ns,
            "tasks": list(run.tasks),
            "dtype": str(dtype),
            "steps": steps,
        }
        saved = run.model.parent / ("figures-motion.json" if run.keep_motion else "figures.json")
        figures = _saved(saved, key)
        if figures is None:
            with torch.no_grad():
                figures = measure_run(load_run(run, dtype), run.tasks, samples, judge, steps)
            write_atomically(saved, json.dumps({"key": key, "figures": figures}, indent=1).encode())
        report.figures.setdefault(run.variant, {}).setdefault(run.seed, {}).update(figures)
    if progress is not None:
        progress(len(runs), len(runs), "")
    return report


def _saved(path: Path, key: dict[str, Any]) -> dict[str, float] | None:
    try:
        content = json.loads(path.read_text("utf-8"))
        return dict(content["figures"]) if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_ablation(report: AblationReport, folder: Path) -> Path:
    """Write `ablation.md`, `ablation.json` and a bar chart for each figure; return the path of `ablation.md`."""
    table = report.table()
    charts = []
    for figure, (_, higher) in FIGURES.items():
        values = {variant: row[figure] for variant, row in table.items() if figure in row}
        if values:
            name = f"{figure.lower().replace(' ', '-')}.svg"
            write_atomically(folder / name, bar_chart(figure, higher, values).encode())
            charts.append(f"![{figure}]({name})")
    text = report.markdown() + "\n" + "\n".join(charts) + "\n"
    content = {"samples": report.samples, "figures": report.figures}
    write_atomically(folder / "ablation.json", json.dumps(content, indent=1).encode())
    write_atomically(folder / "ablation.md", text.encode())
    return folder / "ablation.md"


def bar_chart(figure: str, higher: bool, values: Mapping[str, tuple[float, float | None]]) -> str:
    """Return an SVG chart of one figure: a bar from 0, a line for the spread and the value of each variant."""
    top = max(abs(value) + (spread or 0) for value, spread in values.values()) or 1.0
    left, width, step = 170, 300, 26
    rows = [
        f'<text x="10" y="20" font-weight="bold">{escape(figure)} ({"higher" if higher else "lower"} is better)</text>'
    ]
    for place, (variant, (value, spread)) in enumerate(values.items()):
        y = 34 + step * place
        length = width * abs(value) / top
        rows.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(variant)}</text>')
        fill = "#3b76af" if variant == FULL else "#9db8d2"
        rows.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="18" fill="{fill}"/>')
        if spread:
            ends = [left + width * max(0.0, abs(value) + side * spread) / top for side in (-1, 1)]
            rows.append(f'<path d="M{ends[0]:.1f} {y + 9}H{ends[1]:.1f}" stroke="#222" stroke-width="2"/>')
        rows.append(f'<text x="{left + width + 8}" y="{y + 13}">{value:.4g}</text>')
    height = 40 + step * len(values)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{height}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(rows)}</svg>\n"
    )
