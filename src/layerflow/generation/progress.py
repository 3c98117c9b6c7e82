"""Progress of a long call; each front end shows it in its own way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Stage(Protocol):
    """One stage of the work."""

    def update(
        self, *, name: str | None = None, done: int | None = None, total: int | None = None, note: str | None = None
    ) -> None:
        """Show how much is done, or another name, total or note."""


class Progress(Protocol):
    """Receives notes and stages."""

    def note(self, message: str) -> None:
        """Show a sentence."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Stage]:
        """Show a stage of the work while the context lasts; `total` is its number of parts, if known."""


class Silent:
    """Progress that is not shown."""

    def update(
        self, *, name: str | None = None, done: int | None = None, total: int | None = None, note: str | None = None
    ) -> None:
        """Do nothing."""

    def note(self, message: str) -> None:
        """Do nothing."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Stage]:
        """Return a context that does nothing."""
        return nullcontext(self)


SILENT = Silent()
