"""The queue: order, bounds, faults, and what outlives the server."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import studio_works as works
from conftest import until
from hypothesis import given
from hypothesis import strategies as st

from layerflow.studio import worker
from layerflow.studio.jobs import JobQueue, QueueFullError, UnknownJobError
from layerflow.studio.limits import Limits
from layerflow.studio.store import ENDED, Job, Store, WorkFolderError, read_manifest


@contextmanager
def opened(folder: Path, start: worker.Start = works.start, **limits: float) -> Iterator[JobQueue]:
    queue = JobQueue(Store(folder), start, Limits(**limits))  # type: ignore[arg-type]
    try:
        yield queue
    finally:
        queue.close()


def ended(queue: JobQueue, job: Job) -> Job:
    until(lambda: job.state in ENDED)
    return queue.get(job.id)


def test_job_is_done_and_its_files_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as queue:
        job = ended(queue, queue.submit({"do": "succeed"}))
        assert (job.state, job.error) == ("done", "")
        assert (queue.store.place(job) / "made").read_text() == "whole"
        assert job.progress == {"stage": "working", "step": 3, "steps": 3}
        assert job.created <= (job.started or 0) <= (job.ended or 0)


def test_jobs_run_in_order_and_the_queue_is_limited(tmp_path: Path) -> None:
    with opened(tmp_path, queue=2) as queue:
        first = queue.submit({"do": "wait"})
        until(lambda: first.state == "running")
        waiting = [queue.submit({"do": "succeed"}) for _ in range(2)]
        assert [queue.place_in_queue(job) for job in waiting] == [0, 1]
        with pytest.raises(QueueFullError, match="2 jobs wait already"):
            queue.submit({"do": "succeed"})
        queue.cancel(first.id)
        one, two = (ended(queue, job) for job in waiting)
        assert (one.ended or 0) <= (two.started or 0)
        assert len(list(queue.store.jobs.iterdir())) == 3


def test_concurrency_is_limited(tmp_path: Path) -> None:
    with opened(tmp_path, concurrency=2) as queue:
        jobs = [queue.submit({"do": "wait"}) for _ in range(3)]
        until(lambda: sum((queue.store.place(job) / "started").exists() for job in jobs) == 2)
        assert [job.state for job in jobs] == ["running", "running", "queued"]
        for job in jobs:
            queue.cancel(job.id)
        assert [ended(queue, job).state for job in jobs] == ["cancelled"] * 3


def test_waiting_and_running_jobs_can_be_cancelled(tmp_path: Path) -> None:
    with opened(tmp_path) as queue:
        running, waiting = queue.submit({"do": "wait"}), queue.submit({"do": "wait"})
        until(lambda: (queue.store.place(running) / "started").exists())
        assert queue.cancel(waiting.id).state == "cancelled"
        pid = queue.workers[0].pid
        queue.cancel(running.id)
        assert ended(queue, running).state == "cancelled"
        after = ended(queue, queue.submit({"do": "succeed"}))
        assert after.result == {"pid": pid}  # the model stays loaded


def test_unresponsive_job_is_killed_on_cancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "GRACE", 0.2)
    with opened(tmp_path) as queue:
        job = queue.submit({"do": "wait deaf"})
        until(lambda: (queue.store.place(job) / "started").exists())
        queue.cancel(job.id)
        assert ended(queue, job).state == "cancelled"
        assert ended(queue, queue.submit({"do": "succeed"})).state == "done"


@pytest.mark.parametrize(
    ("deed", "limits", "message"),
    [
        ("refuse", {}, "the clip is too short; take a longer one"),
        ("break down", {}, "RuntimeError: boom"),
        ("crash", {}, "its process died .exit code 3."),
        ("wait deaf", {"job_seconds": 0.3}, "took longer than the 0.3 s"),
        ("swell", {"job_memory": 2**20}, "held .* of memory, more than"),
    ],
)
def test_failed_job_says_why_and_the_next_one_runs(
    tmp_path: Path, deed: str, limits: dict[str, float], message: str
) -> None:
    with opened(tmp_path, **limits) as queue:
        job = ended(queue, queue.submit({"do": deed}))
        assert job.state == "failed"
        assert re.search(message, job.error), job.error
    with opened(tmp_path) as queue:
        assert queue.get(job.id).error == job.error
        assert ended(queue, queue.submit({"do": "succeed"})).state == "done"


def test_queue_survives_a_crash(tmp_path: Path) -> None:
    with opened(tmp_path) as queue:
        jobs = [queue.submit({"do": deed}) for deed in ("crash", "succeed")]
        assert [ended(queue, job).state for job in jobs] == ["failed", "done"]


def test_jobs_fail_if_the_model_does_not_load(tmp_path: Path) -> None:
    with opened(tmp_path, works.start_broken) as queue:
        job = ended(queue, queue.submit({"do": "succeed"}))
        assert job.state == "failed"
        assert "no such model" in job.error


def test_restart_keeps_ended_interrupts_running_and_runs_waiting_jobs(tmp_path: Path) -> None:
    with opened(tmp_path) as queue:
        done = ended(queue, queue.submit({"do": "succeed"}, session="mine"))
        running, waiting = queue.submit({"do": "wait"}), queue.submit({"do": "succeed"})
        until(lambda: (queue.store.place(running) / "started").exists())
    half = tmp_path / "jobs" / ("a" * 32)
    half.mkdir()
    (half / "job.json").write_text('{"id": "a')
    with opened(tmp_path) as queue:
        again = queue.get(done.id)
        assert again.manifest() == done.manifest()
        assert (queue.store.place(again) / "made").read_text() == "whole"
        interrupted = queue.get(running.id)
        assert (interrupted.state, interrupted.error) == (
            "interrupted",
            "the studio was stopped while this job ran; run it again",
        )
        assert ended(queue, queue.get(waiting.id)).state == "done"
        assert [job.id for job in queue.jobs("mine")] == [done.id]
        assert not half.exists()


def test_work_folder_is_locked(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(WorkFolderError, match="in use by another studio"):
        Store(tmp_path)
    Store(tmp_path).close()


def test_ended_jobs_expire_by_age_and_number(tmp_path: Path) -> None:
    now = [1000.0]
    queue = JobQueue(Store(tmp_path), works.start, Limits(keep_seconds=100, keep_jobs=2), clock=lambda: now[0])
    try:
        jobs = []
        for _ in range(3):
            jobs.append(ended(queue, queue.submit({"do": "succeed"})))
            now[0] += 10
        queue.sweep()
        assert [job.id for job in queue.jobs()] == [jobs[2].id, jobs[1].id]
        now[0] = 1115
        queue.sweep()
        with pytest.raises(UnknownJobError, match="may have expired"):
            queue.get(jobs[1].id)
        assert [path.name for path in queue.store.jobs.iterdir()] == [jobs[2].id]
        queue.remove(jobs[2].id)
        assert not list(queue.store.jobs.iterdir())
    finally:
        queue.close()


def test_given_files_outlive_their_source(tmp_path: Path) -> None:
    source = tmp_path / "clip.mkv"
    source.write_bytes(b"frames")
    with opened(tmp_path / "work") as queue:
        job = queue.submit({"do": "succeed"}, given={"blended": source})
        source.unlink()
        assert (queue.store.place(job) / "given" / "blended.mkv").read_bytes() == b"frames"
        ended(queue, job)


def test_job_with_unreadable_files_leaves_no_folder(tmp_path: Path) -> None:
    with opened(tmp_path) as queue:
        with pytest.raises(OSError, match="nowhere"):
            queue.submit({"do": "succeed"}, given={"blended": tmp_path / "nowhere"})
        assert queue.jobs() == []
        assert not list(queue.store.jobs.iterdir())


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobQueue]:
    with opened(tmp_path_factory.mktemp("idle")) as queue:
        yield queue


@given(st.text(max_size=40) | st.sampled_from(["..", "../..", "a" * 32 + "/..", "/etc/passwd"]))
def test_invalid_ids_find_no_job(idle: JobQueue, text: str) -> None:
    with pytest.raises(UnknownJobError):
        idle.get(text)


@given(st.dictionaries(st.text(max_size=10), st.integers() | st.text(max_size=5) | st.none(), max_size=8))
def test_damaged_manifest_is_ignored(tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]) -> None:
    place = tmp_path_factory.getbasetemp() / ("b" * 32)
    place.mkdir(exist_ok=True)
    (place / "job.json").write_text(json.dumps({"id": place.name, **values}))
    with pytest.raises((ValueError, TypeError, KeyError)):
        read_manifest(place)


DIES = """
import os, sys, time
from pathlib import Path
from layerflow.studio.jobs import JobQueue
from layerflow.studio.limits import Limits
from layerflow.studio.store import Store
import studio_works as works

queue = JobQueue(Store(Path(sys.argv[1])), works.start, Limits())
done, running = queue.submit({"do": "succeed"}), queue.submit({"do": "wait"})
while not (queue.store.place(running) / "started").exists():
    time.sleep(0.02)
print(done.id, running.id, queue.workers[0].pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_killed_server_loses_no_job_and_leaves_no_process(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    done, running, pid = killed.stdout.split()
    with opened(tmp_path) as queue:
        assert queue.get(done).state == "done"
        assert queue.get(running).state == "interrupted"
    until(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)
