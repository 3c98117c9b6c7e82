"""The layered video: every layer of one scene, aligned in frame and pixel. Independent of models and files.

Letters: F frames, H height, W width. Colour is display-referred sRGB, alpha is straight (a pixel's colour
does not depend on its alpha), both torch.float32 in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .compositing import blend_all, extend_colour, flatten, premultiply_all, unpremultiply
from .schema import (
    ALPHA,
    ALPHA_OF,
    BACKGROUND,
    BLENDED,
    CHANNELS,
    CLIPS,
    DEFAULT_FPS,
    FOREGROUND,
    MOST_FOREGROUNDS,
    clip_names,
    foreground_count,
    scene_layers,
)


@dataclass(frozen=True, eq=False)
class Foreground:
    """One foreground of a layered video. Without colour and alpha it only keeps its place before farther ones."""

    colour: Tensor | None = None
    """(F, 3, H, W) straight colour; invisible where alpha is 0."""
    alpha: Tensor | None = None
    """(F, 1, H, W) coverage: 0 transparent, 1 opaque."""

    def __eq__(self, other: object) -> bool:
        """Return whether colour and alpha are the same."""
        if not isinstance(other, Foreground):
            return NotImplemented
        return _same(self.colour, other.colour) and _same(self.alpha, other.alpha)

    __hash__ = None  # type: ignore[assignment]  # equality is by content and tensors can change


@dataclass(frozen=True, eq=False, repr=False)
class LayeredVideo:
    """The clips of one scene, at least one; all agree in frames, height and width.

    A scene has one foreground or several, each with colour and alpha. The fields `foreground` and `alpha` hold the
    nearest one, `behind` holds the others; their clips are called `foreground-2`, `alpha-2`, `foreground-3` and so on.

    Raises `ValueError` on construction, naming the clip, its value, the constraint and the way out.
    """

    foreground: Tensor | None = None
    """(F, 3, H, W) straight colour of the nearest foreground; invisible where alpha is 0."""
    alpha: Tensor | None = None
    """(F, 1, H, W) coverage of the nearest foreground: 0 transparent, 1 opaque."""
    background: Tensor | None = None
    """(F, 3, H, W) the scene without foregrounds."""
    blended: Tensor | None = None
    """(F, 3, H, W) the composite: alpha * foreground + (1 - alpha) * background, with several foregrounds from the
    farthest to the nearest."""
    fps: float = DEFAULT_FPS
    """Frames per second."""
    behind: tuple[Foreground, ...] = ()
    """Further foregrounds, from near to far. Empty ones at the end are dropped."""

    def __post_init__(self) -> None:
        behind = list(_numbered(self.behind, 2))
        while behind and behind[-1] == Foreground():
            behind.pop()
        object.__setattr__(self, "behind", tuple(behind))
        clips = self.clips()
        if not clips:
            raise ValueError(f"a layered video needs at least one clip: pass one of {', '.join(CLIPS)}.")
        for name, clip in clips.items():
            _check_clip(name, clip)
        first_name, first = next(iter(clips.items()))
        for name, clip in clips.items():
            if clip.device != first.device:
                raise ValueError(
                    f"{name} is on {clip.device} but {first_name} is on {first.device}: "
                    f"all clips must be on one device; move it with {name}.to('{first.device}')."
                )
            for axis, meaning in ((0, "frames"), (2, "height"), (3, "width")):
                if clip.shape[axis] != first.shape[axis]:
                    way = "cut the longer clip" if axis == 0 else "resize one of them"
                    raise ValueError(
                        f"{name} has {meaning} {clip.shape[axis]} but {first_name} has {first.shape[axis]}: "
                        f"all clips must agree in frames, height and width; {way}."
                    )
        if not (isinstance(self.fps, int | float) and math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps is {self.fps!r}: it must be a number above 0, such as 8.")

    # Properties

    @property
    def frames(self) -> int:
        """Number of frames, the same for every clip."""
        return self._first.shape[0]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self._first.shape[2]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self._first.shape[3]

    @property
    def _first(self) -> Tensor:
        return next(iter(self.clips().values()))

    @property
    def foregrounds(self) -> tuple[Foreground, ...]:
        """All foregrounds, the nearest first: none without foreground clips."""
        nearest = Foreground(self.foreground, self.alpha)
        return () if nearest == Foreground() and not self.behind else (nearest, *self.behind)

    def clips(self) -> dict[str, Tensor]:
        """Return the present clips by name, in the order of `ALL_CLIPS`."""
        clips = {**_by_name(self.foregrounds), BACKGROUND: self.background, BLENDED: self.blended}
        return {name: clip for name, clip in clips.items() if clip is not None}

    @classmethod
    def from_clips(cls, clips: Mapping[str, Tensor | None], fps: float = DEFAULT_FPS) -> LayeredVideo:
        """Create a layered video from clips by name, any subset of `ALL_CLIPS`; None stands for a missing one.

        Foregrounds are numbered by name: with `alpha-3` alone, the first two are empty.
        """
        unknown = [name for name in clips if name not in CHANNELS]
        if unknown:
            raise ValueError(
                f"clip {unknown[0]!r} is not known: the clips are {', '.join(CLIPS)}, and foreground-2, alpha-2 and so "
                f"on up to {MOST_FOREGROUNDS}."
            )
        count = foreground_count(name for name, clip in clips.items() if clip is not None)
        nearest, *behind = (
            Foreground(clips.get(colour), clips.get(alpha)) for colour, alpha in list(ALPHA_OF.items())[:count]
        )
        return cls(
            nearest.colour, nearest.alpha, clips.get(BACKGROUND), clips.get(BLENDED), fps=fps, behind=tuple(behind)
        )

    def __eq__(self, other: object) -> bool:
        """Return whether the same clips are present with the same values and the same fps."""
        if not isinstance(other, LayeredVideo):
            return NotImplemented
        mine, theirs = self.clips(), other.clips()
        return self.fps == other.fps and all(_same(mine.get(name), theirs.get(name)) for name in {**mine, **theirs})

    __hash__ = None  # type: ignore[assignment]  # equality is by content and tensors can change

    def __repr__(self) -> str:
        size = f"{self.frames} frames, {self.height}x{self.width}, {self.fps:g} fps"
        return f"LayeredVideo({', '.join(self.clips())}: {size})"

    # Derived layered videos

    def replace(self, **changes: Any) -> LayeredVideo:
        """Return a copy with some clips or fps changed (None removes a clip); validated again.

        Takes names of clips, also `**{"alpha-2": clip}`; `fps`; `behind`; and `foregrounds`, all of them from near to
        far. Thus `video.replace(foregrounds=video.foregrounds[::-1]).compose()` reverses their order.
        """
        clips: dict[str, Tensor | None] = dict(self.clips())
        for field, first in (("foregrounds", 1), ("behind", 2)):
            if field in changes:
                clips |= _by_name(_numbered(changes.pop(field), first), first)
        fps = changes.pop("fps", self.fps)
        return self.from_clips(clips | changes, fps)

    def compose(self) -> LayeredVideo:
        """Return a copy whose blended clip is the foregrounds over the background.

        Exact at the ends: where alpha is 1 it is the foreground bit for bit, where it is 0 what lies behind.
        Raises `ValueError` when a foreground, its alpha or the background is missing.
        """
        (background,) = self._need("compose", BACKGROUND)
        return self.replace(blended=self.over(background))

    def with_blended(self) -> LayeredVideo:
        """Return a copy with the blended clip composed; the video itself if it has one or lacks another clip."""
        complete = set(clip_names(scene_layers(max(1, len(self.foregrounds)))))
        return self.compose() if self.clips().keys() == complete - {BLENDED} else self

    def over(self, background: Tensor | Sequence[float]) -> Tensor:
        """Return all foregrounds over another background, (F, 3, H, W) in [0, 1].

        `background` is (F, 3, H, W), one still (1, 3, H, W), or a colour (3,), values in [0, 1].
        Raises `ValueError` when a foreground or its alpha is missing or the background does not fit.
        """
        stack = self._stack("over")
        foreground = stack[0][0]
        below = torch.as_tensor(background, dtype=torch.float32, device=foreground.device)
        if below.shape == (3,):
            below = below.view(1, 3, 1, 1)
        fits = below.ndim == 4 and all(
            size in (full, 1) if axis != 1 else size == 3
            for axis, (size, full) in enumerate(zip(below.shape, foreground.shape, strict=True))
        )
        if not fits:
            raise ValueError(
                f"background has shape {tuple(below.shape)}: over() takes {tuple(foreground.shape)}, "
                f"one still (1, 3, {self.height}, {self.width}) or a colour (3,); resize or cut it first."
            )
        _check_values(BACKGROUND, below)
        return blend_all(stack, below)

    def premultiplied(self) -> Tensor:
        """Return alpha * foreground, (F, 3, H, W) in [0, 1]; of several foregrounds, their merged light over black.

        Raises `ValueError` when a foreground or its alpha is missing.
        """
        return premultiply_all(self._stack("premultiplied"))[0]

    def flattened(self) -> LayeredVideo:
        """Return a copy with all foregrounds merged into one, whose composite over any background is the same.

        Where only one of them is visible, the merged one has its colour and alpha bit for bit; where none is, its
        colour is 0. Raises `ValueError` when a foreground or its alpha is missing.
        """
        if not self.behind:
            return self
        return self.replace(foregrounds=[Foreground(*flatten(self._stack("flattened")))])

    @classmethod
    def from_premultiplied(
        cls,
        colour: Tensor,
        alpha: Tensor,
        *,
        background: Tensor | None = None,
        blended: Tensor | None = None,
        fps: float = DEFAULT_FPS,
        extend_below: float = 0.0,
    ) -> LayeredVideo:
        """Create a layered video from premultiplied colour (F, 3, H, W) and alpha (F, 1, H, W).

        Straight colour is colour / alpha, clamped to [0, 1]; it is 0 where alpha is 0. With `extend_below`
        above 0, colour where alpha is below it is filled in from its surroundings (see `extend_colour`).
        """
        _check_clip(FOREGROUND, colour)
        _check_clip(ALPHA, alpha)
        straight = unpremultiply(colour, alpha)
        if extend_below > 0:
            straight = extend_colour(straight, alpha, extend_below)
        return cls(foreground=straight, alpha=alpha, background=background, blended=blended, fps=fps)

    def resize(self, height: int, width: int) -> LayeredVideo:
        """Resize every clip, antialiased (triangle filter, widened when shrinking).

        The colour of each foreground is weighted with its alpha, so that hidden colour does not bleed into the edges.
        Values stay in [0, 1]; flat regions stay exact.
        """
        if height < 1 or width < 1:
            raise ValueError(f"cannot resize to {height}x{width}: height and width must be at least 1.")
        if (height, width) == (self.height, self.width):
            return self

        def scaled(clip: Tensor) -> Tensor:  # in float64, so that the weights' rounding leaves no trace
            return F.interpolate(
                clip.double(), size=(height, width), mode="bilinear", antialias=True, align_corners=False
            )

        resized = {name: scaled(clip).clamp(0, 1) for name, clip in self.clips().items()}
        for (colour, alpha), foreground in zip(ALPHA_OF.items(), self.foregrounds, strict=False):
            if foreground.colour is None or foreground.alpha is None:
                continue
            weight = resized[alpha]
            premultiplied = scaled(foreground.colour.double() * foreground.alpha.double())
            visible = unpremultiply(premultiplied, weight, floor=1e-9, limits=None)
            resized[colour] = torch.where(weight > 1e-6, visible, resized[colour]).clamp(0, 1)
        return self.replace(**{name: clip.float() for name, clip in resized.items()})

    def fit(self, height: int, width: int) -> LayeredVideo:
        """Resize to another size and aspect: crop the largest window of that aspect around the centre first."""
        down, across = self.window(height, width)
        return self.crop((self.height - down) // 2, (self.width - across) // 2, down, across).resize(height, width)

    def window(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the largest window with the aspect of `height` to `width`."""
        across = min(self.width, round(self.height * width / height))
        return max(1, min(self.height, round(self.width * height / width))), max(1, across)

    def crop(self, top: int, left: int, height: int, width: int) -> LayeredVideo:
        """Crop to `height` x `width` pixels with the upper left corner at (`top`, `left`)."""
        inside = top >= 0 and left >= 0 and top + height <= self.height and left + width <= self.width
        if height < 1 or width < 1 or not inside:
            raise ValueError(
                f"crop of {height}x{width} at ({top}, {left}) does not lie within {self.height}x{self.width}."
            )
        window = (..., slice(top, top + height), slice(left, left + width))
        return self.replace(**{name: clip[window] for name, clip in self.clips().items()})

    def __getitem__(self, index: int | slice) -> LayeredVideo:
        """Return some of the frames. A step divides fps, so that the duration stays."""
        if isinstance(index, slice):
            chosen = range(*index.indices(self.frames))
        elif -self.frames <= index < self.frames:
            chosen = range(index % self.frames, index % self.frames + 1)
        else:
            raise IndexError(f"frame {index} is outside of the {self.frames} frames of this video.")
        if not chosen:
            raise ValueError(f"{index} selects none of the {self.frames} frames: choose at least one.")
        kept = torch.tensor(chosen)
        clips = {name: clip[kept.to(clip.device)] for name, clip in self.clips().items()}
        return self.replace(**clips, fps=self.fps / abs(chosen.step))

    def _stack(self, action: str) -> list[tuple[Tensor, Tensor]]:
        """Return colour and alpha of each foreground, at least one; raise `ValueError` if any is missing."""
        names = clip_names(layer for layer in scene_layers(max(1, len(self.foregrounds))) if layer.transparent)
        clips = self._need(action, *names)
        return list(zip(clips[::2], clips[1::2], strict=True))

    def _need(self, action: str, *names: str) -> list[Tensor]:
        clips = self.clips()
        missing = [name for name in names if name not in clips]
        if missing:
            raise ValueError(
                f"{action}() needs {' and '.join(names)}, but {' and '.join(missing)} is missing: "
                f"this layered video has {', '.join(clips)}; add it with replace()."
            )
        return [clips[name] for name in names]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Return whether two clips are both missing, or equal and on one device."""
    if one is None or other is None:
        return one is other
    return one.device == other.device and torch.equal(one, other)


def _numbered(foregrounds: Iterable[Foreground], first: int) -> tuple[Foreground, ...]:
    """Check foregrounds, of which the nearest has the number `first`; raise `ValueError` for others than those."""
    checked = tuple(foregrounds)
    for number, one in enumerate(checked, start=first):
        if not isinstance(one, Foreground):
            raise ValueError(f"foreground {number} is a {type(one).__name__}: pass Foreground(colour, alpha).")
        if number > MOST_FOREGROUNDS:
            raise ValueError(
                f"there are {first - 1 + len(checked)} foregrounds: a layered video has at most {MOST_FOREGROUNDS}; "
                "merge some of them with flattened()."
            )
    return checked


def _by_name(foregrounds: Sequence[Foreground], first: int = 1) -> dict[str, Tensor | None]:
    """Return clips by name of all foregrounds that can be numbered from `first` on, None where there is no clip."""
    names = list(ALPHA_OF.items())[first - 1 :]
    filled = [*foregrounds, *[Foreground()] * (len(names) - len(foregrounds))]
    return {
        name: clip
        for pair, one in zip(names, filled, strict=True)
        for name, clip in zip(pair, (one.colour, one.alpha), strict=True)
    }


def _check_clip(name: str, clip: object) -> None:
    if not isinstance(clip, Tensor):
        raise ValueError(f"{name} is a {type(clip).__name__}: it must be a torch.Tensor; torch.as_tensor it.")
    channels = CHANNELS[name]
    if clip.ndim != 4 or clip.shape[1] != channels:
        raise ValueError(
            f"{name} has shape {tuple(clip.shape)}: it must be (frames, {channels}, height, width); "
            "permute or reshape it first."
        )
    if 0 in clip.shape:
        raise ValueError(f"{name} has shape {tuple(clip.shape)}: it must have at least one frame and pixel.")
    if clip.dtype != torch.float32:
        way = "divide by 255 after .float()" if clip.dtype == torch.uint8 else "call .float()"
        raise ValueError(f"{name} has dtype {clip.dtype}: it must be torch.float32 in [0, 1]; {way}.")
    _check_values(name, clip)


def _check_values(name: str, clip: Tensor) -> None:
    low, high = (float(end) for end in torch.aminmax(clip.detach()))
    if math.isnan(low) or math.isnan(high) or math.isinf(low) or math.isinf(high):
        raise ValueError(f"{name} holds values that are not finite: replace them with torch.nan_to_num first.")
    if low < 0 or high > 1:
        raise ValueError(
            f"{name} spans [{low:.6g}, {high:.6g}]: values must lie in [0, 1]; "
            "rescale it, or call .clamp(0, 1) when it only overshoots."
        )
