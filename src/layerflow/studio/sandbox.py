"""Sandboxed child processes, which may crash, hang or run out of memory without harm to the studio.

Children are forked from a server process that has imported the heavy modules (multiprocessing's `forkserver`), so that
a child starts in milliseconds and inherits none of the studio's open files.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PRELOAD = ("layerflow.studio.runner", "layerflow.studio.decoding", "layerflow.media.export")


SLACK = 5.0
"""Extra seconds of wall-clock time for a child: to start, and for a busy machine."""
OUT_OF_MEMORY = "it needs more memory than its limit allows"


class ChildError(RuntimeError):
    """A child failed; the message is one sentence for the client."""


class ChildRefusedError(ChildError):
    """A child refused its arguments; the message says why."""


def context() -> Any:
    """Return the multiprocessing context in which children are started."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(list(PRELOAD))
    return chosen


def confined(work: Callable[..., Any], *values: Any, seconds: float, memory: int, bytes_written: int = 2**31) -> Any:
    """Return `work(*values)`, run in a child with limits on time, memory and the size of files.

    Args:
        work: function of a module, or another picklable callable.
        values: its arguments.
        seconds: limit of wall-clock and of CPU time.
        memory: limit in bytes of address space beyond that at the start of the child.
        bytes_written: limit in bytes of each file.

    Raises:
        ChildRefusedError: `work` raised a ValueError; the message is its first line.
        ChildError: it exceeded a limit, or it crashed.
    """
    spawning = context()
    ours, theirs = spawning.Pipe()
    child = spawning.Process(
        target=_confined_child, args=(theirs, work, values, seconds, memory, bytes_written), daemon=True
    )
    child.start()
    theirs.close()
    try:
        if not ours.poll(seconds + SLACK):
            raise ChildError(f"it took longer than {seconds:g} s and was stopped")
        kind, value = ours.recv()
    except EOFError:
        child.join(5)
        raise ChildError(_why(child.exitcode, seconds)) from None
    finally:
        stop(child)
        ours.close()
    if kind == "refused":
        raise ChildRefusedError(value)
    if kind == "failed":
        raise ChildError(value)
    return value


def stop(child: Any) -> None:
    """Kill a child, and reap it."""
    with contextlib.suppress(ValueError, OSError):
        if child.is_alive():
            child.kill()
        child.join(10)
        child.close()


def _why(exitcode: int | None, seconds: float) -> str:
    if exitcode == -getattr(signal, "SIGXCPU", 0):
        return f"it took longer than {seconds:g} s and was stopped"
    return f"its process crashed (exit code {exitcode})"


def _confined_child(
    connection: Connection, work: Callable[..., Any], values: tuple[Any, ...], seconds: float, memory: int, size: int
) -> None:
    from ..core.errors import first_line

    try:
        limit_resources(seconds, memory, size)
        answer: tuple[str, Any] = ("done", work(*values))
    except ValueError as error:
        answer = ("refused", first_line(error))
    except MemoryError:
        answer = ("failed", OUT_OF_MEMORY)
    except Exception as error:
        answer = ("failed", OUT_OF_MEMORY if "allocate memory" in str(error) else first_line(error))
    connection.send(answer)
    connection.close()
    sys.stdout.flush()
    os._exit(0)  # without exit handlers, and without waiting for threads of libraries


def limit_resources(seconds: float, memory: int, size: int) -> None:
    """Set limits on this process for good, as far as the system supports them."""
    import torch

    torch.set_num_threads(1)
    try:
        import resource
    except ImportError:  # not on Windows, where only the parent's clock limits the child
        return
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, int(used + seconds) + 2))
    with contextlib.suppress(OSError, ValueError):  # macOS has no limit of address space
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
