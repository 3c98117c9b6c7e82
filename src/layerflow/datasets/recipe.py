"""Recipe of a set of layered clips from footage: YAML read into dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..core.config import ConfigError, load_config

KINDS = ("masks", "layered", "pairs", "copy-paste", "backgrounds")


@dataclass(frozen=True)
class SourceRecipe:
    """Where footage lies, and what is made of it. Folders are relative to the recipe's own."""

    kind: str
    """masks: videos with a mask for each frame (JPEGImages/ and Annotations/, as DAVIS, YouTube-VOS and MOSE have);
    layered: folders with foreground, background and perhaps blended, stills or videos; pairs: any cut-out over any
    background still; copy-paste: any moving cut-out over any background; backgrounds: videos alone."""
    folder: str = ""
    """Of masks, layered and backgrounds."""
    foregrounds: str = ""
    """Folder of cut-outs with alpha, stills for pairs, videos or frame folders for copy-paste; for copy-paste also a
    folder with masks."""
    backgrounds: str = ""
    """Folder of stills or videos for pairs and copy-paste."""
    count: int = 0
    """How many pairs or pastes to make; 0: as many as there are foregrounds. Of other kinds: at most so many."""
    objects: str = "each"
    """For masks: each object is a foreground of its own, or all of them together are one."""
    share: tuple[float, float] = (0.5, 0.9)
    """For pairs and copy-paste: how much of the frame the object's path fills, from and to."""
    harmonise: float = 0.3
    """How far its colours move towards the background's."""
    shadow: float = 0.0
    """Alpha of a shadow below it, which belongs to its matte; each clip draws from 0 to this."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind {self.kind!r} is not known; choose {', '.join(KINDS)}")
        wanted = ("foregrounds", "backgrounds") if self.kind in ("pairs", "copy-paste") else ("folder",)
        for name in wanted:
            if not getattr(self, name):
                raise ConfigError(f"a source of kind {self.kind} wants {name}: the folder that holds them")
        if self.objects not in ("each", "all"):
            raise ConfigError(f"objects is {self.objects!r}, but must be each or all")
        if not 0 < self.share[0] <= self.share[1] <= 1:
            raise ConfigError(f"share {list(self.share)} must be two numbers above 0 and at most 1, the larger last")
        if not (0 <= self.harmonise <= 1 and 0 <= self.shadow <= 1 and self.count >= 0):
            raise ConfigError("harmonise and shadow must be from 0 to 1, and count not negative")


@dataclass(frozen=True)
class FootageRecipe:
    """All that decides what a set of shards holds, besides the footage itself."""

    name: str
    sources: tuple[SourceRecipe, ...]
    size: tuple[int, int] = (64, 64)
    """Width and height of a clip; footage is cropped around its centre and resized."""
    frames: int = 8
    """Frames of a clip; footage with fewer is listed as failed, with more it is cut into several clips."""
    stride: int = 1
    """Every so manieth frame of the footage is taken."""
    most_clips: int = 4
    """Clips that one video may give."""
    seed: int = 0
    per_shard: int = 64
    """Clips of a shard."""
    matting: str = "plain"
    """plain, crude (with faults put in), model:NAME (a ViTMatte model), or package.module:function."""
    inpainting: str = "flow"
    """flow, still (each frame on its own), model:NAME (flow, with what no frame shows painted by a diffusers pipeline
    that inpaints), or package.module:function."""
    captioning: str = "metadata"
    """metadata (captions.json beside the footage, else its name), model:NAME (an image-to-text model), or
    package.module:function."""
    dilate: int = 3
    """Pixels around a mask that count as hidden when the background is filled in."""
    folder: str = field(default=".")
    """What sources' folders are relative to; set from the recipe's place."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources: a recipe wants at least one")
        for name in ("frames", "stride", "most_clips", "per_shard"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if min(self.size) < 16 or self.dilate < 0:
            raise ConfigError(f"size {list(self.size)} must be at least 16 each way, and dilate not negative")

    def place(self, folder: str) -> Path:
        """A source's folder."""
        return Path(self.folder) / folder


def load_footage_recipe(path: str | Path) -> FootageRecipe:
    """Read a recipe; unknown keys, wrong types and values out of range raise ConfigError."""
    return load_config(FootageRecipe, path, {"folder": str(Path(path).resolve().parent)})
