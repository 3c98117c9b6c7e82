"""From a recipe to shards: by many processes or a Ray cluster; what is done stays, what fails is listed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..cluster import joined
from ..files import hash_path, write_atomically
from .items import Item, find_items
from .making import captioning, inpainting, make_clip, matting
from .recipe import FootageRecipe
from .shards import SCHEMA, encode, write_shard

INDEX = "index.json"
CAPTIONS = ("foreground", "background", "blended")


@dataclass(frozen=True)
class Shard:
    """A part of the work: the items of one tar file."""

    number: int
    items: tuple[Item, ...]
    recipe: FootageRecipe
    output: str

    @property
    def path(self) -> Path:
        return Path(self.output) / f"shard-{self.number:05d}.tar"

    @property
    def record(self) -> Path:
        """Says what is in the tar, once it is whole."""
        return self.path.with_suffix(".json")

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides what the shard holds, but for the contents of the footage."""
        recipe = {key: value for key, value in asdict(self.recipe).items() if key not in ("sources", "per_shard")}
        content = {"schema": SCHEMA, "recipe": recipe, "items": [asdict(item) for item in self.items]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
        Shard(number, tuple(items[start : start + recipe.per_shard]), recipe, str(folder))
        for number, start in enumerate(cuts)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [shard for shard in shards if finished(shard) is None]
    done, failed = len(shards) - len(waiting), 0
    count = workers or os.cpu_count() or 1
    for shard in _made_on_ray(waiting, ray, count) if ray else _made_here(waiting, count):
        done += 1
        found = finished(shard)
        failed += len(found["failed"]) if found else 0
        if report is not None:
            report(done, len(shards), failed)
    return write_index(recipe, shards)


def finished(shard: Shard) -> dict[str, Any] | None:
    """The record of a shard that is whole and up to date."""
    try:
        record: dict[str, Any] = json.loads(shard.record.read_text("utf-8"))
        whole = record["fingerprint"] == shard.fingerprint and shard.path.stat().st_size == record["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


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

    write_shard(shard.path, made())
    record = {
        "fingerprint": shard.fingerprint,
        "file": shard.path.name,
        "bytes": shard.path.stat().st_size,
        "sha256": hash_path(shard.path),
        "samples": samples,
        "failed": failed,
    }
    _write_json(shard.record, record)


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


def _made_here(shards: list[Shard], workers: int) -> Iterator[Shard]:
    if workers == 1 or len(shards) < 2:
        for shard in shards:
            make_shard(shard)
            yield shard
        return
    # A fresh process, for one that is forked from a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(shards)), context, initializer=_one_thread)
    try:
        futures = {pool.submit(make_shard, shard): shard for shard in shards}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a worker died, perhaps for lack of memory; the same command goes on from the shards that are done, with "
            "fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _made_on_ray(shards: list[Shard], address: str, workers: int) -> Iterator[Shard]:
    if not shards:
        return
    with joined(address, workers):
        import ray.data

        rows = [{"number": position} for position in range(len(shards))]
        # One block a shard: that is what Ray hands out, and repeats when a worker dies.
        numbers = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_MakeOnRay(shards), num_cpus=1)
        for row in numbers.iter_rows():
            yield shards[int(row["number"])]


class _MakeOnRay:
    """Makes the shard that a row names."""

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        _one_thread()
        shard = self.shards[int(row["number"])]
        if finished(shard) is None:
            make_shard(shard)
        return row


def write_index(recipe: FootageRecipe, shards: list[Shard]) -> dict[str, Any]:
    """Sum up the shards in index.json; shards and records of an earlier, longer build are removed."""
    records = [record for shard in shards if (record := finished(shard)) is not None]
    samples = [sample for record in records for sample in record["samples"]]
    kinds = sorted({sample["kind"] for sample in samples})
    index = {
        "schema": SCHEMA,
        "name": recipe.name,
        "recipe": {key: value for key, value in asdict(recipe).items() if key != "folder"},
        "clips": len(samples),
        "kinds": {kind: sum(sample["kind"] == kind for sample in samples) for kind in kinds},
        "shards": [
            {name: record[name] for name in ("file", "bytes", "sha256")} | {"clips": len(record["samples"])}
            for record in records
        ],
        "failed": [failure for record in records for failure in record["failed"]],
    }
    if shards:
        folder = shards[0].path.parent
        ours = {name for shard in shards for name in (shard.path.name, shard.record.name)}
        for path in folder.glob("shard-*"):
            if path.name not in ours:
                path.unlink()
        _write_json(folder / INDEX, index)
    return index


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
