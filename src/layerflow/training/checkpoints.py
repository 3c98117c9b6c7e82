"""Checkpoints that are whole or absent: written under another name, flushed to disk, then renamed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ..core.atomic import whole_folder
from ..core.config import ConfigError

PREFIX = "step-"


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Any], info: dict[str, Any], keep: int = 2) -> Path:
    """Write `tensors` (a nest of tensors and plain values) and `info` (JSON) as folder/step-N; keep the last few."""
    target = folder / f"{PREFIX}{step:08d}"
    with whole_folder(target, replace=True) as partial:
        torch.save(tensors, partial / "state.pt")
        (partial / "info.json").write_text(json.dumps({"step": step, **info}, indent=1))
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Return whole checkpoints, oldest first; those that a killed run left incomplete are not among them."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / "info.json").exists())


def last_checkpoint(run: Path, resume: bool) -> Path | None:
    """Return the last checkpoint of a run's folder; None where there is none.

    Raises:
        ConfigError: there is one and `resume` is not set.
    """
    paths = list_checkpoints(run / "checkpoints")
    if paths and not resume:
        step = int(paths[-1].name.removeprefix(PREFIX))
        raise ConfigError(
            f"{run} holds a run already (step {step}); continue it with `resume`, or choose another `output`"
        )
    return paths[-1] if paths else None


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors and the info of a checkpoint."""
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return state, json.loads((path / "info.json").read_text())
