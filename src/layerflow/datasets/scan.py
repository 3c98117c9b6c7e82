"""Find footage: scan folders for clips that can be built, before any heavy work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..core.errors import first_line
from ..core.layered_video import LayeredVideo
from ..core.schema import ALL_CLIPS, BACKGROUND, FOREGROUND
from ..media import MediaError, ReadLimits, natural_order
from ..media.reading import open_video
from .recipe import FootageRecipe, SourceRecipe

STILLS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v"}
SCANNED_MASKS = 8
"""Masks of a clip that are scanned for objects, spread over the clip."""
SMALLEST = 0.002
"""Share of the frame that an object must cover, over all frames."""


@dataclass(frozen=True)
class Item:
    """One clip to build: its files and the numbers that decide the rest."""

    id: str
    """Name, unique in its set and valid as a file name."""
    source: SourceRecipe
    files: dict[str, str]
    """Paths by part: frames and masks; layers by name; or foreground and background."""
    object: int | None = None
    """Number of the object in the masks; None for every number but 0, and in a stack."""
    objects: tuple[int, ...] = ()
    """Numbers of the objects in the masks of a stack, a foreground each, from near to far."""
    start: int = 0
    """First frame of the footage to read; with masks, counted in frames that have one."""
    seed: int = 0
    about: str = field(default="")
    """Name of the footage, for captions."""
    behind: tuple[Item, ...] = ()
    """Further foregrounds that are pasted over the same background, from near to far."""
    problem: str = ""
    """Reason why no clip can be built, known from the scan; the item is then listed as failed."""


def find_items(recipe: FootageRecipe) -> list[Item]:
    """Return every clip of a recipe, in an order that its seed decides.

    Footage that cannot be read or is too short is an item too, with its problem, so that it is counted.

    Raises:
        MediaError: a folder does not exist, or holds no footage of its kind.
    """
    items: list[Item] = []
    for number, source in enumerate(recipe.sources):
        own = FINDERS[source.kind](recipe, source)
        if not own:
            raise MediaError(f"source {number + 1} ({source.kind}): no footage of that kind is in {_folders(source)}")
        if source.kind not in ("pairs", "copy-paste") and source.count:
            own = own[: source.count]
        items += own
    ids = {item.id for item in items}
    if len(ids) != len(items):  # two folders with footage of the same name
        items = [_named(item, f"{index:06d}-{item.id}") for index, item in enumerate(items)]
    order = np.random.default_rng([recipe.seed, 1]).permutation(len(items))
    return [items[index] for index in order]


def _named(item: Item, id: str) -> Item:
    return replace(item, id=id)


def _folders(source: SourceRecipe) -> str:
    return " and ".join(folder for folder in (source.folder, source.foregrounds, source.backgrounds) if folder)


def _there(recipe: FootageRecipe, name: str) -> Path:
    folder = recipe.place(name)
    if not folder.is_dir():
        raise MediaError(f"{folder}: there is no such folder; name a folder of footage in the recipe")
    return folder


def _name(*parts: object) -> str:
    text = "-".join(str(part) for part in parts)
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in text)


def _span(recipe: FootageRecipe) -> int:
    """Return how many frames of footage a clip spans."""
    return (recipe.frames - 1) * recipe.stride + 1


def _starts(recipe: FootageRecipe, count: int) -> list[int]:
    """Return the first frames of the clips from footage of `count` frames, spread over it."""
    span = _span(recipe)
    clips = min(recipe.most_clips, max(1, count // span))
    return [round(index * (count - span) / max(1, clips - 1)) for index in range(clips)]


def _following(recipe: FootageRecipe, path: str) -> list[int]:
    """Return the first frames of the clips of a video or frame folder, one after another from its start.

    Videos are read from their start. One that cannot be opened gives one clip, which fails when it is built.
    """
    try:
        count = length(Path(path))
    except Exception:  # a broken file raises nearly anything
        return [0]
    return [index * _span(recipe) for index in range(min(recipe.most_clips, max(1, count // _span(recipe))))]


def length(path: Path) -> int:
    """Return the frames of a still, a frame folder or a video by its header, at most those that `ReadLimits` allows.

    Raises whatever a broken file raises.
    """
    from PIL import Image

    if path.suffix.lower() in STILLS | {".gif"} or path.is_dir():
        with Image.open(images_in(path)[0] if path.is_dir() else path) as image:
            width, height = image.size
            count = len(images_in(path)) if path.is_dir() else int(getattr(image, "n_frames", 1))
    else:
        with open_video(path) as container:
            stream = container.streams.video[0]
            width, height = stream.width, stream.height
            seconds = (container.duration or 0) / 1e6
            count = stream.frames or int(seconds * float(stream.average_rate or 0))
    limits = ReadLimits()
    return min(count, limits.max_frames, limits.max_total_pixels // max(1, width * height))


def images_in(folder: Path) -> list[Path]:
    """Return the stills in a folder in natural order."""
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in STILLS), key=natural_order)


def mask_videos(folder: Path) -> list[tuple[str, Path, Path]]:
    """Return name, frame folder and mask folder of each video below a folder with JPEGImages/ and Annotations/."""
    videos = []
    for frames in sorted(folder.rglob("JPEGImages")):
        masks = frames.parent / "Annotations"
        if not masks.is_dir():
            continue
        # DAVIS has a folder for the resolution between, other data sets have not.
        for video in sorted(path for path in frames.rglob("*") if path.is_dir() and images_in(path)):
            inside = video.relative_to(frames)
            if (masks / inside).is_dir():
                videos.append((inside.name, video, masks / inside))
    return videos


def annotated(frames: Path, masks: Path) -> tuple[list[tuple[Path, Path]], int]:
    """Return each frame that has a mask, with it, and the step in frames of the video from one to the next.

    Where masks are missing between others, motion would jump: then only the longest stretch without a gap is returned.

    Raises:
        ValueError: no frame has a mask.
    """
    by_name = {path.stem: path for path in images_in(masks)}
    numbered = [(number, path) for number, path in enumerate(images_in(frames)) if path.stem in by_name]
    if not numbered:
        raise ValueError(f"{masks} has no mask for any frame in {frames}")
    steps = np.diff([number for number, _ in numbered])
    step = int(np.bincount(steps).argmax()) if len(steps) else 1
    stretches = np.split(np.arange(len(numbered)), np.flatnonzero(steps != step) + 1)
    paths = [numbered[index][1] for index in max(stretches, key=len)]
    return [(path, by_name[path.stem]) for path in paths], step


def _masks(recipe: FootageRecipe, source: SourceRecipe) -> list[Item]:
    items = []
    for name, frames, masks in mask_videos(_there(recipe, source.folder)):
        whole = Item(_name(name), source, {"frames": str(frames), "masks": str(masks)}, about=name)
        items += _cut(recipe, whole, source.objects)
    return items


def _cut(recipe: FootageRecipe, whole: Item, objects: str, most: int | None = None) -> list[Item]:
    """Return the clips of a video with masks, at most `most` parts of it, as `SourceRecipe.objects` says.

    Without any there is one item with its problem.
    """
    frames, masks = Path(whole.files["frames"]), Path(whole.files["masks"])
    items = []
    try:
        pairs, _ = annotated(frames, masks)
        if len(pairs) < _span(recipe):
            raise ValueError(f"{masks} has {len(pairs)} frames with a mask, fewer than the {_span(recipe)} needed")
        for start in _starts(recipe, len(pairs))[:most]:
            shown = [mask for _, mask in pairs[start : start + _span(recipe) : recipe.stride]]
            if objects == "stack":
                if chosen := stacked(shown, recipe.size, whole.source.most_foregrounds):
                    items.append(replace(whole, id=_name(whole.about, start), objects=chosen, start=start))
                continue
            for object in objects_in(shown) if objects == "each" else [None]:
                id = _name(whole.about, *([] if object is None else [f"object{object}"]), start)
                items.append(replace(whole, id=id, object=object, start=start))
        if not items:
            raise ValueError(f"{masks} shows no object; choose other masks")
    except Exception as error:  # a broken picture raises nearly anything
        return [replace(whole, problem=first_line(error))]
    return items


def objects_in(masks: Sequence[Path]) -> list[int]:
    """Return the numbers of the objects in masks, from a few masks spread over them, first and last included."""
    return sorted({int(number) for mask in _spread(masks) for number in np.unique(read_mask(mask)) if number})


def _spread(masks: Sequence[Path]) -> list[Path]:
    """Return at most `SCANNED_MASKS` masks, spread evenly, first and last included."""
    chosen = np.unique(np.linspace(0, len(masks) - 1, min(SCANNED_MASKS, len(masks))).round().astype(int))
    return [masks[index] for index in chosen]


def stacked(masks: Sequence[Path], size: tuple[int, int], most: int) -> tuple[int, ...]:
    """Return the numbers of the largest objects in masks, at most `most`, from the nearest to the farthest.

    Masks do not overlap, so they do not show which of two objects is in front. Objects mostly stand on one ground,
    where the one whose lowest point is lower in the frame is nearer: the mean over the masks that show it decides, then
    the larger area. Objects that cover less than `SMALLEST` are left out, unless there is no other.

    Args:
        masks: paths of the masks of a clip, of which a few are scanned.
        size: width and height of the clip; only the part of a mask counts that is left when it is cropped.
        most: largest number of objects.
    """
    areas: dict[int, float] = {}
    lowest: dict[int, list[float]] = {}
    scanned = [_centre(read_mask(path), size) for path in _spread(masks)]
    for mask in scanned:
        for number in np.unique(mask[mask > 0]).tolist():
            own = mask == number
            areas[number] = areas.get(number, 0.0) + float(own.mean()) / len(scanned)
            lowest.setdefault(number, []).append((int(np.flatnonzero(own.any(1))[-1]) + 1) / len(mask))
    by_area = sorted(areas, key=lambda number: (-areas[number], number))
    chosen = [number for number in by_area[:most] if areas[number] >= SMALLEST] or by_area[:1]
    return tuple(sorted(chosen, key=lambda number: (-float(np.mean(lowest[number])), -areas[number], number)))


def _centre(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the part of a mask (H, W) that is left when it is cropped to the aspect of a size, width and height."""
    width, height = size
    down, across = LayeredVideo(alpha=torch.zeros(1, 1, *mask.shape)).window(height, width)
    top, left = (mask.shape[0] - down) // 2, (mask.shape[1] - across) // 2
    return mask[top : top + down, left : left + across]


