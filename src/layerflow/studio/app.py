"""Web application of the studio: the page, the job API and Gradio's API."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .. import __version__
from ..core.atomic import whole_files
from ..core.schema import ALPHA, ALPHA_OF, LAYER_OF_CLIP
from ..generation.givens import CLICK, FRAMES
from ..generation.givens import EXAMPLES as FRAME_EXAMPLES
from .access_control import AccessControl
from .entry_points import export_layers
from .jobs import JobQueue, QueueFullError, UnknownJobError
from .limits import Limits
from .requests import EXAMPLES, PREFIXES, Clip, ExportRequest, Given, JobRequest, sources_of
from .sandbox import ChildError, confined
from .store import ENDED, Job, Store, WorkFolderError
from .uploads import UploadError, Uploads
from .worker import Start

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
MOST_EXPORTS = 8
"""Maximum number of concurrent exports; each waits in a thread of the server."""
UPLOAD_SECONDS = 600
"""Maximum time in seconds that a file may take to arrive."""
FOREVER = "private, max-age=31536000, immutable"


@dataclass(frozen=True)
class Settings:
    """Settings of a studio."""

    work: Path
    """Work folder; nothing outside of it is written, or read for a client."""
    start: Start
    """Function that loads the model in a worker process."""
    model: dict[str, Any] = field(default_factory=dict)
    """Facts of the model for the page, see `describe_model`."""
    limits: Limits = field(default_factory=Limits)
    token: str = ""
    """Token that every request must carry; without one, only requests to `hosts` are accepted."""
    hosts: frozenset[str] = LOCAL
    """Host names of the server."""


class Studio:
    """Application logic behind the routes."""

    def __init__(self, settings: Settings) -> None:
        """Open the work folder; raises WorkFolderError."""
        self.settings, self.limits = settings, settings.limits
        self.store = Store(settings.work)
        self.uploads = Uploads(settings.work, self.limits)
        self.queue = JobQueue(self.store, settings.start, self.limits)
        self._exporting = threading.BoundedSemaphore(2)
        self._waiting = threading.BoundedSemaphore(MOST_EXPORTS)

    def submit(self, body: JobRequest) -> dict[str, Any]:
        """Queue a job; raises QueueFullError, UploadError or UnknownJobError."""
        given = {
            file.path.stem: self.given_file(file.clip, source, ALPHA_OF.get(file.clip) in body.given)
            for field, prefix in PREFIXES.items()
            for file, source in sources_of(getattr(body, field), prefix)
        }
        return self.describe(self.queue.submit(body.kept(), body.session, given))

    def given_file(self, clip: Clip, source: Given, has_alpha: bool = False) -> Path:
        """Return the file of a given clip; raises UploadError or UnknownJobError.

        A foreground must be transparent, unless its alpha is given by another file (`has_alpha`).
        """
        if source.upload is not None:
            path, facts = self.uploads.clip(source.upload)
            if clip in ALPHA_OF and not facts[ALPHA] and not has_alpha:
                raise UploadError(
                    "a foreground needs transparency, and this clip has none; send one with alpha, or its alpha too"
                )
            return path
        place = self.store.place(self.queue.get(source.job or ""))
        name = source.clip or clip
        holder = LAYER_OF_CLIP[name]
        for path in (place / "given" / f"{name}.mkv", place / "layers" / f"{holder}.mkv"):
            if path.is_file():
                return path
        raise UnknownJobError(f"that job has no {name}; it is {self.queue.get(source.job or '').state}")

    def describe(self, job: Job) -> dict[str, Any]:
        """Return the state of a job as clients get it."""
        before = self.queue.place_in_queue(job) if job.state == "queued" else 0
        return {**job.manifest(), "progress": dict(job.progress), "before": before}

    def file(self, job: Job, *names: str) -> Path:
        """Return a file in a job's folder; raises HTTPException if it does not exist or lies outside."""
        place = self.store.place(job)
        path = place.joinpath(*names)
        if not path.resolve().is_relative_to(place) or not path.is_file():
            raise HTTPException(404, "there is no such file")
        return path

    def export(self, job: Job, body: ExportRequest) -> str:
        """Write an archive of layers in the format of a preset; return its name. Raises ChildError."""
        if job.state != "done":
            raise HTTPException(409, f"only jobs that are done can be exported; this one is {job.state}")
        folder = self.store.place(job) / "exports"
        name = f"{body.preset}-{hashlib.sha256(body.model_dump_json().encode()).hexdigest()[:16]}.zip"
        if (folder / name).is_file():
            return name
        if not self._waiting.acquire(blocking=False):
            raise QueueFullError(f"{MOST_EXPORTS} exports are being written already; try again in a moment")
        try:
            self._write_export(job, body, folder, name)
        finally:
            self._waiting.release()
        return name

    def _write_export(self, job: Job, body: ExportRequest, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        with self._exporting, whole_files(folder) as partial:
            confined(
                export_layers,
                self.store.place(job) / "layers",
                partial / name,
                body.preset,
                body.size,
                body.edges,
                body.timecode,
                body.order,
                seconds=self.limits.job_seconds,
                memory=self.limits.job_memory,
            )

    def close(self) -> None:
        """Stop the workers and release the work folder."""
        self.queue.close()


def create_app(settings: Settings, with_gradio: bool = True) -> FastAPI:
    """Return the application; its `state.studio` is the `Studio`. Raises WorkFolderError."""
    studio = Studio(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        studio.queue.warm_up()
        yield
        await run_in_threadpool(studio.close)

    app = FastAPI(
        title="LayerFlow studio",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.state.studio = studio
    app.add_middleware(AccessControl, token=settings.token, hosts=frozenset() if settings.token else settings.hosts)
    for error, status in ERRORS.items():
        app.add_exception_handler(error, _answer_with(status))
    add_pages(app)
    add_uploads(app, studio)
    add_jobs(app, studio)
    if with_gradio:
        from .gradio_api import mount

        mount(app, studio)
    return app


def add_pages(app: FastAPI) -> None:
    """Add the page and its files."""
    static = Path(str(resources.files("layerflow.studio") / "static"))

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(static / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/static", StaticFiles(directory=static))


def add_uploads(app: FastAPI, studio: Studio) -> None:
    """Add the facts of the studio, and uploads."""

    @app.get("/api/studio")
    def studio_facts() -> dict[str, Any]:
        """Return version, model, limits, example prompts and load of the studio."""
        jobs = studio.queue.jobs()
        return {
            "version": __version__,
            "model": studio.settings.model,
            "limits": vars(studio.limits),
            "examples": EXAMPLES,
            "queued": sum(job.state == "queued" for job in jobs),
            "running": sum(job.state == "running" for job in jobs),
        }

    @app.post("/api/uploads", status_code=201)
    async def upload(request: Request) -> dict[str, Any]:
        """Upload a clip or picture as the body, `application/octet-stream`; returns its id."""
        if request.headers.get("content-type") != "application/octet-stream":
            raise HTTPException(415, "send the file itself, with content-type application/octet-stream")
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                place, kind = await studio.uploads.receive(request.stream())
        except TimeoutError as error:
            raise HTTPException(408, "the file took too long to arrive") from error
        return await run_in_threadpool(studio.uploads.take, place, kind)


def add_jobs(app: FastAPI, studio: Studio) -> None:
    """Add jobs, their progress and their files."""

    @app.post("/api/jobs", status_code=202)
    def submit(body: JobRequest) -> dict[str, Any]:
        return studio.submit(body)

    @app.get("/api/jobs")
    def jobs(
        session: Annotated[str | None, Query(max_length=64)] = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[dict[str, Any]]:
        return [studio.describe(job) for job in studio.queue.jobs(session)[:limit]]

    @app.get("/api/jobs/{id}")
    def job(id: str) -> dict[str, Any]:
        return studio.describe(studio.queue.get(id))

    @app.post("/api/jobs/{id}/cancel")
    def cancel(id: str) -> dict[str, Any]:
        return studio.describe(studio.queue.cancel(id))

    @app.delete("/api/jobs/{id}")
    def remove(id: str) -> dict[str, Any]:
        """Delete a job that has ended, or cancel one that has not."""
        job = studio.queue.get(id)
        studio.queue.remove(id)
        return studio.describe(job)

    @app.get("/api/jobs/{id}/preview", response_class=FileResponse)
    def preview(id: str) -> Response:
        """Return the layers as currently predicted, as an animation."""
        # Read at once: a newer preview may take its place at any moment, with another size.
        content = studio.file(studio.queue.get(id), "preview.webp").read_bytes()
        return Response(content, media_type="image/webp", headers={"cache-control": "no-store"})

    @app.get("/api/jobs/{id}/sheets/{layer}.{kind}", response_class=FileResponse)
    def sheet(id: str, layer: Clip, kind: str) -> FileResponse:
        """Return all frames of a layer in one PNG, or the position of each frame as JSON."""
        if kind not in ("png", "json"):
            raise HTTPException(404, "there is no such file")
        return _sent(studio.file(studio.queue.get(id), "sheets", f"{layer}.{kind}"))

    @app.get("/api/jobs/{id}/files", response_model=list[str])
    def files(id: str) -> list[str]:
        """Return the names of the layers' lossless files and of `layers.json`."""
        folder = studio.store.place(studio.queue.get(id)) / "layers"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    @app.get("/api/jobs/{id}/files/{name}", response_class=FileResponse)
    def file(id: str, name: str) -> FileResponse:
        job = studio.queue.get(id)
        if name not in files(id):
            raise HTTPException(404, "there is no such file")
        return _sent(studio.file(job, "layers", name), filename=name)

    @app.post("/api/jobs/{id}/exports", status_code=201)
    def export(id: str, body: ExportRequest) -> dict[str, str]:
        """Export layers in the format of a preset; returns the URL of the archive."""
        return {"url": f"/api/jobs/{id}/exports/{studio.export(studio.queue.get(id), body)}"}

    @app.get("/api/jobs/{id}/exports/{name}", response_class=FileResponse)
    def exported(id: str, name: str) -> FileResponse:
        path = studio.file(studio.queue.get(id), "exports", name)
        return _sent(path, filename=f"layerflow-{name.split('-')[0]}.zip")


def _sent(path: Path, cache: str = FOREVER, filename: str | None = None) -> FileResponse:
    return FileResponse(path, headers={"cache-control": cache}, filename=filename)


def _answer_with(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def answer(_: Request, error: Exception) -> JSONResponse:
        code = getattr(error, "status_code", status)
        headers = {"retry-after": "5"} if code == 503 else None
        return JSONResponse({"error": sentence_of(error)}, code, headers)

    return answer


def sentence_of(error: Exception) -> str:
    """Return an error as clients get it: without the content of the request and without paths."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "string_pattern_mismatch":
            message = PATTERNS.get(first["ctx"]["pattern"], message)
        return json.dumps(f"{location}: {message}" if location else message)[1:-1][:300]
    if isinstance(error, HTTPException):
        return str(error.detail)
    if isinstance(error, OSError):
        return "the studio cannot write to its disk; tell its administrator"
    return str(error)


PATTERNS = {
    f"^{CLICK}$": "it is no click; write X,Y@FRAME, such as 320,200@0",
    f"^{FRAMES}$": f"these are no frames; write {FRAME_EXAMPLES}",
}
"""Sentences for texts that do not match a pattern."""

ERRORS: dict[type[Exception], int] = {
    RequestValidationError: 422,
    HTTPException: 500,
    QueueFullError: 503,
    UnknownJobError: 404,
    UploadError: 422,
    ChildError: 422,
    ClientDisconnect: 400,
    OSError: 507,
}

__all__ = ["ENDED", "Settings", "Studio", "WorkFolderError", "create_app"]
