"""Build shards from a recipe, in many processes or on a Ray cluster; finished shards are kept, failures listed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..core.errors import first_line
from ..core.schema import prompt_layers
from .builder import captioning, inpainting, make_clip, matting
from .pool import Part, carried_out, made_in_order, remove_partial, write_index
from .recipe import FootageRecipe
from .scan import Item, find_items
from .shards import encode, schema_of

Outcome = tuple[dict[str, Any], dict[str, Any] | None]
"""Record and sample of an item; or id and error of one that failed, and None."""


@dataclass(frozen=True)
class Shard(Part):
    """The items of one tar file."""

    items: tuple[Item, ...]
    recipe: FootageRecipe

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the shard's content, except the content of the footage."""
        recipe = {key: value for key, value in asdict(self.recipe).items() if key not in ("sources", "per_shard")}
        content = {"schema": 1, "recipe": recipe, "items": [_content(item) for item in self.items]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def make(self) -> None:
        """Make the shard, whole or not at all."""
        make_shard(self, map(partial(attempt, recipe=self.recipe), self.items))


def _content(item: Item) -> dict[str, Any]:
    """Return everything that decides an item's clip; without keys of stacks where it is none, so that shards which were
    built before there were stacks stay up to date."""
    content = asdict(item)
    if item.source.objects != "stack":
        del content["objects"], content["behind"], content["source"]["most_foregrounds"]
    return content


def build_shards(
    recipe: FootageRecipe,
    output: str | Path,
    workers: int | None = None,
    ray: str | None = None,
    report: Callable[[int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Make every clip of a recipe; return index.json of the output folder.

    A shard that is whole and was made from the same recipe and files is left as it is.

    Args:
        recipe: sources and settings.
        output: folder of the shards; one build at a time may write to it.
        workers: number of processes, by default one per CPU. A single one is this process itself; of several, each may
            die, and the item that it was making is listed as failed.
        ray: address of a Ray cluster, or `local`; files must have the same paths on all of its machines.
        report: called as (shards done, shards in all, clips that failed) after each shard.

    Raises:
        MediaError: a folder of the recipe does not exist or holds no footage of its kind.
        ValueError: a plug-in of the recipe is not known, or a package is missing.
        ClusterError: the cluster cannot be reached.
        RuntimeError: the cluster failed, or no worker can be started; finished shards are kept.
    """
    for package in ("cv2", "webdataset"):
        if find_spec(package) is None:
            raise ValueError(f"building shards needs {package}; install it with: pip install 'layerflow[data]'")
    matting(recipe, 0), inpainting(recipe), captioning(recipe)  # raises before any work where one is missing
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
    for shard in carried_out(waiting, count, ray) if ray else _built(waiting, recipe, count):
        done += 1
        record = shard.found()
        failed += len(record["failed"]) if record else 0
        if report is not None:
            report(done, len(shards), failed)
    keys = {key: value for key, value in asdict(recipe).items() if key != "folder"}
    return write_index(folder, shards, {"name": recipe.name, "recipe": keys})


def _built(shards: Sequence[Shard], recipe: FootageRecipe, workers: int) -> Iterator[Shard]:
    """Yield each finished shard.

    Workers receive items of any shard, so that none waits for the end of a shard; the tars are written in this process.
    """
    for folder in {shard.output for shard in shards}:
        remove_partial(Path(folder))
    items = [item for shard in shards for item in shard.items]
    with closing(made_in_order(partial(attempt, recipe=recipe), items, min(workers, max(1, len(items))), lost)) as made:
        for shard in shards:
            make_shard(shard, islice(made, len(shard.items)))
            yield shard


def attempt(item: Item, recipe: FootageRecipe) -> Outcome:
    """Make an item; an error is its outcome."""
    try:
        return make_sample(item, recipe)
    except (Exception, SystemExit) as error:
        return {"id": item.id, "error": first_line(error)}, None


def lost(item: Item) -> Outcome:
    """Return the outcome of an item whose process died."""
    return {"id": item.id, "error": "its process died, perhaps for lack of memory"}, None


def make_shard(shard: Shard, outcomes: Iterable[Outcome]) -> None:
    """Make one shard and its record, where items that failed are listed."""
    samples: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []

    def made() -> Iterator[dict[str, Any]]:
        for record, sample in outcomes:
            if sample is None:
                failed.append(record)
                continue
            samples.append(record)
            yield sample

    shard.write(made(), {"samples": samples, "failed": failed})


def make_sample(item: Item, recipe: FootageRecipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the clip of an item; return its record and its sample as a shard holds it."""
    video = make_clip(item, recipe)
    alpha, count = video.flattened().alpha, len(video.foregrounds)
    assert alpha is not None
    layers = prompt_layers(count)
    captions = {key: text for key, text in captioning(recipe)(recipe, item, video).items() if key in layers and text}
    change = alpha.diff(dim=0).abs().mean() if video.frames > 1 else torch.zeros(())
    record = {
        "schema": schema_of(count),
        "id": item.id,
        "kind": item.source.kind,
        "frames": video.frames,
        "width": video.width,
        "height": video.height,
        "fps": float(video.fps),
        "frozen": video.frames == 1,
        "captions": captions,
        "source": _origin(item),
        "coverage": round(float(alpha.mean()), 5),
        "change": round(float(change), 5),
    }
    if count > 1:
        record["foregrounds"] = count
    return record, encode(item.id, video, record)


def _origin(item: Item) -> dict[str, Any]:
    """Return the files, objects and numbers that an item is made of."""
    origin: dict[str, Any] = {"files": item.files, "object": item.object, "start": item.start, "seed": item.seed}
    if item.objects:
        origin["objects"] = list(item.objects)
    if item.behind:
        origin["behind"] = [_origin(one) for one in item.behind]
    return origin
