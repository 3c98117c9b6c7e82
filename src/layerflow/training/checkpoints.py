"""Checkpoints that are whole or absent: written under another name, flushed to disk, then renamed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ..core.atomic import whole_folder

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
    """Whole checkpoints, oldest first; what a killed run left half-written is not among them."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / "info.json").exists())


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors and the info of a checkpoint."""
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return state, json.loads((path / "info.json").read_text())
