"""Jobs on a Ray cluster: Ray Data distributes them to workers, each of which holds the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..core.errors import FieldError, UserError
from ..models.folders import BUNDLED
from ..runtime.ray_cluster import joined
from . import load as models
from .jobs import Job, Outcome
from .load import LoadedModel, load_model
from .request import ModelOptions

Attempt = Callable[[Job, LoadedModel], Outcome]
"""A function of a module that runs one job; errors are its outcome."""


def run_on_ray(
    attempt: Attempt, jobs: list[Job], options: ModelOptions, sha256: str, address: str, workers: int | None
) -> Iterator[Outcome]:
    """Run jobs on the cluster at `address`, or with `local` on a new one on this machine.

    Files and model folder must have the same paths on all machines. A job whose worker dies is given to another
    worker. Ray may run a job twice; a job that is done is skipped then.

    Raises:
        ClusterError: there is no such cluster.
        UserError: the cluster does not have the requested device.
    """
    if options.device not in ("auto", "cpu", "cuda"):
        raise FieldError("device", f"{options.device}: on a cluster choose auto, cpu or cuda; Ray assigns the GPUs")
    with joined(address, max(os.cpu_count() or 1, workers or 1)):
        import ray.data

        gpus = int(ray.cluster_resources().get("GPU", 0)) if options.device != "cpu" else 0
        if options.device == "cuda" and not gpus:
            raise FieldError("device", f"cuda: the cluster at {address} has no GPU; choose auto or cpu")
        # One block per job: a block is the unit that Ray distributes, retries when a worker dies, and reports.
        outcomes = ray.data.from_items(
            [{"index": index} for index in range(len(jobs))], override_num_blocks=len(jobs)
        ).map_batches(
            Worker,
            fn_constructor_args=(attempt, jobs, options, sha256, _place(options.model), "cuda" if gpus else "cpu"),
            batch_size=1,
            # No job is queued at a busy worker while another one is idle.
            compute=ray.data.ActorPoolStrategy(size=workers or max(1, gpus), max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        for batch in outcomes.iter_batches(batch_size=None, prefetch_batches=0):
            for index, error in zip(batch["index"], batch["error"], strict=True):
                yield Outcome(jobs[int(index)], str(error))


def _place(model: str) -> str:
    """Return a name by which workers find the model: their working directory differs."""
    return os.path.abspath(model) if model not in BUNDLED and Path(model).is_dir() else model


class Worker:
    """Actor that holds the model and runs jobs, selected by their index."""

    def __init__(
        self, attempt: Attempt, jobs: list[Job], options: ModelOptions, sha256: str, place: str, device: str
    ) -> None:
        folder = models.model_folder(place)
        if models.model_hash(folder) != sha256:
            raise UserError(f"model {options.model} on this worker is another than where the batch was started")
        self.attempt, self.jobs = attempt, jobs
        self.model = load_model(options, folder, models.model_facts(folder), sha256, device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run the jobs of a batch; return their indices and errors, empty texts for those without."""
        errors = [self.attempt(self.jobs[int(index)], self.model).error for index in batch["index"]]
        return {"index": batch["index"], "error": errors}
