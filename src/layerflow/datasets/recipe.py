"""Recipes of layered clips from footage: YAML read into dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from ..core.config import NOT_A_KEY, ConfigError, load_config
from ..core.schema import MOST_FOREGROUNDS

KINDS = ("masks", "layered", "pairs", "copy-paste", "backgrounds")
OBJECTS = ("each", "all", "stack")


@dataclass(frozen=True)
class SourceRecipe:
    """One source of footage. Its folders are relative to the folder of the recipe."""

    kind: str
    """Kind of source. masks: videos with a mask for each frame (JPEGImages/ and Annotations/, as in DAVIS, YouTube-VOS
    and MOSE); layered: folders with foreground, background and perhaps blended, stills or videos; pairs: any cut-out
    over any background still; copy-paste: any moving cut-out over any background; backgrounds: videos alone."""
    folder: str = ""
    """Folder of the footage, for masks, layered and backgrounds."""
    foregrounds: str = ""
    """Folder of cut-outs with alpha, stills for pairs, videos or frame folders for copy-paste; for copy-paste also a
    folder with masks."""
    backgrounds: str = ""
    """Folder of stills or videos for pairs and copy-paste."""
    count: int = 0
    """Number of pairs or pastes; 0 for as many as there are foregrounds. For other kinds the largest number of clips, 0
    for all."""
    objects: str = "each"
    """For masks: `each` makes a clip of every object, `all` one foreground of all objects together, `stack` one clip
    with a foreground of each object. For pairs and copy-paste: `stack` pastes several cut-outs over one background."""
    most_foregrounds: int = 2
    """Foregrounds of a stack: of the objects of a video at most so many, the largest ones, and the others stay in the
    background; of cut-outs exactly so many."""
    share: tuple[float, float] = (0.5, 0.9)
    """For pairs and copy-paste: lower and upper end of the share of the frame that the object's path fills."""
    harmonise: float = 0.3
    """Strength, 0 to 1, by which the foreground's colours are moved towards the background's."""
    shadow: float = 0.0
    """Largest alpha of a shadow below the foreground, as part of its matte; drawn from 0 to this for each clip."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind {self.kind!r} is not known; choose {', '.join(KINDS)}")
        required = ("foregrounds", "backgrounds") if self.kind in ("pairs", "copy-paste") else ("folder",)
        for name in required:
            if not getattr(self, name):
                raise ConfigError(f"a source of kind {self.kind} needs {name}: the folder with its footage")
        if self.objects not in OBJECTS:
            raise ConfigError(f"objects is {self.objects!r}, but must be {', '.join(OBJECTS[:-1])} or {OBJECTS[-1]}")
        if not 1 <= self.most_foregrounds <= MOST_FOREGROUNDS:
            raise ConfigError(f"most_foregrounds is {self.most_foregrounds}, but must be from 1 to {MOST_FOREGROUNDS}")
        if not 0 < self.share[0] <= self.share[1] <= 1:
            raise ConfigError(f"share {list(self.share)} must be two numbers above 0 and at most 1, the larger last")
        if not (0 <= self.harmonise <= 1 and 0 <= self.shadow <= 1 and self.count >= 0):
            raise ConfigError("harmonise and shadow must be from 0 to 1, and count not negative")


@dataclass(frozen=True)
class FootageRecipe:
    """Everything that decides the content of a set of shards, besides the footage itself."""

    name: str
    """Name of the set."""
    sources: tuple[SourceRecipe, ...]
    """Sources of footage; at least one."""
    size: tuple[int, int] = (64, 64)
    """Width and height of a clip; footage is cropped around its centre and resized."""
    frames: int = 8
    """Frames of a clip; footage with fewer is listed as failed, longer footage is cut into several clips."""
    stride: int = 1
    """Step between the frames taken of the footage: 2 takes every second one."""
    most_clips: int = 4
    """Largest number of clips from one video."""
    seed: int = 0
    """Seed of everything that is drawn: the order of clips, pairs, places, shadows."""
    per_shard: int = 64
    """Clips of a shard."""
    matting: str = "plain"
    """Function from masks to alpha: plain, crude (with simulated faults), model:NAME (a ViTMatte model), or
    package.module:function."""
    inpainting: str = "flow"
    """Function that fills in the background: flow, still (each frame alone), model:NAME (flow, and a diffusers
    inpainting pipeline where no frame shows the background), or package.module:function."""
    captioning: str = "metadata"
    """Function that gives captions: metadata (captions.json beside the footage, else its name), model:NAME (an
    image-to-text model), or package.module:function."""
    dilate: int = 3
    """Pixels around a mask that count as hidden when the background is filled in."""
    folder: str = field(default=".", metadata=NOT_A_KEY)
    """Folder of the recipe, which folders of sources are relative to; set by `load_footage_recipe`."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources is empty, but must list at least one source")
        for name in ("frames", "stride", "most_clips", "per_shard"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if min(self.size) < 16 or self.dilate < 0:
            raise ConfigError(f"size {list(self.size)} must be at least 16 each way, and dilate not negative")

    def place(self, folder: str) -> Path:
        """Return the path of a source's folder."""
        return Path(self.folder) / folder


def load_footage_recipe(path: str | Path) -> FootageRecipe:
    """Read a recipe.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, of another type or out of range.
    """
    return replace(load_config(FootageRecipe, path), folder=str(Path(path).resolve().parent))
