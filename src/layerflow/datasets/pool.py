"""Make many shards: in this process, in several, or on a Ray cluster. Finished shards are kept."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
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
from .shards import write_shard

INDEX = "index.json"
AHEAD = 4
"""Results per process that may be finished before their turn, so that a slow item keeps no process waiting."""
QUEUED = 2
"""Items submitted per process."""


@dataclass(frozen=True)
class Part(ABC):
    """One shard to make: a tar file and the record of its content. Sent to other processes by pickle."""

    number: int
    output: str
    """Folder of the set."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of everything that decides the shard's content."""

    @abstractmethod
    def make(self) -> None:
        """Make the shard, whole or not at all."""

    @property
    def path(self) -> Path:
        """Path of the tar."""
        return Path(self.output) / f"shard-{self.number:05d}.tar"

    @property
    def record(self) -> Path:
        """Path of the record, which is written once the tar is whole."""
        return self.path.with_suffix(".json")

    def found(self) -> dict[str, Any] | None:
        """Return the record of the shard; None unless it is whole and up to date."""
        try:
            record: dict[str, Any] = json.loads(self.record.read_text("utf-8"))
            whole = record["fingerprint"] == self.fingerprint and self.path.stat().st_size == record["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if whole else None

    def write(self, samples: Iterator[dict[str, Any]], content: dict[str, Any]) -> None:
        """Write the tar, then the record with `content`, which may still change while samples are made."""
        write_shard(self.path, samples)
        record = {
            "fingerprint": self.fingerprint,
            "file": self.path.name,
            "bytes": self.path.stat().st_size,
            "sha256": hash_path(self.path),
            **content,
        }
        write_json(self.record, record)


P = TypeVar("P", bound=Part)
T = TypeVar("T")
R = TypeVar("R")
Begun = deque[tuple[T, Future[R]]]
"""Items whose results have not been yielded yet, in order."""

_worker = 0


def worker_number() -> int:
    """Return the number of this process among those of `carried_out`, from 0."""
    return _worker


def carried_out(jobs: Sequence[P], workers: int, ray: str | None = None, gpus: int = 0) -> Iterator[P]:
    """Make every shard, and yield each when it is finished.

    Args:
        jobs: shards to make.
        workers: number of processes.
        ray: address of a Ray cluster, or `local`; files must have the same paths on all of its machines.
        gpus: GPUs that each worker on the cluster needs.

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
            "a worker died, perhaps for lack of memory; the same command continues after the finished shards; give it "
            "fewer `workers`"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def made_in_order(
    make: Callable[[T], R], items: Iterable[T], workers: int, lost: Callable[[T], R]
) -> Generator[R, None, None]:
    """Yield `make(item)` for each item in order, computed by several processes, or by this one for one worker.

    When a process dies, the items in work are made again one at a time, each in a separate process; `lost` gives the
    result of an item whose process dies then too. A few results per process are held in memory.

    Args:
        make: a function of a module, or a partial of one; its exceptions are raised here.
        items: arguments of `make`.
        workers: number of processes.
        lost: result for an item whose process dies.

    Raises:
        RuntimeError: processes die before they receive an item.
    """
    if workers == 1:
        yield from map(make, items)
        return
    todo, begun = iter(items), Begun[T, R]()
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
    """Yield results in order; raise BrokenProcessPool when a process dies, with unfinished items left in `begun`."""
    while True:
        waiting = sum(not future.done() for _, future in begun)
        for item in islice(todo, max(0, min(AHEAD * workers - len(begun), QUEUED * workers - waiting))):
            begun.append((item, Future()))  # so that it is not lost if the pool takes no more
            begun[-1] = (item, pool.submit(make, item))
        if not begun:
            return
        wait([future for _, future in begun if not future.done()], return_when=FIRST_COMPLETED)
        while begun and begun[0][1].done():
            made = begun[0][1].result()
            begun.popleft()
            yield made


def _made_alone(make: Callable[[T], R], begun: Begun[T, R], lost: Callable[[T], R]) -> Iterator[R]:
    """Yield the results of submitted items in order; those not finished are made one at a time."""
    pool: ProcessPoolExecutor | None = None
    try:
        while begun:
            item, future = begun.popleft()
            if future.done() and not future.cancelled() and future.exception() is None:
                yield future.result()
                continue
            if pool is None:
                pool = _pool(1)
                try:
                    pool.submit(int).result()
                except BrokenProcessPool as error:
                    raise RuntimeError("worker processes die as soon as they start; check their memory") from error
            try:
                made = pool.submit(make, item).result()
            except BrokenProcessPool:
                pool.shutdown()
                pool, made = None, lost(item)
            yield made
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Fresh processes: one that is forked from a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_start, initargs=(context.Value("i", 0),))


def _start(numbers: Any) -> None:
    global _worker
    _in_one_thread()
    with numbers.get_lock():
        _worker = numbers.value
        numbers.value += 1


def _in_one_thread() -> None:
    """Compute in one thread: there is one process per core."""
    torch.set_num_threads(1)
    with suppress(ImportError):  # precomputing needs no OpenCV
        import cv2

        cv2.setNumThreads(1)


def stopwatch() -> Callable[[], float]:
    """Start a clock; return a function that gives the share of all cores' time used since the start.

    Counted are this process and its child processes that have ended.
    """
    start = os.times()

    def busy() -> float:
        now = os.times()
        used = sum(now[:4]) - sum(start[:4])
        return used / ((os.cpu_count() or 1) * max(now.elapsed - start.elapsed, 1e-9))

    return busy


def remove_partial(folder: Path) -> None:
    """Remove unfinished shards and records that a killed process left."""
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _on_ray(jobs: Sequence[P], address: str, workers: int, gpus: int) -> Iterator[P]:
    if not jobs:
        return
    with joined(address, workers):
        import ray.data

        rows = [{"number": position} for position in range(len(jobs))]
        # One block per shard: Ray hands out blocks, and repeats them when a worker dies.
        blocks = ray.data.from_items(rows, override_num_blocks=len(rows))
        made = blocks.map(_MakeOnRay(jobs), num_cpus=1, **({"num_gpus": gpus} if gpus else {}))
        for row in made.iter_rows():
            yield jobs[int(row["number"])]


class _MakeOnRay:
    """Makes the shard whose number is in a row."""

    def __init__(self, jobs: Sequence[Part]) -> None:
        self.jobs = jobs

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        _in_one_thread()
        job = self.jobs[int(row["number"])]
        if job.found() is None:
            job.make()
        return row


def write_index(folder: Path, parts: Sequence[Part], head: dict[str, Any]) -> dict[str, Any]:
    """Write index.json from the shards' records and return it; remove shards and records of an earlier, longer set."""
    records = [record for part in parts if (record := part.found()) is not None]
    samples = [sample for record in records for sample in record["samples"]]
    kinds = sorted({sample["kind"] for sample in samples})
    index = {
        "schema": max((sample.get("schema", 1) for sample in samples), default=1),
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
    "INDEX",
    "Part",
    "carried_out",
    "made_in_order",
    "remove_partial",
    "stopwatch",
    "worker_number",
    "write_index",
    "write_json",
]
