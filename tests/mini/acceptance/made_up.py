"""Made-up material for tests: a small atlas, stamps, footage."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

from layerflow.mini.world.atlas import BACKGROUNDS, INDEX, SPRITES, Atlas, Background, Sprite, index_of

SIDE = 32
COLOURS = {"apple": (220, 30, 30), "frog": (30, 200, 40), "whale": (40, 60, 220), "fox": (230, 140, 20)}
"""Objects: discs, of which the frog and the fox bob up and down by growing."""
MOVING = ("frog", "fox")
PHASES = 8


def disc(colour: tuple[int, int, int], tall: float, side: int = SIDE) -> np.ndarray:
    """Return an ellipse (side, side, 4), premultiplied RGBA, with a dark spot in its upper half."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    inside = (x / 0.7) ** 2 + (y / (0.85 * tall)) ** 2 < 1
    picture = np.zeros((side, side, 4), np.uint8)
    picture[inside] = (*colour, 255)
    picture[inside & (np.hypot(x, y + 0.3 * tall) < 0.2)] = (20, 20, 20, 255)
    return picture


def write_atlas(folder: Path) -> Atlas:
    """Write an atlas of four objects in two styles, one of them held out in both, and four photographs."""
    sprites, pictures = [], []
    for name, colour in COLOURS.items():
        for style, shade in (("3d", 1.0), ("flat", 0.75)):
            moves = name in MOVING and style == "3d"
            phases = PHASES if moves else 1
            wave = 1 - 0.6 * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(phases) / PHASES))
            own = [
                disc((int(colour[0] * shade), int(colour[1] * shade), int(colour[2] * shade)), tall) for tall in wave
            ]
            start = sum(sprite.phases for sprite in sprites)
            sprites.append(
                Sprite(
                    len(sprites), name, name, (), "jumping" if moves else "", style, start, phases,
                    "animated" if moves else "drawing", name == "fox", moves, "CC0", "nobody",
                )
            )  # fmt: skip
            pictures += own
    backgrounds, pixels, offset = [], [], 0
    rng = np.random.default_rng(0)
    for number in range(4):
        photograph = np.asarray(Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8)).resize((72, 48)))
        backgrounds.append(
            Background(
                number,
                f"hill{number}",
                "a photo of a hill",
                "photograph",
                1,
                48,
                72,
                offset,
                number < 2,
                "CC0",
                "nobody",
            )
        )
        pixels.append(photograph.ravel())
        offset += photograph.size
    folder.mkdir(parents=True)
    np.save(folder / SPRITES, np.stack(pictures))
    np.save(folder / BACKGROUNDS, np.concatenate(pixels))
    (folder / INDEX).write_text(index_of(tuple(sprites), tuple(backgrounds), (), SIDE))
    return Atlas.open(folder)


def write_stamps(folder: Path) -> Path:
    """Write stamps as tuxpaint-stamps-default has them: two photographs, a drawing, a picture without alpha."""
    root = folder / "deb/usr/share/tuxpaint/stamps"
    for place, colour in (
        ("animals/cow", (90, 60, 30)),
        ("food/fruit/fig", (120, 20, 90)),
        ("food/cartoon/pie", (9, 9, 9)),
    ):
        path = root / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = disc(colour, 0.9, 160)
        picture[picture[..., 3] == 0] = 0
        Image.fromarray(picture).save(path)
    Image.fromarray(np.full((120, 120, 3), 200, np.uint8)).save(root / "animals/wall.png")
    return folder


def surveillance(frames: int = 32, height: int = 96, width: int = 128) -> np.ndarray:
    """Return frames (F, H, W, 3) of a fixed camera: someone walks across a striped floor in the first half."""
    floor = np.zeros((height, width, 3), np.uint8)
    floor[:] = 90 + 40 * (np.arange(width) // 16 % 2)[None, :, None]
    film = np.repeat(floor[None], frames, 0)
    for frame in range(frames // 2):
        left = 20 + 2 * frame
        film[frame, 30:60, left : left + 12] = (230, 40, 40)
    return film


def write_avi(path: Path, film: np.ndarray) -> Path:
    """Write frames (F, H, W, 3) without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = film.shape[1], film.shape[2], "bgr0"
        for frame in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_footage(folder: Path, frames: int = 8) -> Path:
    """Write a clip with masks: a disc crosses a grey picture from left to right."""
    for kind in ("frames", "masks"):
        (folder / "disc" / kind).mkdir(parents=True)
    rows, columns = np.mgrid[:40, :60]
    for frame in range(frames):
        mask = np.hypot(rows - 20, columns - 35 - frame) < 8
        picture = np.full((40, 60, 3), 110, np.uint8)
        picture[mask] = (240, 220, 30)
        Image.fromarray(picture).save(folder / "disc/frames" / f"{frame:05d}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "disc/masks" / f"{frame:05d}.png")
    return folder
