"""Fixtures of the studio's tests: small clips, a studio with a tiny model, waiting on slow machines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from layerflow.generation.request import ModelOptions
from layerflow.media import write_video

pytest.importorskip("fastapi", reason="the studio's packages are not installed: pip install 'layerflow[studio]'")
pytest.importorskip("gradio", reason="the studio's packages are not installed: pip install 'layerflow[studio]'")

from fastapi.testclient import TestClient

from layerflow.studio.app import Settings, create_app
from layerflow.studio.entry_points import ModelStart
from layerflow.studio.limits import Limits

PATIENCE = 600.0


def until(holds: Callable[[], Any]) -> Any:
    """Wait until a condition holds, for a long time on slow machines; return its value."""
    end = time.monotonic() + PATIENCE
    while not (held := holds()):
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.02)
    return held


def ended(client: TestClient, id: str) -> dict[str, Any]:
    """Wait for a job to end, and return it."""

    def ended_job() -> dict[str, Any] | None:
        job = client.get(f"/api/jobs/{id}").json()
        return job if job["state"] in ("done", "failed", "cancelled", "interrupted") else None

    return until(ended_job)  # type: ignore[no-any-return]


@contextmanager
def serving(settings: Settings, with_gradio: bool = False, host: str = "localhost") -> Iterator[TestClient]:
    """Yield a client of a studio that runs during the context."""
    app = create_app(settings, with_gradio)
    with TestClient(app, base_url=f"http://{host}", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[TestClient]:
    """A studio with the tiny model: 2 frames of 16x16."""
    limits = Limits(upload_bytes=2**20, upload_seconds=30, upload_pixels=512 * 512, read_frames=8)
    settings = Settings(
        tmp_path_factory.mktemp("studio"), ModelStart(ModelOptions(model=str(tiny_model)), limits), limits=limits
    )
    with serving(settings, with_gradio=True) as client:
        yield client


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files for upload by name: 4 frames of 32x24."""
    folder = tmp_path_factory.mktemp("clips")
    generator = torch.Generator().manual_seed(0)
    colour = torch.rand(4, 3, 24, 32, generator=generator)
    alpha = torch.zeros(4, 1, 24, 32)
    alpha[..., 6:18, 8:24] = 1
    write_video(folder / "opaque.mp4", colour, fps=8.0)
    write_video(folder / "see-through.webm", colour, alpha, fps=8.0)
    write_video(folder / "moving.webp", colour, alpha, fps=8.0)
    write_video(folder / "frames", colour[:1], alpha[:1], format="png")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return files | {"still.png": (folder / "frames" / "0000.png").read_bytes()}
