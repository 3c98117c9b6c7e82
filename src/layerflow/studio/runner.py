"""Work of a worker: from a request to layers, sprite sheets for the viewer, and previews during denoising."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.errors import FieldError
from ..core.layered_video import LayeredVideo
from ..core.schema import ALPHA_OF, BLENDED
from ..generation.load import LoadedModel
from ..generation.record import describe
from ..generation.request import Request, from_plain, options
from ..generation.resolve import Resolved, check_request, resolve
from ..generation.run import denoise
from ..media import FORMATS, MediaError, layers_of, save_layers, write_preview
from ..media.export.sprite_sheets import write_sheet
from ..models.codec import check_drawn_size
from ..models.model_space import from_model_space
from .limits import Limits
from .raw_frames import write_raw
from .requests import files_of
from .worker import CancelledError

PREVIEW = "preview.webp"
PREVIEW_SHARE = 0.2
"""Maximum share of the time spent on previews."""


@dataclass
class Maker:
    """Generates layers with one model."""

    model: LoadedModel
    limits: Limits
    loras: Path | None = None
    """Folder of the LoRAs that jobs may name."""

    def __call__(
        self, folder: Path, request: dict[str, Any], report: Callable[..., None], cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Run a job; write `layers/` in the format of the command line, and `sheets/` for the viewer."""
        report(stage="reading")
        parsed = parse(request, folder, self.loras)
        check_request(parsed)
        resolved = resolve(parsed, self.model.facts)
        height, width = resolved.size
        pixels = resolved.frames * height * width
        if resolved.frames > self.limits.make_frames or pixels > self.limits.make_pixels:
            raise MediaError(
                f"{resolved.frames} frames of {width}x{height} are more than a job may make, which is "
                f"{self.limits.make_frames} frames and {self.limits.make_pixels} pixels in all; request less"
            )
        report(stage="denoising", step=0, steps=resolved.steps)
        watcher = Watcher(self.model, resolved, folder, report, cancelled)
        video, seconds = denoise(self.model, resolved, lambda _: None, watcher)
        report(stage="writing", seconds_left=None)
        video = video.with_blended()
        metadata = json.dumps(describe(self.model, resolved, seconds, folder / "layers"))
        for private in (folder, self.loras):  # clients do not get paths of the server
            metadata = metadata.replace(f"{private}/", "")
        index = save_layers(video, folder / "layers", ["ffv1"], json.loads(metadata))
        write_raw(video, folder)
        write_sheets(video, folder / "sheets")
        meta = index["metadata"]
        return {name: index[name] for name in ("frames", "height", "width", "fps", "clips")} | {
            "given": [name for source in resolved.sources if not source.trimap for name in source.video.clips()],
            "notes": [note.replace(f"{folder}/", "") for note in resolved.notes],
            "sheets": sorted(path.stem for path in (folder / "sheets").glob("*.png")),
            **{name: meta[name] for name in ("task", "prompts", "model", "seed", "steps", "guidance", "noise_scale")},
            "upscale": resolved.upscale,
            "seconds": round(seconds, 3),
        }


def parse(request: Mapping[str, Any], folder: Path, loras: Path | None) -> Request:
    """Return the request of a job, with the given clips in its folder; raises FieldError for an unknown LoRA."""
    fields = {name: request[name] for name in options(Request) if request.get(name) is not None}
    fields[BLENDED] = fields.get(BLENDED) or None
    fields["lora"] = [find_lora(name, loras) for name in fields.get("lora", ())]
    files: dict[str, Any] = files_of(request, folder / "given")
    return Request(**files, **from_plain(Request, fields))


def find_lora(text: str, folder: Path | None) -> str:
    """Return "PATH:WEIGHT" for "NAME[:WEIGHT]", a LoRA in a folder; raises FieldError."""
    if folder is None:
        raise FieldError("lora", f"{text}: this studio has no LoRAs; start it with a folder of LoRAs")
    name, colon, weight = text.partition(":")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if name not in names:
        raise FieldError("lora", f"{name} does not exist; this studio has {', '.join(names) or 'none'}")
    return f"{folder / name}{colon}{weight}"


class Watcher:
    """Step callback: reports progress, writes previews, and raises `CancelledError` if the job was cancelled.

    The error leaves the pipeline at once, whereas its `interrupt` would still decode and upscale.
    """

    def __init__(
        self,
        model: LoadedModel,
        resolved: Resolved,
        folder: Path,
        report: Callable[..., None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._model, self._resolved, self._folder = model, resolved, folder
        self._report, self._cancelled = report, cancelled
        self._started = time.monotonic()
        self._previewing = 0.0
        self._previews = 0

    def __call__(self, done: int, tensors: Mapping[str, Tensor]) -> None:
        """Report that `done` steps are done; `tensors["clean"]` is the current prediction of the clean sequence."""
        if self._cancelled():
            raise CancelledError
        before = time.monotonic()
        each = (before - self._started - self._previewing) / done
        left = each * (self._resolved.steps - done)
        self._report(step=done, seconds_left=round(left, 1), preview=self._previews)
        last = done == self._resolved.steps
        if not last and self._previewing <= PREVIEW_SHARE * (before - self._started):
            write_preview(self._clean(tensors["clean"]), self._folder / PREVIEW)
            self._previewing += time.monotonic() - before
            self._previews += 1
            self._report(preview=self._previews)

    def _clean(self, sequence: Tensor) -> LayeredVideo:
        resolved, codec = self._resolved, self._model.pipeline.codec
        layout, _, _ = check_drawn_size(codec, resolved.frames, *resolved.size, resolved.upscale)
        clips = codec.decode(sequence, layout, list(layout.clips))
        return from_model_space({name: clip[0].cpu() for name, clip in clips.items()}, resolved.fps)


def write_sheets(video: LayeredVideo, folder: Path) -> None:
    """Write a lossless sprite sheet of each layer for the viewer, and one of alpha in grey."""
    folder.mkdir(exist_ok=True)
    for layer, colour, alpha, _ in layers_of(video, FORMATS["png"]):
        write_sheet(folder / f"{layer}.png", colour, alpha, video.fps)
    for name, clip in video.clips().items():
        if name in ALPHA_OF.values() and not (folder / f"{name}.png").exists():
            write_sheet(folder / f"{name}.png", clip.expand(-1, 3, -1, -1), None, video.fps)
