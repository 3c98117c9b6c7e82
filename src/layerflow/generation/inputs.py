"""Given clips: read from files, brought to one frame count, rate and size, with a note on every change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..core.atomic import hash_path
from ..core.errors import UserError
from ..core.layered_video import LayeredVideo
from ..core.schema import ALPHA, ALPHA_OF, CHANNELS, FOREGROUND
from ..media import MediaError, load_layers, read_video


@dataclass(frozen=True)
class Source:
    """The given clips of one file, and the changes made to them."""

    path: Path
    video: LayeredVideo
    still: bool
    """True for a single frame without a rate; it is repeated for all frames that are generated."""
    treatment: tuple[str, ...] = ()
    """Changes, in words."""

    def changed(self, video: LayeredVideo, change: str) -> Source:
        """Return the source with another video and a note on the change."""
        return replace(self, video=video, treatment=(*self.treatment, change))

    def record(self) -> dict[str, object]:
        """Return the entry of layers.json."""
        return {
            "file": str(self.path),
            "sha256": hash_path(self.path),
            "clips": list(self.video.clips()),
            "treatment": list(self.treatment),
        }


def check_exists(paths: Iterable[Path]) -> None:
    """Raise MediaError for the first path that does not exist."""
    for path in paths:
        if not path.exists():
            raise MediaError(f"{path}: there is no such file; check the path")


def read_sources(clips: Mapping[str, Path], frames: int | None, fps: float | None) -> list[Source]:
    """Read each path once, for all clips that name it; the foreground's file may give its alpha too.

    At most `frames` + 1 frames of each file are read, enough to detect longer ones.

    Raises:
        MediaError: a file does not exist or cannot be read.
        UserError: a file lacks the clip that it is given for, or has transparency where none can be.
    """
    check_exists(clips.values())
    sources = []
    for path in dict.fromkeys(clips.values()):
        names = [name for name in clips if clips[name] == path]
        take_alpha = FOREGROUND in names and ALPHA not in clips
        sources.append(_read(path, names, take_alpha, frames and frames + 1, fps))
    return sources


def _read(path: Path, names: list[str], take_alpha: bool, frames: int | None, fps: float | None) -> Source:
    if (path / "layers.json").is_file():  # a folder that layerflow wrote: take the clips by their names
        layers = load_layers(path)
        selected = [*names, ALPHA] if take_alpha else names
        missing = [name for name in names if name not in layers.clips()]
        if missing:
            raise UserError(f"{path} holds no {missing[0]}; it has {', '.join(layers.clips())}")
        video = LayeredVideo.from_clips(
            {n: c for n, c in layers.clips().items() if n in selected}, fps=fps or layers.fps
        )
        return Source(path, video[:frames] if frames else video, still=video.frames == 1)
    read = read_video(path, frames=frames, fps=fps)
    see_through = read.alpha is not None and float(read.alpha.min()) < 1
    tensors: dict[str, Tensor] = {}
    for name in names:
        if CHANNELS[name] == 1:
            if FOREGROUND in names and not see_through:
                why = "its alpha is opaque everywhere" if read.alpha is not None else "it has no alpha"
                raise UserError(f"{path}: {why}; give the foreground's alpha as a separate video, as `alpha`")
            # The alpha of a file given as a matte is its own alpha or, without one, its grey value.
            alpha = read.alpha if see_through else None
            tensors[name] = read.colour.double().mean(1, keepdim=True).float() if alpha is None else alpha
        elif name in ALPHA_OF:
            tensors[name] = read.colour
            if take_alpha and see_through and read.alpha is not None:
                tensors[ALPHA_OF[name]] = read.alpha
        elif see_through:
            raise UserError(f"{path}: it has transparent parts, but a {name} is opaque; compose it over something")
        else:
            tensors[name] = read.colour
    return Source(path, LayeredVideo.from_clips(tensors, fps=read.fps), still=read.colour.shape[0] == 1)


def common_rate(sources: Sequence[Source], fps: float | None) -> float | None:
    """Return `fps`, else the one rate of all moving sources, else None where all are stills; raises UserError."""
    moving = [source for source in sources if not source.still]
    if fps is not None or not moving:
        return fps
    first = moving[0]
    for other in moving[1:]:
        if abs(other.video.fps - first.video.fps) > 0.01 * first.video.fps:
            raise UserError(
                f"{first.path} has {first.video.fps:g} frames a second but {other.path} {other.video.fps:g}; "
                "bring them to one rate with `fps`"
            )
    return first.video.fps


def cut(sources: Sequence[Source], frames: int | None, default: int | None) -> list[Source]:
    """Return the sources at one frame count: `frames`, else as many as there are, at most `default`.

    Stills are repeated. Raises UserError when there are fewer frames than `frames`.
    """
    moving = [source for source in sources if not source.still]
    shortest = min(moving, key=lambda source: source.video.frames, default=None)
    if frames is not None and shortest is not None and shortest.video.frames < frames:
        raise UserError(f"{shortest.path} has {shortest.video.frames} frames, fewer than `frames` {frames}")
    available = [shortest.video.frames] if shortest is not None else []
    count = frames or min([*available, *([default] if default else [])], default=1)
    result = [_cut_one(source, count) for source in sources]
    if frames is None and default and count < default and shortest is not None:
        note = f"has {count} frames, so {count} are made (the model was trained at {default})"
        result = [one.changed(one.video, note) if one.path == shortest.path else one for one in result]
    return result


def _cut_one(source: Source, count: int) -> Source:
    video = source.video
    if source.still and count > 1:
        repeated = {name: clip.expand(count, -1, -1, -1).clone() for name, clip in video.clips().items()}
        return source.changed(video.replace(**repeated), f"repeated a still {count} times")
    if video.frames > count:
        return source.changed(video[:count], f"took the first {count} frames")
    return source


def fit(sources: Sequence[Source], height: int, width: int) -> list[Source]:
    """Return the sources at `height` x `width`: cropped around the centre to that aspect, then resized."""
    by_clip = {name: source for source in sources for name in source.video.clips()}
    colour, alpha = by_clip.get(FOREGROUND), by_clip.get(ALPHA)
    weighted = None
    if colour and alpha and colour is not alpha and _size(colour.video) == _size(alpha.video):
        # Resized together, colour is weighted with alpha, and hidden colour does not bleed into the edges.
        weighted = colour.video.replace(alpha=alpha.video.alpha).fit(height, width).replace(alpha=None)
    result = []
    for source in sources:
        video = source.video
        fitted = weighted if source is colour and weighted is not None else video.fit(height, width)
        if _size(video) == (width, height):
            result.append(replace(source, video=fitted))
            continue
        change = f"resized {video.width}x{video.height} to {width}x{height}"
        down, across = video.window(height, width)
        if (across, down) != _size(video):
            change += f" after a crop around the centre to {across}x{down}"
        result.append(source.changed(fitted, change))
    return result


def _size(video: LayeredVideo) -> tuple[int, int]:
    return video.width, video.height


def merge(sources: Sequence[Source], fps: float) -> LayeredVideo:
    """Return all clips of all sources, which have one size, as one layered video."""
    clips = {name: clip for source in sources for name, clip in source.video.clips().items()}
    return LayeredVideo.from_clips(clips, fps=fps)
