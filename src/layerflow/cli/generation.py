"""A run of a model: given clips and prompts to a folder of layers."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..layered_video import CLIPS, LayeredVideo
from ..media import find_format, save_layers
from ..pipeline import DEFAULT_GUIDANCE, DEFAULT_STEPS, LayerFlowPipeline, blended_prompt, task_of
from . import models
from .errors import UserError
from .given import Source, check_exists, common_rate, cut, fit, merge, read_sources
from .options import RunOptions, parse_size
from .progress import console, progress_bar, say

TASK_GUIDANCE = {"decompose": 1.0}
"""Guidance where the pipeline's default is not the best: what is seen needs no pull towards the prompt."""
DEFAULT_FPS = 8.0
LIBRARIES = ("torch", "diffusers", "transformers", "av", "pillow", "numpy")


def run_model(
    clips: dict[str, Path], foreground: str, background: str, blended: str | None, options: RunOptions
) -> None:
    """Read given clips, generate the others, write all layers, and say what was done.

    Args:
        clips: given clips and their files.
        foreground, background, blended: prompts; None for `blended` writes it from the other two.
    """
    # 1. Check what can be checked before anything is loaded
    for name in options.formats:
        find_format(name)
    check_exists(clips.values())
    check_output(options.output, clips, options.overwrite)
    if set(clips) == set(CLIPS):
        raise UserError("every clip is given, so nothing is left to make; leave one --given out")
    device = models.pick_device(options.device)
    folder = models.model_folder(options.model)
    config = models.backbone_config(folder)

    # 2. Given clips, at the model's size and frame count
    sources = read_sources(clips, options.frames or config["sample_frames"], options.fps)
    given, frames, (width, height) = prepare(sources, options, config)
    for source in sources:
        for treatment in source.treatment:
            say(f"{source.path}: {treatment}")
    if blended is None and (foreground or background):
        say(
            f'--blended was not given; written from the other two: "{blended_prompt(foreground, background)}"'
        )
    task = task_of(given)
    guidance = TASK_GUIDANCE.get(task, DEFAULT_GUIDANCE) if options.guidance is None else options.guidance
    steps = options.steps or DEFAULT_STEPS

    # 3. Generate
    started = time.perf_counter()
    models.quiet_libraries()
    with console.status(f"loading {options.model}"):
        pipeline = models.load_pipeline(folder, device, options.dtype)
    loaded = time.perf_counter()
    video = denoise(
        pipeline, task, steps,
        foreground=foreground, background=background, blended=blended, given=given,
        num_frames=frames, height=height, width=width,
        guidance_scale=guidance, generator=torch.Generator().manual_seed(options.seed),
        fps=options.fps or common_rate(sources, None) or DEFAULT_FPS,
    )  # fmt: skip
    done = time.perf_counter()

    # 4. Write
    written = blended_prompt(foreground, background) if blended is None else blended
    metadata = {
        "task": task,
        "prompts": {"foreground": foreground, "background": background, "blended": written},
        "blended_prompt": "written from the other two" if blended is None else "given",
        "given": [source.record() for source in sources],
        "model": options.model,
        "model_sha256": models.model_hash(folder),
        "seed": options.seed,
        "steps": steps,
        "guidance": guidance,
        "device": device,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "command": command_again(
            clips, (foreground, background, written), video, steps, guidance, options, given is not None
        ),
        "timings": {"load_seconds": round(loaded - started, 3), "denoise_seconds": round(done - loaded, 3)},
        "versions": {"python": platform.python_version(), "layerflow": _version("layerflow")}
        | {name: _version(name) for name in LIBRARIES},
    }
    with console.status("writing"):
        index = write(video, options.output, options.formats, metadata)
    took = f"{steps} steps in {done - loaded:.1f} s"
    say(f"{task}: {frames} frames of {width}x{height}, {took}, seed {options.seed}")
    for file in index["files"]:
        print(options.output / file["name"])
    print(options.output / index["preview"])
    print(options.output / "layers.json")


def prepare(
    sources: list[Source], options: RunOptions, config: dict[str, Any]
) -> tuple[LayeredVideo | None, int, tuple[int, int]]:
    """The given clips as one layered video, the frame count, and (width, height)."""
    size = parse_size(options.size) or (config["sample_size"], config["sample_size"])
    if not sources:
        return None, options.frames or config["sample_frames"], size
    fps = common_rate(sources, options.fps)
    frames = cut(sources, options.frames, config["sample_frames"])
    fit(sources, *size)
    return merge(sources, fps or DEFAULT_FPS), frames, size


def denoise(pipeline: LayerFlowPipeline, task: str, steps: int, **arguments: Any) -> LayeredVideo:
    """Call the pipeline with a bar of its steps."""
    with progress_bar() as bar:
        row = bar.add_task(task, total=steps, note="")

        def step_done(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            bar.update(row, completed=step + 1)
            return tensors

        result = pipeline(num_inference_steps=steps, callback_on_step_end=step_done, **arguments)
    assert not isinstance(result, tuple)
    return result.video


def check_output(folder: Path, clips: dict[str, Path], overwrite: bool) -> None:
    """Refuse a folder that a run would spoil or could not write."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder with -o")
    for path in clips.values():
        if path.resolve().is_relative_to(folder.resolve()):
            inside = path.resolve().relative_to(folder.resolve()).parts
            if not inside or inside[0].startswith(CLIPS):
                raise UserError(f"{path} is given and would be written over; choose another folder than -o {folder}")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(
            f"{folder} is not empty; add --overwrite to replace layers in it, or choose another -o"
        )
    parent = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{folder} cannot be written: no right to write in {parent}")


def write(video: LayeredVideo, folder: Path, formats: list[str], metadata: dict[str, Any]) -> dict[str, Any]:
    """Save the layers; files that an earlier layers.json names and this run does not make are removed."""
    earlier: list[str] = []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # nothing there, or nothing of ours
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


def command_again(
    clips: dict[str, Path], prompts: tuple[str, str, str], video: LayeredVideo, steps: int, guidance: float,
    options: RunOptions, given: bool,
) -> str:  # fmt: skip
    """The command that makes the same layers again, with every default written out."""
    words = ["layerflow", "complete" if given else "generate"]
    for name, path in clips.items():
        words += ["--given", f"{name}={path}"]
    for layer, prompt in zip(("foreground", "background", "blended"), prompts, strict=True):
        words += [f"--{layer}", prompt]
    size = f"{video.width}x{video.height}"
    words += ["--model", options.model, "--seed", str(options.seed), "--steps", str(steps)]
    words += ["--guidance", f"{guidance:g}", "--frames", str(video.frames), "--size", size]
    words += ["--fps", f"{video.fps:g}"] if options.fps or not given else []
    words += ["--device", options.device, "--dtype", options.dtype]
    for name in options.formats:
        words += ["--format", name]
    return shlex.join([*words, "-o", str(options.output), *(["--overwrite"] if options.overwrite else [])])


def _version(package: str) -> str:
    from .. import __version__

    return __version__ if package == "layerflow" else version(package)
