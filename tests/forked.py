"""Processes of a test's own, forked from the studio's server of children, which has the imports done.

So one starts in milliseconds, where a fresh interpreter imports for seconds. A test of the start itself, of the command
as it is installed or of `torchrun` wants a fresh one.
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
    """Run `work(rank, *values)` twice at once; where one ends badly the other is ended and the error raised here."""
    start_processes(work, values, nprocs=2, start_method=context().get_start_method())
