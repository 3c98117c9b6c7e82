"""Run of a model: from a request to a folder of layers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..core.errors import FieldError, UserError
from ..core.layered_video import LayeredVideo
from ..core.schema import CLIPS
from ..media import save_layers
from ..pipeline import LayerFlowPipeline
from ..runtime.device import pick_device
from ..runtime.distributed import join_processes
from ..runtime.placement import check_speed, parallelise
from . import load as models
from .load import LoadedModel, load_model
from .progress import SILENT, Progress
from .record import describe
from .request import ModelOptions, Request, options, parse_lora
from .resolve import Resolved, check_request, resolve


def run(
    request: Request, model: ModelOptions, output: Path, overwrite: bool = False, progress: Progress = SILENT
) -> dict[str, Any] | None:
    """Generate layers and write them into a folder.

    Args:
        request: prompts, given clips and settings.
        model: the model and how it runs.
        output: folder for the layers.
        overwrite: replace layers that are in the folder.
        progress: receives notes and stages.

    Returns:
        The content of layers.json; None in all but one of the processes of `torchrun`.

    Raises:
        UserError, MediaError, ValueError: the request cannot be carried out; the message says why.
    """
    # 1. Check before anything is loaded
    check_request(request)
    check_speed(model.speed)
    check_output(output, request.files, overwrite)
    device = pick_device(model.device)
    folder = models.model_folder(model.model)

    # 2. Given clips and defaults, at the model's size and frame count
    facts = models.model_facts(folder)
    resolved = resolve(request, facts)

    # 3. Generate
    with join_processes(device) as (device, is_main):
        for note in resolved.notes:
            progress.note(note)
        with progress.stage(f"loading {model.model}"):
            height, width = (side // resolved.upscale for side in resolved.size)
            size = resolved.frames, height, width
            loaded = load_model(model, folder, facts, models.model_hash(folder), device, size, resolved.upscale)
            if dist.is_initialized():
                parallelise(loaded.pipeline)
        with progress.stage(resolved.task, resolved.steps) as stage:
            video, seconds = denoise(loaded, resolved, lambda done: stage.update(done=done))
    if not is_main:
        return None

    # 4. Write
    with progress.stage("writing"):
        metadata = describe(loaded, resolved, seconds, output, overwrite)
        index = write(video, output, request.formats, metadata)
    size_text = f"{resolved.size[1]}x{resolved.size[0]}"
    upscaled = f", upscaled {resolved.upscale} times" if resolved.upscale > 1 else ""
    took = f"{resolved.steps} steps in {seconds:.1f} s"
    progress.note(f"{resolved.task}: {resolved.frames} frames of {size_text}{upscaled}, {took}, seed {request.seed}")
    return index


def denoise(
    model: LoadedModel,
    resolved: Resolved,
    step_done: Callable[[int], None],
    watch: Callable[[int, dict[str, Any]], None] | None = None,
) -> tuple[LayeredVideo, float]:
    """Return the layered video and the seconds it took.

    After each step `step_done` gets the number of steps done, and `watch` also the tensors of the pipeline's callback.
    """

    def on_step_end(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        step_done(step + 1)
        if watch is not None:
            watch(step + 1, tensors)
        return tensors

    started = time.perf_counter()
    video = generate(model.pipeline, resolved, model.device, on_step_end)
    return video, time.perf_counter() - started


def generate(pipeline: LayerFlowPipeline, resolved: Resolved, device: str, on_step_end: Any = None) -> LayeredVideo:
    """Return the layered video of a request; `on_step_end` is the pipeline's callback."""
    if resolved.needs_mattes:
        from .mattes import with_mattes

        resolved = with_mattes(resolved, pipeline.codec.groups(resolved.frames), device)
    with loras(pipeline, resolved.request.lora):
        result = pipeline(
            **pipeline_arguments(resolved), given=resolved.given, fps=resolved.fps, callback_on_step_end=on_step_end
        )
    assert not isinstance(result, tuple)
    return result.video


def pipeline_arguments(resolved: Resolved) -> dict[str, Any]:
    """Return the arguments of `LayerFlowPipeline` for the fields of a request."""
    request, (height, width) = resolved.request, resolved.size
    passed = {option.argument: getattr(request, name) for name, option in options(Request).items() if option.argument}
    prompts = {"foregrounds": passed.pop("foreground") or None}  # without any, as many as the model has
    generator = torch.Generator().manual_seed(request.seed)
    return {**prompts, **passed, "height": height, "width": width, "generator": generator}


@contextlib.contextmanager
def loras(pipeline: LayerFlowPipeline, texts: Iterable[str]) -> Iterator[None]:
    """Load LoRAs, each "PATH[:WEIGHT]", into a pipeline while the context lasts; raises AdapterError."""
    weights = {f"lora-{number}": parse_lora(text) for number, text in enumerate(texts)}
    if not weights:
        yield
        return
    try:
        for name, (path, _) in weights.items():
            pipeline.load_lora_weights(path, adapter_name=name)
        pipeline.set_adapters(list(weights), [weight for _, weight in weights.values()])
        yield
    finally:
        pipeline.unload_lora_weights()


def check_output(folder: Path, given: Iterable[Path], overwrite: bool) -> None:
    """Raise UserError for a folder that cannot be written, or in which a run would overwrite other files."""
    if folder.exists() and not folder.is_dir():
        raise FieldError("output", f"{folder} is a file; name a folder")
    for path in given:
        if path.resolve().is_relative_to(folder.resolve()):
            inside = path.resolve().relative_to(folder.resolve()).parts
            if not inside or inside[0].startswith(CLIPS):
                raise UserError(f"{path} is given and would be written over; choose another folder than {folder}")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(f"{folder} is not empty; set `overwrite` to replace layers in it, or choose another `output`")
    parent = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{folder} cannot be written: no right to write in {parent}")


def write(video: LayeredVideo, folder: Path, formats: Iterable[str], metadata: dict[str, Any]) -> dict[str, Any]:
    """Save layers, and remove files that an earlier layers.json names and this run does not write."""
    earlier: list[str] = []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no layers.json, or not one of this package
        earlier = [file["name"] for file in json.loads((folder / "layers.json").read_text("utf-8"))["files"]]
    index = save_layers(video, folder, formats=list(formats), metadata=metadata)
    for name in set(earlier) - {file["name"] for file in index["files"]}:
        if Path(name).name != name or not name.startswith(CLIPS):
            continue
        stale = folder / name
        if stale.is_dir():
            shutil.rmtree(stale)
        else:
            stale.unlink(missing_ok=True)
    return index
