"""Samples of shards by number: what each is, from the records alone, and its clips, read where they lie in the tar."""

from __future__ import annotations

import json
import tarfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..media import MediaError
from .shards import Sample, decode

OPEN_SHARDS = 16
"""Shards whose table of contents is kept; readers go through a few at a time."""


@dataclass(frozen=True)
class Row:
    """One sample of a set of shards, as its record tells it."""

    shard: int
    """Place of its shard among the set's."""
    id: str
    kind: str
    frames: int
    height: int
    width: int


class ShardSet:
    """A folder of shards as a table of samples.

    Raises:
        MediaError: the folder is not a set of shards, or a shard is missing or cut off.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.rows: list[Row] = []
        self.paths: list[Path] = []
        try:
            index = json.loads((self.folder / "index.json").read_text("utf-8"))
            for number, shard in enumerate(index["shards"]):
                path = self.folder / Path(shard["file"]).name
                record = json.loads(path.with_suffix(".json").read_text("utf-8"))
                if path.stat().st_size != shard["bytes"]:
                    raise MediaError(f"{path} has not the length that index.json says; build it again")
                self.paths.append(path)
                self.rows += [
                    Row(number, s["id"], s["kind"], s["frames"], s["height"], s["width"]) for s in record["samples"]
                ]
        except FileNotFoundError as error:
            raise MediaError(
                f"{error.filename} is missing; a set of shards is what `layerflow data build` writes, all of it"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, MediaError):
                raise
            raise MediaError(f"{self.folder}: its index or a record is damaged ({error!r}); build it again") from error
        self._contents: OrderedDict[int, dict[str, dict[str, tuple[int, int]]]] = OrderedDict()

    def read(self, row: Row) -> Sample:
        """The clips of a sample; raises MediaError when it is damaged or not there."""
        path = self.paths[row.shard]
        sample: dict[str, Any] = {"__key__": row.id}
        try:
            members = self._table(row.shard)[row.id]
            with path.open("rb") as file:
                for end, (offset, size) in members.items():
                    file.seek(offset)
                    sample[end] = file.read(size)
        except (OSError, KeyError, tarfile.TarError) as error:
            raise MediaError(f"{path}: sample {row.id} cannot be read ({error!r}); build its shard again") from error
        return decode(sample)

    def _table(self, shard: int) -> dict[str, dict[str, tuple[int, int]]]:
        """Where each file of each sample of a shard lies: by id and by what follows the first dot, offset and size."""
        if shard not in self._contents:
            table: dict[str, dict[str, tuple[int, int]]] = {}
            with tarfile.open(self.paths[shard], "r:") as tar:
                for member in tar:
                    key, _, end = member.name.partition(".")
                    table.setdefault(key, {})[end] = member.offset_data, member.size
            self._contents[shard] = table
            while len(self._contents) > OPEN_SHARDS:
                self._contents.popitem(last=False)
        self._contents.move_to_end(shard)
        return self._contents[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_contents": OrderedDict()}


__all__ = ["Row", "ShardSet"]
