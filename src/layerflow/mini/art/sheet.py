"""Contact sheets of an atlas."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from layerflow.mini.world.atlas import Atlas, Background, Sprite

CELL, LINE, COLUMNS = 96, 13, 14
"""Width and height of a picture, height of its text (pixels), and pictures a row."""
_COLOURS = "#5aa05a", "#c878c8"
"""Behind sprites, by turns: fringes show on one of them."""
_HELD_OUT, _TRAINED = "#c00000", "black"


def contact_sheet(atlas: Atlas, rows: int = 4) -> Image.Image:
    """Return a sheet with sprites and backgrounds of every kind, spread evenly over all of the kind.

    Moving sprites and films take four pictures each, spread over their loop. Names of what is held out are red.

    Args:
        atlas: the atlas.
        rows: rows for each kind.
    """
    kinds: dict[str, list[Sprite | Background]] = {}
    items: tuple[Sprite | Background, ...] = (*atlas.sprites, *atlas.backgrounds)
    for item in items:
        kinds.setdefault(item.kind, []).append(item)
    strips = [_strip(atlas, kind, group, rows) for kind, group in kinds.items()]
    sheet = Image.new("RGB", (COLUMNS * CELL, sum(strip.height for strip in strips) or 1), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _strip(atlas: Atlas, kind: str, items: Sequence[Sprite | Background], rows: int) -> Image.Image:
    """Return the rows of one kind under its name."""
    pictures = _pictures(atlas, items[0])
    across = COLUMNS // len(pictures)
    chosen = items[:: -(-len(items) // (across * rows))]
    height = CELL if isinstance(items[0], Sprite) else CELL // 2
    row_height = height + LINE
    strip = Image.new("RGB", (COLUMNS * CELL, LINE + -(-len(chosen) // across) * row_height), "white")
    pen = ImageDraw.Draw(strip)
    pen.text((0, 0), f"{kind}: {len(items)}", fill=_TRAINED)
    for index, item in enumerate(chosen):
        left, top = index % across * len(pictures) * CELL, LINE + index // across * row_height
        text = item.phrase() if isinstance(item, Sprite) else item.caption
        pen.text((left, top), text[: len(pictures) * CELL // 6], fill=_HELD_OUT if item.held_out else _TRAINED)
        for number, picture in enumerate(_pictures(atlas, item)):
            cell = Image.new("RGB", (CELL, height), _COLOURS[index % 2])
            small = picture.resize((CELL, height))
            cell.paste(small, mask=small.getchannel("A") if small.mode == "RGBA" else None)
            strip.paste(cell, (left + number * CELL, top + LINE))
    return strip


def _pictures(atlas: Atlas, item: Sprite | Background) -> list[Image.Image]:
    """Return one picture, or four over the loop of a moving sprite or over a film."""
    frames = atlas.phases(item) if isinstance(item, Sprite) else atlas.background(item)
    shown = (
        [len(frames) * quarter // 4 for quarter in range(4)] if item.kind in ("animated", "character", "film") else [0]
    )
    if not isinstance(item, Sprite):
        return [Image.fromarray(frames[frame]) for frame in shown]
    size = frames.shape[2], frames.shape[1]
    return [Image.frombytes("RGBa", size, frames[frame].tobytes()).convert("RGBA") for frame in shown]
