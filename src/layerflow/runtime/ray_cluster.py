"""Connection to a Ray cluster."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from ..core.errors import UserError


class ClusterError(UserError):
    """A cluster that cannot be reached."""


@contextmanager
def joined(address: str, cpus: int) -> Iterator[None]:
    """Join the cluster at an address, or with `local` start one on this machine with this number of CPUs.

    While the context lasts, standard output goes to standard error: Ray prints there when a worker dies.

    Raises:
        ClusterError: the cluster cannot be reached.
        RuntimeError: an error of the cluster ended the work.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports without consent
    import ray
    from ray.data import DataContext

    local = {"num_cpus": cpus, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"`ray` {address}: no cluster could be reached there ({error}); or use `ray` local"
        ) from error
    try:
        DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        with redirect_stdout(sys.stderr):
            yield
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[-1]  # the lines above are the traceback of the worker
        raise RuntimeError(f"the cluster failed: {why}; finished jobs are kept") from error
    finally:
        ray.shutdown()
