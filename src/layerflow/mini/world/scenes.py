"""Drawn scenes: an endless, seeded source of layered clips that trains and evaluates `mini`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal, get_args

import numpy as np
import torch

from ...core.compositing import blend, unpremultiply
from .atlas import Background
from .backgrounds import FAMILIES, background
from .captions import FreeWriter, Writer, captions
from .motions import BASE_WIDTH, MOTION_PLACES, MOTIONS, UNITS, MotionParams
from .objects import EXTRA_OBJECTS, OBJECTS, SOFT_OBJECTS, ObjectSpec
from .pictures import COLLAGE, PHOTOGRAPHS, find_photographs, picture
from .sprites import FOREGROUND_COLOURS, draw
from .variations import CAMERAS, WIDER, Companion, Variations, apply_cast, companion_params, move_camera

Painter = Callable[[int, int, float, float, float, float], np.ndarray]
"""Function from the number of a frame, and size, x, y, width and angle as for `sprites.draw`, to the drawn frame."""

Split = Literal["train", "held_out_objects", "held_out_combinations", "held_out_family"]
SPLITS: tuple[Split, ...] = get_args(Split)

_HELD_OUT_SHARE = 20  # one in this many combinations is held out
_MOVING_BACKGROUND = 0.35  # probabilities
_NATURAL_COLOUR = 0.4
_SOFT = 0.4
_OPACITY = (0.35, 0.75)  # range of see-through foregrounds
_THREE = 0.25  # probability of two companions in scenes with company


@dataclass(frozen=True)
class SceneSpec:
    """Specification that determines a scene."""

    object: ObjectSpec
    """Object of the foreground."""
    colour: str | None
    """A name of `FOREGROUND_COLOURS`, or None for natural colours."""
    motion: str
    """A name of `MOTIONS`."""
    place: str
    """A name of `PLACES`."""
    family: str
    """A name of `FAMILIES`."""
    background_colour: str
    """One of the family's colours."""
    background_moves: bool
    """The background is animated."""
    seed: int
    """Seed of jitter, background layout and captions."""
    opacity: float = 1.0
    """Factor on the alpha of the whole foreground, in (0, 1]."""
    company: tuple[Companion, ...] = ()
    """Smaller objects behind the first."""
    camera: str = ""
    """A name of `CAMERAS`; empty for a still camera."""
    cast: str = ""
    """A name of `CASTS`; empty for none."""
    free_words: bool = False
    """Captions have details that the picture does not show."""
    picture: str = ""
    """A name of `PHOTOGRAPHS`, or `COLLAGE`, that replaces the background family; empty for none."""
    backdrop: Background | None = None
    """A background of an atlas that replaces the family; see `art_scenes`."""


@dataclass(frozen=True)
class Scene:
    """A rendered scene; float32 tensors in [0, 1], F frames of H by W pixels."""

    spec: SceneSpec
    """Specification of the scene."""
    captions: dict[str, str]
    """Prompts by layer."""
    foreground: torch.Tensor
    """(F, 3, H, W) straight colour, 0.5 grey where alpha is 0."""
    alpha: torch.Tensor
    """(F, 1, H, W) coverage of the foreground."""
    background: torch.Tensor
    """(F, 3, H, W) background without shadow or light."""
    blended: torch.Tensor
    """(F, 3, H, W), exactly alpha * foreground + (1 - alpha) * background, with shadow or light on the background."""


