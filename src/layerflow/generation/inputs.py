"""Given clips: read from files, brought to one frame count, rate and size, with a note on every change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..core.atomic import hash_path
from ..core.errors import UserError
from ..core.layered_video import LayeredVideo
from ..core.schema import ALL_CLIPS, ALPHA_OF, CHANNELS
from ..media import MediaError, load_layers, read_video
from .givens import Files, frame_numbers, frames_in_words, listed


@dataclass(frozen=True, eq=False)
class Source:
    """The given clips of one file, and the changes made to them."""

    path: Path
    video: LayeredVideo
    still: bool
    """True for a single frame without a rate."""
    treatment: tuple[str, ...] = ()
    """Changes, in words."""
    at: str | None = None
    """Frames of the result at which it is given; None for all. A still is given at each of them, a video gives its own
    frames of these numbers."""
    numbers: tuple[int, ...] = ()
    """Numbers of these frames, set by `cut`; `video` then holds only them, or a still once."""
    implied: frozenset[str] = frozenset()
    """Alpha that came along with its colour; it yields to a matte given for the same frame."""
    trimap: bool = False
    """True for mattes that are known in part."""
    one_by_one: bool = False
    """True if `video` may hold just the frames that it is given at, in order."""

    def changed(self, video: LayeredVideo, change: str) -> Source:
        """Return the source with another video and a note on the change."""
        return replace(self, video=video, treatment=(*self.treatment, change))

    def record(self) -> dict[str, object]:
        """Return the entry of layers.json."""
        return {
            "file": str(self.path),
            "sha256": hash_path(self.path),
            "clips": list(self.video.clips()),
            **({} if self.at is None else {"frames": list(self.numbers)}),
            "treatment": list(self.treatment),
        }

    @property
    def explicit(self) -> list[str]:
        """Names of its clips but for those that are implied."""
        return [name for name in self.video.clips() if name not in self.implied]

    def frame(self, clip: str, number: int) -> Tensor:
        """Return a given frame of a clip, (C, H, W)."""
        frames = self.video.clips()[clip]
        if self.at is None:
            return frames[number]
        return frames[0 if len(frames) == 1 else self.numbers.index(number)]


def check_exists(paths: Iterable[Path]) -> None:
    """Raise MediaError for the first path that does not exist."""
    for path in paths:
        if not path.exists():
            raise MediaError(f"{path}: there is no such file; check the path")


def read_sources(files: Files, frames: int | None, fps: float | None, trimap: bool = False) -> list[Source]:
    """Read each path once, for all clips that name it at the same frames; a foreground's file may give its alpha too.

    At most `frames` + 1 frames of each file are read, enough to detect longer ones.

    Raises:
        MediaError: a file does not exist or cannot be read.
        UserError: a file lacks the clip that it is given for, or has transparency where none can be.
    """
    one_by_one = listed(files)
    check_exists(file.path for file in one_by_one)
    whole = {file.clip for file in one_by_one if file.frames is None}
    sources = []
    for path, at in dict.fromkeys((file.path, file.frames) for file in one_by_one):
        names = [file.clip for file in one_by_one if (file.path, file.frames) == (path, at)]
        implied = [ALPHA_OF[name] for name in names if name in ALPHA_OF and ALPHA_OF[name] not in (*names, *whole)]
        source = _read(path, names, implied, frames and frames + 1, fps, trimap)
        sources.append(replace(source, at=at, trimap=trimap))
    return sources


def _read(
    path: Path, names: list[str], implied: list[str], frames: int | None, fps: float | None, trimap: bool
) -> Source:
    if (path / "layers.json").is_file():  # a folder that layerflow wrote: take the clips by their names
        layers = load_layers(path)
        missing = [name for name in names if name not in layers.clips()]
        if missing:
            raise UserError(f"{path} holds no {missing[0]}; it has {', '.join(layers.clips())}")
        selected = {name: clip for name, clip in layers.clips().items() if name in (*names, *implied)}
        video = LayeredVideo.from_clips(selected, fps=fps or layers.fps)
        along = frozenset(implied) & set(selected)
        return Source(path, video[:frames] if frames else video, still=video.frames == 1, implied=along)
    read = read_video(path, frames=frames, fps=fps)
    see_through = read.alpha is not None and float(read.alpha.min()) < 1
    if trimap and see_through:
        raise UserError(
            f"{path}: it has transparent parts, but a trimap is opaque: black is background, white is foreground, grey "
            "is unknown"
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        if CHANNELS[name] == 1:
            if set(names) & set(ALPHA_OF) and not see_through:
                why = "its alpha is opaque everywhere" if read.alpha is not None else "it has no alpha"
                raise UserError(f"{path}: {why}; give the foreground's alpha as a separate video, as `alpha`")
            # The alpha of a file given as a matte is its own alpha or, without one, its grey value.
            alpha = read.alpha if see_through else None
            tensors[name] = read.colour.double().mean(1, keepdim=True).float() if alpha is None else alpha
        elif name in ALPHA_OF:
            tensors[name] = read.colour
            if ALPHA_OF[name] in implied and see_through and read.alpha is not None:
                tensors[ALPHA_OF[name]] = read.alpha
        elif see_through:
            raise UserError(f"{path}: it has transparent parts, but a {name} is opaque; compose it over something")
        else:
            tensors[name] = read.colour
    along = frozenset(implied) & set(tensors)
    return Source(path, LayeredVideo.from_clips(tensors, fps=read.fps), read.colour.shape[0] == 1, implied=along)


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


def frame_count(sources: Sequence[Source], frames: int | None, default: int | None) -> int:
    """Return the frames of a result: `frames`, else as many as videos given for all frames have, at most `default`.

    Raises UserError when there are fewer frames than `frames`.
    """
    shortest = _shortest(sources)
    if frames is not None and shortest is not None and shortest.video.frames < frames:
        raise UserError(f"{shortest.path} has {shortest.video.frames} frames, fewer than `frames` {frames}")
    available = [shortest.video.frames] if shortest is not None else []
    return frames or min([*available, *([default] if default else [])], default=1)


def _shortest(sources: Sequence[Source]) -> Source | None:
    """Return the shortest video that is given for all frames."""
    moving = [source for source in sources if not source.still and source.at is None]
    return min(moving, key=lambda source: source.video.frames, default=None)


def cut(sources: Sequence[Source], frames: int | None, default: int | None) -> list[Source]:
    """Return the sources at one frame count, see `frame_count`.

    Stills are repeated, but for those that are given at some frames; of a video given at some frames, only those are
    kept. Raises UserError for frames that do not exist.
    """
    count, shortest = frame_count(sources, frames, default), _shortest(sources)
    result = [_cut_one(source, count) for source in sources]
    if frames is None and default and count < default and shortest is not None:
        note = f"has {count} frames, so {count} are made (the model was trained at {default})"
        result = [one.changed(one.video, note) if one.path == shortest.path else one for one in result]
    return result


def _cut_one(source: Source, count: int) -> Source:
    video = source.video
    if source.at is not None:
        return _choose(source, source.at, count)
    if source.still and count > 1:
        repeated = {name: clip.expand(count, -1, -1, -1).clone() for name, clip in video.clips().items()}
        source = source.changed(video.replace(**repeated), f"repeated a still {count} times")
    elif video.frames > count:
        source = source.changed(video[:count], f"took the first {count} frames")
    return replace(source, numbers=tuple(range(count)))


def _choose(source: Source, at: str, count: int) -> Source:
    """Return a source with only those of its frames that are given."""
    try:
        numbers = frame_numbers(at, count)
    except ValueError as error:
        raise UserError(f"{source.path}@{at}: {error}; `frames` sets how many there are") from None
    video = source.video
    if not source.still and not (source.one_by_one and video.frames == len(numbers)):
        if numbers[-1] >= video.frames:
            raise UserError(
                f"{source.path}@{at}: it has {video.frames} frames, so none for frame {numbers[-1]} of the {count} "
                "that are made; name others, or set `frames` to fewer"
            )
        video = video.replace(**{name: clip[list(numbers)] for name, clip in video.clips().items()})
    return replace(source, video=video, numbers=numbers)


def hold(sources: Sequence[Source], groups: Sequence[range]) -> list[Source]:
    """Return sources with stills held over all frames that a model takes only together.

    Args:
        sources: after `cut`.
        groups: frames that are taken together, see `SequenceCodec.groups`.

    Raises UserError for two stills in one group.
    """
    clips = [source for source in sources if not source.trimap]
    given = {(name, number) for source in clips for name in source.explicit for number in source.numbers}
    holders: dict[tuple[str, int], Source] = {}
    result = []
    for source in sources:
        if (
            source in clips
            and source.still
            and source.at is not None
            and (added := _held(source, groups, given, holders))
        ):
            numbers = tuple(sorted({*source.numbers, *added}))
            note = f"held over {frames_in_words(numbers)}, because this model takes these together only"
            source = replace(source.changed(source.video, note), numbers=numbers)
        result.append(source)
    return result


def _held(
    source: Source,
    groups: Sequence[range],
    given: Collection[tuple[str, int]],
    holders: dict[tuple[str, int], Source],
) -> list[int]:
    """Return the frames that a still is held over, of groups in which it is given; see `hold`.

    `given` has clips and frames that are given, `holders` those that stills are held over, to which it is added.
    """
    added = []
    for group in (group for group in groups if set(group) & set(source.numbers)):
        for number in group:
            places = [(name, number) for name in source.explicit]
            if any(place in given for place in places):
                continue
            others = [holders.setdefault(place, source) for place in places]
            for other in (other for other in others if other.path != source.path):
                raise UserError(
                    f"{other.path} and {source.path} are given within frames {group[0]} to {group[-1]}, which "
                    "this model takes together only; leave one out, or give a video"
                )
            if others[0] is source:
                added.append(number)
    return added


def fit(sources: Sequence[Source], height: int, width: int) -> list[Source]:
    """Return the sources at `height` x `width`: cropped around the centre to that aspect, then resized."""
    result = []
    for source in sources:
        video = source.video
        fitted = _with_mattes(source, sources).fit(height, width)
        fitted = video.from_clips({name: fitted.clips()[name] for name in video.clips()}, video.fps)
        if _size(video) == (width, height):
            result.append(replace(source, video=fitted))
            continue
        change = f"resized {video.width}x{video.height} to {width}x{height}"
        down, across = video.window(height, width)
        if (across, down) != _size(video):
            change += f" after a crop around the centre to {across}x{down}"
        result.append(source.changed(fitted, change))
    return result


def _with_mattes(source: Source, sources: Sequence[Source]) -> LayeredVideo:
    """Return a source's video with the mattes that other sources give for all of its foregrounds' frames.

    Resized together, colour is weighted with alpha, and hidden colour does not bleed into the edges.
    """
    video = source.video
    for colour, alpha in ALPHA_OF.items():
        if colour not in video.clips() or (alpha in video.clips() and alpha not in source.implied):
            continue
        for other in sources:
            same = other is not source and not other.trimap and alpha in other.video.clips()
            sized = _size(other.video) == _size(video) and other.video.frames == video.frames
            if same and sized and other.numbers == source.numbers:
                video = video.replace(**{alpha: other.video.clips()[alpha]})
    return video


def _size(video: LayeredVideo) -> tuple[int, int]:
    return video.width, video.height


def merge(sources: Sequence[Source], fps: float) -> LayeredVideo:
    """Return all clips of all sources, which have one size and are given for all frames, as one layered video."""
    clips, _ = gather(sources, sources[0].video.frames)
    return LayeredVideo.from_clips(clips, fps=fps)


def gather(sources: Sequence[Source], frames: int) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """Return the clips of all sources, which have one size, (`frames`, C, H, W), and the given frames of each.

    Frames that are not given are 0. Raises UserError for a frame that two files give.
    """
    owners: dict[str, dict[int, Source]] = {}
    for source in sources:
        for name in source.explicit:
            for number in source.numbers:
                other = owners.setdefault(name, {}).setdefault(number, source)
                if other is not source:
                    raise UserError(
                        f"frame {number} of {name} is given twice, by {other.path} and {source.path}; give it once"
                    )
    for source in sources:
        for name in source.implied:
            for number in source.numbers:
                owners.setdefault(name, {}).setdefault(number, source)
    clips, numbers = {}, {}
    for name in (name for name in ALL_CLIPS if name in owners):
        own = owners[name]
        numbers[name] = tuple(sorted(own))
        first = next(iter(own.values()))
        if all(source is first and source.at is None for source in own.values()):
            clips[name] = first.video.clips()[name]
            continue
        clip = torch.zeros(frames, CHANNELS[name], first.video.height, first.video.width)
        for number, source in own.items():
            clip[number] = source.frame(name, number)
        clips[name] = clip
    return clips, numbers
