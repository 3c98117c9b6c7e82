"""Processes forked from the studio's forkserver, which has imported the heavy modules.

They start in milliseconds, whereas a fresh interpreter imports for seconds. Tests of the start itself, of the installed
command or of `torchrun` need a fresh one.
"""

from collections.abc import Callable
from multiprocessing.process import BaseProcess

from torch.multiprocessing import start_processes

from layerflow.studio.sandbox import context


def fork(work: Callable[..., object], *values: object) -> BaseProcess:
    """Start `work(*values)`, a function of a module."""
    process = context().Process(target=work, args=values, daemon=True)
    process.start()
    return process


def fork_two(work: Callable[..., object], *values: object) -> None:
    """Run `work(rank, *values)` in two processes; if one fails, the other is killed and the error raised here."""
    start_processes(work, values, nprocs=2, start_method=context().get_start_method())
