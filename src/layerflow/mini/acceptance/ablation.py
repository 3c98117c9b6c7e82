"""Runs of one experiment's variants, measured alike and laid side by side: what each part of the recipe is worth.

A folder of runs holds VARIANT-seedN/, as `layerflow train recipes/ablations/VARIANT.yaml --seed N` leaves them. Every
model is measured on the same held-out scenes; spread is over the seeds of training.
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
from ...core.schema import CLIPS, LAYERS, TASKS
from ...evaluation import metrics
from ...models.folders import INDEX, UnknownModelError
from ...pipeline import LayerFlowPipeline
from .judge import Judge
from .trials import found, name_layers, noise_of, scene_of, source_of

RUN = re.compile(r"(?P<variant>.+)-seed(?P<seed>\d+)$")
MOTION_ON = "motion-left-on"
"""A variant without runs of its own: the full recipe's models with the motion adapter left in."""
BATCH, SEED = 4, 0
"""Scenes denoised together, and the seed of all scenes."""
FULL = "full"
SEPARATE = "separate"
"""Variants of this name and a task, such as separate-decompose, are models for one task; together they are a row."""

FIGURES: dict[str, tuple[str, bool]] = {
    "alpha MAE": ("decompose", False), "alpha SAD": ("decompose", False), "alpha Grad": ("decompose", False),
    "alpha Conn": ("decompose", False), "alpha dtSSD": ("decompose", False), "background PSNR": ("decompose", True),
    "background leak": ("decompose", False), "composite PSNR": ("generate", True),
    "layer agreement": ("generate", True), "prompt fidelity": ("generate", True), "motion": ("generate", True),
}  # fmt: skip
"""Each figure's task, and whether more is better. Prompt fidelity is the share of object, colours, motion and
background that judge and rule name as the prompts do; motion how far the matte travels, in hundredths of the frame."""


@dataclass(frozen=True)
class Run:
    """One trained model."""

    variant: str
    seed: int
    model: Path
    tasks: tuple[str, ...] = ("decompose", "generate")
    """That it is measured in."""
    keep_motion: bool = False


