"""Which errors are a user's mistake, and how they are said."""

from __future__ import annotations

import traceback
from pathlib import Path

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""What torch and its libraries say then, under several types of error."""
PACKAGE = Path(__file__).parents[1]


def is_mistake(error: Exception) -> bool:
    """Whether the user can mend this: a usage error, a type of ours, or a ValueError that our code raised."""
    if hasattr(error, "format_message") or type(error).__module__.split(".")[0] == "layerflow":
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError) and bool(frames) and PACKAGE in Path(frames[-1].filename).parents


def exit_code(error: Exception) -> int:
    """2 for a user's mistake, else 1."""
    return 2 if is_mistake(error) else 1


def sentence(error: Exception) -> str:
    """An error in one line."""
    if hasattr(error, "format_message"):  # a usage error of Typer
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "layerflow"
        said = " ".join(error.format_message().split()).rstrip(".")
        return said and f"{said}; see `{command} --help`"
    said = " ".join(str(error).split()) or "no message"
    if is_mistake(error):
        return said
    if isinstance(error, MemoryError) or any(sign in said for sign in OUT_OF_MEMORY):
        return f"out of memory; try --memory low or --memory lowest, fewer --frames or a smaller --size ({said[:200]})"
    return f"{type(error).__name__}: {said} (LAYERFLOW_DEBUG=1 shows where)"
