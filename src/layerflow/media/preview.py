"""Contact sheets of all layers, animated and static."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..core.atomic import whole_path
from ..core.compositing import blend
from ..core.layered_video import LayeredVideo
from ..core.schema import foreground_count, scene_layers
from .writing import save_webp, writing

CELL = 192
"""Approximate pixels of a cell's longer side."""
GAP = 4
"""Pixels between cells."""
PAPER = 0.12
"""Grey between cells."""


def write_preview(video: LayeredVideo, path: str | Path, scale: float | None = None) -> Path:
    """Write an animated contact sheet as WebP: foregrounds on a checkerboard, alphas as grey, background and blended.

    Args:
        video: the layers; missing clips are left out.
        path: file to write.
        scale: size of a cell relative to the video, rounded to whole steps from 2 on; by default cells are about 192
            pixels.

    Raises:
        MediaError: the file cannot be written.
    """
    path = Path(path)
    cells = [_fit(cell, scale) for cell in _cells(video).values()]
    sheets = [_image(_row([cell[index] for cell in cells])) for index in range(video.frames)]
    with writing(path), whole_path(path) as partial:
        save_webp(partial, sheets, video.fps, lossless=False, quality=85, method=3)
    return path


def contact_sheet(video: LayeredVideo, columns: int = 8, scale: float | None = None) -> Image.Image:
    """Return a static sheet: a row for each clip, up to `columns` frames spread over time, first and last included.

    `scale` is as in `write_preview`, but cells are about 96 pixels by default.
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}: it must be at least 1.")
    count = min(columns, video.frames)
    chosen = torch.linspace(0, video.frames - 1, count).round().long().tolist()
    rows = []
    for cell in _cells(video).values():
        fitted = _fit(cell[chosen], scale, CELL // 2)
        rows.append(_row(list(fitted), outer=0))
    width = rows[0].shape[-1]
    gap = torch.full((3, GAP, width), PAPER)
    stacked = torch.cat([part for row in rows for part in (row, gap)][:-1], dim=1)
    return _image(F.pad(stacked, (GAP,) * 4, value=PAPER))


def _cells(video: LayeredVideo) -> dict[str, Tensor]:
    """Return each clip as shown, (F, 3, H, W)."""
    cells = {name: clip.detach().cpu() for name, clip in video.clips().items()}
    for layer in scene_layers(foreground_count(cells)):
        if layer.name in cells and layer.alpha in cells:
            board = _checkerboard(video.height, video.width)
            cells[layer.name] = blend(cells[layer.name], cells[layer.alpha], board)
    return {name: cell.expand(-1, 3, -1, -1) for name, cell in cells.items()}


def _checkerboard(height: int, width: int) -> Tensor:
    """Return light and dark squares (1, 3, H, W), twelve along the longer side."""
    square = max(1, round(max(height, width) / 12))
    rows, columns = torch.arange(height) // square, torch.arange(width) // square
    odd = (rows[:, None] + columns[None, :]) % 2
    return (0.6 + 0.2 * odd.float()).expand(1, 3, -1, -1)


def _fit(clip: Tensor, scale: float | None, cell: int = CELL) -> Tensor:
    """Resize a clip to a cell; small clips by a whole factor with hard pixels, so that each pixel is visible."""
    height, width = clip.shape[-2:]
    factor = cell / max(height, width) if scale is None else scale
    if factor <= 0:
        raise ValueError(f"scale is {scale}: it must be above 0.")
    if factor >= 2:
        return F.interpolate(clip, scale_factor=float(round(factor)), mode="nearest")
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return F.interpolate(clip, size=size, mode="bicubic", antialias=True).clamp(0, 1)


def _row(cells: list[Tensor], outer: int = GAP) -> Tensor:
    gap = torch.full((3, cells[0].shape[-2], GAP), PAPER)
    row = torch.cat([part for cell in cells for part in (cell, gap)][:-1], dim=2)
    return F.pad(row, (outer,) * 4, value=PAPER)


def _image(picture: Tensor) -> Image.Image:
    return Image.fromarray((picture * 255 + 0.5).floor().byte().permute(1, 2, 0).contiguous().numpy())
