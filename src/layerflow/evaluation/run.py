"""Runs of a model on true samples, each task on those with the clips and prompts it needs; results are folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..core.layered_video import LayeredVideo
from ..core.schema import BLENDED, LAYERS, SCENE, TASKS
from ..media import load_layers, save_layers
from ..pipeline import LayerFlowPipeline
from .folders import metadata_in, prompts_in, samples_in

NEEDS = {
    task: [layer.name for layer in SCENE if layer.name != BLENDED and given.isdisjoint({*layer.clips, BLENDED})]
    for task, given in TASKS.items()
}
"""Layers that need a prompt in each task: those that no given clip shows."""


def allowed(video: LayeredVideo, prompts: dict[str, str]) -> list[str]:
    """Return the tasks for which a true sample has the clips and prompts."""
    clips = frozenset(video.clips())
    return [
        task for task, given in TASKS.items() if given <= clips and all(prompts.get(layer) for layer in NEEDS[task])
    ]


def run_on(
    pipeline: LayerFlowPipeline,
    truth: Path,
    output: Path,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    settings: dict[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[str, Path], dict[str, str]]:
    """Run a model on the samples in a folder; return folders of results by task, and errors by task and sample.

    A sample that exists already, made with the same settings, is not made again.

    Args:
        pipeline: the model.
        truth: folder of true samples; prompts are those in their layers.json.
        output: results are written to OUTPUT/TASK/SAMPLE.
        steps, guidance: the model's defaults for the task if None.
        settings: further metadata of results; results with other metadata are made again.
        progress: called as (task, done, total).

    Raises:
        MediaError: the folder holds no samples.
        ValueError: no task can be run on any of them.
    """
    made: dict[str, Path] = {}
    failed: dict[str, str] = {}
    samples = samples_in(truth)
    for task in TASKS:
        for number, (name, path) in enumerate(samples.items()):
            folder = output / task / name
            prompts = prompts_in(path)
            metadata = {"task": task, "prompts": prompts, "steps": steps, "guidance": guidance, "seed": number}
            metadata |= settings or {}
            try:
                true = load_layers(path)
                if task in allowed(true, prompts):
                    if metadata_in(folder) != metadata:
                        save_layers(_generate(pipeline, true, task, metadata), folder, ["png"], metadata)
                    made[task] = output / task
            except ValueError as error:  # a size that the model does not take, or a damaged file
                failed[f"{task}/{name}"] = str(error)
            if progress is not None:
                progress(task, number + 1, len(samples))
    if not made:
        why = next(iter(failed.values()), "decompose needs a blended clip, the other tasks prompts in layers.json")
        raise ValueError(f"no task can be run on the samples of {truth}: {why}")
    return made, failed


def _generate(pipeline: LayerFlowPipeline, true: LayeredVideo, task: str, metadata: dict[str, Any]) -> LayeredVideo:
    given: dict[str, Any] = {name: clip for name, clip in true.clips().items() if name in TASKS[task]}
    foreground, background, blended = (metadata["prompts"].get(layer) or None for layer in LAYERS)
    result = pipeline(
        foreground,
        background,
        blended,
        given=LayeredVideo(**given, fps=true.fps) if given else None,
        num_frames=true.frames,
        height=true.height,
        width=true.width,
        upscale=_upscale(pipeline, true),
        num_inference_steps=metadata["steps"],
        guidance_scale=metadata["guidance"],
        generator=torch.Generator().manual_seed(metadata["seed"]),
        fps=true.fps,
    )
    assert not isinstance(result, tuple)
    return result.video


def _upscale(pipeline: LayerFlowPipeline, true: LayeredVideo) -> int:
    """Return the largest upscaling factor at which the model draws no smaller than it was trained at."""
    _, height, width = pipeline.codec.trained_size
    factors = [1] if pipeline.upscaler is None else pipeline.upscaler.factors
    return max(n for n in (1, *factors) if n == 1 or (n * height <= true.height and n * width <= true.width))


__all__ = ["allowed", "run_on"]
