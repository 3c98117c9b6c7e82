"""An OpenTimelineIO timeline: the layers as tracks over each other, for editors that read .otio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...core.schema import BACKGROUND, BLENDED, MOST_FOREGROUNDS, scene_layers

*_COMPONENTS, _ = (layer.name for layer in scene_layers(MOST_FOREGROUNDS))
TRACKS = (*reversed(_COMPONENTS), BLENDED)
"""Layers from the lowest track up: background, foregrounds from far to near. `blended` is on top, disabled."""


def write_timeline(path: Path, files: Mapping[str, str], frames: int, fps: float, timecode: str) -> Path:
    """Write a timeline whose clips start together at a timecode.

    Args:
        path: the .otio file.
        files: name of each layer's file beside `path`.
        frames: number of frames of every layer.
        fps: frames per second.
        timecode: HH:MM:SS:FF of the first frame.
    """
    import opentimelineio as otio

    hours, minutes, seconds, frame = map(int, timecode.split(":"))
    # The library's timecode parser knows the rates of television alone.
    first = ((hours * 60 + minutes) * 60 + seconds) * round(fps) + frame
    start = otio.opentime.RationalTime(first, fps)
    whole = otio.opentime.TimeRange(start, otio.opentime.RationalTime(frames, fps))
    timeline = otio.schema.Timeline(path.stem, global_start_time=start)
    for layer in TRACKS:
        if layer not in files:
            continue
        media = otio.schema.ExternalReference(target_url=files[layer], available_range=whole)
        track = otio.schema.Track(layer, kind=otio.schema.TrackKind.Video)
        track.append(otio.schema.Clip(layer, media_reference=media, source_range=whole))
        track.enabled = layer != BLENDED or BACKGROUND not in files
        timeline.tracks.append(track)
    otio.adapters.write_to_file(timeline, str(path))
    return path
