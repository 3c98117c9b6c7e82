"""Work on many shards: in this process, in several, or on a Ray cluster. What is done stays."""

from __future__ import annotations

import json
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..cluster import joined
from ..files import hash_path, write_atomically
from .shards import SCHEMA, write_shard

INDEX = "index.json"


@dataclass(frozen=True)
class Part(ABC):
    """One shard of a set, to be made: a tar file, and the record of what is in it. It travels to other processes."""

    number: int
    output: str
    """Folder of the set."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of all that decides what the shard holds."""

    @abstractmethod
    def make(self) -> None:
        """Make the shard, whole or not at all."""

    @property
    def path(self) -> Path:
        return Path(self.output) / f"shard-{self.number:05d}.tar"

    @property
    def record(self) -> Path:
        """Says what is in the tar, once it is whole."""
        return self.path.with_suffix(".json")

    def found(self) -> dict[str, Any] | None:
        """The record of a shard that is whole and up to date."""
        try:
            record: dict[str, Any] = json.loads(self.record.read_text("utf-8"))
            whole = record["fingerprint"] == self.fingerprint and self.path.stat().st_size == record["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if whole else None

    def write(self, samples: Iterator[dict[str, Any]], known: dict[str, Any]) -> None:
        """Write the tar, and the record, which is `known` as it is once all samples are made."""
        write_shard(self.path, samples)
        record = {
            "fingerprint": self.fingerprint,
            "file": self.path.name,
            "bytes": self.path.stat().st_size,
            "sha256": hash_path(self.path),
            **known,
        }
        write_json(self.record, record)


P = TypeVar("P", bound=Part)

_worker = 0


def worker_number() -> int:
    """Which of the processes of `carried_out` this is, from 0 on."""
    return _worker


def carried_out(jobs: Sequence[P], workers: int, ray: str | None = None, gpus: int = 0) -> Iterator[P]:
    """Make every job, and give each as it is done.

    Args:
        jobs: what to make.
        workers: processes.
        ray: address of a Ray cluster, or `local`; files must have the same paths on all of its machines.
        gpus: that each worker on the cluster wants.

    Raises:
        ClusterError: the cluster cannot be reached.
        RuntimeError: a worker or the cluster gave up.
    """
    return _on_ray(jobs, ray, workers, gpus) if ray else _here(jobs, workers)


def _here(jobs: Sequence[P], workers: int) -> Iterator[P]:
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            job.make()
            yield job
        return
    # A fresh process, for one that is forked from a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    numbers = context.Value("i", 0)
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_start, initargs=(numbers,))
    try:
        futures = {pool.submit(job.make): job for job in jobs}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker died, perhaps for lack of memory; the same command goes on from the shards that are done, with "
            "fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(numbers: Any) -> None:
    global _worker
    torch.set_num_threads(1)
    with numbers.get_lock():
        _worker = numbers.value
        numbers.value += 1


def _on_ray(jobs: Sequence[P], address: str, workers: int, gpus: int) -> Iterator[P]:
    if not jobs:
        return
    with joined(address, workers):
        import ray.data

        rows = [{"number": position} for position in range(len(jobs))]
        # One block a shard: that is what Ray hands out, and repeats when a worker dies.
        blocks = ray.data.from_items(rows, override_num_blocks=len(rows))
        made = blocks.map(_MakeOnRay(jobs), num_cpus=1, **({"num_gpus": gpus} if gpus else {}))
        for row in made.iter_rows():
            yield jobs[int(row["number"])]


class _MakeOnRay:
    """Makes the job that a row names."""

    def __init__(self, jobs: Sequence[Part]) -> None:
        self.jobs = jobs

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(1)
        job = self.jobs[int(row["number"])]
        if job.found() is None:
            job.make()
        return row


def write_index(folder: Path, parts: Sequence[Part], head: dict[str, Any]) -> dict[str, Any]:
    """Sum up the shards in index.json, and return what it says; shards and records of an earlier, longer set are
    removed."""
    records = [record for part in parts if (record := part.found()) is not None]
    samples = [sample for record in records for sample in record["samples"]]
    kinds = sorted({sample["kind"] for sample in samples})
    index = {
        "schema": SCHEMA,
        **head,
        "clips": len(samples),
        "kinds": {kind: sum(sample["kind"] == kind for sample in samples) for kind in kinds},
        "shards": [
            {name: record[name] for name in ("file", "bytes", "sha256")} | {"clips": len(record["samples"])}
            for record in records
        ],
        "failed": [failure for record in records for failure in record["failed"]],
    }
    if parts:
        ours = {name for part in parts for name in (part.path.name, part.record.name)}
        for path in folder.glob("shard-*"):
            if path.name not in ours:
                path.unlink()
        write_json(folder / INDEX, index)
    return index


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


__all__ = ["INDEX", "Part", "carried_out", "worker_number", "write_index", "write_json"]
