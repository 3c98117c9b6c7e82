"""Given frames: which frames of which clips a model keeps, and places of a matte that only guide it.

Letters: F frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import index

import torch
from torch import Tensor

from .layered_video import LayeredVideo
from .schema import ALPHA_OF, DEFAULT_FPS

Frames = slice | int | Iterable[int]
"""Numbers of frames, from 0; negative ones count from the end."""


@dataclass(frozen=True, eq=False)
class Given:
    """Clips of one scene that a model is given: any clips, and of each clip any frames.

    `Given(video)` gives whole clips, `Given(video, {"alpha": 0})` all clips of a video whole but of alpha the first
    frame. `Given.from_frames` builds one from clips and stills.

    Raises `ValueError` on construction, naming the clip, its value, the constraint and the way out.
    """

    video: LayeredVideo
    """The clips. Frames that are not given may hold anything."""
    frames: Mapping[str, Frames] = field(default_factory=dict)
    """Given frames by clip; all of a clip that is not named here. They come back bit for bit."""
    hints: Mapping[str, Tensor] = field(default_factory=dict)
    """(F, 1, H, W) bool by alpha clip: pixels of frames that are not given whose value in `video` is known, such as
    those of a trimap or around a click. They guide the model and need not come back."""

    def __post_init__(self) -> None:
        clips = self.video.clips()
        for kind, names in (("frames", self.frames), ("hints", self.hints)):
            for name in names:
                if name not in clips:
                    raise ValueError(f"{kind} names {name!r}, but the given clips are {', '.join(clips)}; give it too.")
        frames = {name: frame_numbers(name, self.frames.get(name, slice(None)), self.video.frames) for name in clips}
        object.__setattr__(self, "frames", frames)
        for name, known in self.hints.items():
            if name not in ALPHA_OF.values():
                raise ValueError(f"hints names {name!r}, but only mattes have hints: {', '.join(ALPHA_OF.values())}.")
            if known.shape != clips[name].shape or known.dtype != torch.bool:
                raise ValueError(
                    f"the hint of {name} has shape {tuple(known.shape)} and dtype {known.dtype}: it must be bool of "
                    f"shape {tuple(clips[name].shape)}, the clip's."
                )
        if not any(frames.values()) and not any(bool(known.any()) for known in self.hints.values()):
            raise ValueError("no frame of any clip is given: name at least one.")

    @classmethod
    def of(cls, given: LayeredVideo | Given) -> Given:
        """Return whole clips as a `Given`, or a `Given` as it is; raises ValueError for anything else."""
        if not isinstance(given, LayeredVideo | Given):
            raise ValueError(
                f"given is a {type(given).__name__}: it must be a LayeredVideo or a Given, or a list of them."
            )
        return given if isinstance(given, Given) else cls(given)

    @classmethod
    def from_frames(
        cls, frames: int, clips: Mapping[str, Tensor | Mapping[int, Tensor]], fps: float = DEFAULT_FPS
    ) -> Given:
        """Build from whole clips and single frames.

        Args:
            frames: frames F of the scene.
            clips: by clip name a whole clip (F, C, H, W), or frames (C, H, W) by their numbers; values in [0, 1].
            fps: frames per second.

        Raises:
            ValueError: a frame lies outside of the scene, or clips do not fit together.
        """
        if frames < 1:
            raise ValueError(f"frames is {frames}: a scene has at least one, such as 8.")
        videos, given = {}, {}
        for name, clip in clips.items():
            if isinstance(clip, Tensor):
                if len(clip) != frames:
                    raise ValueError(
                        f"{name} has {len(clip)} frames, but the scene {frames}: cut it, or change frames."
                    )
                videos[name] = clip
                continue
            if not isinstance(clip, Mapping):
                raise ValueError(f"{name} is a {type(clip).__name__}: it must be a tensor, or tensors by frame.")
            numbers = frame_numbers(name, clip.keys(), frames)
            if not numbers:
                raise ValueError(f"{name} has no frames: give at least one, or leave the clip out.")
            stills = {index(number) % frames: still for number, still in clip.items()}
            first = stills[numbers[0]]
            videos[name] = first.new_zeros(frames, *first.shape)
            for number in numbers:
                if stills[number].shape != first.shape:
                    raise ValueError(
                        f"frame {number} of {name} has shape {tuple(stills[number].shape)}, but frame {numbers[0]} "
                        f"{tuple(first.shape)}: resize one of them."
                    )
                videos[name][number] = stills[number]
            given[name] = numbers
        return cls(LayeredVideo.from_clips(videos, fps), given)

    def mask(self, clip: str) -> Tensor:
        """Return which frames of a clip are given, (F,) bool; none of a clip that is not among them."""
        mask = torch.zeros(self.video.frames, dtype=torch.bool)
        mask[list(self.numbers(clip))] = True
        return mask

    def numbers(self, clip: str) -> tuple[int, ...]:
        """Return the numbers of the given frames of a clip, in order."""
        return tuple(self.frames.get(clip, ()))  # type: ignore[arg-type]

    @property
    def clips(self) -> tuple[str, ...]:
        """Clips of which at least one frame is given."""
        return tuple(name for name in self.video.clips() if self.numbers(name))

    @property
    def whole(self) -> frozenset[str]:
        """Clips that are given in all frames."""
        return frozenset(name for name in self.clips if len(self.numbers(name)) == self.video.frames)

    def restore(self, video: LayeredVideo) -> LayeredVideo:
        """Return a generated video with the given frames in place of its own, bit for bit."""
        own, ours = self.video.clips(), video.clips()
        clips = {}
        for name in self.clips:
            clip = own[name]
            if name not in self.whole:
                kept = self.mask(name)[:, None, None, None].to(clip.device)
                clip = torch.where(kept, clip, ours[name].to(clip.device))
            clips[name] = clip
        return video.replace(**clips)


def frame_numbers(clip: str, frames: Frames, count: int) -> tuple[int, ...]:
    """Return numbers of frames in order, each once, from 0 on; raises ValueError for one outside of `count` frames."""
    if isinstance(frames, slice):
        return tuple(sorted(range(*frames.indices(count))))
    try:
        listed = list(frames) if isinstance(frames, Iterable) else [frames]
        numbers = [index(number) for number in listed]
        if any(isinstance(number, bool) for number in listed):
            raise TypeError("True and False are no numbers of frames")
    except TypeError:
        raise ValueError(f"frames of {clip} are {frames!r}: they must be whole numbers, or a slice.") from None
    for number in numbers:
        if not -count <= number < count:
            raise ValueError(f"frame {number} of {clip} does not exist: there are {count}, from 0 to {count - 1}.")
    return tuple(sorted({number % count for number in numbers}))


__all__ = ["Frames", "Given", "frame_numbers"]
