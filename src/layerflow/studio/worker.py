"""A process that holds a model and does one job after another, watched from outside."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from ..core.errors import sentence
from .sandbox import ChildError, context, stop

TICK = 0.1
"""Seconds between looks at a working process."""
GRACE = 10.0
"""Seconds that a job has to end by itself when it is cancelled; then its process is stopped."""


class CancelledError(Exception):
    """The job was cancelled."""


class Work(Protocol):
    """Does a job: writes into its folder, reports on the way, returns what the manifest keeps of the result."""

    def __call__(
        self, folder: Path, request: dict[str, Any], report: Callable[..., None], cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Raises `CancelledError` soon after `cancelled()` turns true."""


Start = Callable[[], Work]
"""Loads what the work needs. Called in the process, so it must be picklable."""


class Worker:
    """Runs `Work` in a process of its own, which is started when it is needed."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._child: Any = None
        self._connection: Any = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._child.pid if self._child is not None else None

    def warm_up(self) -> None:
        """Start the process, so that it has loaded when the first job comes."""
        if self._child is not None and self._child.is_alive():
            return
        self.close()
        spawning = context()
        self._connection, theirs = spawning.Pipe()
        self._child = spawning.Process(target=serve, args=(theirs, self._start), daemon=True)
        self._child.start()
        theirs.close()

    def run(
        self,
        folder: Path,
        request: dict[str, Any],
        report: Callable[[dict[str, Any]], None],
        stopping: Event,
        seconds: float,
        memory: int,
    ) -> dict[str, Any]:
        """Do a job and return its result.

        Args:
            folder: the job's.
            request: what is asked for.
            report: told of progress.
            stopping: set to cancel the job.
            seconds: most that it may take.
            memory: most bytes that its process may hold.

        Raises:
            CancelledError: it was cancelled.
            ChildError: it failed, took too long or too much, or crashed; the process is fresh after the last three.
        """
        self.warm_up()
        deadline, asked = time.monotonic() + seconds, None
        try:
            self._connection.send((str(folder), request))
            while True:
                if self._connection.poll(TICK):
                    kind, value = self._connection.recv()
                    if kind == "progress":
                        report(value)
                    elif kind == "done":
                        return dict(value)
                    elif kind == "cancelled":
                        raise CancelledError
                    else:
                        raise ChildError(value)
                now = time.monotonic()
                if stopping.is_set() and asked is None:
                    asked = now
                    self._connection.send("cancel")
                if asked is not None and now - asked > GRACE:
                    self.close()
                    raise CancelledError
                if now > deadline:
                    self.close()
                    raise ChildError(
                        f"it took longer than the {seconds:g} s that a job may take and was stopped; ask for fewer "
                        "frames or steps, or a smaller size"
                    )
                if (held := resident_bytes(self.pid)) > memory:
                    self.close()
                    raise ChildError(
                        f"it held {held / 2**30:.1f} GiB of memory, more than the {memory / 2**30:.1f} GiB that a job "
                        "may hold, and was stopped; ask for fewer frames or a smaller size"
                    )
        except (EOFError, OSError) as error:
            code = self._exit_code()
            self.close()
            raise ChildError(f"its process died (exit code {code}); try again, or ask for less") from error

    def kill(self) -> None:
        """End the process from another thread; a job that runs in it fails."""
        child = self._child
        if child is not None:
            with contextlib.suppress(ValueError, OSError):
                child.kill()

    def close(self) -> None:
        """End the process; a later job starts another."""
        if self._child is not None:
            stop(self._child)
            self._connection.close()
        self._child = self._connection = None

    def _exit_code(self) -> int | None:
        self._child.join(5)
        return self._child.exitcode


def resident_bytes(pid: int | None) -> int:
    """Main memory that a process holds; 0 when it is gone."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def serve(connection: Connection, start: Start) -> None:
    """What the process does: load, then one job after another, until the studio is gone."""
    work: Work | None = None
    broken = ""
    try:
        work = start()
    except Exception as error:
        broken = message_of(error)
    while True:
        try:
            message = connection.recv()
            if message == "cancel":  # for a job that has ended meanwhile
                continue
            folder, request = message
            connection.send(_attempt(work, broken, Path(folder), request, connection))
        except (EOFError, OSError):
            return


def _attempt(
    work: Work | None, broken: str, folder: Path, request: dict[str, Any], connection: Connection
) -> tuple[str, Any]:
    if work is None:
        return "failed", f"the model cannot be used: {broken}"
    try:
        return "done", work(
            folder,
            request,
            lambda **progress: connection.send(("progress", progress)),
            lambda: connection.poll(0) and connection.recv() == "cancel",
        )
    except CancelledError:
        return "cancelled", None
    except (EOFError, BrokenPipeError):  # the studio is gone
        raise
    except Exception as error:
        if not isinstance(error, ValueError):
            traceback.print_exc()
        return "failed", message_of(error, folder)


def message_of(error: Exception, folder: Path | None = None) -> str:
    """Return an error in one sentence for a client, who knows neither paths nor options of the command line."""
    message = sentence(error).replace("`", "")
    return message.replace(f"{folder}/", "") if folder is not None else message
