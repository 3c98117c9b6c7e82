"""Errors that a user can fix, and any error as one line."""

from __future__ import annotations

import traceback
from pathlib import Path

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""Parts of the messages of torch and its libraries, under several types of error."""
PACKAGE = Path(__file__).parents[1]


class UserError(ValueError):
    """A request that cannot be carried out as given; the message names the value and the way out.

    Names of request fields stand in backquotes, so that each front end can write them its own way: `fps` is `--fps`
    on the command line.
    """


class FieldError(UserError):
    """A field of a request with a value that cannot be used.

    Args:
        field: name of the field, as in the request's dataclass.
        message: what is wrong with its value and the way out; read after the field's name.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field, self.message = field, message

    def __reduce__(self) -> tuple[type[FieldError], tuple[str, str]]:
        return type(self), (self.field, self.message)


def is_mistake(error: Exception) -> bool:
    """Return whether the user can fix an error: it is of a type of this package, or a ValueError raised in it."""
    if type(error).__module__.split(".")[0] == "layerflow":
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError) and bool(frames) and PACKAGE in Path(frames[-1].filename).parents


def sentence(error: Exception) -> str:
    """Return an error in one line; one that the user cannot fix with its type and how to see its traceback."""
    message = " ".join(str(error).split()) or "no message"
    if is_mistake(error):
        return message
    if isinstance(error, MemoryError) or any(sign in message for sign in OUT_OF_MEMORY):
        way_out = "set `memory` to low or lowest, or ask for fewer `frames` or a smaller `size`"
        return f"out of memory; {way_out} ({message[:200]})"
    return f"{type(error).__name__}: {message} (LAYERFLOW_DEBUG=1 shows where)"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where there is none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
