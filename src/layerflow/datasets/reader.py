"""Samples of shards by number: what each is, from the records alone, and its clips, read where they lie in the tar."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..media import MediaError
from .shards import Sample, decode

OPEN_SHARDS = 16
"""Shards whose table of contents is kept; readers go through a few at a time."""
PRECOMPUTED_SCHEMA = 1
"""Version of what is precomputed of a sample."""
TENSORS = ".safetensors"
TEXT, LATENTS, HELD = "text", "latents", "held"
"""What may be precomputed of a sample, each a file `ID.NAME.safetensors`: text states of its prompts, latents of its
clips, and latents of one of its frames, held."""
NOTHING = "nothing.safetensors"
"""Beside the shards: text states of no prompt."""


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
    latents: bool = False
    """Latents of it are there."""


class ShardSet:
    """A folder of shards as a table of samples.

    Args:
        folder: of the set.
        only: number of the one shard whose samples are wanted; all by default.

    Raises:
        MediaError: the folder is not a set of shards, or a shard is missing or cut off.
    """

    def __init__(self, folder: str | Path, only: int | None = None) -> None:
        self.folder = Path(folder)
        self.rows: list[Row] = []
        self.paths: list[Path] = []
        try:
            index: dict[str, Any] = json.loads((self.folder / "index.json").read_text("utf-8"))
            self.index = index
            self.precomputed: dict[str, Any] | None = index.get("precomputed")
            """What was precomputed, and by which model; see `training/precompute.py`."""
            if self.precomputed and self.precomputed["schema"] != PRECOMPUTED_SCHEMA:
                raise MediaError(
                    f"{folder} was precomputed in schema {self.precomputed['schema']}, but {PRECOMPUTED_SCHEMA} is "
                    "read here; precompute it again"
                )
            for number, shard in enumerate(index["shards"]):
                path = self.folder / Path(shard["file"]).name
                if only not in (None, number):
                    self.paths.append(path)
                    continue
                record = json.loads(path.with_suffix(".json").read_text("utf-8"))
                if path.stat().st_size != shard["bytes"]:
                    raise MediaError(f"{path} has not the length that index.json says; build it again")
                self.paths.append(path)
                self.rows += [
                    Row(number, s["id"], s["kind"], s["frames"], s["height"], s["width"], s.get(LATENTS, False))
                    for s in record["samples"]
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
        return decode({"__key__": row.id, **self.files(row, lambda end: not end.endswith(TENSORS))})

    def captions(self, row: Row) -> dict[str, str]:
        """A text for each layer that has one, without reading clips; raises MediaError as `read` does."""
        try:
            return dict(json.loads(self.files(row, lambda end: end == "json")["json"])["captions"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(row, error) from error

    def tensors(self, row: Row, kind: str) -> dict[str, Tensor]:
        """What is precomputed of a sample, of kind `TEXT`, `LATENTS` or `HELD`, by name; raises MediaError."""
        name = kind + TENSORS
        found = self.files(row, lambda end: end == name)
        try:
            return load(found[name])
        except (KeyError, SafetensorError) as error:
            raise self._damaged(row, error) from error

    def nothing(self) -> dict[str, Tensor]:
        """Precomputed states of no prompt, by layer; raises MediaError when they are damaged or not there."""
        assert self.precomputed is not None
        path = self.folder / NOTHING
        try:
            content = path.read_bytes()
        except OSError as error:
            raise MediaError(f"{path} cannot be read ({error}); precompute the shards again") from error
        if hashlib.sha256(content).hexdigest() != self.precomputed["nothing"]:
            raise MediaError(f"{path} is not what it was when it was written; precompute the shards again")
        return load(content)

    def files(self, row: Row, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        """The files of a sample whose ends, what follows the id and a dot, are wanted; raises MediaError."""
        try:
            members = self._table(row.shard)[row.id]
            found = {}
            with self.paths[row.shard].open("rb") as file:
                for end, (offset, size) in members.items():
                    if wanted(end):
                        file.seek(offset)
                        found[end] = file.read(size)
        except (OSError, KeyError, tarfile.TarError) as error:
            raise self._damaged(row, error) from error
        return found

    def _damaged(self, row: Row, error: Exception) -> MediaError:
        return MediaError(f"{self.paths[row.shard]}: sample {row.id} cannot be read ({error!r}); build its shard again")

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


__all__ = ["HELD", "LATENTS", "NOTHING", "PRECOMPUTED_SCHEMA", "TENSORS", "TEXT", "Row", "ShardSet"]
