"""A run of a model: given clips and prompts to a folder of layers."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..cli.options import ModelOptions, RunOptions, parse_size
from ..cli.progress import console, progress_bar, say
from ..core.errors import UserError
from ..core.layered_video import LayeredVideo
from ..core.schema import CLIPS, DEFAULT_FPS
from ..media import find_format, save_layers
from ..pipeline import LayerFlowPipeline, blended_prompt, check_drawn_size, check_task, task_of
from ..runtime.distributed import join_processes
from ..runtime.placement import check_speed, parallelise
from . import load as models
from .inputs import Source, check_exists, common_rate, cut, fit, merge, read_sources

LIBRARIES = ("torch", "diffusers", "transformers", "av", "pillow", "numpy")


@dataclass(frozen=True)
class Request:
    """What one run is to make."""

    clips: dict[str, Path]
    """Given clips and their files."""
    foreground: str
    """Prompt."""
    background: str
    """Prompt."""
    blended: str | None
    """Prompt; None writes it from the other two."""
    options: RunOptions

    def prompts(self) -> dict[str, str]:
        """A prompt for every layer."""
        written = blended_prompt(self.foreground, self.background) if self.blended is None else self.blended
        return {"foreground": self.foreground, "background": self.background, "blended": written}


@dataclass(frozen=True)
class Plan:
    """A request with all that its given clips and the model decide: what the pipeline is called with."""

    sources: list[Source]
    given: LayeredVideo | None
    frames: int
    width: int
    height: int
    upscale: int
    fps: float
    task: str
    steps: int
    guidance: float
    noise_scale: float


@dataclass(frozen=True)
class LoadedModel:
    """A model on its device."""

    name: str
    facts: models.ModelFacts
    sha256: str
    device: str
    dtype: str
    memory: str
    pipeline: LayerFlowPipeline
    load_seconds: float


def run_model(
    clips: dict[str, Path], foreground: str, background: str, blended: str | None, options: RunOptions
) -> None:
    """Read given clips, generate the others, write all layers, and say what was done.

    Args:
        clips: given clips and their files.
        foreground, background, blended: prompts; None for `blended` writes it from the other two.
    """
    # 1. Check what can be checked before anything is loaded
    request = Request(clips, foreground, background, blended, options)
    check_request(request)
    check_output(options.output, clips, options.overwrite)
    device = models.pick_device(options.device)
    folder = models.model_folder(options.model)

    # 2. Given clips, at the model's size and frame count
    facts = models.model_facts(folder)
    plan = make_plan(request, facts)

    # 3. Generate
    with join_processes(device) as (device, reports):
        for source in plan.sources:
            for treatment in source.treatment:
                say(f"{source.path}: {treatment}")
        if blended is None and (foreground or background):
            say(f'--blended was not given; written from the other two: "{request.prompts()["blended"]}"')
        with console.status(f"loading {options.model}"):
            size = plan.frames, plan.height // plan.upscale, plan.width // plan.upscale
            model = load_model(options, folder, facts, models.model_hash(folder), device, size, plan.upscale)
            if dist.is_initialized():
                parallelise(model.pipeline)
        with progress_bar() as bar:
            row = bar.add_task(plan.task, total=plan.steps, note="")
            video, seconds = denoise(model, request, plan, lambda done: bar.update(row, completed=done))
    if not reports:
        return

    # 4. Write
    with console.status("writing"):
        index = write(video, options.output, options.formats, describe(model, request, plan, seconds))
    took = f"{plan.steps} steps in {seconds:.1f} s"
    upscaled = f", upscaled {plan.upscale} times" if plan.upscale > 1 else ""
    say(f"{plan.task}: {plan.frames} frames of {plan.width}x{plan.height}{upscaled}, {took}, seed {options.seed}")
    for file in index["files"]:
        print(options.output / file["name"])
    print(options.output / index["preview"])
    print(options.output / "layers.json")


def check_request(request: Request) -> None:
    """Refuse what no model could do, before anything is loaded; raises UserError or MediaError."""
    for name in request.options.formats:
        find_format(name)
    check_speed(request.options.speed)
    check_exists(request.clips.values())
    if set(request.clips) == set(CLIPS):
        raise UserError("every clip is given, so nothing is left to make; leave one --given out")


def make_plan(request: Request, facts: models.ModelFacts) -> Plan:
    """Read the given clips and settle what the request leaves open; raises ValueError for what the model won't take."""
    options, trained = request.options, facts.codec.trained_size
    sources = read_sources(request.clips, options.frames or trained[0], options.fps)
    upscale = pick_upscale(options, sources, facts)
    trained = trained[0], upscale * trained[1], upscale * trained[2]
    given, frames, (width, height) = prepare(sources, options, trained)
    check_drawn_size(facts.codec, frames, height, width, upscale)
    check_task(facts.config, frozenset(given.clips() if given is not None else ()))
    fewest = facts.conventions.fewest_steps
    if options.steps is not None and options.steps < fewest:
        raise UserError(f"--steps {options.steps} is too few; this model wants {fewest} or more")
    task = task_of(given)
    return Plan(
        sources, given, frames, width, height, upscale,
        fps=options.fps or common_rate(sources, None) or DEFAULT_FPS,
        task=task,
        steps=options.steps or facts.conventions.steps,
        guidance=facts.conventions.guidance if options.guidance is None else options.guidance,
        noise_scale=facts.conventions.noise_scale_of(task) if options.noise_scale is None else options.noise_scale,
    )  # fmt: skip