@dataclass
class AblationReport:
    """Figures of every run."""

    samples: int
    figures: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    """By variant, seed and figure."""

    def table(self) -> dict[str, dict[str, tuple[float, float | None]]]:
        """Mean and standard deviation over seeds, by variant and figure."""
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
        """The table for a document: a row for each figure, a column for each variant."""
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
            told = {variant: row[figure] for variant, row in table.items() if figure in row}
            if not told:
                continue
            best = (max if higher else min)(value for value, _ in told.values())
            cells = []
            for variant in table:
                if variant not in told:
                    cells.append("")
                    continue
                value, spread = told[variant]
                text = f"{value:.4g}" + (f" ± {spread:.2g}" if spread is not None else "")
                cells.append(f"**{text}**" if value == best else text)
            lines.append(f"| {figure} {'↑' if higher else '↓'} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def find_runs(folder: Path) -> list[Run]:
    """The runs in a folder, and what is measured of each.

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
    """A run's model in a number format; content is fused as always, and motion too where it is left on."""
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
    """Figures of a model over held-out scenes, the same for every model; denoised in `steps`, or in as many as it
    takes by default."""
    config: Any = pipeline.transformer.config
    values: dict[str, list[float]] = {}
    for task in tasks:
        source = source_of(task, config.sample_size, config.sample_frames)
        for start in range(0, samples, BATCH):
            numbers = range(start, min(start + BATCH, samples))
            scenes = [scene_of(task, source, SEED, number) for number in numbers]
            true = [LayeredVideo(**{name: getattr(scene, name).clamp(0, 1) for name in CLIPS}) for scene in scenes]
            asked: dict[str, Any] = {} if steps is None else {"num_inference_steps": steps}
            if task == "decompose":
                asked["given"] = [LayeredVideo(blended=video.blended) for video in true]
            else:
                asked |= {layer: [scene.captions[layer] for scene in scenes] for layer in LAYERS}
            output: Any = pipeline(
                **asked, num_frames=config.sample_frames, height=config.sample_size,
                width=config.sample_size, generator=[noise_of(task, SEED, number) for number in numbers],
            )  # fmt: skip
            for scene, video, target in zip(scenes, output.videos, true, strict=True):
                own = _decomposed(video, target) if task == "decompose" else _generated(scene, video, judge)
                for figure, value in own.items():
                    values.setdefault(figure, []).append(value)
    return {figure: fmean(own) for figure, own in values.items()}


def _decomposed(video: LayeredVideo, true: LayeredVideo) -> dict[str, float]:
    alpha, background = (video.clips()[name] for name in ("alpha", "background"))
    target, behind = (true.clips()[name] for name in ("alpha", "background"))
    return {
        "alpha MAE": metrics.alpha_mae(alpha, target), "alpha SAD": metrics.sad(alpha, target),
        "alpha Grad": metrics.gradient_error(alpha, target), "alpha Conn": metrics.connectivity_error(alpha, target),
        "alpha dtSSD": metrics.dtssd(alpha, target), "background PSNR": metrics.psnr(background, behind),
        "background leak": metrics.background_leak(background, behind, target),
    }  # fmt: skip


def _generated(scene: Any, video: LayeredVideo, judge: Judge) -> dict[str, float]:
    named, _ = name_layers(scene, video, judge, ("foreground", "background"))
    right = found(scene, named)
    return {
        "composite PSNR": metrics.composite_psnr(video),
        "layer agreement": metrics.layer_agreement(video),
        "prompt fidelity": fmean(right.values()),
        "motion": 100 * metrics.matte_travel(video.clips()["alpha"]),
    }


def measure_ablation(
    folder: Path,
    samples: int,
    judge: Judge,
    progress: Callable[[int, int, str], None] | None = None,
    dtype: torch.dtype = torch.float32,
    steps: int | None = None,
) -> AblationReport:
    """Measure every run in a folder. What is measured is kept beside the run, and measured again only for another
    number of samples or steps, another number format or other weights.

    Raises:
        UnknownModelError: a folder without runs, or a run without a model.
    """
    runs, report = find_runs(folder), AblationReport(samples)
    for done, run in enumerate(runs):
        if progress is not None:
            progress(done, len(runs), f"{run.variant}, seed {run.seed}")
        key = {
            "samples": samples, "written": (run.model / INDEX).stat().st_mtime_ns, "tasks": list(run.tasks),
            "dtype": str(dtype), "steps": steps,
        }  # fmt: skip
        kept = run.model.parent / ("figures-motion.json" if run.keep_motion else "figures.json")
        figures = _kept(kept, key)
        if figures is None:
            with torch.no_grad():
                figures = measure_run(load_run(run, dtype), run.tasks, samples, judge, steps)
            write_atomically(kept, json.dumps({"key": key, "figures": figures}, indent=1).encode())
        report.figures.setdefault(run.variant, {}).setdefault(run.seed, {}).update(figures)
    if progress is not None:
        progress(len(runs), len(runs), "")
    return report


def _kept(path: Path, key: dict[str, Any]) -> dict[str, float] | None:
    try:
        content = json.loads(path.read_text("utf-8"))
        return dict(content["figures"]) if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_ablation(report: AblationReport, folder: Path) -> Path:
    """Write `ablation.md`, `ablation.json` and a bar chart for each figure, and return the first one's path."""
    table = report.table()
    charts = []
    for figure, (_, higher) in FIGURES.items():
        told = {variant: row[figure] for variant, row in table.items() if figure in row}
        if told:
            name = f"{figure.lower().replace(' ', '-')}.svg"
            write_atomically(folder / name, bar_chart(figure, higher, told).encode())
            charts.append(f"![{figure}]({name})")
    text = report.markdown() + "\n" + "\n".join(charts) + "\n"
    content = {"samples": report.samples, "figures": report.figures}
    write_atomically(folder / "ablation.json", json.dumps(content, indent=1).encode())
    write_atomically(folder / "ablation.md", text.encode())
    return folder / "ablation.md"


def bar_chart(figure: str, higher: bool, values: Mapping[str, tuple[float, float | None]]) -> str:
    """One figure of all variants as an SVG picture: bars from 0, a line for the spread, the number beside it."""
    top = max(abs(value) + (spread or 0) for value, spread in values.values()) or 1.0
    left, width, step = 170, 300, 26
    rows = [
        f'<text x="10" y="20" font-weight="bold">{escape(figure)} ({"more" if higher else "less"} is better)</text>'
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
