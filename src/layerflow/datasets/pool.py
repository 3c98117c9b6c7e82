"""Work on many shards: in this process, in several, or on a Ray cluster. What is done stays."""

from __future__ import annotations

import json
import multiprocessing
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..core.atomic import hash_path, write_atomically
from ..runtime.ray_cluster import joined
from .shards import SCHEMA, write_shard

INDEX = "index.json"
AHEAD = 4
"""Things for each process that are kept made before their turn, so that a slow one keeps no process waiting."""
QUEUED = 2
"""Things for each process that it has or may have begun."""


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
T = TypeVar("T")
R = TypeVar("R")
Begun = deque[tuple[T, Future[R]]]
"""Things whose results have not been given yet, in order."""

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
    for folder in {job.output for job in jobs}:
        remove_partial(Path(folder))
    return _on_ray(jobs, ray, workers, gpus) if ray else _here(jobs, workers)


def _here(jobs: Sequence[P], workers: int) -> Iterator[P]:
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            job.make()
            yield job
        return
    pool = _pool(min(workers, len(jobs)))
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


def made_in_order(
    make: Callable[[T], R], things: Iterable[T], workers: int, lost: Callable[[T], R]
) -> Generator[R, None, None]:
    """What `make` makes of each thing, in the order of the things, by so many processes; by this one if it is one.

    When a process dies, the things that were in work are made again one at a time in a process of their own, and of the
    one that ends that too `lost` says what there is instead. In memory are a few results for each process.

    Args:
        make: a function of a module, or a partial of one; what it raises is raised here.
        things: what to make something of.
        workers: processes.
        lost: says what stands for a thing whose process dies.

    Raises:
        RuntimeError: processes die before they are given anything.
    """
    if workers == 1:
        yield from map(make, things)
        return
    todo, begun = iter(things), Begun[T, R]()
    while True:
        pool = _pool(workers)
        try:
            yield from _made_together(pool, make, todo, begun, workers)
            return
        except BrokenProcessPool:
            pass
        finally:
            pool.shutdown(cancel_futures=True)
        yield from _made_alone(make, begun, lost)


def _made_together(
    pool: ProcessPoolExecutor, make: Callable[[T], R], todo: Iterator[T], begun: Begun[T, R], workers: int
) -> Iterator[R]:
    """Results in order; raises BrokenProcessPool when a process dies, and leaves in `begun` what was not given yet."""
    while True:
        waiting = sum(not future.done() for _, future in begun)
        for thing in islice(todo, max(0, min(AHEAD * workers - len(begun), QUEUED * workers - waiting))):
            begun.append((thing, Future()))  # so that it is not lost if the pool takes no more
            begun[-1] = (thing, pool.submit(make, thing))
        if not begun:
            return
        wait([future for _, future in begun if not future.done()], return_when=FIRST_COMPLETED)
        while begun and begun[0][1].done():
            made = begun[0][1].result()
            begun.popleft()
            yield made


def _made_alone(make: Callable[[T], R], begun: Begun[T, R], lost: Callable[[T], R]) -> Iterator[R]:
    """Results that are there already, and those that are not, made one at a time."""
    pool: ProcessPoolExecutor | None = None
    try:
        while begun:
            thing, future = begun.popleft()
            if future.done() and not future.cancelled() and future.exception() is None:
                yield future.result()
                continue
            if pool is None:
                pool = _pool(1)
                try:
                    pool.submit(int).result()
                except BrokenProcessPool as error:
                    raise RuntimeError("worker processes die as soon as they start; look at their memory") from error
            try:
                made = pool.submit(make, thing).result()
            except BrokenProcessPool:
                pool.shutdown()
                pool, made = None, lost(thing)
            yield made
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Fresh processes, for one that is forked from a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_start, initargs=(context.Value("i", 0),))


def _start(numbers: Any) -> None:
    global _worker
    _in_one_thread()
    with numbers.get_lock():
        _worker = numbers.value
        numbers.value += 1


def _in_one_thread() -> None:
    """This process computes in one thread, for there is one for each core."""
    torch.set_num_threads(1)
    with suppress(ImportError):  # precomputing does without
        import cv2

        cv2.setNumThreads(1)


def stopwatch() -> Callable[[], float]:
    """Started now; says, when it is called, which share of all cores' time has been used since by this process and its
    children that have ended."""
    start = os.times()

    def busy() -> float:
        now = os.times()
        used = sum(now[:4]) - sum(start[:4])
        return used / ((os.cpu_count() or 1) * max(now.elapsed - start.elapsed, 1e-9))

    return busy


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left of shards and records that it had not finished."""
    for path in folder.glob(".*.partial.*"):
        path.unlink(missing_ok=True)


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
        _in_one_thread()
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


__all__ = [
    "INDEX", "Part", "carried_out", "made_in_order", "remove_partial", "stopwatch", "worker_number", "write_index",
    "write_json",
]  # fmt: skip
