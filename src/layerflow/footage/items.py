"""What footage there is: folders looked through for clips that can be made, before anything heavy starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..media import MediaError, natural_order
from .recipe import FootageRecipe, SourceRecipe

STILLS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v"}
LAYERS = ("foreground", "alpha", "background", "blended")


@dataclass(frozen=True)
class Item:
    """One clip to be made: where from, and the numbers that decide the rest."""

    id: str
    """Unique in its set, and a name that a file can have."""
    source: SourceRecipe
    files: dict[str, str]
    """What is read, by its part: frames and masks; layers by their names; foreground and background."""
    object: int | None = None
    """Number in the masks; None: whatever is not 0."""
    start: int = 0
    """First frame taken of the footage, in its own frames."""
    seed: int = 0
    about: str = field(default="")
    """Name of the footage, for captions."""


def find_items(recipe: FootageRecipe) -> list[Item]:
    """Every clip of a recipe, in an order that its seed decides.

    Raises:
        MediaError: a folder is not there, or holds nothing of its kind.
    """
    items: list[Item] = []
    for number, source in enumerate(recipe.sources):
        find = {
            "masks": _masks, "layered": _layered, "pairs": _pairs, "copy-paste": _pairs, "backgrounds": _backgrounds,
        }[source.kind]  # fmt: skip
        found = find(recipe, source)
        if not found:
            raise MediaError(f"source {number + 1} ({source.kind}): nothing of that kind is in {_folders(source)}")
        if source.kind not in ("pairs", "copy-paste") and source.count:
            found = found[: source.count]
        items += found
    ids = {item.id for item in items}
    if len(ids) != len(items):  # two folders with footage of the same name
        items = [_named(item, f"{index:06d}-{item.id}") for index, item in enumerate(items)]
    order = np.random.default_rng([recipe.seed, 1]).permutation(len(items))
    return [items[index] for index in order]


def _named(item: Item, id: str) -> Item:
    return Item(id, item.source, item.files, item.object, item.start, item.seed, item.about)


def _folders(source: SourceRecipe) -> str:
    return " and ".join(folder for folder in (source.folder, source.foregrounds, source.backgrounds) if folder)


def _there(recipe: FootageRecipe, name: str) -> Path:
    folder = recipe.place(name)
    if not folder.is_dir():
        raise MediaError(f"{folder}: there is no such folder; name one that holds footage in the recipe")
    return folder


def _name(*parts: object) -> str:
    text = "-".join(str(part) for part in parts)
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in text)


def _starts(recipe: FootageRecipe, count: int) -> list[int]:
    """First frames of the clips that footage of so many frames gives, spread over it."""
    span = (recipe.frames - 1) * recipe.stride + 1
    if count < span:
        return []
    clips = min(recipe.most_clips, max(1, count // span))
    return [round(index * (count - span) / max(1, clips - 1)) for index in range(clips)]


def images_in(folder: Path) -> list[Path]:
    """Stills in a folder in their natural order."""
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in STILLS), key=natural_order)


def mask_videos(folder: Path) -> list[tuple[str, Path, Path]]:
    """Name, frame folder and mask folder of the videos below a folder with JPEGImages/ and Annotations/."""
    found = []
    for frames in sorted(folder.rglob("JPEGImages")):
        masks = frames.parent / "Annotations"
        if not masks.is_dir():
            continue
        # DAVIS has the resolution between, the others have not.
        for video in sorted(path for path in frames.rglob("*") if path.is_dir() and images_in(path)):
            inside = video.relative_to(frames)
            if (masks / inside).is_dir():
                found.append((inside.name, video, masks / inside))
    return found


def _masks(recipe: FootageRecipe, source: SourceRecipe) -> list[Item]:
    items = []
    for name, frames, masks in mask_videos(_there(recipe, source.folder)):
        for object in objects_in(masks) if source.objects == "each" else [None]:
            for start in _starts(recipe, len(images_in(frames))):
                id = _name(name, *([] if object is None else [f"object{object}"]), start)
                items.append(Item(id, source, {"frames": str(frames), "masks": str(masks)}, object, start, about=name))
    return items


def objects_in(masks: Path) -> list[int]:
    """Numbers of the objects in a folder of masks, by its first one that shows any."""
    for path in images_in(masks):
        numbers = np.unique(read_mask(path))
        if numbers.any():
            return [int(number) for number in numbers if number]
    return []


def read_mask(path: Path) -> np.ndarray:
    """A mask (H, W) of object numbers; a grey or coloured one is 1 where it is brighter than half."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode == "P":
            return np.asarray(image)
        grey = np.asarray(image.convert("L"))
    return grey if grey.max() < 128 else (grey >= 128).astype(np.uint8)


def media_in(folder: Path, stills: bool) -> list[Path]:
    """Videos and frame folders of a folder, and its single pictures if `stills`."""
    found = []
    for path in sorted(folder.iterdir(), key=natural_order):
        kind = path.suffix.lower()
        if kind in VIDEOS or (stills and kind in STILLS) or (path.is_dir() and len(images_in(path)) > 1):
            found.append(path)
    return found


def _layered(recipe: FootageRecipe, source: SourceRecipe) -> list[Item]:
    items = []
    for folder in sorted(path for path in _there(recipe, source.folder).rglob("*") if path.is_dir()):
        files: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            layer = path.stem if path.is_file() else path.name
            if layer in LAYERS and (path.suffix.lower() in STILLS | VIDEOS or path.is_dir()):
                files.setdefault(layer, str(path))
        if {"foreground", "background"} <= set(files):
            about = folder.relative_to(recipe.place(source.folder)).as_posix()
            items.append(Item(_name(about), source, files, about=about))
    return items


def _pairs(recipe: FootageRecipe, source: SourceRecipe) -> list[Item]:
    still = source.kind == "pairs"
    behind = media_in(_there(recipe, source.backgrounds), stills=True)
    place = _there(recipe, source.foregrounds)
    fronts: list[tuple[str, dict[str, str], int | None]] = []
    for name, frames, masks in [] if still else mask_videos(place):
        if len(images_in(frames)) >= (recipe.frames - 1) * recipe.stride + 1:
            fronts += [(name, {"frames": str(frames), "masks": str(masks)}, object) for object in objects_in(masks)]
    if not fronts:
        pictures = images_in(place) if still else media_in(place, stills=False)
        fronts = [(path.stem, {"foreground": str(path)}, None) for path in pictures]
    if not fronts or not behind:
        return []
    rng = np.random.default_rng([recipe.seed, 2, recipe.sources.index(source)])
    items = []
    for index in range(source.count or len(fronts)):
        name, files, object = fronts[index % len(fronts)]
        background = behind[int(rng.integers(len(behind)))]
        id = _name(source.kind, index, name, background.stem)
        files = {**files, "background": str(background)}
        items.append(Item(id, source, files, object, seed=int(rng.integers(2**31)), about=name))
    return items


def _backgrounds(recipe: FootageRecipe, source: SourceRecipe) -> list[Item]:
    folder = _there(recipe, source.folder)
    return [
        Item(_name("background", path.stem), source, {"background": str(path)}, about=path.stem)
        for path in media_in(folder, stills=False)
    ]
