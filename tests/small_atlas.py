"""A small atlas of discs and noise."""

from pathlib import Path

import numpy as np

from layerflow.mini.world.atlas import BACKGROUNDS, INDEX, SPRITES, Atlas, Background, Sprite, index_of

SIDE = 128
"""Height and width of sprites in pixels."""


def disc(radius: float, colour: tuple[int, int, int], x: float = 64) -> np.ndarray:
    """Draw a premultiplied disc."""
    across, down = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
    alpha = (radius - np.hypot(across - x, down - 64) + 0.5).clip(0, 1)[..., None]
    return np.rint(alpha * np.array([*colour, 255])).astype(np.uint8)


def small_atlas() -> Atlas:
    """Return a small atlas: 12 sprites, half of them with phases, and 9 backgrounds."""
    rng = np.random.default_rng(1)
    sprites: list[Sprite] = []
    pictures: list[np.ndarray] = []
    for number in range(12):
        phases = 8 if number % 2 else 1
        red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
        name, words, verb, kind = (
            ("fox", ("animal",), "walking", "animated") if phases > 1 else ("chair", (), "", "furniture")
        )
        concept, start = f"thing-{number}", len(pictures)
        facts = (concept, name, words, verb, "flat", start, phases, kind, number >= 8, phases > 1, "CC0", "nobody")
        sprites.append(Sprite(number, *facts))
        pictures += [disc(40, (red, green, blue), 50 + 3 * phase) for phase in range(phases)]
    backgrounds: list[Background] = []
    values: list[np.ndarray] = []
    kinds = [("photograph", 1, 90, 180)] * 6 + [("panorama", 1, 64, 128)] * 2 + [("film", 10, 72, 128)]
    for number, (kind, frames, height, width) in enumerate(kinds):
        offset = sum(len(one) for one in values)
        held_out = number in (0, 1, 6)
        backgrounds.append(
            Background(
                number, f"place-{number}", f"a {kind}", kind, frames, height, width, offset, held_out, "CC0", "nobody"
            )
        )
        values.append(rng.integers(0, 256, frames * height * width * 3, dtype=np.uint8))
    pixels = np.stack(pictures)
    return Atlas(Path("atlas"), tuple(sprites), tuple(backgrounds), (), pixels, np.concatenate(values))


def write_atlas(atlas: Atlas, folder: Path) -> Path:
    """Write an atlas as `Atlas.open` reads it."""
    folder.mkdir(parents=True)
    np.save(folder / SPRITES, atlas.sprite_pixels)
    np.save(folder / BACKGROUNDS, atlas.background_pixels)
    (folder / INDEX).write_text(index_of(atlas.sprites, atlas.backgrounds, (), SIDE))
    return folder
