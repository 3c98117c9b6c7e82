"""What the workers of the tests do instead of sampling: small, and bad in every way that a job can be bad."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def start() -> Callable[..., dict[str, Any]]:
    """Does what the request's `do` names."""
    return work


def start_broken() -> Callable[..., dict[str, Any]]:
    """A model that does not load."""
    raise ValueError("no such model")


def work(
    folder: Path, request: dict[str, Any], report: Callable[..., None], cancelled: Callable[[], bool]
) -> dict[str, Any]:
    """`DEEDS` by name."""
    report(stage="working", step=0, steps=3)
    return DEEDS[request["do"]](folder, report, cancelled)


def succeed(folder: Path, report: Callable[..., None], cancelled: Callable[[], bool]) -> dict[str, Any]:
    (folder / "made").write_text("whole")
    report(step=3)
    return {"pid": os.getpid()}


def wait(
    folder: Path, report: Callable[..., None], cancelled: Callable[[], bool], deaf: bool = False
) -> dict[str, Any]:
    from layerflow.studio.worker import CancelledError

    (folder / "started").touch()
    while deaf or not cancelled():
        time.sleep(0.01)
    raise CancelledError


def refuse(folder: Path, report: Callable[..., None], cancelled: Callable[[], bool]) -> dict[str, Any]:
    from layerflow.media import MediaError

    raise MediaError("the clip is too short; take a longer one")


def break_down(folder: Path, report: Callable[..., None], cancelled: Callable[[], bool]) -> dict[str, Any]:
    raise RuntimeError("boom")


def crash(folder: Path, report: Callable[..., None], cancelled: Callable[[], bool]) -> dict[str, Any]:
    os._exit(3)


def swell(folder: Path, report: Callable[..., None], cancelled: Callable[[], bool]) -> dict[str, Any]:
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1) * 2**24))
        time.sleep(0.01)


DEEDS = {
    "succeed": succeed, "wait": wait, "wait deaf": partial(wait, deaf=True), "refuse": refuse,
    "break down": break_down, "crash": crash, "swell": swell,
}  # fmt: skip
