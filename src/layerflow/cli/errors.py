"""Errors on the command line: one sentence, with fields of a request written as options, and an exit code."""

from __future__ import annotations

import re

from ..core import errors
from ..core.errors import FieldError, is_mistake

FIELD = re.compile(r"`([a-z][a-z0-9_]*)`")
"""A field of a request in a message."""
NAMES = {"formats": "--format", "output": "-o"}
"""Options that are named differently from their field."""


def as_option(text: str) -> str:
    """Return a message with fields in backquotes written as options: `fps` becomes --fps."""
    return FIELD.sub(lambda match: _option(match[1]), text)


def _option(field: str) -> str:
    return NAMES.get(field, "--" + field.replace("_", "-"))


def exit_code(error: Exception) -> int:
    """Return 2 for a user's mistake, else 1."""
    return 2 if hasattr(error, "format_message") or is_mistake(error) else 1


def sentence(error: Exception) -> str:
    """Return an error in one line."""
    if hasattr(error, "format_message"):  # a usage error of Typer
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "layerflow"
        message = " ".join(error.format_message().split()).rstrip(".")
        return message and f"{message}; see `{command} --help`"
    if isinstance(error, FieldError):
        return as_option(f"{_option(error.field)} {' '.join(error.message.split())}")
    return as_option(errors.sentence(error))
