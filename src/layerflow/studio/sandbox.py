"""Child processes: they may crash, hang or eat memory, and the studio goes on.

Children are forked from a server process that has the heavy imports done and nothing else (multiprocessing's
`forkserver`), so that one starts in milliseconds and holds none of the studio's open files.
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
"""Seconds of wall clock that a child gets beside those of its work: to start, and where the machine is busy."""


class ChildError(RuntimeError):
    """A child did not do its work; the message is one sentence for the person who asked."""


class ChildRefusedError(ChildError):
    """What was asked for is at fault, and the message says how."""


def context() -> Any:
    """How children are started here."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(list(PRELOAD))
    return chosen


def confined(work: Callable[..., Any], *values: Any, seconds: float, memory: int, bytes_written: int = 2**31) -> Any:
    """What `work(*values)` returns, run in a child with limits on time, memory and the size of files.

    Args:
        work: a function of a module, or anything else that can be pickled.
        values: its arguments.
        seconds: of wall clock, and of CPU.
        memory: bytes of address space beyond what the child starts with.
        bytes_written: of one file.

    Raises:
        ChildRefusedError: `work` raised a ValueError, whose first line this says.
        ChildError: it took too long or too much, or it crashed.
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
    """End a child for certain, and leave no zombie."""
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
        answer = ("failed", "it wants more memory than there is for it")
    except Exception as error:
        short = "allocate memory" in str(error)
        answer = ("failed", "it wants more memory than there is for it" if short else first_line(error))
    connection.send(answer)
    connection.close()
    sys.stdout.flush()
    os._exit(0)  # libraries' threads and exit handlers have nothing to do here


def limit_resources(seconds: float, memory: int, size: int) -> None:
    """Bound this process for good, where the system can."""
    import torch

    torch.set_num_threads(1)
    try:
        import resource
    except ImportError:  # Windows has none; there the parent's clock is all
        return
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, int(used + seconds) + 2))
    with contextlib.suppress(OSError, ValueError):  # macOS knows no limit of address space
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
