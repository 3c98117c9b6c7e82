"""Jobs through Gradio's API, for `gradio_client` and compatible clients. Files go through the job API only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from .access_control import GRADIO
from .requests import JobRequest
from .store import ENDED

if TYPE_CHECKING:
    from .app import Studio

TICK = 0.25


def mount(app: FastAPI, studio: Studio) -> None:
    """Add Gradio's API under `/gradio`: functions `run`, `job` and `cancel`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # set before the import, which sends analytics
    import gradio

    async def run(request: dict) -> AsyncIterator[dict]:  # type: ignore[type-arg]
        """Queue a job and yield its state until it has ended; `request` is as for POST /api/jobs."""
        state = studio.submit(JobRequest.model_validate(request))
        while True:
            yield state
            if state["state"] in ENDED:
                return
            await asyncio.sleep(TICK)
            state = studio.describe(studio.queue.get(state["id"]))

    def job(id: str) -> dict[str, Any]:
        """Return the state of a job."""
        return studio.describe(studio.queue.get(id))

    def cancel(id: str) -> dict[str, Any]:
        """Stop a job."""
        return studio.describe(studio.queue.cancel(id))

    with gradio.Blocks(analytics_enabled=False, title="LayerFlow studio") as blocks:
        gradio.api(run, api_name="run", concurrency_limit=None)
        gradio.api(job, api_name="job", queue=False)
        gradio.api(cancel, api_name="cancel", queue=False)
    blocks.queue(max_size=studio.limits.queue + studio.limits.concurrency)
    gradio.mount_gradio_app(
        app,
        blocks,
        GRADIO,
        allowed_paths=[],
        blocked_paths=["/"],
        ssr_mode=False,
        run_history=False,
        mcp_server=False,
        show_error=True,
        max_file_size=1,
        enable_monitoring=False,
    )
