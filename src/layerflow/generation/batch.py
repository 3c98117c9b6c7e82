"""Batch of jobs: each writes its own folder, whose layers.json records that it is done."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..core.atomic import hash_path, replace_path, write_atomically
from ..core.errors import FieldError, UserError, sentence
from ..media import save_layers
from ..runtime.device import pick_device
from . import load as models
from .givens import Files
from .jobs import FAILURES, Job, Outcome, read_jobs
from .load import LoadedModel, load_model
from .progress import Progress, Stage
from .record import describe
from .request import ModelOptions, Request, options, parse_lora
from .resolve import check_request, resolve
from .run import check_output, denoise

UNFINISHED = ".unfinished"
"""Folder in the output that holds unfinished jobs."""
LATER = ("object", "not_object")
"""Fields that fingerprints of older jobs did not have; they do not change one where they are empty."""
MOST_DEATHS = 3
"""Workers that may die at one job before it counts as failed."""


def run_batch(
    file: Path, output: Path, model: ModelOptions, ray: str | None, workers: int | None, progress: Progress
) -> tuple[list[Path], int]:
    """Run the jobs of a file that are not done yet, here or on a Ray cluster.

    One batch at a time may write to `output`.

    Args:
        file: the jobs, one JSON object a line.
        output: folder that gets a folder for each job.
        model: the model and how it runs.
        ray: address of a Ray cluster; "local" starts one on this machine; None runs jobs one after another.
        workers: models on the cluster; one for each GPU by default.
        progress: receives notes and stages.

    Returns:
        Folders of the jobs that are done, and how many jobs failed.

    Raises:
        UserError: a line is not a job, or the batch cannot run as requested; no job has run then.
    """
    # 1. Check everything that can be checked before anything is loaded
    if workers is not None and ray is None:
        raise FieldError("workers", f"{workers} needs `ray`; without a cluster jobs run one after another")
    if ray is not None and find_spec("ray") is None:
        raise FieldError("ray", "needs Ray; install it with: pip install 'layerflow[ray]'")
    jobs = read_jobs(file, output)
    check_output(output, (), overwrite=True)
    check_folders(jobs)
    device = pick_device(model.device) if ray is None else model.device
    folder = models.model_folder(model.model)
    facts = models.model_facts(folder)

    # 2. Jobs that are left to do
    sha256 = models.model_hash(folder)
    waiting = [job for job in jobs if not is_done(job, model, sha256)]
    progress.note(f"{len(jobs)} jobs, {len(jobs) - len(waiting)} of them done already")

    # 3. Run them
    failed: list[Outcome] = []
    unfinished = output / UNFINISHED
    _remove(unfinished)
    write_failures(failed, output)
    outcomes: Iterable[Outcome] = ()
    if waiting and ray is not None:
        from .ray_batch import run_on_ray

        outcomes = run_on_ray(attempt, waiting, model, sha256, ray, workers)
    elif waiting:
        outcomes = run_here(waiting, model, device, folder, facts, sha256, progress)
    try:
        with progress.stage("jobs", len(waiting)) as stage:
            for done, outcome in enumerate(outcomes, start=1):
                if outcome.error:
                    failed.append(outcome)
                    write_failures(failed, output)
                    progress.note(f"{outcome.job.id}: {outcome.error}")
                stage.update(done=done, note=f"{len(failed)} failed" if failed else "")
    finally:
        _remove(unfinished)

    # 4. Report
    progress.note(f"{len(waiting) - len(failed)} done, {len(jobs) - len(waiting)} skipped, {len(failed)} failed")
    if failed:
        progress.note(f"{output / FAILURES} says why; the same command tries them again")
    lost = {outcome.job.id for outcome in failed}
    return [output / job.id for job in jobs if job.id not in lost], len(failed)


def run_here(
    jobs: list[Job],
    options: ModelOptions,
    device: str,
    folder: Path,
    facts: models.ModelFacts,
    sha256: str,
    progress: Progress,
) -> Iterator[Outcome]:
    """Run jobs one after another in this process."""
    with progress.stage(f"loading {options.model}") as stage:
        model = load_model(options, folder, facts, sha256, device)
        for job in jobs:
            yield attempt(job, model, stage)


def attempt(job: Job, model: LoadedModel, stage: Stage | None = None) -> Outcome:
    """Run a job; an error becomes its outcome and does not stop the other jobs."""
    try:
        run_job(job, model, stage)
    except Exception as error:
        if os.environ.get("LAYERFLOW_DEBUG") == "1":
            traceback.print_exc()
        return Outcome(job, sentence(error))
    return Outcome(job)


def run_job(job: Job, model: LoadedModel, stage: Stage | None = None) -> None:
    """Write the job's folder, whole or not at all; a job that is already done is skipped.

    A worker may have died after finishing a job and before reporting it.
    """
    if is_done(job, model.options, model.sha256):
        return
    check_request(job.request)
    with workplace(job) as place:
        sha256 = fingerprint(job.request, model.options, model.sha256)
        resolved = resolve(job.request, model.facts)
        if stage is not None:
            stage.update(name=job.id, total=resolved.steps, done=0)
        video, seconds = denoise(model, resolved, lambda done: stage.update(done=done) if stage is not None else None)
        metadata = describe(model, resolved, seconds, job.folder)
        record = {"id": job.id, "sha256": sha256}
        save_layers(video, place / "new", list(job.request.formats), metadata | {"job": record})
        replace_path(place / "new", job.folder)


@contextmanager
def workplace(job: Job) -> Iterator[Path]:
    """Give a folder to work in, on the job's file system. One that stays behind shows that a worker died."""
    places = job.folder.parent / UNFINISHED / job.id
    places.mkdir(parents=True, exist_ok=True)
    if (deaths := len(list(places.iterdir()))) >= MOST_DEATHS:
        raise UserError(f"{deaths} workers died at it, perhaps for lack of memory; try fewer frames or a smaller size")
    place = Path(tempfile.mkdtemp(prefix=f"{socket.gethostname()}-{os.getpid()}-", dir=places))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def fingerprint(request: Request, model: ModelOptions, model_sha256: str) -> str:
    """Return the sha256 of everything that decides the result of a job: fields, contents of files, and the model."""
    fields = {name: getattr(request, name) for name in options(Request)}
    foregrounds = request.foreground or ("",)
    content = {
        **{name: value for name, value in fields.items() if value or name not in LATER},
        "foreground": foregrounds[0] if len(foregrounds) == 1 else foregrounds,
        "given": _content(request.given),
        **({"trimap": _content(request.trimap)} if request.trimap else {}),
        "lora": [_lora_identity(text) for text in request.lora],
        "model": model_sha256,
        **{name: getattr(model, name) for name in ("dtype", "memory", "speed")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(files: Files) -> dict[str, Any]:
    """Return given files with the sha256 of each in place of its path."""
    return {
        clip: {frames: hash_path(path) for frames, path in source.items()}
        if isinstance(source, Mapping)
        else hash_path(source)
        for clip, source in files.items()
    }


def _lora_identity(text: str) -> tuple[str, float]:
    path, weight = parse_lora(text)
    return (hash_path(Path(path)) if Path(path).exists() else path), weight


def is_done(job: Job, model: ModelOptions, model_sha256: str) -> bool:
    """Return whether the job's folder holds the result of this job as it is now."""
    recorded = recorded_job(job.folder)
    try:
        return recorded is not None and recorded == fingerprint(job.request, model, model_sha256)
    except OSError:  # a given file that cannot be read is the job's failure, not the batch's
        return False


def recorded_job(folder: Path) -> str | None:
    """Return the fingerprint of the job that filled a folder; None where no job did."""
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
            raise UserError(f"{folder} was not made by a job; move it away, or choose another id or `output`")
        for path in job.request.files:
            if folders & {path.resolve(), *path.resolve().parents}:
                raise UserError(f"line {job.line}: {path} lies in the folder of a job, which may be replaced; copy it")


def write_failures(failed: list[Outcome], output: Path) -> None:
    """List the failed jobs in a file, whole or not at all; without any there is no file."""
    if not failed:
        (output / FAILURES).unlink(missing_ok=True)
        return
    rows = ({"id": one.job.id, "line": one.job.line, "error": one.error} for one in failed)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(output / FAILURES, lines.encode())


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
