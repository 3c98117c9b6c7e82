"""Models by name: the folder, its hash, loading without the libraries' chatter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..pipeline import BUNDLED, LayerFlowPipeline, find_model
from .errors import UserError
from .given import hash_files

DECIDES = (".json", ".safetensors", ".txt", ".model")
"""Ends of the files in a model folder that decide what it makes; a model card does not."""


def quiet_libraries() -> None:
    """Switch off the progress bars and advice of diffusers and transformers: the command line has its own."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def model_folder(name: str) -> Path:
    """The folder of a model; a hub id is downloaded. Raises UserError or UnknownModelError."""
    found = find_model(name)
    if Path(found).is_dir() and (Path(found) / "model_index.json").is_file():
        return Path(found)
    if name in BUNDLED:
        raise UserError(
            f"the weights of {name} are not in this installation; install the layerflow package again"
        )
    try:
        return Path(LayerFlowPipeline.download(found))
    except (OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model {name!r} is no folder here and could not be had from the hub: {why}"
        ) from error


def model_hash(folder: Path) -> str:
    """sha256 of a model: over the paths and contents of all files that decide what it makes."""
    return hash_files((path for path in folder.rglob("*") if path.suffix in DECIDES), root=folder)


def backbone_config(folder: Path) -> dict[str, Any]:
    """The backbone's configuration, read without loading weights."""
    path = folder / "transformer" / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
        for key in ("sample_frames", "sample_size"):
            config[key] = int(config[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: it is missing or damaged ({error!r}), so {folder} is no model of layerflow"
        ) from error
    return config


def pick_device(name: str) -> str:
    """A device that is there: `auto` takes the first accelerator, else the CPU."""
    import torch

    kind = name.split(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    try:
        torch.device(name)
    except RuntimeError:
        kind = ""
    if kind not in there:
        raise UserError(f"--device {name} is not known; choose auto, cpu, cuda, cuda:1 or mps")
    if not there[kind]:
        raise UserError(f"--device {name}: this machine has no {kind} that torch can use; choose auto or cpu")
    if kind == "cuda" and (torch.device(name).index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: this machine has {torch.cuda.device_count()} cuda device(s), from cuda:0 on"
        )
    return name


def load_pipeline(folder: Path, device: str, dtype: str) -> LayerFlowPipeline:
    """The pipeline on its device, silent. Raises UserError when the folder's parts don't load."""
    import torch

    try:
        pipeline = LayerFlowPipeline.from_pretrained(folder, dtype=getattr(torch, dtype))
    except (OSError, KeyError, AttributeError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"model {folder} cannot be loaded: {why}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
