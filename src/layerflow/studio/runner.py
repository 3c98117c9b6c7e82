"""What a worker does: a request to layers, sheets for the viewer, previews on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..cli.options import RunOptions
from ..core.layered_video import LayeredVideo
from ..core.schema import CLIPS
from ..generation.run import LoadedModel, Plan, Request, denoise, describe, make_plan
from ..media import FORMATS, MediaError, layers_of, save_layers, write_preview
from ..media.export.sprite_sheets import write_sheet
from ..models.model_space import from_model_space
from ..pipeline import check_drawn_size
from .limits import Limits
from .raw_frames import write_raw
from .worker import CancelledError

PREVIEW = "preview.webp"
PREVIEW_SHARE = 0.2
"""Part of the time that may go into previews."""
OPTIONS = ("seed", "steps", "guidance", "noise_scale", "frames", "size", "upscale", "fps")
"""Keys of a request that are options of a run."""


@dataclass
class Maker:
    """Makes layers with one model."""

    model: LoadedModel
    limits: Limits

    def __call__(
        self, folder: Path, request: dict[str, Any], report: Callable[..., None], cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Do a job: `layers/` as the command line writes them, `sheets/` for the viewer."""
        report(stage="reading")
        asked = parse(request, folder)
        plan = make_plan(asked, self.model.facts)
        pixels = plan.frames * plan.height * plan.width
        if plan.frames > self.limits.make_frames or pixels > self.limits.make_pixels:
            raise MediaError(
                f"{plan.frames} frames of {plan.width}x{plan.height} are more than a job may make, which is "
                f"{self.limits.make_frames} frames and {self.limits.make_pixels} pixels in all; ask for less"
            )
        report(stage="denoising", step=0, steps=plan.steps)
        watcher = Watcher(self.model, plan, folder, report, cancelled)
        video, seconds = denoise(self.model, asked, plan, lambda _: None, watcher)
        report(stage="writing", seconds_left=None)
        video = video.with_blended()
        described = json.dumps(describe(self.model, asked, plan, seconds)).replace(f"{folder}/", "")
        index = save_layers(video, folder / "layers", ["ffv1"], json.loads(described))
        write_raw(video, folder)
        write_sheets(video, folder / "sheets")
        meta = index["metadata"]
        return {name: index[name] for name in ("frames", "height", "width", "fps", "clips")} | {
            "given": [name for source in plan.sources for name in source.video.clips()],
            "notes": [note for source in plan.sources for note in source.treatment],
            "sheets": sorted(path.stem for path in (folder / "sheets").glob("*.png")),
            **{name: meta[name] for name in ("task", "prompts", "model", "seed", "steps", "guidance", "noise_scale")},
            "upscale": plan.upscale,
            "seconds": round(seconds, 3),
        }


def parse(request: Mapping[str, Any], folder: Path) -> Request:
    """A request as the command line would have it; given clips lie in the job's folder."""
    clips = {name: path for name in CLIPS if (path := folder / "given" / f"{name}.mkv").exists()}
    options = RunOptions(folder / "layers", **{key: request[key] for key in OPTIONS if request.get(key) is not None})
    prompts = request.get("foreground") or "", request.get("background") or "", request.get("blended") or None
    return Request(clips, *prompts, options)


class Watcher:
    """Told after each step: reports how far it is, shows what can be seen; raises `CancelledError` when asked to stop.

    That leaves the pipeline at once, where its `interrupt` would still decode and upscale what nobody wants.
    """

    def __init__(
        self, model: LoadedModel, plan: Plan, folder: Path, report: Callable[..., None], cancelled: Callable[[], bool]
    ) -> None:
        self._model, self._plan, self._folder, self._report, self._cancelled = model, plan, folder, report, cancelled
        self._started = time.monotonic()
        self._previewing = 0.0
        self._previews = 0

    def __call__(self, done: int, tensors: Mapping[str, Tensor]) -> None:
        """`done` steps are done; `tensors["clean"]` is the sequence without noise, as predicted by now."""
        if self._cancelled():
            raise CancelledError
        before = time.monotonic()
        each = (before - self._started - self._previewing) / done
        left = each * (self._plan.steps - done)
        self._report(step=done, seconds_left=round(left, 1), preview=self._previews)
        last = done == self._plan.steps
        if not last and self._previewing <= PREVIEW_SHARE * (before - self._started):
            write_preview(self._clean(tensors["clean"]), self._folder / PREVIEW)
            self._previewing += time.monotonic() - before
            self._previews += 1
            self._report(preview=self._previews)

    def _clean(self, sequence: Tensor) -> LayeredVideo:
        plan, codec = self._plan, self._model.pipeline.codec
        layout, _, _ = check_drawn_size(codec, plan.frames, plan.height, plan.width, plan.upscale)
        clips = codec.decode(sequence, layout, list(layout.clips))
        return from_model_space({name: clip[0].cpu() for name, clip in clips.items()}, plan.fps)


def write_sheets(video: LayeredVideo, folder: Path) -> None:
    """A sheet of all frames of each layer, lossless, for the viewer; alpha has one of its own too, as grey."""
    folder.mkdir(exist_ok=True)
    for layer, colour, alpha, _ in layers_of(video, FORMATS["png"]):
        write_sheet(folder / f"{layer}.png", colour, alpha, video.fps)
    if video.alpha is not None and not (folder / "alpha.png").exists():
        write_sheet(folder / "alpha.png", video.alpha.expand(-1, 3, -1, -1), None, video.fps)
