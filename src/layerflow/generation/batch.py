"""Many jobs: each makes a folder of its own, whose layers.json records that it is done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.progress import Progress

from ..cli.errors import sentence
from ..cli.options import ModelOptions, parse_size
from ..cli.progress import progress_bar, say
from ..core.atomic import hash_path
from ..core.errors import UserError
from ..media import save_layers
from . import load as models
from .jobs import FAILURES, Job, read_jobs
from .run import LoadedModel, Request, check_output, denoise, describe, load_model, make_plan

UNFINISHED = ".unfinished"
"""Folder in the output where jobs are at work."""
MOST_DEATHS = 3
"""Workers that may die at one job before it is given up."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    job: Job
    error: str = ""
    """One sentence; empty when it is done."""


def run_batch(file: Path, output: Path, options: ModelOptions, ray: str | None, workers: int | None) -> int:
    """Run the jobs of a file that are not done yet, here or on a Ray cluster; returns how many failed.

    One batch at a time may write to `output`.

    Raises:
        UserError: a line is no job, or the batch cannot run as asked; nothing was done then.
    """
    # 1. Check everything that can be checked before anything is loaded
    if workers is not None and ray is None:
        raise UserError(f"--workers {workers} needs --ray; without a cluster jobs run one after another")
    if ray is not None and find_spec("ray") is None:
        raise UserError("--ray needs Ray; install it with: pip install 'layerflow[ray]'")
    jobs = read_jobs(file, output, options)
    check_output(output, {}, overwrite=True)
    check_folders(jobs)
    device = models.pick_device(options.device) if ray is None else options.device
    folder = models.model_folder(options.model)
    facts = models.model_facts(folder)

    # 2. What is left to do
    sha256 = models.model_hash(folder)
    waiting = [job for job in jobs if not is_done(job, sha256)]
    say(f"{len(jobs)} jobs, {len(jobs) - len(waiting)} of them done already")

    # 3. Do it
    failed: list[Outcome] = []
    unfinished = output / UNFINISHED
    _remove(unfinished)
    write_failures(failed, output)
    try:
        with progress_bar() as bar:
            row = bar.add_task("jobs", total=len(waiting), note="")
            for outcome in _outcomes(waiting, options, device, folder, facts, sha256, ray, workers, bar):
                if outcome.error:
                    failed.append(outcome)
                    write_failures(failed, output)
                    say(f"{outcome.job.id}: {outcome.error}")
                bar.update(row, advance=1, note=f"{len(failed)} failed" if failed else "")
    finally:
        _remove(unfinished)

    # 4. Report
    lost = {outcome.job.id for outcome in failed}
    for job in jobs:
        if job.id not in lost:
            print(output / job.id)
    say(f"{len(waiting) - len(failed)} done, {len(jobs) - len(waiting)} skipped, {len(failed)} failed")
    if failed:
        say(f"{output / FAILURES} says why; the same command tries them again")
    return len(failed)


def _outcomes(
    jobs: list[Job], options: ModelOptions, device: str, folder: Path, facts: models.ModelFacts, sha256: str,
    ray: str | None, workers: int | None, bar: Progress,
) -> Iterable[Outcome]:  # fmt: skip
    if not jobs:
        return []
    if ray is None:
        return run_here(jobs, options, device, folder, facts, sha256, bar)
    from .ray_batch import run_on_ray

    return run_on_ray(jobs, options, sha256, ray, workers)


def run_here(
    jobs: list[Job],
    options: ModelOptions,
    device: str,
    folder: Path,
    facts: models.ModelFacts,
    sha256: str,
    bar: Progress,
) -> Iterator[Outcome]:
    """Run jobs one after another in this process."""
    row = bar.add_task(f"loading {options.model}", total=None, note="")
    model = load_model(options, folder, facts, sha256, device)
    for job in jobs:
        total = job.request.options.steps or facts.conventions.steps
        bar.reset(row, description=job.id, total=total)
        yield attempt(job, model, lambda done: bar.update(row, completed=done))
    bar.remove_task(row)


