"""Scenes of the drawn world with the art of an atlas: sprites that move by themselves, photographs, film shots.

They are as simple and as fully described as the other scenes, unlike composites of the same atlas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, cast

import numpy as np

from ...core.errors import UserError
from .art_captions import ArtWriter, FreeArtWriter
from .art_objects import ArtObject, ArtObjects, ArtPainter
from .atlas import Atlas, Background
from .backgrounds import FAMILIES
from .captions import Writer
from .motions import MOTIONS
from .objects import ObjectSpec
from .pictures import show_part
from .scenes import Painter, SceneSource, SceneSpec, Split, is_held_out
from .sprites import FOREGROUND_COLOURS
from .variations import Companion, Variations

_SPLITS: tuple[Split, ...] = ("train", "held_out_objects")
_MOVING, _PICTURED = 0.5, 0.65  # probabilities of an object with its own motion, and of a background of the atlas
_STILL, _ACROSS = 0.45, 0.35  # probabilities of the motions that suit an object with its own
_SIDEWAYS = ("moving left", "moving right")
_OTHERS = tuple(name for name in MOTIONS if name != "still" and name not in _SIDEWAYS)
_SMALLEST = {"photograph": 0.6, "panorama": 0.6, "film": 0.8}
"""Least side of the shown part relative to the background's shorter side, by kind."""
_FILM = 0.25  # weight of a film shot relative to a picture: its caption does not tell what it shows
_TINT = 0.04  # variation of the brightness of each channel
_HORIZON = 0.22, 0.72
"""Rows of a panorama that are shown, as shares of its height: those nearer to its poles are distorted."""


class ArtSceneSource(SceneSource):
    """Scenes by number whose objects, and most of whose backgrounds, are those of an atlas.

    Objects that face left, as those of emoji do, are mirrored where they move to the right.

    Args:
        atlas: sprites and backgrounds.
        split: `train`, or `held_out_objects` for sprites and backgrounds that are never part of training.
        size: height and width of the frames in pixels.
        frames: frames of a clip, meant as 8 a second.
        variations: shares of varied scenes. See-through objects have a lower opacity; none are soft.

    Raises:
        ValueError: an argument is not one of the above.
        UserError: the atlas has no sprites or no backgrounds of the split.
        MissingPhotographsError: some backgrounds are photographs, and scikit-image is not installed.
    """

    tinted: ClassVar[float] = 0.12
    writers: ClassVar[tuple[type[Writer], type[Writer]]] = (ArtWriter, FreeArtWriter)

    def __init__(
        self,
        atlas: Atlas,
        split: Split = "train",
        size: int = 64,
        frames: int = 8,
        variations: Variations | None = None,
    ) -> None:
        if split not in _SPLITS:
            raise ValueError(f"split {split!r} of scenes of an atlas is not one of {', '.join(_SPLITS)}")
        super().__init__(split, size, frames, "all", variations)
        held_out = split != "train"
        self.atlas, self._objects = atlas, ArtObjects(atlas, held_out)
        self._backdrops = [item for item in atlas.backgrounds if item.held_out == held_out]
        self._families = [name for name, family in FAMILIES.items() if not family.held_out]
        if not (len(self._objects) and self._backdrops):
            raise UserError(
                f"the atlas in {atlas.folder} has no sprites or no backgrounds of the split {split!r}; "
                "build it again with `tools/atlas.py build`"
            )
        weights = np.array([_FILM if item.kind == "film" else 1.0 for item in self._backdrops])
        self._shares = weights / weights.sum()

    def _choose(self, rng: np.random.Generator) -> tuple[ObjectSpec, str, str]:
        entry = self._objects.choose(rng, _MOVING)
        motion = self._motion(entry, rng)
        # A core object has the same name in the atlas.
        families = [name for name in self._families if not is_held_out(entry.name, name, motion)]
        return entry, families[rng.integers(len(families))], motion

    def _motion(self, entry: ArtObject, rng: np.random.Generator) -> str:
        if not entry.sprite.moves:
            motion = tuple(MOTIONS)[rng.integers(len(MOTIONS))]
        else:
            chance = rng.random() - _STILL
            group = ("still",) if chance < 0 else _SIDEWAYS if chance < _ACROSS else _OTHERS
            motion = group[rng.integers(len(group))]
        return "moving left" if motion == "moving right" and entry.one_sided else motion

    def _vary(self, spec: SceneSpec) -> SceneSpec:
        spec = super()._vary(spec)
        rng = np.random.default_rng([spec.seed, 8])
        if rng.random() >= _PICTURED:
            return spec
        backdrop = self._backdrops[rng.choice(len(self._backdrops), p=self._shares)]
        return replace(spec, backdrop=backdrop, picture="", background_moves=False)

    def _see_through(self, spec: SceneSpec, rng: np.random.Generator) -> SceneSpec:
        return replace(spec, opacity=self._opacity(rng))

    def _company(self, spec: SceneSpec, rng: np.random.Generator) -> tuple[Companion, ...]:
        taken, company = [cast(ArtObject, spec.object).sprite.concept], []
        for side in self._sides(rng):
            entry = self._objects.choose(rng, _MOVING, taken)
            taken.append(entry.sprite.concept)
            tinted, colours = rng.random() < self.tinted, tuple(FOREGROUND_COLOURS)
            colour = colours[rng.integers(len(colours))] if tinted else None
            company.append(Companion(entry, colour, self._motion(entry, rng), side))
        return tuple(company)

    def _painter(self, entry: ObjectSpec, colour: str | None, motion: str) -> Painter:
        entry = cast(ArtObject, entry)
        return ArtPainter(self.atlas.phases(entry.sprite), entry.start, colour, motion == "moving right")

    def _scenery(self, spec: SceneSpec, indices: Sequence[int], times: list[float], size: int) -> np.ndarray:
        if spec.backdrop is None:
            return super()._scenery(spec, indices, times, size)
        rng = np.random.default_rng([spec.seed, 6])
        order = _film_order(spec.backdrop, self.frames, rng)
        shown, where = np.unique([order[i] for i in indices], return_inverse=True)
        pixels = self.atlas.background(spec.backdrop)
        if spec.backdrop.kind == "panorama":
            first, last = (round(share * spec.backdrop.height) for share in _HORIZON)
            pixels = np.roll(pixels[:, first:last], int(rng.integers(spec.backdrop.width)), axis=2)
        # Captions name colours.
        return show_part(pixels[shown], rng, size, _SMALLEST[spec.backdrop.kind], tint=_TINT)[where]


def _film_order(item: Background, frames: int, rng: np.random.Generator) -> list[int]:
    """Return the picture of each frame: a random part of a shot, played to and fro where it is too short."""
    start, turn = int(rng.integers(max(1, item.frames - frames + 1))), max(1, 2 * item.frames - 2)
    positions = [(start + frame) % turn for frame in range(frames)]
    return [min(position, turn - position) if item.frames > 1 else 0 for position in positions]


__all__ = ["ArtSceneSource"]
