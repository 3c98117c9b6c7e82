"""Runs of a model on true samples, each task on those with the clips and prompts it needs; results are folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..core.layered_video import LayeredVideo
from ..core.schema import ALPHA_OF, BACKGROUND, BLENDED, TASKS, foreground_count, scene_layers, task_clips
from ..media import load_layers, save_layers
from ..pipeline import LayerFlowPipeline
from .folders import metadata_in, prompts_in, samples_in


def allowed(video: LayeredVideo, prompts: dict[str, str], most: int = 1) -> list[str]:
    """Return the tasks for which a true sample has the clips and prompts, and a model of `most` foregrounds enough.

    Layers need a prompt that no given clip shows. A model decomposes any sample, into as many foregrounds as it has.
    """
    clips, count = frozenset(video.clips()), max(1, len(video.foregrounds))
    layers = [layer for layer in scene_layers(count) if layer.name != BLENDED]
    return [
        task
        for task, given in task_clips(scene_layers(count)).items()
        if given <= clips
        and (BLENDED in given or count <= most)
        and all(prompts.get(layer.name) for layer in layers if given.isdisjoint({*layer.clips, BLENDED}))
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
    most = foreground_count(pipeline.transformer.config.clips)
    for task in TASKS:
        for number, (name, path) in enumerate(samples.items()):
            folder = output / task / name
            prompts = prompts_in(path)
            metadata = {"task": task, "prompts": prompts, "steps": steps, "guidance": guidance, "seed": number}
            metadata |= settings or {}
            try:
                true = load_layers(path)
                if task in allowed(true, prompts, most):
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
    count = max(1, len(true.foregrounds))
    names = task_clips(scene_layers(count))[task]
    given = {name: clip for name, clip in true.clips().items() if name in names}
    most = min(count, foreground_count(pipeline.transformer.config.clips))
    texts = {layer: text or None for layer, text in metadata["prompts"].items()}
    foregrounds = [texts.get(layer) for layer in list(ALPHA_OF)[:most]]
    result = pipeline(
        background=texts.get(BACKGROUND),
        blended=texts.get(BLENDED),
        foregrounds=foregrounds if any(foregrounds) else None,
        given=LayeredVideo.from_clips(given, fps=true.fps) if given else None,
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
