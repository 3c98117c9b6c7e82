"""A layered video as a folder: a file for each layer and format, a preview, and layers.json, which describes them.

Version 2 of layers.json is version 1 with several foregrounds: its clips and files include `foreground-2`, `alpha-2`
and so on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.atomic import hash_path, whole_files
from ..core.compositing import blend, extend_colour, uncompose
from ..core.layered_video import LayeredVideo
from ..core.schema import (
    ALL_CLIPS,
    ALPHA,
    ALPHA_OF,
    BLENDED,
    CHANNELS,
    COMPONENTS,
    DEFAULT_FPS,
    foreground_count,
    scene_layers,
)
from .formats import BEST_FIRST, FORMATS, Format, find_format
from .preview import write_preview
from .reading import read_video
from .video import MediaError, ReadLimits
from .writing import padded_size, write_video, writing

INDEX = "layers.json"
VERSIONS = (1, 2)
"""Versions of layers.json that can be read. One foreground is written as the first, so that older readers take it."""
COLOUR = "sRGB as displayed, alpha straight, blended = alpha * foreground + (1 - alpha) * background"
SEVERAL = "; foregrounds are numbered from near to far and composited from far to near"
GREY = 0.5
WRITERS = 2
"""Files written at a time; more would take more memory, as each writer copies its clip."""


def save_layers(
    video: LayeredVideo,
    folder: str | Path,
    formats: Sequence[str] = ("webm",),
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write each layer in each format, `preview.webp` and `layers.json`; return the content of layers.json.

    A foreground and its alpha share a file where the format holds alpha; in mp4 a foreground is written over mid-grey
    and its alpha as a separate file, such as `foreground-2.mp4` and `alpha-2.mp4`. A missing blended clip is composed
    when the other clips are present. The folder gets all files or none; other files in it stay. `metadata` must be
    JSON.

    Raises:
        MediaError: a format is unknown or cannot be written.
        ValueError: formats is empty, or metadata is not JSON.
    """
    folder = Path(folder)
    if isinstance(formats, str) or not formats:
        raise ValueError(f"formats is {formats!r}: it must name at least one of {', '.join(FORMATS)}.")
    chosen = [find_format(name) for name in dict.fromkeys(formats)]
    try:
        kept = json.loads(json.dumps(dict(metadata or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata cannot be kept as JSON ({error}); use plain values.") from error
    composed, several = video.with_blended(), foreground_count(video.clips()) > 1
    if composed is not video:
        video, note = composed, f"composed from {'foregrounds' if several else 'foreground'} over background"
    else:
        note = "given" if BLENDED in video.clips() else "missing"
    index: dict[str, Any] = {
        "version": 2 if several else 1,
        "frames": video.frames,
        "height": video.height,
        "width": video.width,
        "fps": float(video.fps),
        "clips": list(video.clips()),
        BLENDED: note,
        "convention": COLOUR + SEVERAL if several else COLOUR,
        "preview": "preview.webp",
        "files": [],
        "metadata": kept,
    }
    with filled_together(folder) as temporary:
        with ThreadPoolExecutor(WRITERS) as pool:  # encoders run in one thread each, without Python's global lock
            entries = [
                pool.submit(_write_layer, temporary, one, video, *layer)
                for one in chosen
                for layer in layers_of(video, one)
            ]
            preview = pool.submit(write_preview, video, temporary / "preview.webp")
            try:
                index["files"] = [entry.result() for entry in entries]
                preview.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        (temporary / INDEX).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return index


def load_layers(folder: str | Path, limits: ReadLimits | None = None) -> LayeredVideo:
    """Read the layered video in a folder, by layers.json, or else by names such as `foreground-2.webm`.

    Of several files of a layer the lossless one with the most bits is read. `limits` applies to each file.
    Raises `MediaError` when there are no layers, or the files do not fit together or go beyond the limits.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MediaError(f"{folder}: there is no such folder; name one with layer files in it.")
    index = _read_index(folder)
    best = _best_files(folder, index)
    if not best:
        examples = ", ".join(FORMATS["webm"].name_of(layer) for layer in COMPONENTS)
        raise MediaError(f"{folder}: it holds no layers; put files such as {examples} into it.")
    clips: dict[str, Tensor] = {}
    fps = float(index["fps"]) if index else None
    for layer, (path, one) in best.items():
        if layer in clips:
            continue  # alpha that came with its colour
        shown = read_video(path, fps=fps, limits=limits)
        fps = fps or (None if one.folder else shown.fps)
        clips[layer] = shown.colour.median(dim=1, keepdim=True).values if CHANNELS[layer] == 1 else shown.colour
        if layer in ALPHA_OF and shown.alpha is not None:
            clips[ALPHA_OF[layer]] = shown.alpha
    if index:
        clips = {name: _as_saved(clip, index) for name, clip in clips.items()}
    for layer, alpha in ALPHA_OF.items():
        if layer not in clips:
            continue
        if index and alpha in index["clips"] and alpha not in clips:
            clips[alpha] = torch.ones_like(clips[layer][:, :1])  # WebP leaves out alpha that is 1
        if alpha in clips and not best[layer][1].alpha:
            try:
                straight = uncompose(clips[layer], clips[alpha], torch.full_like(clips[layer], GREY))
            except RuntimeError as error:
                raise MediaError(f"{folder}: {layer} and {alpha} differ in frames or size; resize one.") from error
            clips[layer] = extend_colour(straight, clips[alpha])
    try:
        return LayeredVideo.from_clips(clips, fps=fps or DEFAULT_FPS)
    except ValueError as error:
        raise MediaError(f"{folder}: its layers do not fit together: {error}") from error


def saved_clips(folder: str | Path) -> list[str]:
    """Return the names of the clips that layers.json lists, without reading a video.

    Raises `MediaError` when the folder has no layers.json or a damaged one.
    """
    index = _read_index(Path(folder))
    if index is None:
        raise MediaError(f"{folder}: it has no {INDEX}; name a folder that LayerFlow wrote.")
    return list(index["clips"])


def lossy_layers(folder: str | Path) -> list[str]:
    """Return the layers of a folder that `load_layers` reads from a lossy file, because there is no other."""
    folder = Path(folder)
    best = _best_files(folder, _read_index(folder))
    return [layer for layer, (_, one) in best.items() if not one.lossless]


def layers_of(video: LayeredVideo, one: Format) -> Iterator[tuple[str, Tensor, Tensor | None, str]]:
    """Yield layer, colour, alpha and the kind of alpha for each file of a format."""
    clips = video.clips()
    for layer in scene_layers(foreground_count(clips)):
        colour, alpha = clips.get(layer.name), clips.get(layer.alpha or "")
        together = colour is not None and alpha is not None and one.alpha
        if colour is not None and alpha is None:
            yield layer.name, colour, None, "none"
        elif colour is not None and together:
            yield layer.name, colour, alpha, "straight"
        elif colour is not None and alpha is not None:
            over_grey = blend(colour, alpha, torch.full_like(colour, GREY)).clamp(0, 1)
            meaning = f"{layer.name} over mid-grey; its alpha is in the file of layer {layer.alpha}"
            yield layer.name, over_grey, None, meaning
        if layer.alpha is not None and alpha is not None and not together:
            yield layer.alpha, alpha.expand(-1, 3, -1, -1), None, "this file: 0 transparent, 1 opaque"


def _write_layer(
    folder: Path, one: Format, video: LayeredVideo, layer: str, colour: Tensor, alpha: Tensor | None, meaning: str
) -> dict[str, Any]:
    """Write one file of `layers_of`; return its entry in layers.json."""
    path = folder / one.name_of(layer)
    write_video(path, colour, alpha, video.fps, one.name)
    return _entry(path, layer, one, video, alpha, meaning)


def _entry(
    path: Path, layer: str, one: Format, video: LayeredVideo, alpha: Tensor | None, meaning: str
) -> dict[str, Any]:
    height, width = padded_size(one, video.height, video.width)
    files = list(path.iterdir()) if one.folder else [path]
    return {
        "name": path.name,
        "layer": layer,
        "format": one.name,
        "codec": one.codec if one.codec != "pillow" else one.name,
        "pixels": one.alpha_pixels if alpha is not None else one.pixels,
        "bits": one.bits,
        "lossless": one.lossless,
        "colour": one.convention,
        ALPHA: meaning,
        "frames": video.frames,
        "fps": float(video.fps),
        "height": height,
        "width": width,
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": hash_path(path),
    }


@contextmanager
def filled_together(folder: Path, last: str = INDEX) -> Iterator[Path]:
    """Give a temporary folder whose content moves into `folder` when the block ends without error; see `whole_files`.

    Raises:
        MediaError: a file is in the way, or the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise MediaError(f"{folder}: a file is in the way; choose another name for the folder.")
    with writing(folder), whole_files(folder, last) as partial:
        yield partial


def _read_index(folder: Path) -> dict[str, Any] | None:
    path = folder / INDEX
    if not path.exists():
        return None
    try:
        index: dict[str, Any] = json.loads(path.read_text("utf-8"))
        version = index["version"]
        if version not in VERSIONS:
            raise MediaError(
                f"{path}: it is of version {version}, but versions {' and '.join(map(str, VERSIONS))} can be read; "
                "save the layers again, or remove the file to read the layers by name."
            )
        for key in ("frames", "height", "width"):
            index[key] = int(index[key])
        float(index["fps"])
        for file in index["files"]:
            if Path(file["name"]).name != file["name"] or file["format"] not in FORMATS:
                raise KeyError(file["name"])
        for name in (*index["clips"], *(file["layer"] for file in index["files"])):
            if name not in CHANNELS:
                raise KeyError(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path}: it is damaged ({error!r}); remove it to read the layers by their names.") from error
    return index


def _best_files(folder: Path, index: dict[str, Any] | None) -> dict[str, tuple[Path, Format]]:
    """Return the file to read for each layer."""
    if index is not None:
        there = {(file["layer"], file["format"]): folder / file["name"] for file in index["files"]}
        for path in there.values():
            if not path.exists():
                raise MediaError(
                    f"{path}: layers.json names it but it is missing; put it back, or save the layers again."
                )
    else:
        there = {(layer, name): folder / FORMATS[name].name_of(layer) for layer in ALL_CLIPS for name in BEST_FIRST}
    best: dict[str, tuple[Path, Format]] = {}
    for layer in ALL_CLIPS:
        for name in BEST_FIRST:
            path = there.get((layer, name))
            if path is not None and path.exists():
                best[layer] = (path, FORMATS[name])
                break
    return best


def _as_saved(clip: Tensor, index: Mapping[str, Any]) -> Tensor:
    """Undo changes of a format: padding to even sizes, and, in WebP, equal frames merged into one."""
    if clip.shape[0] == 1:
        clip = clip.expand(index["frames"], -1, -1, -1).clone()
    return clip[: index["frames"], :, : index["height"], : index["width"]]
