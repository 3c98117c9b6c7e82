"""Export presets by name, and the files that each writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import features
from torch import Tensor

from ...core.atomic import hash_path
from ...core.layered_video import LayeredVideo
from ...core.schema import ALPHA_OF, FOREGROUND
from .. import FORMATS, MediaError, filled_together, layers_of, write_video
from ..writing import images_of, save_animation
from . import exr
from .sprite_sheets import write_sheet
from .timeline import write_timeline
from .treatment import clean_edges

RECORD = "delivery.json"
TIMECODE = re.compile(r"\d{2}:[0-5]\d:[0-5]\d:\d{2}")
EXTRA = "pip install 'layerflow[delivery]'"


@dataclass(frozen=True)
class Settings:
    """Options of an export besides the preset."""

    size: tuple[int, int] | None = None
    """Width and height in pixels to resize to; colour is weighted with alpha."""
    edges: float = 0.0
    """Strength of `clean_edges`; 0 leaves every value as it is."""
    timecode: str = "00:00:00:00"
    """HH:MM:SS:FF of the first frame, for editors."""

    def check(self, fps: float) -> None:
        """Raise ValueError for a setting out of its range."""
        if not TIMECODE.fullmatch(self.timecode) or int(self.timecode[-2:]) >= max(1, round(fps)):
            raise ValueError(
                f"timecode {self.timecode} is not HH:MM:SS:FF with frames under {round(fps)}, such as 01:00:00:00"
            )
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size {self.size} must be at least one pixel each way")


@dataclass(frozen=True)
class Preset:
    """One export preset."""

    name: str
    purpose: str
    """One-line description for lists of presets."""
    write: Callable[[LayeredVideo, Path, Settings], Iterator[tuple[str, str]]]
    """Function that writes into a folder; yields each file's name and a description."""
    needs: tuple[str, ...] = ()
    """Packages of the extra `delivery` that it needs."""


def deliver(video: LayeredVideo, folder: str | Path, preset: str, settings: Settings | None = None) -> dict[str, Any]:
    """Export layers with a preset; return the content of `delivery.json`, which describes the files.

    The folder gets all files or none; other files in it stay.

    Raises:
        MediaError: the preset is not known, needs a package that is not installed, or cannot be written.
        ValueError: a setting is out of its range.
    """
    if preset not in PRESETS:
        raise MediaError(f"preset {preset!r} is not known; choose {', '.join(PRESETS)}")
    chosen, settings = PRESETS[preset], settings or Settings()
    settings.check(video.fps)
    for package in chosen.needs:
        if find_spec(package) is None:
            raise MediaError(f"preset {preset} needs {package}; install it with: {EXTRA}")
    if settings.edges:
        video = clean_edges(video, settings.edges)
    if settings.size is not None:
        video = video.resize(settings.size[1], settings.size[0])
    video = video.with_blended()
    record: dict[str, Any] = {
        "preset": preset,
        "frames": video.frames,
        "width": video.width,
        "height": video.height,
        "fps": float(video.fps),
        "edges": settings.edges,
        "files": [],
    }
    with filled_together(Path(folder), last=RECORD) as temporary:
        for name, holds in chosen.write(video, temporary, settings):
            record["files"].append({"name": name, "holds": holds, "sha256": hash_path(temporary / name)})
        (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return record


def _editors(video: LayeredVideo, folder: Path, settings: Settings) -> Iterator[tuple[str, str]]:
    files = {}
    prores = FORMATS["prores"]
    for layer, colour, alpha, meaning in layers_of(video, prores):
        files[layer] = prores.name_of(layer)
        write_video(folder / files[layer], colour, alpha, video.fps, "prores", timecode=settings.timecode)
        yield files[layer], f"ProRes 4444, {prores.convention}, alpha {meaning}, from {settings.timecode} on"
    write_timeline(folder / "layers.otio", files, video.frames, video.fps, settings.timecode)
    yield "layers.otio", "OpenTimelineIO: the layers as tracks over each other"


def _web(video: LayeredVideo, folder: Path, settings: Settings) -> Iterator[tuple[str, str]]:
    kinds = [("webm", "VP9"), ("webp", "animated WebP, lossless")]
    for layer, colour, alpha, meaning in layers_of(video, FORMATS["webm"]):
        for name, codec in kinds:
            path = folder / FORMATS[name].name_of(layer)
            write_video(path, colour, alpha, video.fps, name)
            yield path.name, f"{codec}, alpha {meaning}"
        if features.check("avif"):
            name = f"{layer}.avif"
            _write_avif(folder / name, colour, alpha, video.fps)
            yield name, f"animated AVIF, alpha {meaning}"
    names = [name for name in ALPHA_OF if name in video.clips()]
    stack = "\n".join(VIDEO.format(name=name) for name in reversed(names or [FOREGROUND]))
    page = PAGE.format(width=video.width, height=video.height, foregrounds=stack)
    (folder / "index.html").write_text(page, "utf-8")
    over = "foregrounds" if len(names) > 1 else "foreground"
    yield "index.html", f"the {over} over the background, as a page shows them"


def _write_avif(path: Path, colour: Tensor, alpha: Tensor | None, fps: float) -> None:
    save_animation(path, "AVIF", list(images_of(colour, alpha)), fps, quality=85, subsampling="4:4:4")


PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Layers</title>
<style>
  .layers {{ position: relative; width: {width}px; height: {height}px }}
  .layers video {{ position: absolute; inset: 0 }}
</style>
<!-- Safari shows no alpha in VP9: it wants HEVC with alpha, which only Apple's encoders write (from foreground.mov of
     the editors preset: right click in Finder, Encode Selected Video Files, Preserve Transparency). Put that file in
     as a first <source> with type="video/mp4; codecs=hvc1", or use foreground.avif or foreground.webp in an <img>. -->
<div class="layers">
  <video autoplay loop muted playsinline src="background.webm"></video>
{foregrounds}
</div>
"""
VIDEO = """  <video autoplay loop muted playsinline><source src="{name}.webm" type="video/webm"></video>"""


def _game(video: LayeredVideo, folder: Path, settings: Settings) -> Iterator[tuple[str, str]]:
    png = FORMATS["png"]
    for layer, colour, alpha, meaning in layers_of(video, png):
        sheet, frames = write_sheet(folder / f"{layer}.png", colour, alpha, video.fps)
        yield sheet.name, f"sprite sheet, 8 bits, alpha {meaning}"
        yield frames.name, "where each frame is on the sheet, and how long it shows"
        write_video(folder / png.name_of(layer), colour, alpha, video.fps, "png")
        yield png.name_of(layer), f"a PNG for each frame, 8 bits, alpha {meaning}"


def _compositing(video: LayeredVideo, folder: Path, settings: Settings) -> Iterator[tuple[str, str]]:
    exr.write_exr(video, folder / "layers_exr")
    yield "layers_exr", f"OpenEXR, all layers in each file; {exr.CONVENTION}"


PRESETS: dict[str, Preset] = {
    one.name: one
    for one in (
        Preset(
            "editors",
            "ProRes 4444 with straight alpha and timecode, and a timeline with the layers stacked (After Effects, "
            "Premiere, Resolve)",
            _editors,
            needs=("opentimelineio",),
        ),
        Preset("web", "VP9, WebP and AVIF with alpha, and a page that shows them", _web),
        Preset("game", "sprite sheets with JSON, and PNG frames", _game),
        Preset("compositing", "OpenEXR frames with all layers, linear and premultiplied", _compositing, ("OpenEXR",)),
    )
}
"""Every export preset by name."""
