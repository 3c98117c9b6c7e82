"""Sprite sheets: all frames of a layer side by side in one PNG, and a JSON file with the place of each."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from .. import MediaError
from ..writing import images_of

LARGEST = 8192
"""Longest side of a sheet in pixels: the largest texture that common graphics cards take."""


def grid(frames: int, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of the squarest sheet for a number of frames.

    Raises:
        MediaError: no sheet within `LARGEST` holds them.
    """
    fits = [
        (max(rows * height, columns * width), rows * columns, rows, columns)
        for columns in range(1, frames + 1)
        for rows in [math.ceil(frames / columns)]
    ]
    side, _, rows, columns = min(fits)
    if side > LARGEST:
        raise MediaError(
            f"a sheet of {frames} frames of {width}x{height} would be {side} pixels long, more than {LARGEST}; "
            "set a smaller `size`, or take fewer frames"
        )
    return rows, columns


def write_sheet(path: Path, colour: Tensor, alpha: Tensor | None, fps: float) -> list[Path]:
    """Write `path`, a PNG, and its JSON beside it, in the frame-array form that game engines read.

    Args:
        path: the PNG.
        colour: (F, 3, H, W) in [0, 1], straight.
        alpha: (F, 1, H, W) in [0, 1], or None.
        fps: frames per second; each frame's duration is noted in milliseconds.
    """
    frames, _, height, width = colour.shape
    rows, columns = grid(frames, height, width)
    sheet = Image.new("RGB" if alpha is None else "RGBA", (columns * width, rows * height))
    entries: list[dict[str, Any]] = []
    for index, image in enumerate(images_of(colour, alpha)):
        x, y = index % columns * width, index // columns * height
        sheet.paste(image, (x, y))
        entries.append(
            {
                "filename": f"{path.stem}_{index:04d}",
                "frame": {"x": x, "y": y, "w": width, "h": height},
                "rotated": False,
                "trimmed": False,
                "spriteSourceSize": {"x": 0, "y": 0, "w": width, "h": height},
                "sourceSize": {"w": width, "h": height},
                "duration": round(1000 / fps),
            }
        )
    sheet.save(path, "PNG")
    meta = {
        "app": "layerflow",
        "image": path.name,
        "format": "RGBA8888" if alpha is not None else "RGB888",
        "size": {"w": sheet.width, "h": sheet.height},
        "scale": "1",
    }
    record = path.with_suffix(".json")
    record.write_text(json.dumps({"frames": entries, "meta": meta}, indent=1) + "\n", "utf-8")
    return [path, record]
