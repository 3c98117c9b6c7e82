"""Given clips from files: read, brought to one frame count, rate and size; every change is said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..core.atomic import hash_path
from ..core.errors import UserError
from ..core.layered_video import LayeredVideo
from ..core.schema import CLIPS
from ..media import MediaError, load_layers, read_video


@dataclass
class Source:
    """The clips that one file gives, and what was done to them."""

    path: Path
    video: LayeredVideo
    still: bool
    """One frame, without a rate of its own; stands for as many frames as are wanted."""
    treatment: list[str] = field(default_factory=list)

    def record(self) -> dict[str, object]:
        """What layers.json keeps of it."""
        return {
            "file": str(self.path),
            "sha256": hash_path(self.path),
            "clips": list(self.video.clips()),
            "treatment": self.treatment,
        }


def parse_given(given: list[str]) -> dict[str, Path]:
    """["alpha=m.mp4", ...] to clip and path; raises UserError."""
    sources: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UserError(f"--given {text} must be CLIP=VIDEO, for example background=hills.mp4")
        if name not in CLIPS:
            raise UserError(f"--given {text}: {name!r} is no clip; the clips are {', '.join(CLIPS)}")
        if name in sources:
            raise UserError(f"--given names {name} twice; give each clip once")
        sources[name] = Path(path)
    return sources


def check_exists(paths: Iterable[Path]) -> None:
    """Raise MediaError for the first path that is not there, before anything heavy starts."""
    for path in paths:
        if not path.exists():
            raise MediaError(f"{path}: there is no such file; check the path")


def read_sources(clips: dict[str, Path], frames: int | None, fps: float | None) -> list[Source]:
    """A source for each path, with the clips it is named for; a foreground's file may give its alpha too.

    Of each file at most `frames` + 1 frames are read, so that the caller can tell that there are more.
    """
    check_exists(clips.values())
    sources = []
    for path in dict.fromkeys(clips.values()):
        names = [name for name in clips if clips[name] == path]
        take_alpha = "foreground" in names and "alpha" not in clips
        sources.append(_read(path, names, take_alpha, frames and frames + 1, fps))
    return sources


def _read(path: Path, names: list[str], take_alpha: bool, frames: int | None, fps: float | None) -> Source:
    if (path / "layers.json").is_file():  # a folder that layerflow wrote: take the clips by their names
        layers = load_layers(path)
        wanted = [*names, "alpha"] if take_alpha else names
        missing = [name for name in names if name not in layers.clips()]
        if missing:
            raise UserError(f"{path} holds no {missing[0]}; it has {', '.join(layers.clips())}")
        video = LayeredVideo(**{n: c for n, c in layers.clips().items() if n in wanted}, fps=fps or layers.fps)
        return Source(path, video[:frames] if frames else video, still=video.frames == 1)
    read = read_video(path, frames=frames, fps=fps)
    see_through = read.alpha is not None and float(read.alpha.min()) < 1
    tensors: dict[str, Tensor] = {}
    for name in names:
        if name == "alpha":
            if "foreground" in names and not see_through:
                why = "its alpha is opaque everywhere" if read.alpha is not None else "it has no alpha"
                raise UserError(f"{path}: {why}; give the foreground's alpha as a video of its own with --alpha")
            # A matte is a file whose alpha, or else whose grey, is the alpha meant.
            alpha = read.alpha if see_through else None
            tensors[name] = read.colour.double().mean(1, keepdim=True).float() if alpha is None else alpha
        elif name == "foreground":
            tensors[name] = read.colour
            if take_alpha and see_through and read.alpha is not None:
                tensors["alpha"] = read.alpha
        elif see_through:
            raise UserError(f"{path}: it has transparent parts, but a {name} is opaque; compose it over something")
        else:
            tensors[name] = read.colour
    return Source(path, LayeredVideo(**tensors, fps=read.fps), still=read.colour.shape[0] == 1)


def common_rate(sources: list[Source], fps: float | None) -> float | None:
    """The one rate of all moving sources, or None when all are stills; raises UserError."""
    moving = [source for source in sources if not source.still]
    if fps is not None or not moving:
        return fps
    first = moving[0]
    for other in moving[1:]:
        if abs(other.video.fps - first.video.fps) > 0.01 * first.video.fps:
            raise UserError(
                f"{first.path} has {first.video.fps:g} frames a second but {other.path} {other.video.fps:g}; "
                "bring them to one rate with --fps"
            )
    return first.video.fps


def cut(sources: list[Source], frames: int | None, default: int | None) -> int:
    """Bring all sources to one frame count: `frames`, else as many as there are, at most `default`.

    A still is repeated. Raises UserError when there are fewer frames than asked for.
    """
    moving = [source for source in sources if not source.still]
    shortest = min(moving, key=lambda source: source.video.frames, default=None)
    if frames is not None and shortest is not None and shortest.video.frames < frames:
        raise UserError(f"{shortest.path} has {shortest.video.frames} frames, fewer than --frames {frames}")
    there = [shortest.video.frames] if shortest is not None else []
    count = frames or min([*there, *([default] if default else [])], default=1)
    for source in sources:
        video = source.video
        if source.still and count > 1:
            repeated = {name: clip.expand(count, -1, -1, -1).clone() for name, clip in video.clips().items()}
            source.video = video.replace(**repeated)
            source.treatment.append(f"repeated a still {count} times")
        elif video.frames > count:
            source.video = video[:count]
            source.treatment.append(f"took the first {count} frames")
    if frames is None and default and count < default and shortest is not None:
        shortest.treatment.append(f"has {count} frames, so {count} are made (the model was trained at {default})")
    return count


def fit(sources: list[Source], width: int, height: int) -> None:
    """Bring all sources to `width` x `height`: a crop around the centre to that aspect, then resizing."""
    by_clip = {name: source for source in sources for name in source.video.clips()}
    colour, alpha = by_clip.get("foreground"), by_clip.get("alpha")
    if colour and alpha and colour is not alpha and _size(colour.video) == _size(alpha.video):
        # Resized together, colour is weighed with alpha, and hidden colour does not bleed into the edges.
        both = colour.video.replace(alpha=alpha.video.alpha).fit(height, width)
        colour_now = both.replace(alpha=None)
    else:
        colour_now = None
    for source in sources:
        video = source.video
        source.video = colour_now if source is colour and colour_now is not None else video.fit(height, width)
        if _size(video) != (width, height):
            said = f"resized {video.width}x{video.height} to {width}x{height}"
            down, across = video.window(height, width)
            if (across, down) != _size(video):
                said += f" after a crop around the centre to {across}x{down}"
            source.treatment.append(said)


def _size(video: LayeredVideo) -> tuple[int, int]:
    return video.width, video.height


def merge(sources: list[Source], fps: float) -> LayeredVideo:
    """All clips of all sources, of one size by now, as one layered video."""
    clips = {name: clip for source in sources for name, clip in source.video.clips().items()}
    return LayeredVideo(**{name: clips[name] for name in CLIPS if name in clips}, fps=fps)


__all__ = [
    "Source",
    "check_exists",
    "common_rate",
    "cut",
    "fit",
    "merge",
    "parse_given",
    "read_sources",
]
