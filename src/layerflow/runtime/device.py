"""The device that a model runs on. This module imports no diffusers, so that `layerflow info` is quick."""

from __future__ import annotations

import torch

from ..core.errors import FieldError


def pick_device(name: str) -> str:
    """Return the name of an available device; `auto` is the first accelerator, else the CPU. Raises FieldError."""
    kind = name.split(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    try:
        torch.device(name)
    except RuntimeError:
        kind = ""
    if kind not in available:
        raise FieldError("device", f"{name} is not known; choose auto, cpu, cuda, cuda:1 or mps")
    if not available[kind]:
        raise FieldError("device", f"{name}: this machine has no {kind} that torch can use; choose auto or cpu")
    if kind == "cuda" and (torch.device(name).index or 0) >= torch.cuda.device_count():
        raise FieldError(
            "device", f"{name}: this machine has {torch.cuda.device_count()} cuda device(s), from cuda:0 on"
        )
    return name