def read_mask(path: Path) -> np.ndarray:
    """Read a mask (H, W) of object numbers; a grey or coloured one is 1 where it is brighter than half."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode == "P":
            return np.asarray(image)
        grey = np.asarray(image.convert("L"))
    return grey if grey.max() < 128 else (grey >= 128).astype(np.uint8)


def media_in(folder: Path, stills: bool) -> list[Path]:
    """Return videos and frame folders of a folder, and its single images if `stills`."""
    paths = []
    for path in sorted(folder.iterdir(), key=natural_order):
        kind = path.suffix.lower()
        if kind in VIDEOS or (stills and kind in STILLS) or (path.is_dir() and len(images_in(path)) > 1):
            paths.append(path)
    return paths


def _layered(recipe: FootageRecipe, source: SourceRecipe) -> list[Item]:
    items = []
    for folder in sorted(path for path in _there(recipe, source.folder).rglob("*") if path.is_dir()):
        files: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            layer = path.stem if path.is_file() else path.name
            if layer in ALL_CLIPS and (path.suffix.lower() in STILLS | VIDEOS or path.is_dir()):
                files.setdefault(layer, str(path))
        if {FOREGROUND, BACKGROUND} <= set(files):
            about = folder.relative_to(recipe.place(source.folder)).as_posix()
            # Stills are not opened: there may be very many, and they fit clips of any length.
            moving = [path for path in files.values() if Path(path).suffix.lower() not in STILLS]
            starts = min((_following(recipe, path) for path in moving), key=len, default=[0])
            items += [
                Item(_name(about, *([start] if start else [])), source, files, start=start, about=about)
                for start in starts
            ]
    return items


def _pairs(recipe: FootageRecipe, source: SourceRecipe) -> list[Item]:
    still = source.kind == "pairs"
    behind = media_in(_there(recipe, source.backgrounds), stills=True)
    place = _there(recipe, source.foregrounds)
    fronts: list[Item] = []
    for name, frames, masks in [] if still else mask_videos(place):
        whole = Item(_name(source.kind, name), source, {"frames": str(frames), "masks": str(masks)}, about=name)
        fronts += _cut(recipe, whole, "each", most=1)
    if not fronts:
        for path in images_in(place) if still else media_in(place, stills=False):
            starts = [0] if still else _following(recipe, str(path))
            fronts += [Item("", source, {FOREGROUND: str(path)}, start=start, about=path.stem) for start in starts]
    failed = [front for front in fronts if front.problem]
    fronts = [front for front in fronts if not front.problem]
    if not fronts or not behind:
        return failed
    rng = np.random.default_rng([recipe.seed, 2, recipe.sources.index(source)])
    items = []
    for index in range(source.count or len(fronts)):
        front = fronts[index % len(fronts)]
        background = behind[int(rng.integers(len(behind)))]
        files, seed = {**front.files, BACKGROUND: str(background)}, int(rng.integers(2**31))
        others = _others(fronts, index % len(fronts), rng) if source.objects == "stack" else ()
        id = _name(source.kind, index, front.about, *(other.about for other in others), background.stem)
        items.append(replace(front, id=id, files=files, seed=seed, behind=others))
    return items + failed


def _others(fronts: Sequence[Item], chosen: int, rng: np.random.Generator) -> tuple[Item, ...]:
    """Draw the foregrounds behind a chosen one in a stack of pasted ones, each another while there are enough."""
    others = [index for index in rng.permutation(len(fronts)).tolist() if index != chosen] or [chosen]
    count = fronts[chosen].source.most_foregrounds - 1
    return tuple(replace(fronts[others[index % len(others)]], seed=int(rng.integers(2**31))) for index in range(count))


def _backgrounds(recipe: FootageRecipe, source: SourceRecipe) -> list[Item]:
    folder = _there(recipe, source.folder)
    items = []
    for path in media_in(folder, stills=False):
        for start in _following(recipe, str(path)):
            id = _name(BACKGROUND, path.stem, *([start] if start else []))
            items.append(Item(id, source, {BACKGROUND: str(path)}, start=start, about=path.stem))
    return items


FINDERS: dict[str, Callable[[FootageRecipe, SourceRecipe], list[Item]]] = {
    "masks": _masks,
    "layered": _layered,
    "pairs": _pairs,
    "copy-paste": _pairs,
    "backgrounds": _backgrounds,
}
"""Function that finds the items of a source, by the source's kind."""
