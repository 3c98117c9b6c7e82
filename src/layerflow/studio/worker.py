"""Worker process that holds a model and runs one job after another, supervised from outside."""

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
"""Seconds between checks of a running process."""
GRACE = 10.0
"""Seconds that a cancelled job has to end by itself before its process is stopped."""


class CancelledError(Exception):
    """The job was cancelled."""


class Work(Protocol):
    """Function that runs a job: writes into its folder, reports progress, returns the result for the manifest."""

    def __call__(
        self, folder: Path, request: dict[str, Any], report: Callable[..., None], cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Run a job; raises `CancelledError` soon after `cancelled()` turns true."""


Start = Callable[[], Work]
"""Function that loads the model. It is called in the worker process, so it must be picklable."""


class Worker:
    """Runs `Work` in a process that is started on demand."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._child: Any = None
        self._connection: Any = None

    @property
    def pid(self) -> int | None:
        """Id of the process; None if there is none."""
        return self._child.pid if self._child is not None else None

    def warm_up(self) -> None:
        """Start the process, so that it loads before the first job."""
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
        """Run a job and return its result.

        Args:
            folder: folder of the job.
            request: request of the job.
            report: receives progress.
            stopping: event that cancels the job.
            seconds: time limit in seconds.
            memory: limit in bytes of the memory that the process may hold.

        Raises:
            CancelledError: the job was cancelled.
            ChildError: the job failed, exceeded a limit or crashed; the process is replaced after the last two.
        """
        self.warm_up()
        deadline, cancelled_at = time.monotonic() + seconds, None
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
                if stopping.is_set() and cancelled_at is None:
                    cancelled_at = now
                    self._connection.send("cancel")
                if cancelled_at is not None and now - cancelled_at > GRACE:
                    self.close()
                    raise CancelledError
                if now > deadline:
                    self.close()
                    raise ChildError(
                        f"it took longer than the {seconds:g} s that a job may take and was stopped; request fewer "
                        "frames or steps, or a smaller size"
                    )
                if (held := resident_bytes(self.pid)) > memory:
                    self.close()
                    raise ChildError(
                        f"it held {held / 2**30:.1f} GiB of memory, more than the {memory / 2**30:.1f} GiB that a job "
                        "may hold, and was stopped; request fewer frames or a smaller size"
                    )
        except (EOFError, OSError) as error:
            code = self._exit_code()
            self.close()
            raise ChildError(f"its process died (exit code {code}); try again, or request less") from error

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
    """Return the main memory that a process holds, in bytes; 0 if it does not exist."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def serve(connection: Connection, start: Start) -> None:
    """Load the model, then run one job after another until the studio closes the connection."""
    work: Work | None = None
    broken = ""
    try:
        work = start()
    except Exception as error:
        broken = message_of(error)
    while True:
        try:
            message = connection.recv()
            if message == "cancel":  # for a job that has already ended
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
    except (EOFError, BrokenPipeError):  # the studio has ended
        raise
    except Exception as error:
        if not isinstance(error, ValueError):
            traceback.print_exc()
        return "failed", message_of(error, folder)


def message_of(error: Exception, folder: Path | None = None) -> str:
    """Return an error in one sentence for a client, without paths and without command-line options."""
    message = sentence(error).replace("`", "")
    return message.replace(f"{folder}/", "") if folder is not None else message
