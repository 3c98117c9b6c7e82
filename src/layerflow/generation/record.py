"""Metadata of layers.json: how layers were made, and the command that makes them again."""

from __future__ import annotations

import platform
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..core.schema import COMPONENTS, FOREGROUND, LAYERS
from .givens import listed
from .request import ModelOptions, Request, Size, field_of, flag, format_size, options, type_of

if TYPE_CHECKING:  # they import diffusers, and `layerflow info` needs only the list of libraries
    from .load import LoadedModel
    from .resolve import Resolved

LIBRARIES = ("torch", "diffusers", "transformers", "av", "pillow", "numpy")
"""Distributions whose versions are recorded, for they decide the bytes of a result."""


def describe(
    model: LoadedModel, resolved: Resolved, seconds: float, output: Path, overwrite: bool = False
) -> dict[str, Any]:
    """Return the metadata of layers.json.

    Args:
        model: the model that made the layers.
        resolved: the request.
        seconds: how long denoising took.
        output: folder of the layers, for the command.
        overwrite: the folder may hold other layers already, for the command.
    """
    request = resolved.request
    trimaps = [source.record() for source in resolved.sources if source.trimap]
    values = {
        name: getattr(request, name)
        for name in options(Request)
        if name not in (*LAYERS, "formats", "frames", "size", "fps")
    }
    return {
        "task": resolved.task,
        "prompts": request.prompts,
        "blended_prompt": "written from the others" if resolved.blended_written else "given",
        "given": [source.record() for source in resolved.sources if not source.trimap],
        **({"trimap": trimaps} if trimaps else {}),
        "model": model.options.model,
        "model_sha256": model.sha256,
        **{
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value not in (None, "", ())
        },
        "device": model.device,
        "dtype": model.dtype,
        "memory": model.memory,
        "speed": list(model.options.speed),
        "threads": torch.get_num_threads(),
        "command": command_again(model, resolved, output, overwrite),
        "timings": {"load_seconds": round(model.load_seconds, 3), "denoise_seconds": round(seconds, 3)},
        "versions": {"python": platform.python_version(), "layerflow": __version__}
        | {name: version(name) for name in LIBRARIES},
    }


def command_again(model: LoadedModel, resolved: Resolved, output: Path, overwrite: bool) -> str:
    """Return the command that makes the same layers again, with all defaults explicit."""
    request = resolved.request
    words = ["layerflow", "complete" if request.given else "generate"]
    for option, files in (("--given", request.given), ("--trimap", request.trimap)):
        for file in listed(files):
            words += [option, f"{file.clip}={file.text}"]
    words += arguments(request)
    words += arguments(
        ModelOptions(
            model=model.options.model,
            device=model.options.device,
            dtype=model.dtype,
            memory=model.memory,
            speed=model.options.speed,
        )
    )
    return shlex.join([*words, "-o", str(output), *(["--overwrite"] if overwrite else [])])


def arguments(request: Request | ModelOptions) -> list[str]:
    """Return the command-line options for the fields of a request; without those that are None or empty by default."""
    words = []
    for name in options(type(request)):
        value = getattr(request, name)
        if value is None or (
            value in ("", ()) and field_of(type(request), name).default == value and name not in COMPONENTS
        ):
            continue
        several = isinstance(value, tuple) and type_of(type(request), name)[0] != Size
        # Prompts of both components are written even if empty, because `generate` requires them.
        for item in (value or ("",) if name == FOREGROUND else value) if several else (value,):
            text = (
                format_size(item) if isinstance(item, tuple) else f"{item:g}" if isinstance(item, float) else str(item)
            )
            words += [flag(type(request), name), text]
    return words
