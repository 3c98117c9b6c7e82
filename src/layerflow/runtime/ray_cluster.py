"""A Ray cluster, joined for as long as a piece of work takes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from ..core.errors import UserError


class ClusterError(UserError):
    """There is no such cluster; one sentence that says so."""


@contextmanager
def joined(address: str, cpus: int) -> Iterator[None]:
    """Join the cluster at an address, or with `local` one of this machine's own with so many CPUs, quietly.

    While it lasts, standard output is standard error: Ray prints there when a worker dies.

    Raises:
        ClusterError: it cannot be reached.
        RuntimeError: an error of the cluster ended the work.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone unasked
    import ray
    from ray.data import DataContext

    local = {"num_cpus": cpus, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"--ray {address}: no cluster could be reached there ({error}); or use --ray local"
        ) from error
    try:
        DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        with redirect_stdout(sys.stderr):
            yield
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[-1]  # above it stands the trace of the worker
        raise RuntimeError(f"the cluster gave up: {why}; what is done stays done") from error
    finally:
        ray.shutdown()