def pick_upscale(options: RunOptions, sources: list[Source], facts: models.ModelFacts) -> int:
    """How many times as large as they are drawn the layers become; raises UserError for what the model cannot do."""
    if options.upscale is not None:
        if options.upscale not in facts.upscale:
            can = " or ".join(map(str, facts.upscale))
            raise UserError(f"--upscale {options.upscale} is not what {options.model} can do; choose {can}")
        return options.upscale
    if (size := parse_size(options.size)) is not None:
        return facts.upscale_to(*size, exactly=True)
    sizes = [(source.video.width, source.video.height) for source in sources]
    return min((facts.upscale_to(*size, exactly=False) for size in sizes), default=facts.upscale[-1])


def load_model(
    options: RunOptions | ModelOptions,
    folder: Path,
    facts: models.ModelFacts,
    sha256: str,
    device: str,
    size: tuple[int, int, int] | None = None,
    upscale: int | None = None,
) -> LoadedModel:
    """A model from its folder, ready to run on a device; raises UserError when it doesn't load.

    `size`, frames, height and width as drawn, and `upscale` are what `--memory auto` makes room for; as the model was
    trained and the most by default.
    """
    started = time.perf_counter()
    models.quiet_libraries()
    dtype = models.pick_dtype(options.dtype, device, facts)
    size, upscale = size or facts.codec.trained_size, upscale or facts.upscale[-1]
    memory = models.pick_memory(options.memory, device, dtype, folder, size, upscale)
    pipeline = models.load_pipeline(folder, device, dtype, memory, options.speed)
    seconds = time.perf_counter() - started
    return LoadedModel(options.model, facts, sha256, device, dtype, memory, pipeline, seconds)


def prepare(
    sources: list[Source], options: RunOptions, trained: tuple[int, int, int]
) -> tuple[LayeredVideo | None, int, tuple[int, int]]:
    """The given clips as one layered video, the frame count, and (width, height).

    What the options leave open is as the model was trained: `trained` is its frames, and height and width upscaled.
    """
    size = parse_size(options.size) or (trained[2], trained[1])
    if not sources:
        return None, options.frames or trained[0], size
    fps = common_rate(sources, options.fps)
    frames = cut(sources, options.frames, trained[0])
    fit(sources, *size)
    return merge(sources, fps or DEFAULT_FPS), frames, size


def denoise(
    model: LoadedModel,
    request: Request,
    plan: Plan,
    step_done: Callable[[int], None],
    watch: Callable[[int, dict[str, Any]], None] | None = None,
) -> tuple[LayeredVideo, float]:
    """The layered video and the seconds it took.

    `step_done` is told after each step how many are done, `watch` also the tensors that the pipeline's callback gets.
    """

    def on_step_end(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        step_done(step + 1)
        if watch is not None:
            watch(step + 1, tensors)
        return tensors

    started = time.perf_counter()
    result = model.pipeline(
        request.foreground, request.background, request.blended,
        given=plan.given, num_frames=plan.frames, height=plan.height, width=plan.width, upscale=plan.upscale,
        num_inference_steps=plan.steps, guidance_scale=plan.guidance,
        noise_scale=plan.noise_scale,
        generator=torch.Generator().manual_seed(request.options.seed),
        fps=plan.fps, callback_on_step_end=on_step_end,
    )  # fmt: skip
    assert not isinstance(result, tuple)
    return result.video, time.perf_counter() - started


def describe(model: LoadedModel, request: Request, plan: Plan, seconds: float) -> dict[str, Any]:
    """What layers.json keeps of how the layers were made; `seconds` is how long denoising took."""
    return {
        "task": plan.task,
        "prompts": request.prompts(),
        "blended_prompt": "written from the other two" if request.blended is None else "given",
        "given": [source.record() for source in plan.sources],
        "model": model.name,
        "model_sha256": model.sha256,
        "seed": request.options.seed,
        "steps": plan.steps,
        "guidance": plan.guidance,
        "noise_scale": plan.noise_scale,
        "upscale": plan.upscale,
        "device": model.device,
        "dtype": model.dtype,
        "memory": model.memory,
        "speed": list(request.options.speed),
        "threads": torch.get_num_threads(),
        "command": command_again(request, plan, model),
        "timings": {"load_seconds": round(model.load_seconds, 3), "denoise_seconds": round(seconds, 3)},
        "versions": {"python": platform.python_version(), "layerflow": _version("layerflow")}
        | {name: _version(name) for name in LIBRARIES},
    }


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
        raise UserError(f"{folder} is not empty; add --overwrite to replace layers in it, or choose another -o")
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


def command_again(request: Request, plan: Plan, model: LoadedModel) -> str:
    """The command that makes the same layers again, with every default written out."""
    options, given = request.options, plan.given is not None
    words = ["layerflow", "complete" if given else "generate"]
    for name, path in request.clips.items():
        words += ["--given", f"{name}={path}"]
    for layer, prompt in request.prompts().items():
        words += [f"--{layer}", prompt]
    size = f"{plan.width}x{plan.height}"
    words += ["--model", options.model, "--seed", str(options.seed), "--steps", str(plan.steps)]
    words += ["--guidance", f"{plan.guidance:g}", "--noise-scale", f"{plan.noise_scale:g}"]
    words += ["--frames", str(plan.frames)]
    words += ["--size", size, "--upscale", str(plan.upscale)]
    words += ["--fps", f"{plan.fps:g}"] if options.fps or not given else []
    words += ["--device", options.device, "--dtype", model.dtype, "--memory", model.memory]
    for name in options.speed:
        words += ["--speed", name]
    for name in options.formats:
        words += ["--format", name]
    return shlex.join([*words, "-o", str(options.output), *(["--overwrite"] if options.overwrite else [])])


def _version(package: str) -> str:
    from .. import __version__

    return __version__ if package == "layerflow" else version(package)
