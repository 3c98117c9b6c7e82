"""`layerflow info`: a model, a video or a folder of layers, in lines of text."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import FieldError, UserError
from ..core.garbage_collection import paused_collection
from ..core.schema import ALPHA
from ..generation.request import DTYPES, parse_size

RATES = (20.0, 100.0, 400.0)
"""TFLOP/s for which a plan states the time by default: rates of small, medium and large GPUs."""
FILE_END = re.compile(r"\.[A-Za-z]\w{1,4}")
"""Suffix of a file; the names of some models end in such as .1-T2V-1.3B-Diffusers."""


def info(
    subject: Annotated[
        str | None, typer.Argument(metavar="[MODEL|FILE]", help="A model, a video, or a folder of layers.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what a run of the model needs: memory, operations, time.")
    ] = False,
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="For --plan.", show_default="the model's")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="For --plan.", show_default="the model's")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="For --plan.", show_default="the model's")
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="NAME", help="For --plan: the number format.")] = "bfloat16",
    tflops: Annotated[
        float | None, typer.Option(min=0.001, metavar="RATE", help="For --plan: TFLOP/s that the device reaches.")
    ] = None,
) -> None:
    """Describe a model, a video or a folder of layers; without an argument, this installation.

    [bold]Example[/]: layerflow info out/balloon/foreground.webm

    [bold]Example[/]: layerflow info models/gen --plan --size 720x480 --frames 16 --tflops 400
    """
    lines = describe_plan(subject, frames, size, steps, dtype, tflops) if plan else describe(subject)
    with paused_collection():  # nearly all of the time goes into imports
        for line in lines:
            print(line)


def describe(subject: str | None) -> Iterator[str]:
    """Yield lines that describe a model, a path or, for None, this installation."""
    if subject is None:
        return _installation()
    from ..models.folders import BUNDLED

    path = Path(subject)
    if subject in BUNDLED or (path / "model_index.json").is_file():
        return _model(subject)
    if (path / "layers.json").is_file():
        return _layers(path)
    if path.exists():
        return _media(path)
    if FILE_END.fullmatch(path.suffix) or subject.count("/") != 1:
        raise UserError(f"{subject} is no file, no folder and no model; the bundled models are {', '.join(BUNDLED)}")
    return _model(subject)


def _row(name: str, value: object) -> str:
    return f"{name:<15} {value}"


def _installation() -> Iterator[str]:
    import torch

    from .. import __version__
    from ..generation.record import LIBRARIES
    from ..models.folders import BUNDLED, find_model
    from ..runtime.device import pick_device

    yield _row("layerflow", __version__)
    yield _row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in LIBRARIES:
        yield _row(name, torch.__version__ if name == "torch" else version(name))
    device = pick_device("auto")
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    yield _row("device", f"{device} ({name})")
    for model in BUNDLED:
        exists = (Path(find_model(model)) / "model_index.json").is_file()
        yield _row("model", f"{model} ({'bundled' if exists else 'missing: install the package again'})")


def _model(name: str) -> Iterator[str]:
    from ..generation.load import model_facts, model_folder, model_hash
    from ..models.folders import read_index

    folder = model_folder(name)
    facts = model_facts(folder)
    frames, height, width = facts.codec.trained_size
    yield _row("model", name)
    yield _row("folder", folder)
    yield _row("trained at", f"{frames} frames of {width}x{height}")
    yield _row("sha256", model_hash(folder, anew=True))
    index = read_index(folder)
    if index.get("boundary_ratio") is not None:
        yield _row("boundary", f"transformer_2 takes over under noise level {index['boundary_ratio']:g}")
    for part in (key for key in index if (folder / key).is_dir()):
        files = sorted((folder / part).rglob("*.safetensors"))
        if files:
            parameters, dtypes = _weights(files)
            size_mb = sum(file.stat().st_size for file in files) / 1e6
            yield _row(part, f"{parameters / 1e6:.2f} M parameters, {size_mb:.1f} MB, {', '.join(sorted(dtypes))}")
    for key, value in facts.config.items():
        if not key.startswith("_"):
            yield _row(f"  {key}", json.dumps(value))


def describe_plan(
    model: str | None, frames: int | None, size: str | None, steps: int | None, dtype: str, tflops: float | None
) -> Iterator[str]:
    """Yield lines on the requirements of a run of a model; only its configuration files are read."""
    import torch

    from ..generation.load import model_facts, model_folder, quiet_libraries
    from ..runtime.plan import MEMORY, plan_run

    if dtype not in DTYPES[1:]:
        raise FieldError("dtype", f"{dtype} is not known; choose {', '.join(DTYPES[1:])}")
    quiet_libraries()
    folder = model_folder(model or "mini", weights=False)
    facts = model_facts(folder)
    target = parse_size(size) if size else None
    upscale = facts.upscale_to(*target, exactly=True) if target else facts.upscale[-1]
    height, width = [side // upscale for side in target] if target else (None, None)
    plan = plan_run(
        folder, frames=frames, height=height, width=width, upscale=upscale, steps=steps, dtype=getattr(torch, dtype)
    )
    yield _row("model", model or "mini")
    drawn = f"{plan.width}x{plan.height}"
    made = f"{plan.width * upscale}x{plan.height * upscale}, drawn at {drawn}" if upscale > 1 else drawn
    yield _row("video", f"{len(plan.layout.clips)} clips of {plan.frames} frames of {made}")
    yield _row("sequence", f"{plan.video_tokens} tokens of video, {plan.text_tokens} of text")
    for name, cost in plan.parts.items():
        yield _row(
            name,
            f"{cost.parameters / 1e6:.1f} M parameters, {_gigabytes(cost.weights)} of weights, "
            f"{_gigabytes(cost.activations)} at work, {cost.flops / 1e12:.3g} TFLOP a call",
        )
    yield _row("a step", f"{plan.step_flops / 1e12:.3g} TFLOP, with guidance")
    yield _row("a run", f"{plan.flops / 1e12:.4g} TFLOP in {plan.steps} steps")
    for memory in MEMORY:
        yield _row(f"--memory {memory}", f"{_gigabytes(plan.peak(memory))} on the device at the peak, in {dtype}")
    for rate in [tflops] if tflops else RATES:
        step = plan.step_flops / (rate * 1e12)
        yield _row("time", f"{plan.seconds(rate):.3g} s at {rate:g} TFLOP/s, {step:.3g} s a step")
    if not tflops:
        yield _row("", "--tflops RATE for the rate of a device; benchmarks/full_size.py measures it")


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _weights(files: list[Path]) -> tuple[int, set[str]]:
    """Return the number of parameters and their types, from the headers of the files."""
    from math import prod

    from safetensors import safe_open

    parameters, dtypes = 0, set()
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                part = weights.get_slice(key)
                parameters += prod(part.get_shape())
                dtypes.add(part.get_dtype())
    return parameters, dtypes


def _layers(folder: Path) -> Iterator[str]:
    from ..media import load_layers

    video = load_layers(folder)  # raises for damaged files
    index: dict[str, Any] = json.loads((folder / "layers.json").read_text("utf-8"))
    made = index.get("metadata", {})
    yield _row("layers", folder)
    yield _row("frames", f"{video.frames} of {video.width}x{video.height} at {video.fps:g} frames a second")
    yield _row("clips", ", ".join(video.clips()))
    yield _row("convention", index["convention"])
    for key in ("task", "model", "seed", "steps", "guidance", "command"):
        if key in made:
            yield _row(key, made[key])
    for layer, prompt in made.get("prompts", {}).items():
        yield _row(f"  {layer}", json.dumps(prompt, ensure_ascii=False))
    for file in index["files"]:
        yield _row(
            "file",
            f"{file['name']}: {file['codec']}, {file['pixels']}, {file['bits']} bits, alpha {file[ALPHA]}, "
            f"{file['bytes'] / 1000:.1f} kB",
        )


def _media(path: Path) -> Iterator[str]:
    from ..media import read_video

    video = read_video(path)
    frames, _, height, width = video.colour.shape
    yield _row("file", path)
    yield _row("frames", f"{frames} of {width}x{height} at {video.fps:g} frames a second")
    yield _row("codec", _codec(path))
    if video.alpha is None:
        transparency = "none"
    elif float(video.alpha.min()) == 1:
        transparency = "tagged, but opaque everywhere"
    else:
        clear, solid = (float((video.alpha == end).float().mean()) for end in (0, 1))
        transparency = f"yes: {clear:.0%} transparent, {solid:.0%} opaque, the rest between"
    yield _row(ALPHA, transparency)


def _codec(path: Path) -> str:
    import av
    from PIL import Image, UnidentifiedImageError

    if path.is_dir():
        return "a folder of images"
    try:
        with Image.open(path) as image:
            return f"{image.format} image, {image.mode}"
    except (UnidentifiedImageError, OSError):
        with av.open(f"file:{path}") as container:
            stream = container.streams.video[0]
            return f"{stream.codec_context.name} in {container.format.name}, {stream.codec_context.pix_fmt}"
