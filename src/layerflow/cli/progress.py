"""Progress on the terminal, on stderr so that results on stdout can be piped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .errors import as_option

console = Console(stderr=True, highlight=False)


def progress_bar() -> Progress:
    """Return a bar that shows progress, elapsed and remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def say(message: str) -> None:
    """Print a note on stderr."""
    print(message, file=sys.stderr)


class Terminal:
    """Shows the stages of `layerflow.generation`: a spinner, or rows of one bar if they have a total or are nested."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def note(self, message: str) -> None:
        """Print a sentence."""
        say(as_option(message))

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Row]:
        """Show a stage while the context lasts."""
        if self._bar is not None:
            task = self._bar.add_task(name, total=total, note="")
            yield Row(self._bar, task)
            self._bar.remove_task(task)
        elif total is None:
            with console.status(name):
                yield Row(None, None)
        else:
            with progress_bar() as self._bar:
                try:
                    yield Row(self._bar, self._bar.add_task(name, total=total, note=""))
                finally:
                    self._bar = None


class Row:
    """A row of a bar, or a stage under a spinner."""

    def __init__(self, bar: Progress | None, task: TaskID | None) -> None:
        self.bar, self.task = bar, task

    def update(
        self, *, name: str | None = None, done: int | None = None, total: int | None = None, note: str | None = None
    ) -> None:
        """Show how much is done, or another name, total or note."""
        if self.bar is None or self.task is None:
            return
        if total is not None:
            self.bar.reset(self.task, total=total)
        self.bar.update(self.task, description=name, completed=done)
        if note is not None:
            self.bar.update(self.task, note=note)