def attempt(job: Job, model: LoadedModel, step_done: Callable[[int], None] = lambda _: None) -> Outcome:
    """Run a job; an error is its outcome and stops nothing else."""
    try:
        run_job(job, model, step_done)
    except Exception as error:
        if os.environ.get("LAYERFLOW_DEBUG") == "1":
            traceback.print_exc()
        return Outcome(job, sentence(error))
    return Outcome(job)


def run_job(job: Job, model: LoadedModel, step_done: Callable[[int], None]) -> None:
    """Make the job's folder, whole or not at all; one that was done meanwhile is left as it is.

    That is so when a worker died after its job was done and before it could say so.
    """
    request = job.request
    if is_done(job, model.sha256):
        return
    with workplace(job) as place:
        sha256 = fingerprint(request, model.sha256)
        plan = make_plan(request, model.facts)
        video, seconds = denoise(model, request, plan, step_done)
        record = {"id": job.id, "sha256": sha256}
        metadata = describe(model, request, plan, seconds) | {"job": record}
        save_layers(video, place / "new", list(request.options.formats), metadata)
        if job.folder.exists():
            os.replace(job.folder, place / "old")
        os.replace(place / "new", job.folder)


@contextmanager
def workplace(job: Job) -> Iterator[Path]:
    """A folder to work in, on the job's file system. One that stays behind tells of a worker that died."""
    places = job.folder.parent / UNFINISHED / job.id
    places.mkdir(parents=True, exist_ok=True)
    if (deaths := len(list(places.iterdir()))) >= MOST_DEATHS:
        raise UserError(f"{deaths} workers died at it, perhaps for lack of memory; try fewer frames or a smaller size")
    place = Path(tempfile.mkdtemp(prefix=f"{socket.gethostname()}-{os.getpid()}-", dir=places))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def fingerprint(request: Request, model_sha256: str) -> str:
    """sha256 of all that decides what a job makes: prompts, contents of given files, options, model."""
    options = request.options
    names = ("seed", "steps", "guidance", "noise_scale", "frames", "upscale", "fps", "dtype", "memory", "speed")
    content = {
        "model": model_sha256,
        "prompts": request.prompts(),
        "given": {name: hash_path(path) for name, path in request.clips.items()},
        "formats": list(options.formats),
        "size": parse_size(options.size),
        **{name: getattr(options, name) for name in names},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_done(job: Job, model_sha256: str) -> bool:
    """Whether the job's folder holds what this job, as it is now, makes."""
    recorded = recorded_job(job.folder)
    try:
        return recorded is not None and recorded == fingerprint(job.request, model_sha256)
    except OSError:  # a given file that cannot be read is the job's failure, not the batch's
        return False


def recorded_job(folder: Path) -> str | None:
    """Fingerprint of the job that filled a folder; None where no job did."""
    try:
        return str(json.loads((folder / "layers.json").read_text("utf-8"))["metadata"]["job"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_folders(jobs: list[Job]) -> None:
    """Refuse to replace what no job made, or what a job is to read; raises UserError."""
    folders = {job.folder.resolve() for job in jobs}
    for job in jobs:
        folder = job.folder
        if folder.exists() and recorded_job(folder) is None and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} was not made by a job; move it away, or choose another id or -o")
        for path in job.request.clips.values():
            if folders & {path.resolve(), *path.resolve().parents}:
                raise UserError(f"line {job.line}: {path} lies in the folder of a job, which may be replaced; copy it")


def write_failures(failed: list[Outcome], output: Path) -> None:
    """List the failed jobs in a file, whole or not at all; without any there is no file."""
    if not failed:
        (output / FAILURES).unlink(missing_ok=True)
        return
    rows = ({"id": one.job.id, "line": one.job.line, "error": one.error} for one in failed)
    written = output / UNFINISHED / FAILURES
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    os.replace(written, output / FAILURES)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