def is_held_out(name: str, family: str, motion: str) -> bool:
    """Return whether a combination of object, family and motion is held out of training, as about 5 % are."""
    digest = hashlib.sha256(f"{name}|{family}|{motion}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % _HELD_OUT_SHARE == 0


@lru_cache(maxsize=8)
def _combinations(split: Split, objects: str) -> tuple[tuple[ObjectSpec, str, str], ...]:
    """Return all (object, family, motion) of a split."""
    pool = {"core": OBJECTS, "all": OBJECTS + EXTRA_OBJECTS, "soft": SOFT_OBJECTS}[objects]
    pool = tuple(entry for entry in pool if entry.held_out == (split == "held_out_objects"))
    families = tuple(name for name in FAMILIES if FAMILIES[name].held_out == (split == "held_out_family"))
    combinations = ((entry, family, motion) for entry in pool for family in families for motion in MOTIONS)
    if split == "held_out_combinations":
        return tuple(c for c in combinations if is_held_out(c[0].name, *c[1:]))
    if split == "train":
        return tuple(c for c in combinations if not is_held_out(c[0].name, *c[1:]))
    return tuple(combinations)


def motion_params(spec: SceneSpec) -> MotionParams:
    """Draw place and size of the first object, with the jitter that captions omit."""
    rng = np.random.default_rng([spec.seed, 3])
    dx, dy = rng.uniform(-2, 2, 2)
    return MotionParams(spec.place, dx, dy, 1 + rng.uniform(-0.06, 0.06))


class SceneSource:
    """Scenes by number: the same (seed, index) gives the same scene on every machine.

    Args:
        split: `train`, or one of the held-out sets, which are disjoint from it.
        size: height and width of the frames in pixels.
        frames: frames of a clip.
        objects: `core`, or `all` to include `EXTRA_OBJECTS`.
        variations: shares of varied scenes; the other scenes do not depend on them.

    Raises:
        ValueError: an argument is not one of the above.
        MissingPhotographsError: some backgrounds are photographs, and scikit-image is not installed.
    """

    tinted: ClassVar[float] = 0.5
    """Probability that the object is tinted."""
    writers: ClassVar[tuple[type[Writer], type[Writer]]] = (Writer, FreeWriter)
    """Writers of plain and of free captions."""

    def __init__(
        self,
        split: Split = "train",
        size: int = 64,
        frames: int = 8,
        objects: Literal["core", "all"] = "core",
        variations: Variations | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        if objects not in ("core", "all"):
            raise ValueError(f"objects {objects!r} is neither 'core' nor 'all'")
        if size < 8 or frames < 1:
            raise ValueError(f"size {size} and frames {frames} must be at least 8 and 1")
        self.split, self.size, self.frames, self.objects = split, size, frames, objects
        self.variations = variations or Variations()
        if self.variations.photographs:
            find_photographs()
        self._photographs = [name for name, one in PHOTOGRAPHS.items() if one.held_out == (split != "train")]
        self._choices, self._soft = _combinations(split, objects), _combinations(split, "soft")

    def spec(self, index: int, seed: int) -> SceneSpec:
        """Return the specification of scene number `index` of stream `seed`; both are non-negative."""
        rng = np.random.default_rng([seed, index, SPLITS.index(self.split), self.objects == "all"])
        entry, family, motion = self._choose(rng)
        colour = None
        if rng.random() < self.tinted:
            colour = tuple(FOREGROUND_COLOURS)[rng.integers(len(FOREGROUND_COLOURS))]
        places = MOTION_PLACES[motion]
        # The centre, which captions may omit, more often than by chance.
        place = "centre" if rng.random() < 0.4 else places[rng.integers(len(places))]
        kind = FAMILIES[family]
        # An object in the colour of its background would be invisible.
        colours = [name for name in kind.colours if colour not in name.split()]
        if kind.natural in colours and rng.random() < _NATURAL_COLOUR:
            background_colour = kind.natural
        else:
            background_colour = colours[rng.integers(len(colours))]
        moves = bool(rng.random() < _MOVING_BACKGROUND) and kind.moves
        scene_seed = int(rng.integers(2**62))
        spec = SceneSpec(entry, colour, motion, place, family, background_colour, moves, scene_seed)
        return self._vary(spec)

    def _choose(self, rng: np.random.Generator) -> tuple[ObjectSpec, str, str]:
        """Draw object, background family and motion."""
        return self._choices[rng.integers(len(self._choices))]

    def _vary(self, spec: SceneSpec) -> SceneSpec:
        rng = np.random.default_rng([spec.seed, 4])
        shares, chances = self.variations, rng.random(7)
        # Each variation has its own generator, so that one does not change another.
        rngs = [np.random.default_rng([spec.seed, 5, n]) for n in range(5)]
        if chances[1] < shares.company:
            spec = replace(spec, company=self._company(spec, rngs[1]))
        if chances[0] < shares.see_through:
            spec = self._see_through(spec, rngs[0])
        if chances[5] < shares.photographs:
            spec = replace(spec, picture=str(rngs[4].choice(self._photographs)), background_moves=False)
        elif chances[6] < shares.collages:
            spec = replace(spec, picture=COLLAGE, background_moves=False)
        if chances[2] < shares.camera:
            spec = replace(spec, camera=str(rngs[2].choice(list(CAMERAS))), background_moves=False)
        if chances[3] < shares.cast:
            spec = replace(spec, cast="light" if spec.object.glows else "shadow")
        # Captions with company, camera or cast are long enough.
        if chances[4] < shares.free_words and not (spec.company or spec.camera or spec.cast):
            spec = replace(spec, free_words=True)
        return spec

    def _see_through(self, spec: SceneSpec, rng: np.random.Generator) -> SceneSpec:
        """Return the scene with a soft object, of the same motion on the same background, or with lower opacity."""
        soft = [c[0] for c in self._soft if c[1:] == (spec.family, spec.motion)]
        if soft and rng.random() < _SOFT:
            return replace(spec, object=soft[rng.integers(len(soft))])
        return replace(spec, opacity=self._opacity(rng))

    @staticmethod
    def _opacity(rng: np.random.Generator) -> float:
        return float(rng.uniform(*_OPACITY))

    @staticmethod
    def _sides(rng: np.random.Generator) -> list[int]:
        """Draw the sides of one or two companions."""
        sides: list[int] = rng.permutation([-1, 1])[: 1 + int(rng.random() < _THREE)].tolist()
        return sides

    def _company(self, spec: SceneSpec, rng: np.random.Generator) -> tuple[Companion, ...]:
        """Draw one or two companions that fit the background."""
        fits = [c for c in self._choices if c[1] == spec.family and c[0] != spec.object]
        colours = [None, *FOREGROUND_COLOURS]
        sides = self._sides(rng)
        chosen = [fits[n] for n in rng.choice(len(fits), len(sides), replace=False)]
        return tuple(
            Companion(entry, colours[rng.integers(len(colours))], motion, side)
            for (entry, _, motion), side in zip(chosen, sides, strict=True)
        )

    def render(self, spec: SceneSpec, frame_indices: Sequence[int] | None = None) -> Scene:
        """Render a scene, or some of its frames.

        Raises:
            MissingFontError: the emoji font is not installed.
            IndexError: a frame index is outside of the clip.
        """
        indices = range(self.frames) if frame_indices is None else frame_indices
        for i in indices:
            if not 0 <= i < self.frames:
                raise IndexError(f"frame {i} is not in a clip of {self.frames} frames")
        times = [i / max(self.frames - 1, 1) for i in indices]
        behind = self._background(spec, indices, times)
        params = motion_params(spec)
        unit = self.size / UNITS
        objects = [(spec.object, spec.colour, spec.motion, params)]
        objects += [(c.object, c.colour, c.motion, companion_params(params, c.side)) for c in spec.company]
        rgba = np.zeros((len(times), self.size, self.size, 4), np.float32)  # premultiplied
        for entry, colour, motion, own in objects:  # from front to back
            paint = self._painter(entry, colour, motion)
            for frame, i, t in zip(rgba, indices, times, strict=True):
                x, y, scale, angle = MOTIONS[motion](t, own)
                sprite = paint(i, self.size, x * unit, y * unit, scale * BASE_WIDTH * unit, angle)
                frame += (1 - frame[..., 3:]) * sprite
        rgba *= np.float32(spec.opacity)
        premultiplied, alpha = _to_tensor(rgba[..., :3]), _to_tensor(rgba[..., 3:])
        straight = unpremultiply(premultiplied, alpha, floor=spec.opacity / 255, limits=None)
        foreground = torch.where(alpha > 0, straight, 0.5)
        clean = _to_tensor(behind)
        lit = apply_cast(clean, alpha, spec.cast) if spec.cast else clean
        blended = blend(foreground, alpha, lit)
        return Scene(spec, captions(spec, *self.writers), foreground, alpha, clean, blended)

    def _painter(self, entry: ObjectSpec, colour: str | None, motion: str) -> Painter:
        """Return what draws an object in the frames of a scene."""
        return lambda _, *place: draw(entry, colour, *place)

    def _background(self, spec: SceneSpec, indices: Sequence[int], times: list[float]) -> np.ndarray:
        """Draw the background as seen by the camera, (F, H, W, 3)."""
        if not spec.camera:
            return self._scenery(spec, indices, times, self.size)
        wide = self._scenery(spec, indices, times, round(WIDER * self.size))
        return move_camera(wide, spec.camera, times, self.size)

    def _scenery(self, spec: SceneSpec, indices: Sequence[int], times: list[float], size: int) -> np.ndarray:
        """Draw the background (F, size, size, 3) of frames at times in [0, 1]."""
        if spec.picture:
            return np.repeat(picture(spec.picture, seed=spec.seed, size=size)[None], len(times), 0)
        moves = spec.background_moves
        return background(spec.family, spec.background_colour, moves=moves, seed=spec.seed, t=times, size=size)

    def prompts(self, index: int, seed: int) -> dict[str, str]:
        """Return the captions of scene number `index` of stream `seed` without drawing it."""
        return captions(self.spec(index, seed), *self.writers)

    def scene(self, index: int, seed: int, frame_indices: Sequence[int] | None = None) -> Scene:
        """Render scene number `index` of stream `seed`, or some of its frames."""
        return self.render(self.spec(index, seed), frame_indices)


def _to_tensor(frames: np.ndarray) -> torch.Tensor:
    """Convert frames (F, H, W, C) to a float32 tensor (F, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2), dtype=np.float32))
