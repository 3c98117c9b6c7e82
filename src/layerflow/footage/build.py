"""From a recipe to shards: by many processes or a Ray cluster; what is done stays, what fails is listed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .items import Item, find_items
from .making import captioning, inpainting, make_clip, matting
from .recipe import FootageRecipe
from .shards import SCHEMA, encode
from .work import Part, carried_out, write_index

CAPTIONS = ("foreground", "background", "blended")


@dataclass(frozen=True)
class Shard(Part):
    """The items of one tar file."""

    items: tuple[Item, ...]
    recipe: FootageRecipe

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides what the shard holds, but for the contents of the footage."""
        recipe = {key: value for key, value in asdict(self.recipe).items() if key not in ("sources", "per_shard")}
        content = {"schema": SCHEMA, "recipe": recipe, "items": [asdict(item) for item in self.items]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def make(self) -> None:
        make_shard(self)


def build_shards(
    recipe: FootageRecipe,
    output: str | Path,
    workers: int | None = None,
    ray: str | None = None,
    report: Callable[[int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Make every clip of a recipe; returns what index.json in the output folder says.

    A shard that is whole and was made from the same recipe and files is left as it is.

    Args:
        recipe: what to make.
        output: folder of the shards; one build at a time may write to it.
        workers: processes; None: as many as there are CPUs.
        ray: address of a Ray cluster, or `local`; files must have the same paths on all of its machines.
        report: called as (shards done, shards in all, clips that failed) after each shard.

    Raises:
        MediaError: a folder of the recipe is not there or holds nothing of its kind.
        ValueError: a plug-in of the recipe is not known, or a package is missing.
        ClusterError: the cluster cannot be reached.
        RuntimeError: a worker or the cluster gave up; the shards that are done stay.
    """
    for package in ("cv2", "webdataset"):
        if find_spec(package) is None:
            raise ValueError(f"building shards wants {package}; install it with: pip install 'layerflow[data]'")
    matting(recipe, 0), inpainting(recipe), captioning(recipe)  # that they are there is found out before any work
    items, folder = find_items(recipe), Path(output).absolute()
    cuts = range(0, len(items), recipe.per_shard)
    shards = [
        Shard(number, str(folder), tuple(items[start : start + recipe.per_shard]), recipe)
        for number, start in enumerate(cuts)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [shard for shard in shards if shard.found() is None]
    done, failed = len(shards) - len(waiting), 0
    count = workers or os.cpu_count() or 1
    for shard in carried_out(waiting, count, ray):
        done += 1
        found = shard.found()
        failed += len(found["failed"]) if found else 0
        if report is not None:
            report(done, len(shards), failed)
    told = {key: value for key, value in asdict(recipe).items() if key != "folder"}
    return write_index(folder, shards, {"name": recipe.name, "recipe": told})


def make_shard(shard: Shard) -> None:
    """Make one shard and its record. An item that fails is listed there and stops nothing."""
    samples: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []

    def made() -> Iterator[dict[str, Any]]:
        for item in shard.items:
            try:
                record, sample = make_sample(item, shard.recipe)
            except Exception as error:
                said = str(error).strip().splitlines()
                failed.append({"id": item.id, "error": said[0] if said else type(error).__name__})
                continue
            samples.append(record)
            yield sample

    shard.write(made(), {"samples": samples, "failed": failed})


def make_sample(item: Item, recipe: FootageRecipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of a clip, and the clip as a shard holds it."""
    video = make_clip(item, recipe)
    assert video.alpha is not None
    captions = {key: text for key, text in captioning(recipe)(recipe, item, video).items() if key in CAPTIONS and text}
    change = video.alpha.diff(dim=0).abs().mean() if video.frames > 1 else torch.zeros(())
    record = {
        "schema": SCHEMA,
        "id": item.id,
        "kind": item.source.kind,
        "frames": video.frames,
        "width": video.width,
        "height": video.height,
        "fps": float(video.fps),
        "frozen": video.frames == 1,
        "captions": captions,
        "source": {"files": item.files, "object": item.object, "start": item.start, "seed": item.seed},
        "coverage": round(float(video.alpha.mean()), 5),
        "change": round(float(change), 5),
    }
    return record, encode(item.id, video, record)
