"""Mattes that are known in part: clicks and trimaps to known pixels of the alpha clips.

Letters: F frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.errors import FieldError, UserError
from ..core.schema import BLENDED
from .givens import Click
from .inputs import Source
from .request import Request

RADIUS = 0.03
"""Radius of the disc around a click whose pixels count as known, relative to the height."""
SURE = 0.05
"""Largest distance from black or white at which a pixel of a trimap counts as known."""


@dataclass
class Hints:
    """Known pixels of mattes by alpha clip, each (F, 1, H, W)."""

    values: dict[str, Tensor] = field(default_factory=dict)
    """0 or 1 where known, else 0."""
    known: dict[str, Tensor] = field(default_factory=dict)
    """Bool."""

    def set(self, alpha: str, frames: int, number: int, value: Tensor, known: Tensor) -> None:
        """Set pixels of a frame: `value` (1, H, W) where `known` (1, H, W) is true."""
        shape = (frames, *value.shape)
        clip = self.values.setdefault(alpha, torch.zeros(shape))
        mask = self.known.setdefault(alpha, torch.zeros(shape, dtype=torch.bool))
        clip[number] = torch.where(known, value, clip[number])
        mask[number] |= known


def known_frames(known: Tensor) -> tuple[int, ...]:
    """Return the frames in which any pixel of (F, 1, H, W) is true."""
    return tuple(known.flatten(1).any(1).nonzero().flatten().tolist())


def clicks_of(request: Request) -> list[tuple[Click, bool]]:
    """Return the clicks of a request, each with True if it is on the foreground."""
    clicks = [(Click.of("object", text), True) for text in request.object]
    return clicks + [(Click.of("not_object", text), False) for text in request.not_object]


def known_pixels(
    clicks: Iterable[tuple[Click, bool]],
    originals: Sequence[Source],
    trimaps: Sequence[Source],
    given: Mapping[str, Sequence[int]],
    size: tuple[int, int, int],
) -> Hints:
    """Return what clicks and trimaps say about mattes.

    Args:
        clicks: see `clicks_of`.
        originals: given sources at their own size, cut to the frames of the result.
        trimaps: at the size of the result.
        given: given frames by clip.
        size: F, H, W of the result.

    Raises:
        UserError: a click lies outside of its picture or of the part that is used, a trimap says nothing, or the matte
            of a frame is given besides.
    """
    hints, done = Hints(), set[tuple[str, int]]()
    for source in trimaps:
        for alpha in source.video.clips():
            for number in source.numbers:
                _check_not_given(f"{source.path}", alpha, number, given)
                if (alpha, number) in done:
                    raise UserError(f"frame {number} of {alpha} has two trimaps, one of them {source.path}; give one")
                done.add((alpha, number))
                grey = source.frame(alpha, number)
                known = (grey <= SURE) | (grey >= 1 - SURE)
                if not bool(known.any()):
                    raise UserError(
                        f"{source.path}: no pixel of it is black (background) or white (foreground), so it says "
                        "nothing about the matte"
                    )
                hints.set(alpha, size[0], number, grey.round(), known)
    places: dict[tuple[str, int], list[tuple[float, float, Click, bool]]] = {}
    for click, inside in clicks:
        number, y, x = place_of(click, "object" if inside else "not_object", originals, size)
        _check_not_given(f"the click {click.text}", click.alpha, number, given)
        places.setdefault((click.alpha, number), []).append((y, x, click, inside))
    for (alpha, number), several in places.items():
        hints.set(alpha, size[0], number, *discs(several, size[1], size[2]))
    return hints


def _check_not_given(hint: str, alpha: str, number: int, given: Mapping[str, Sequence[int]]) -> None:
    if number in given.get(alpha, ()):
        raise UserError(f"frame {number} of {alpha} is given, so {hint} adds nothing; leave one of them out")


def place_of(
    click: Click, name: str, originals: Sequence[Source], size: tuple[int, int, int]
) -> tuple[int, float, float]:
    """Return the frame of a click, and its y and x in the result; pixel 0 spans 0 to 1.

    Raises:
        FieldError: it points at no frame of the blended clip, outside of the picture, or at a part that is cropped.
    """
    count, height, width = size
    if not -count <= click.frame < count:
        raise FieldError(name, f"{click.text}: frame {click.frame} does not exist: there are {count}, from 0 on")
    number = click.frame % count
    sources = [one for one in originals if BLENDED in one.video.clips() and number in one.numbers]
    if not sources:
        raise FieldError(name, f"{click.text} needs the {BLENDED} clip at frame {number} to point at; give it")
    video = sources[0].video
    if not (0 <= click.x < video.width and 0 <= click.y < video.height):
        raise FieldError(
            name,
            f"{click.text} lies outside of {sources[0].path}, which is {video.width}x{video.height}: x is from 0 to "
            f"{video.width - 1}, y from 0 to {video.height - 1}",
        )
    down, across = video.window(height, width)
    top, left = (video.height - down) // 2, (video.width - across) // 2
    if not (left <= click.x < left + across and top <= click.y < top + down):
        raise FieldError(
            name,
            f"{click.text} lies outside of the part of {sources[0].path} that is used for a result of {width}x{height}:"
            f" x from {left} to {left + across - 1}, y from {top} to {top + down - 1}; set `size` to another aspect",
        )
    return number, (click.y - top + 0.5) * height / down, (click.x - left + 0.5) * width / across


def discs(clicks: Sequence[tuple[float, float, Click, bool]], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return value and known pixels (1, H, W) of the clicks of a frame: discs, of which the nearest centre counts.

    Raises:
        UserError: two clicks at one place contradict each other.
    """
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    distances = torch.stack([torch.hypot(rows[:, None] - y, columns[None] - x) for y, x, *_ in clicks])
    nearest = distances.min(0)
    inside = torch.tensor([is_inside for *_, is_inside in clicks])
    for y, x, click, is_inside in clicks:
        for y2, x2, other, is_other in clicks:
            if (y, x) == (y2, x2) and is_inside and not is_other:
                raise UserError(f"{click.text} is both in `object` and, as {other.text}, in `not_object`; keep one")
    radius = max(RADIUS * height, 0.75)  # at least the pixel itself
    return inside[nearest.indices].float()[None], (nearest.values <= radius)[None]
