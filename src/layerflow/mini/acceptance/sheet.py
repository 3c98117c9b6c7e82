"""Contact sheets of results as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...core.atomic import whole_path
from ...core.compositing import blend
from ...core.layered_video import LayeredVideo
from .generated import Made
from .outside import Taken

GAP = 4
"""Pixels between pictures."""


def taken_row(taken: Taken) -> list[Tensor]:
    """Return pictures of a shot that was taken apart: three frames, the true matte of the middle one, the matte of each
    way and the background of the first way."""
    truth = taken.shot.truth
    assert truth.blended is not None
    middle = truth.frames // 2
    cells = [truth.blended[frame] for frame in (0, middle, truth.frames - 1)]
    cells += [_matte(truth, middle), *(_matte(video, middle) for video in taken.videos.values())]
    first = next(iter(taken.videos.values()))
    return cells if first.background is None else [*cells, first.background[middle]]


def _matte(video: LayeredVideo, frame: int) -> Tensor:
    """Return the mattes of a frame in colours (3, H, W): the nearest foreground white, the second red."""
    mattes = [one.alpha[frame] for one in video.foregrounds if one.alpha is not None]
    picture = mattes[0].expand(3, -1, -1).clone()
    if len(mattes) > 1:
        picture[:1] = picture[:1] + (1 - mattes[0]) * mattes[1]
    return picture.clamp(0, 1)


def made_row(made: Made) -> list[Tensor]:
    """Return pictures of a generated scene: four frames, matte, nearest foreground over grey, and a true frame."""
    video, middle = made.video, made.video.frames // 2
    assert video.blended is not None
    assert video.foreground is not None
    assert video.alpha is not None
    assert made.truth.blended is not None
    cells = [video.blended[round(n * (video.frames - 1) / 3)] for n in range(4)]
    over = blend(video.foreground[middle], video.alpha[middle], torch.tensor(0.5))
    return [*cells, _matte(video, middle), over, made.truth.blended[middle]]


def write_rows(rows: Sequence[Sequence[Tensor]], path: Path) -> None:
    """Write pictures (3, H, W) in [0, 1] of one size side by side, rows of any length below each other."""
    height, width = rows[0][0].shape[-2:]
    columns = max(len(row) for row in rows)
    canvas = torch.full((3, len(rows) * (height + GAP), columns * (width + GAP)), 0.5)
    for down, row in enumerate(rows):
        for across, cell in enumerate(row):
            top, left = down * (height + GAP), across * (width + GAP)
            canvas[:, top : top + height, left : left + width] = cell
    pixels = (canvas.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()
    with whole_path(path) as partial:
        Image.fromarray(pixels).save(partial)


__all__ = ["made_row", "taken_row", "write_rows"]
