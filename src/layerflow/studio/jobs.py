"""Job queue: jobs wait, run in worker processes, and are kept for a while. Independent of any web framework."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .limits import Limits
from .sandbox import ChildError
from .store import ENDED, IDENTIFIER, RUNNING, WAITING, Job, Store, new_identifier
from .worker import CancelledError, Start, Worker

INTERRUPTED = "the studio was stopped while this job ran; run it again"
SWEEP_SECONDS = 60.0


class QueueFullError(Exception):
    """The queue has reached its limit."""


class UnknownJobError(Exception):
    """There is no job with this id; it may have expired."""


class JobQueue:
    """Queue of jobs in order of arrival, at most `limits.concurrency` of them running.

    Jobs outlive the server, in the work folder. After a restart, jobs that were running are `interrupted`, and those
    that were waiting wait again.
    """

    def __init__(self, store: Store, start: Start, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            store: the work folder.
            start: loads, in a worker's process, what does the jobs.
            limits: see `Limits`.
            clock: seconds since 1970.
        """
        self.store, self.limits, self._clock = store, limits, clock
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        for job in store.load():
            self._jobs[job.id] = job
            if job.state == RUNNING:
                self._end(job, "interrupted", INTERRUPTED)
        self.workers = [Worker(start) for _ in range(limits.concurrency)]
        self._threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in self.workers]
        self._threads.append(threading.Thread(target=self._sweep_periodically, daemon=True))
        for thread in self._threads:
            thread.start()

    def submit(self, request: dict[str, Any], session: str = "", given: Mapping[str, Path] | None = None) -> Job:
        """Add a job; raises QueueFullError.

        Args:
            request: request for the worker.
            session: session that it belongs to.
            given: files of given clips, by the names that its folder keeps them under.
        """
        with self._changed:
            if sum(job.state == WAITING for job in self._jobs.values()) >= self.limits.queue:
                raise QueueFullError(f"{self.limits.queue} jobs wait already; try again in a moment")
            job = Job(new_identifier(), request, session, created=self._clock())
            self.store.add(job, dict(given or {}))
            self._jobs[job.id] = job
            self._changed.notify_all()
        return job

    def get(self, identifier: str) -> Job:
        """Return the job with an id; raises UnknownJobError."""
        with self._changed:
            job = self._jobs.get(identifier) if IDENTIFIER.fullmatch(identifier) else None
        if job is None:
            raise UnknownJobError("there is no such job; it may have expired")
        return job

    def jobs(self, session: str | None = None) -> list[Job]:
        """Return all jobs, or those of a session, newest first."""
        with self._changed:
            jobs = [job for job in self._jobs.values() if session is None or job.session == session]
        return sorted(jobs, key=lambda job: job.created, reverse=True)

    def place_in_queue(self, job: Job) -> int:
        """Return the number of jobs that wait before this one."""
        with self._changed:
            return sum(other.state == WAITING and other.created < job.created for other in self._jobs.values())

    def cancel(self, identifier: str) -> Job:
        """Stop a running job, or take a waiting one out of the queue; a job that has ended is not changed."""
        job = self.get(identifier)
        with self._changed:
            job.stopping.set()
            if job.state == WAITING:
                self._end(job, "cancelled")
        return job

    def remove(self, identifier: str) -> None:
        """Delete a job that has ended, with its files; cancel one that has not, which stays until it ends."""
        job = self.cancel(identifier)
        with self._changed:
            if job.state not in ENDED:
                return
            del self._jobs[job.id]
        self.store.remove(job)

    def sweep(self) -> None:
        """Remove ended jobs that are too old or too many."""
        with self._changed:
            ended = sorted((j for j in self._jobs.values() if j.state in ENDED), key=lambda job: -(job.ended or 0))
            oldest = self._clock() - self.limits.keep_seconds
            gone = [j for n, j in enumerate(ended) if (j.ended or 0) < oldest or n >= self.limits.keep_jobs]
            for job in gone:
                del self._jobs[job.id]
        for job in gone:
            self.store.remove(job)

    def warm_up(self) -> None:
        """Start all workers, so that they load the model."""
        for worker in self.workers:
            worker.warm_up()

    def close(self) -> None:
        """Stop the workers at once. Running jobs become `interrupted` when the folder is opened again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self.workers:
            worker.kill()
        for thread in self._threads:
            thread.join(10)
        for worker in self.workers:
            worker.close()
        self.store.close()

    def _work(self, worker: Worker) -> None:
        while (job := self._next()) is not None:
            try:
                result = worker.run(
                    self.store.place(job),
                    job.request,
                    job.progress.update,
                    job.stopping,
                    self.limits.job_seconds,
                    self.limits.job_memory,
                )
                outcome: tuple[str, str, dict[str, Any]] = "done", "", result
            except CancelledError:
                outcome = "cancelled", "", {}
            except ChildError as error:
                outcome = "failed", str(error), {}
            except Exception as error:  # a bug here fails the job, but not the queue
                outcome = "failed", f"internal error of the studio: {type(error).__name__}", {}
            with self._changed:
                if self._closed:
                    return
                self._end(job, *outcome)

    def _next(self) -> Job | None:
        """Wait for the next job, mark it as running and return it; None when the queue is closed."""
        with self._changed:
            while not self._closed:
                waiting = [job for job in self._jobs.values() if job.state == WAITING]
                if waiting:
                    job = min(waiting, key=lambda job: job.created)
                    job.state, job.started = RUNNING, self._clock()
                    self._save(job)
                    return job
                self._changed.wait()
        return None

    def _end(self, job: Job, state: str, error: str = "", result: dict[str, Any] | None = None) -> None:
        job.state, job.error, job.result, job.ended = state, error, result or {}, self._clock()
        self._save(job)

    def _save(self, job: Job) -> None:
        try:
            self.store.save(job)
        except OSError as error:  # a full disk: continue with the state in memory
            print(f"layerflow studio: the manifest of {job.id} cannot be written ({error.strerror})", file=sys.stderr)

    def _sweep_periodically(self) -> None:
        while True:
            with self._changed:
                if self._closed or (self._changed.wait_for(lambda: self._closed, SWEEP_SECONDS)):
                    return
            self.sweep()
