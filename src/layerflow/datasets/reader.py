"""Random access to samples of shards: their records, and their clips read from the tar by offset."""

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
from .shards import Sample, decode, foregrounds_of

OPEN_SHARDS = 16
"""Most shards whose table of contents is cached; readers go through a few at a time."""
PRECOMPUTED_SCHEMA = 1
"""Version of the precomputed tensors of a sample."""
TENSORS = ".safetensors"
TEXT, LATENTS, HELD = "text", "latents", "held"
"""Kinds of precomputed tensors of a sample, each a file `ID.NAME.safetensors`: text states of its prompts, latents of
its clips, and latents of one of its frames, held."""
UNCONDITIONAL = "nothing.safetensors"
"""File beside the shards with the text states of the empty prompt."""


@dataclass(frozen=True)
class Row:
    """One sample of a set of shards, from its record."""

    shard: int
    """Number of its shard in the set."""
    id: str
    kind: str
    frames: int
    height: int
    width: int
    latents: bool = False
    """True if latents of it are precomputed."""
    foregrounds: int = 1


class ShardSet:
    """A folder of shards as a table of samples.

    Args:
        folder: folder of the set.
        only: number of the one shard whose samples are listed; all by default.

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
            """Record of the precomputed tensors and their model, see `precompute`; None where there are none."""
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
                    raise MediaError(f"{path} and index.json differ in its length; build it again")
                self.paths.append(path)
                self.rows += [
                    Row(
                        number,
                        s["id"],
                        s["kind"],
                        s["frames"],
                        s["height"],
                        s["width"],
                        s.get(LATENTS, False),
                        foregrounds_of(s),
                    )
                    for s in record["samples"]
                ]
        except FileNotFoundError as error:
            raise MediaError(
                f"{error.filename} is missing; give a whole folder of shards, as `layerflow data build` writes it"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, MediaError):
                raise
            raise MediaError(f"{self.folder}: its index or a record is damaged ({error!r}); build it again") from error
        self._contents: OrderedDict[int, dict[str, dict[str, tuple[int, int]]]] = OrderedDict()

    def read(self, row: Row) -> Sample:
        """Read the clips of a sample; raises MediaError when it is damaged or missing."""
        return decode({"__key__": row.id, **self.files(row, lambda end: not end.endswith(TENSORS))})

    def captions(self, row: Row) -> dict[str, str]:
        """Read the captions of a sample by layer, without its clips; raises MediaError as `read` does."""
        try:
            return dict(json.loads(self.files(row, lambda end: end == "json")["json"])["captions"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(row, error) from error

    def tensors(self, row: Row, kind: str) -> dict[str, Tensor]:
        """Read precomputed tensors of a sample by name, of kind `TEXT`, `LATENTS` or `HELD`; raises MediaError."""
        name = kind + TENSORS
        files = self.files(row, lambda end: end == name)
        try:
            return load(files[name])
        except (KeyError, SafetensorError) as error:
            raise self._damaged(row, error) from error

    def unconditional(self) -> dict[str, Tensor]:
        """Read the precomputed states of the empty prompt by layer; raises MediaError when damaged or missing."""
        assert self.precomputed is not None
        path = self.folder / UNCONDITIONAL
        try:
            content = path.read_bytes()
        except OSError as error:
            raise MediaError(f"{path} cannot be read ({error}); precompute the shards again") from error
        if hashlib.sha256(content).hexdigest() != self.precomputed["nothing"]:
            raise MediaError(f"{path} has changed since it was written; precompute the shards again")
        return load(content)

    def files(self, row: Row, accept: Callable[[str], bool]) -> dict[str, bytes]:
        """Read the files of a sample whose ending, the part after id and dot, is accepted; raises MediaError."""
        try:
            members = self._table(row.shard)[row.id]
            content = {}
            with self.paths[row.shard].open("rb") as file:
                for end, (offset, size) in members.items():
                    if accept(end):
                        file.seek(offset)
                        content[end] = file.read(size)
        except (OSError, KeyError, tarfile.TarError) as error:
            raise self._damaged(row, error) from error
        return content

    def _damaged(self, row: Row, error: Exception) -> MediaError:
        return MediaError(f"{self.paths[row.shard]}: sample {row.id} cannot be read ({error!r}); build its shard again")

    def _table(self, shard: int) -> dict[str, dict[str, tuple[int, int]]]:
        """Return offset and size of each file of a shard, by sample id and the part after the first dot."""
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


__all__ = ["HELD", "LATENTS", "PRECOMPUTED_SCHEMA", "TENSORS", "TEXT", "UNCONDITIONAL", "Row", "ShardSet"]
