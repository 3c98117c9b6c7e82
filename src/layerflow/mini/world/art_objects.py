"""Objects of an atlas in scenes of the drawn world: which of them training may show, and how they are drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .atlas import Atlas, Pixels, Sprite
from .objects import EXTRA_OBJECTS, GLOWING, OBJECTS, ObjectSpec
from .sprites import level_side, measure_luminance, place, resize, tint, with_margin

FONT_STYLE = "cartoon"
"""Style of the atlas that looks like the drawn world's font."""
LOOP = 24
"""Frames of a clip in which an object passes through its own motion once."""


def concept_of(spec: ObjectSpec) -> str:
    """Return the concept of an object of the drawn world."""
    return f"{ord(spec.char):x}" if spec.char else f"soft/{spec.name}"


_CORE_AND_EXTRA = OBJECTS + EXTRA_OBJECTS
_SHOWN = frozenset(concept_of(spec) for spec in _CORE_AND_EXTRA if not spec.held_out)
_KEPT_BACK = frozenset(concept_of(spec) for spec in _CORE_AND_EXTRA if spec.held_out)
_GLOWING = frozenset(concept_of(spec) for spec in _CORE_AND_EXTRA if spec.name in GLOWING) | frozenset(
    ("2728", "2600", "1f31e", "1f31f", "1f56f", "1f387")  # sparkles, suns, glowing star, candle, sparkler
)


def is_shown(sprite: Sprite) -> bool:
    """Return whether training shows a sprite: neither the atlas nor the drawn world holds its concept back.

    What the atlas holds back but the drawn world shows in training is shown in the style of its font alone.
    """
    if sprite.held_out:
        return sprite.concept in _SHOWN and sprite.style == FONT_STYLE and sprite.phases == 1
    return sprite.concept not in _KEPT_BACK


@dataclass(frozen=True)
class ArtObject(ObjectSpec):
    """A sprite of an atlas as the object of a scene."""

    sprite: Sprite
    """Its sprite."""
    start: int
    """Frame of its own motion at the first frame of the clip, in [0, LOOP)."""

    @property
    def glows(self) -> bool:
        """Whether it casts light and no shadow."""
        return self.sprite.concept in _GLOWING

    @property
    def one_sided(self) -> bool:
        """Whether it may not be mirrored, because its name tells left from right."""
        return not {"left", "right"}.isdisjoint(self.name.replace("-", " ").split())


class ArtObjects:
    """Objects of a split of an atlas.

    Args:
        atlas: the atlas.
        held_out: those that training never shows, in place of those that it shows.
    """

    def __init__(self, atlas: Atlas, held_out: bool) -> None:
        self._names = frozenset(sprite.name for sprite in atlas.sprites)
        self._pools: dict[bool, list[list[Sprite]]] = {}  # by concept, of sprites that move by themselves and of stills
        for moves in (True, False):
            concepts: dict[str, list[Sprite]] = defaultdict(list)
            for sprite in atlas.sprites:
                if sprite.moves == moves and sprite.held_out == held_out and is_shown(sprite) != held_out:
                    concepts[sprite.concept].append(sprite)
            self._pools[moves] = list(concepts.values())

    def __len__(self) -> int:
        """Return the number of pairs of a concept and a kind, moving or still."""
        return sum(map(len, self._pools.values()))

    def choose(self, rng: np.random.Generator, moving: float, taken: Sequence[str] = ()) -> ArtObject:
        """Draw an object: each concept is as likely as any other, and so is each of its sprites.

        Args:
            rng: source of the choice.
            moving: probability of a sprite that moves by itself.
            taken: concepts to avoid.
        """
        moves = bool(rng.random() < moving)
        pools = ([one for one in self._pools[kind] if one[0].concept not in taken] for kind in (moves, not moves))
        pool = next(filter(None, pools), self._pools[moves] or self._pools[not moves])
        sprites = pool[rng.integers(len(pool))]
        sprite = sprites[rng.integers(len(sprites))]
        # "dog" names a dog, not a hot dog.
        nouns = (sprite.name, *(word for word in sprite.words if word not in self._names))
        return ArtObject(sprite.name, "", sprite.held_out, False, nouns, sprite, int(rng.integers(LOOP)))


class ArtPainter:
    """Draws a sprite at the phases of its own motion; a `scenes.Painter`.

    Args:
        phases: uint8 (P, S, S, 4), premultiplied RGBA; one loop.
        start: frame of the loop at the first frame of the clip.
        colour: a name of `FOREGROUND_COLOURS`, or None for natural colours.
        mirrored: left and right are exchanged.
    """

    def __init__(self, phases: Pixels, start: int, colour: str | None, mirrored: bool) -> None:
        self.phases, self.start, self.colour, self.mirrored = phases, start, colour, mirrored
        # All phases alike; every other pixel is enough to measure.
        self._range = (0.0, 0.0) if colour is None else measure_luminance(_unit(phases[:, ::2, ::2]))
        self._levels: dict[tuple[int, int], Image.Image] = {}

    def __call__(self, frame: int, size: int, x: float, y: float, width: float, angle: float) -> np.ndarray:
        """Draw the sprite at a frame of the clip; the other arguments are those of `sprites.draw`."""
        phase = (self.start + frame) % LOOP * len(self.phases) // LOOP
        key = phase, level_side(width, self.phases.shape[1])
        if key not in self._levels:
            self._levels[key] = self._level(*key)
        return place(self._levels[key], size, x, y, width, angle)

    def _level(self, phase: int, side: int) -> Image.Image:
        pixels = resize(np.array(self.phases[phase]), side)
        if self.colour is not None:
            pixels = np.rint(tint(_unit(pixels), self.colour, *self._range) * 255).astype(np.uint8)
        return with_margin(pixels[:, ::-1] if self.mirrored else pixels)


def _unit(pixels: Pixels) -> np.ndarray:
    return pixels.astype(np.float32) / 255
