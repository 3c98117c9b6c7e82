"""Layered clips in WebDataset shards, written and read.

A sample is `ID.foreground.webp` with alpha, `ID.background.webp`, `ID.blended.webp`, all lossless, and `ID.json`; with
several foregrounds also `ID.foreground-2.webp` and so on, from near to far.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.atomic import whole_path
from ..core.layered_video import LayeredVideo
from ..core.schema import MOST_FOREGROUNDS, scene_layers
from ..media import MediaError, read_video, write_video

SCHEMA = 2
"""Newest version of the content of a sample and of a set. A sample of one foreground has version 1, and so has a set
without others."""


@dataclass
class Sample:
    """One clip of a shard."""

    video: LayeredVideo
    record: dict[str, Any]
    """Content of `ID.json`: id, kind, frames, width, height, fps, frozen, captions, source, figures of the matte, and
    the number of foregrounds where there are several."""

    @property
    def captions(self) -> dict[str, str]:
        """Captions by layer; layers without one are left out."""
        return dict(self.record["captions"])


def schema_of(foregrounds: int) -> int:
    """Return the version of a sample; code that knows one foreground must not read one that has more."""
    return 1 if foregrounds == 1 else SCHEMA


def foregrounds_of(record: dict[str, Any]) -> int:
    """Return the number of foregrounds in the record of a sample; raise ValueError where it is out of range."""
    count = record.get("foregrounds", 1)
    if not isinstance(count, int) or not 1 <= count <= MOST_FOREGROUNDS:
        raise ValueError(f"{count!r} foregrounds")
    return count


def encode(id: str, video: LayeredVideo, record: dict[str, Any]) -> dict[str, Any]:
    """Encode a sample as WebDataset writes it."""
    sample: dict[str, Any] = {"__key__": id, "json": json.dumps(record, sort_keys=True).encode()}
    clips = video.clips()
    with tempfile.TemporaryDirectory() as folder:
        for layer in scene_layers(len(video.foregrounds)):
            name = f"{layer.name}.webp"
            path = write_video(Path(folder) / name, clips[layer.name], clips.get(layer.alpha or ""), video.fps, "webp")
            sample[name] = path.read_bytes()
    return sample


def decode(sample: dict[str, Any]) -> Sample:
    """Decode a sample as WebDataset reads it, with its files as bytes; raises MediaError when a part is damaged."""
    try:
        record = json.loads(sample["json"])
        if record["schema"] not in range(1, SCHEMA + 1):
            raise MediaError(f"sample {record['id']} is of schema {record['schema']}, but 1 to {SCHEMA} are read here")
        clips = {}
        with tempfile.TemporaryDirectory() as folder:
            for layer in scene_layers(foregrounds_of(record)):
                path = Path(folder) / f"{layer.name}.webp"
                path.write_bytes(sample[path.name])
                read = read_video(path, fps=record["fps"])
                # WebP merges equal frames, and leaves out alpha that is 1 everywhere.
                clips[layer.name] = _repeated(read.colour, record["frames"])
                if layer.alpha is not None:
                    alpha = read.alpha if read.alpha is not None else torch.ones_like(read.colour[:, :1])
                    clips[layer.alpha] = _repeated(alpha, record["frames"])
        return Sample(LayeredVideo.from_clips(clips, fps=record["fps"]), record)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"sample {sample.get('__key__')} is damaged ({error!r}); build its shard again") from error


def _repeated(clip: torch.Tensor, frames: int) -> torch.Tensor:
    return clip.expand(frames, -1, -1, -1).clone() if len(clip) == 1 else clip[:frames]


def write_shard(path: Path, samples: Iterable[dict[str, Any]]) -> None:
    """Write a tar of samples, whole or not at all; the same samples give the same bytes."""
    import webdataset

    with whole_path(path, flush=True) as partial, partial.open("wb") as file:
        writer = webdataset.TarWriter(file, encoder=False, mtime=0)
        for sample in samples:
            writer.write(sample)
        writer.close()


def read_shards(paths: Iterable[Path], on_error: Callable[[Exception], bool] | None = None) -> Iterator[Sample]:
    """Yield the samples of shards in order; after a damaged one go on where `on_error` returns True, else raise."""
    import webdataset

    files = [f"file:{path}" for path in paths]
    for sample in webdataset.WebDataset(files, shardshuffle=False, empty_check=False):
        try:
            yield decode(sample)
        except MediaError as error:
            if on_error is None or not on_error(error):
                raise
